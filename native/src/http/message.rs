//! What HTTP/2 and HTTP/3 share: heads as the `http` crate has them, to and from the exchange's NUL-joined blocks.

use std::future::Future;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use http::header::{CONTENT_LENGTH, COOKIE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, request};
use tokio::time::Instant;

use super::guard::is_authority;
use super::heads::{is_hop_by_hop, pairs, parse_length};
use crate::exchange::Order;
use crate::limits::Limits;

/// What the exchange needs of a request head.
pub(super) struct Head<'p> {
    pub(super) target: &'p str,
    pub(super) authority: &'p str,
    pub(super) length: Option<u64>,
    /// `:protocol` of an extended CONNECT (RFC 8441, RFC 9220).
    pub(super) protocol: Option<&'p str>,
}

/// A status with a sentence for the client.
pub(super) type Refusal = (StatusCode, &'static str);

pub(super) const TOO_LARGE: Refusal = (StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than limit body_bytes");
pub(super) const TOO_MANY_FIELDS: Refusal =
    (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "more fields than limit header_fields");
pub(super) const SLOW: Refusal = (StatusCode::REQUEST_TIMEOUT, "the body came slower than limit body_rate");
pub(super) const TOO_MANY: Refusal = (StatusCode::SERVICE_UNAVAILABLE, "too many streams are open");

impl<'p> Head<'p> {
    pub(super) fn read(
        parts: &'p request::Parts,
        protocol: Option<&'p str>,
        limits: &Limits,
    ) -> Result<Head<'p>, Refusal> {
        if parts.method == Method::CONNECT && protocol.is_none() {
            return Err((StatusCode::NOT_IMPLEMENTED, "CONNECT is not implemented here"));
        }
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        if target.len() > limits.uri_bytes as usize {
            return Err((StatusCode::URI_TOO_LONG, "the target is longer than limit uri_bytes"));
        }
        if parts.headers.len() > limits.header_fields as usize {
            return Err(TOO_MANY_FIELDS);
        }
        // ":authority" wins over host (RFC 9113 section 8.3.1); one of the two must be there.
        let mut hosts = parts.headers.get_all(HOST).iter();
        let host = hosts.next();
        let authority = match (parts.uri.authority(), host) {
            (Some(authority), _) => authority.as_str(),
            (None, Some(host)) => host.to_str().unwrap_or(""),
            (None, None) => "",
        };
        if hosts.next().is_some() || !is_authority(authority.as_bytes()) {
            return Err((StatusCode::BAD_REQUEST, ":authority or a single valid host is needed"));
        }
        let length = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if limits.body_bytes > 0 && length.is_some_and(|length: u64| length > limits.body_bytes) {
            return Err(TOO_LARGE);
        }
        Ok(Head { target, authority, length, protocol })
    }

    /// Writes line and fields of OPEN into the arena; answers the line's length.
    pub(super) fn write(&self, parts: &request::Parts, scheme: &str, arena: &mut Vec<u8>) -> usize {
        let start = arena.len();
        arena.extend_from_slice(parts.method.as_str().as_bytes());
        for part in [self.target, scheme, self.authority] {
            arena.push(0);
            arena.extend_from_slice(part.as_bytes());
        }
        if let Some(protocol) = self.protocol {
            arena.push(0);
            arena.extend_from_slice(protocol.as_bytes());
        }
        let line = arena.len() - start;
        arena.extend_from_slice(b"host\0");
        arena.extend_from_slice(self.authority.as_bytes());
        for (name, value) in parts.headers.iter().filter(|(name, _)| **name != HOST && **name != COOKIE) {
            for part in [name.as_str().as_bytes(), value.as_bytes()] {
                arena.push(0);
                arena.extend_from_slice(part);
            }
        }
        // Crumbs of one cookie field (RFC 9113 section 8.2.3).
        for (index, crumb) in parts.headers.get_all(COOKIE).iter().enumerate() {
            arena.extend_from_slice(if index == 0 { b"\0cookie\0" } else { b"; " });
            arena.extend_from_slice(crumb.as_bytes());
        }
        line
    }
}

/// What follows a response head.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// What content-length says; `None`: there is none.
    pub(super) length: Option<u64>,
    /// Nothing of a body is sent, whatever the host gives.
    pub(super) silent: bool,
    /// Bytes of body that must still come, where the length is known.
    left: Option<u64>,
}

impl Extent {
    /// What a HEAD order of this length comes to, or why it is refused.
    pub(super) fn of(order: &Order, declared: Option<u64>, is_head: bool) -> Result<Extent, String> {
        let silent = is_head || matches!(order.code, 204 | 205 | 304);
        let size = order.body.len() as u64;
        if order.end && !silent && declared.is_some_and(|length| length != size) {
            return Err(format!("its content-length is not {size}"));
        }
        let length = match order.code {
            204 => None,
            205 => Some(0),
            // What a GET would have said (RFC 9110 section 8.6), if the host knows.
            _ if silent => declared.or((order.end && is_head && size > 0).then_some(size)),
            _ => declared.or(order.end.then_some(size)),
        };
        Ok(Extent { length, silent, left: length.filter(|_| !silent) })
    }

    /// Counts body bytes against the declared length; an error resets the stream rather than lie about the end.
    pub(super) fn count(&mut self, size: u64, end: bool) -> Result<(), String> {
        let Some(left) = self.left else { return Ok(()) };
        self.left = left.checked_sub(size).filter(|left| *left == 0 || !end);
        match self.left {
            Some(_) => Ok(()),
            None => {
                Err(format!("the response body has not the length its head says ({left} bytes were left, {size} came)"))
            }
        }
    }
}

/// Holds a request body to limit `body_rate` while we are reading it.
pub(super) struct Pace {
    rate: u32,
    grace: Duration,
    since: Instant,
    received: u64,
}

impl Pace {
    pub(super) fn new(limits: &Limits) -> Pace {
        let grace = Duration::from_millis(limits.body_grace_ms.into());
        Pace { rate: limits.body_rate, grace, since: Instant::now(), received: 0 }
    }

    /// What `read` answers, or `None` when it has not in the time the bytes so far allow.
    pub(super) async fn next<T>(&mut self, read: impl Future<Output = T>) -> Option<T> {
        if self.rate == 0 {
            return Some(read.await);
        }
        let earned = Duration::from_millis(self.received.saturating_mul(1000) / u64::from(self.rate));
        tokio::time::timeout_at(self.since + self.grace + earned, read).await.ok()
    }

    /// This much has come.
    pub(super) fn received(&mut self, size: usize) {
        self.received += size as u64;
    }

    /// The host has made the peer wait: that time does not count.
    pub(super) fn pause(&mut self, time: Duration) {
        self.since += time;
    }
}

/// What the peer of one connection resets in the second that runs.
#[derive(Debug, Default)]
pub(super) struct Resets {
    second: AtomicU64,
    count: AtomicU32,
}

impl Resets {
    /// One more, at this moment in milliseconds.
    pub(super) fn count(&self, now: u64) {
        let second = now / 1000;
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.count.store(0, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether they are more than any client would want.
    pub(super) fn exceed(&self, limit: u32) -> bool {
        self.count.load(Ordering::Relaxed) > limit
    }
}

/// Trailers, NUL-joined.
pub(super) fn joined(fields: &HeaderMap) -> Vec<u8> {
    let parts: Vec<&[u8]> =
        fields.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]).collect();
    parts.join(&0)
}

/// The host's NUL-joined fields, without those that HTTP/2 and HTTP/3 forbid (RFC 9113 section 8.2.2).
pub(super) fn fields(block: &[u8]) -> Result<HeaderMap, String> {
    let mut fields = HeaderMap::new();
    for (name, value) in pairs(block)?.filter(|(name, _)| !is_hop_by_hop(name)) {
        let text = || String::from_utf8_lossy(name).into_owned();
        if name == b"content-length" && (parse_length(value).is_err() || fields.contains_key(CONTENT_LENGTH)) {
            return Err("content-length must be digits, once".to_owned());
        }
        let name = HeaderName::from_lowercase(name).map_err(|_| format!("header name {:?} is no token", text()))?;
        let value =
            HeaderValue::from_bytes(value).map_err(|_| format!("value of header {:?} has a control", text()))?;
        fields.append(name, value);
    }
    Ok(fields)
}
