//! Every limit with its name, default and unit; a leaf.
//!
//! Mission row H16. Each field says what it costs and what the client gets. Zero switches a limit off where
//! "0 = none" is written; elsewhere zero is refused by [`Limits::check`].

use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Milliseconds a client may take nothing of a response that waits; the connection is reset. A stream of HTTP/2 or
    /// HTTP/3 alone, while others of its connection move on.
    pub write_stall_ms: u32,
    /// HTTP/2 SETTINGS_MAX_CONCURRENT_STREAMS.
    pub h2_streams: u32,
    /// HTTP/2 SETTINGS_MAX_HEADER_LIST_SIZE in bytes; 431 beyond.
    pub h2_header_list_bytes: u32,
    /// HTTP/2 flow-control window of streams and connections, in bytes.
    pub h2_window: u32,
    /// HTTP/2 streams reset by the peer and not yet cleaned up; GOAWAY(ENHANCE_YOUR_CALM) beyond.
    pub h2_pending_resets: u32,
    /// HTTP/2 requests reset by the peer within one second, once begun; GOAWAY(ENHANCE_YOUR_CALM) and the end of the
    /// connection beyond. Not less than `h2_streams`: a browser that leaves a page cancels all it has asked for at once.
    pub h2_resets: u32,
    /// HTTP/2 frame payload we accept, in bytes (16,384 to 16,777,215).
    pub h2_frame_bytes: u32,
    /// Milliseconds between HTTP/2 pings on a quiet connection; also how long an answer may take. 0 = none.
    pub h2_ping_ms: u32,
    /// HTTP/3 streams of one connection at a time; the client waits for MAX_STREAMS.
    pub h3_streams: u32,
    /// Bytes of one HTTP/3 field section, decoded (RFC 9114 section 4.2.2); 431 beyond.
    pub h3_field_section_bytes: u32,
    /// HTTP/3 requests reset by the peer within one second; the connection is closed (H3_EXCESSIVE_LOAD) beyond.
    pub h3_resets: u32,
    /// Milliseconds of silence after which a QUIC connection is given up.
    pub quic_idle_ms: u32,
    /// QUIC flow-control window of a connection, in bytes: what it may make us hold.
    pub quic_window: u32,
    /// QUIC flow-control window of one stream, in bytes.
    pub quic_stream_window: u32,
    /// QUIC handshakes under way beyond which new clients must prove their address (Retry). 0 = always.
    pub quic_handshakes: u32,
    /// Bytes of one WebSocket message; close code 1009 beyond.
    pub ws_message_bytes: u64,
    /// Bytes on their way to one WebSocket client before `send` waits: what a reader that never reads costs. A message
    /// longer than half of it goes in pieces.
    pub ws_write_bytes: u32,
    /// Milliseconds between WebSocket pings on a quiet connection; also how long an answer may take. 0 = none.
    pub ws_ping_ms: u32,
    /// Milliseconds the peer may take to answer a WebSocket close.
    pub ws_close_ms: u32,
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
            h2_resets: 200,
            h2_frame_bytes: 16 * 1024,
            h2_ping_ms: 30_000,
            h3_streams: 100,
            h3_field_section_bytes: 16 * 1024,
            h3_resets: 100,
            quic_idle_ms: 30_000,
            quic_window: 8 * 1024 * 1024,
            quic_stream_window: 1024 * 1024,
            quic_handshakes: 64,
            ws_message_bytes: 16 * 1024 * 1024,
            ws_write_bytes: 256 * 1024,
            ws_ping_ms: 20_000,
            ws_close_ms: 10_000,
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
        in_range("h2_resets", self.h2_resets, 1, 65_535)?;
        in_range("h2_frame_bytes", self.h2_frame_bytes, 16_384, 16_777_215)?;
        in_range("h3_streams", self.h3_streams, 1, 65_535)?;
        in_range("h3_field_section_bytes", self.h3_field_section_bytes, 256, 256 * 1024)?;
        in_range("h3_resets", self.h3_resets, 1, 65_535)?;
        in_range("quic_window", self.quic_window, 65_536, 1 << 30)?;
        in_range("quic_stream_window", self.quic_stream_window, 16_384, 1 << 30)?;
        in_range("ws_write_bytes", self.ws_write_bytes, 16 * 1024, 1 << 30)?;
        if !(125..=1 << 40).contains(&self.ws_message_bytes) {
            let found = self.ws_message_bytes;
            return Err(format!("limit ws_message_bytes must be 125 to 1099511627776, found {found}"));
        }
        for (name, found) in [
            ("quic_idle_ms", self.quic_idle_ms),
            ("ws_close_ms", self.ws_close_ms),
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
        let pings = [self.ws_ping_ms].into_iter().filter(|milliseconds| *milliseconds > 0);
        [self.detection_ms, self.head_ms, self.idle_ms, self.handshake_ms, self.body_grace_ms, self.write_stall_ms]
            .into_iter()
            .chain(pings)
            .chain([self.ws_close_ms])
            .min()
            .unwrap_or(u32::MAX)
            .max(10)
    }
}

/// A limit whose applications are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `body_bytes`: 413 answered.
    BodyBytes,
    /// `connections`: connections turned away.
    Connections,
    /// `connections_per_address`: connections turned away.
    ConnectionsPerAddress,
    /// `head_bytes`: 431 answered.
    HeadBytes,
    /// `header_fields`: 431 answered.
    HeaderFields,
    /// `uri_bytes`: 414 answered.
    UriBytes,
    /// `detection_ms`: connections closed before their first byte.
    DetectionMs,
    /// `head_ms`: heads that came too slowly.
    HeadMs,
    /// `idle_ms`: connections closed because they were idle.
    IdleMs,
    /// `handshake_ms`: TLS and QUIC handshakes that took too long.
    HandshakeMs,
    /// `body_rate`: bodies that came too slowly.
    BodyRate,
    /// `write_stall_ms`: connections and streams whose peer took nothing.
    WriteStallMs,
    /// `h2_pending_resets`: connections closed for their resets.
    H2PendingResets,
    /// `h2_resets`: connections closed for their resets.
    H2Resets,
    /// `h2_ping_ms`: connections whose peer answered no ping.
    H2PingMs,
    /// `h3_field_section_bytes`: field sections refused.
    H3FieldSectionBytes,
    /// `h3_resets`: connections closed for their resets.
    H3Resets,
    /// `quic_idle_ms`: connections given up in silence.
    QuicIdleMs,
    /// `quic_handshakes`: clients asked to prove their address.
    QuicHandshakes,
    /// `ws_message_bytes`: messages refused with close code 1009.
    WsMessageBytes,
    /// `ws_ping_ms`: connections whose peer answered no ping.
    WsPingMs,
    /// `ws_close_ms`: closes the peer did not answer.
    WsCloseMs,
}

/// How often each limit was applied since the start.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitCounts {
    /// 413 answered.
    pub body_bytes: u64,
    /// Connections turned away.
    pub connections: u64,
    /// Connections turned away.
    pub connections_per_address: u64,
    /// 431 answered.
    pub head_bytes: u64,
    /// 431 answered.
    pub header_fields: u64,
    /// 414 answered.
    pub uri_bytes: u64,
    /// Connections closed before their first byte.
    pub detection_ms: u64,
    /// Heads that came too slowly.
    pub head_ms: u64,
    /// Connections closed because they were idle.
    pub idle_ms: u64,
    /// TLS and QUIC handshakes that took too long.
    pub handshake_ms: u64,
    /// Bodies that came too slowly.
    pub body_rate: u64,
    /// Connections and streams whose peer took nothing.
    pub write_stall_ms: u64,
    /// Connections closed for their resets.
    pub h2_pending_resets: u64,
    /// Connections closed for their resets.
    pub h2_resets: u64,
    /// Connections whose peer answered no ping.
    pub h2_ping_ms: u64,
    /// Field sections refused.
    pub h3_field_section_bytes: u64,
    /// Connections closed for their resets.
    pub h3_resets: u64,
    /// Connections given up in silence.
    pub quic_idle_ms: u64,
    /// Clients asked to prove their address.
    pub quic_handshakes: u64,
    /// Messages refused with close code 1009.
    pub ws_message_bytes: u64,
    /// Connections whose peer answered no ping.
    pub ws_ping_ms: u64,
    /// Closes the peer did not answer.
    pub ws_close_ms: u64,
}

/// Counts applications of limits; shared by all tasks.
#[derive(Debug, Default)]
pub struct Meter([AtomicU64; Limit::WsCloseMs as usize + 1]);

impl Meter {
    /// The limit was applied once more.
    pub fn count(&self, limit: Limit) {
        self.0[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Figures as of now.
    pub fn counts(&self) -> LimitCounts {
        let of = |limit: Limit| self.0[limit as usize].load(Ordering::Relaxed);
        LimitCounts {
            body_bytes: of(Limit::BodyBytes),
            connections: of(Limit::Connections),
            connections_per_address: of(Limit::ConnectionsPerAddress),
            head_bytes: of(Limit::HeadBytes),
            header_fields: of(Limit::HeaderFields),
            uri_bytes: of(Limit::UriBytes),
            detection_ms: of(Limit::DetectionMs),
            head_ms: of(Limit::HeadMs),
            idle_ms: of(Limit::IdleMs),
            handshake_ms: of(Limit::HandshakeMs),
            body_rate: of(Limit::BodyRate),
            write_stall_ms: of(Limit::WriteStallMs),
            h2_pending_resets: of(Limit::H2PendingResets),
            h2_resets: of(Limit::H2Resets),
            h2_ping_ms: of(Limit::H2PingMs),
            h3_field_section_bytes: of(Limit::H3FieldSectionBytes),
            h3_resets: of(Limit::H3Resets),
            quic_idle_ms: of(Limit::QuicIdleMs),
            quic_handshakes: of(Limit::QuicHandshakes),
            ws_message_bytes: of(Limit::WsMessageBytes),
            ws_ping_ms: of(Limit::WsPingMs),
            ws_close_ms: of(Limit::WsCloseMs),
        }
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
