//! Every limit with its name, default and unit; a leaf that imports nothing.
//!
//! Mission row H16. Each field says what it costs and what the client gets. Zero switches a limit off where
//! "0 = none" is written; elsewhere zero is refused by [`Limits::check`].

/// Limits of one listener.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of request body a request may carry; 413 beyond. 0 = none (a handler or flag sets one).
    pub body_bytes: u64,
    /// Open connections of one listener; the next one gets 503 and a close.
    pub connections: u32,
    /// Open connections from one address; 503 and a close beyond. 0 = none.
    pub connections_per_address: u32,
    /// Bytes of one request head or trailer section; 431 beyond. Worst-case memory of an unread head.
    pub head_bytes: u32,
    /// Header fields of one request; 431 beyond.
    pub header_fields: u32,
    /// Bytes of the request target; 414 beyond.
    pub uri_bytes: u32,
    /// Declared bodies up to this size are collected before the handler is told: one event, no pool thread.
    pub inline_body_bytes: u32,
    /// Bytes of request body in flight to one handler before reading the socket stops.
    pub receive_window: u32,
    /// Bytes of response body in flight from one handler before it must wait for WRITABLE.
    pub send_window: u32,
    /// Milliseconds for the first byte and the decision between HTTP/1.1 and HTTP/2; then a silent close.
    pub detection_ms: u32,
    /// Milliseconds from the first byte of a head to its last; 408 and a close.
    pub head_ms: u32,
    /// Milliseconds a connection may stay without a request; silent close.
    pub idle_ms: u32,
    /// Milliseconds for a TLS handshake.
    pub handshake_ms: u32,
    /// Bytes per second a request body must reach while we are reading; 408 and a close. 0 = none.
    pub body_rate: u32,
    /// Milliseconds before `body_rate` is asked for.
    pub body_grace_ms: u32,
    /// Milliseconds a client may take nothing of a response that waits; the connection is reset.
    pub write_stall_ms: u32,
    /// HTTP/2 SETTINGS_MAX_CONCURRENT_STREAMS.
    pub h2_streams: u32,
    /// HTTP/2 SETTINGS_MAX_HEADER_LIST_SIZE in bytes; 431 beyond.
    pub h2_header_list_bytes: u32,
    /// HTTP/2 flow-control window of streams and connections, in bytes.
    pub h2_window: u32,
    /// HTTP/2 streams reset by the peer and not yet cleaned up; GOAWAY(ENHANCE_YOUR_CALM) beyond.
    pub h2_pending_resets: u32,
    /// HTTP/2 frame payload we accept, in bytes (16,384 to 16,777,215).
    pub h2_frame_bytes: u32,
    /// Milliseconds between HTTP/2 pings on a quiet connection; also how long an answer may take. 0 = none.
    pub h2_ping_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes: 0,
            connections: 10_000,
            connections_per_address: 0,
            head_bytes: 64 * 1024,
            header_fields: 128,
            uri_bytes: 16 * 1024,
            inline_body_bytes: 64 * 1024,
            receive_window: 256 * 1024,
            send_window: 256 * 1024,
            detection_ms: 5_000,
            head_ms: 10_000,
            idle_ms: 75_000,
            handshake_ms: 10_000,
            body_rate: 240,
            body_grace_ms: 5_000,
            write_stall_ms: 60_000,
            h2_streams: 200,
            h2_header_list_bytes: 16 * 1024,
            h2_window: 1024 * 1024,
            h2_pending_resets: 100,
            h2_frame_bytes: 16 * 1024,
            h2_ping_ms: 30_000,
        }
    }
}

impl Limits {
    /// Says which field makes no sense, what was found and what is allowed.
    pub fn check(&self) -> Result<(), String> {
        let in_range = |name: &str, found: u32, low: u32, high: u32| {
            if (low..=high).contains(&found) {
                Ok(())
            } else {
                Err(format!("limit {name} must be {low} to {high}, found {found}"))
            }
        };
        in_range("connections", self.connections, 1, 1 << 22)?;
        in_range("head_bytes", self.head_bytes, 256, 128 * 1024)?;
        in_range("header_fields", self.header_fields, 1, 256)?;
        in_range("uri_bytes", self.uri_bytes, 64, 32 * 1024)?;
        in_range("inline_body_bytes", self.inline_body_bytes, 0, 256 * 1024)?;
        in_range("receive_window", self.receive_window, 16 * 1024, 1 << 30)?;
        in_range("send_window", self.send_window, 16 * 1024, 1 << 30)?;
        in_range("h2_streams", self.h2_streams, 1, 65_535)?;
        in_range("h2_header_list_bytes", self.h2_header_list_bytes, 256, 256 * 1024)?;
        in_range("h2_window", self.h2_window, 65_535, (1 << 31) - 1)?;
        in_range("h2_pending_resets", self.h2_pending_resets, 1, 65_535)?;
        in_range("h2_frame_bytes", self.h2_frame_bytes, 16_384, 16_777_215)?;
        for (name, found) in [
            ("detection_ms", self.detection_ms),
            ("head_ms", self.head_ms),
            ("idle_ms", self.idle_ms),
            ("handshake_ms", self.handshake_ms),
            ("write_stall_ms", self.write_stall_ms),
        ] {
            in_range(name, found, 10, u32::MAX)?;
        }
        Ok(())
    }

    /// The shortest timeout, which sets how often deadlines are looked at.
    pub fn shortest_ms(&self) -> u32 {
        [self.detection_ms, self.head_ms, self.idle_ms, self.handshake_ms, self.body_grace_ms, self.write_stall_ms]
            .into_iter()
            .min()
            .unwrap_or(u32::MAX)
            .max(10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_pass_their_own_check() {
        assert_eq!(Limits::default().check(), Ok(()));
    }

    #[test]
    fn a_refused_limit_names_itself_and_its_range() {
        let limits = Limits { connections: 0, ..Limits::default() };
        let text = limits.check().unwrap_err();
        assert!(text.contains("connections") && text.contains("found 0"), "{text}");
    }
}
