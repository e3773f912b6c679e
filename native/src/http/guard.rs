//! The strict gate for HTTP/1.1: reads request heads and body framing from bytes, without sockets or clocks.
//!
//! It refuses whatever two implementations could read differently, so that no proxy in front of us sees other
//! message borders than we do. httparse finds the tokens; the rules it leaves out are here: it takes bare LF for a
//! line end, any byte in a target, and knows no Host and no framing (RFC 9112, RFC 9110 section 7.2).
//!
//! Reading is monotone: what is said about the front of a head still holds when more of it is there.

mod body;

use std::mem::MaybeUninit;
use std::net::Ipv6Addr;

use httparse::{Error, Header, Status};

use crate::limits::{Limit, Limits};

pub use body::{Body, Decoded};

/// The versions this gate lets through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// HTTP/1.0: no chunked framing, closes by default.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How the end of a request body is told (RFC 9112 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// No body.
    None,
    /// Content-Length, below 2^63.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
}

/// Why a request is refused and the status to answer with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// 400, 414, 417, 431, 501 or 505.
    pub status: u16,
    /// What was expected, for people.
    pub reason: &'static str,
    /// The limit that was passed, if it was one.
    pub limit: Option<Limit>,
}

impl Rejection {
    /// What is wrong by itself.
    pub const fn new(status: u16, reason: &'static str) -> Rejection {
        Rejection { status, reason, limit: None }
    }

    /// What is more than a limit allows.
    pub const fn limited(status: u16, reason: &'static str, limit: Limit) -> Rejection {
        Rejection { status, reason, limit: Some(limit) }
    }
}

/// One request head; everything but `length` borrows the input.
#[derive(Debug)]
pub struct Head<'b> {
    /// Bytes of input this head took, leading empty lines and the final one included.
    pub length: usize,
    /// A token as sent; methods are case-sensitive.
    pub method: &'b str,
    /// Path and query, "/" for an absolute form without path, "*" for `OPTIONS *`.
    pub target: &'b str,
    /// Authority of an absolute-form target, else Host (RFC 9112 3.2.2); "" for HTTP/1.0 without either.
    pub authority: &'b str,
    /// The client's version.
    pub version: Version,
    /// What [`Body::new`] takes.
    pub framing: Framing,
    /// Whether the connection may serve another request, after Connection and version.
    pub keep_alive: bool,
    /// Whether the client waits for 100 before it sends the body.
    pub expect_continue: bool,
    /// HTTP/1.1, `Connection: upgrade` and an Upgrade field; the body, if any, still comes first.
    pub upgrade: bool,
    /// All fields in order, duplicates kept, values without the white space around them.
    pub headers: &'b [Header<'b>],
}

/// Reads the head at the front of `input`; `None` when it is not all there.
pub fn read_head<'b>(
    input: &'b [u8],
    limits: &Limits,
    storage: &'b mut [MaybeUninit<Header<'b>>],
) -> Result<Option<Head<'b>>, Rejection> {
    let ceiling = limits.head_bytes as usize;
    let window = &input[..input.len().min(ceiling)];
    let skipped = leading_empty_lines(window)?;
    let head = &window[skipped..];
    if head.len() > LONG_HEAD && input.len() < ceiling && memchr::memmem::find(head, b"\r\n\r\n").is_none() {
        judge_request_line(head, limits)?;
        return Ok(None);
    }
    let fields = storage.len().min(limits.header_fields as usize);
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut storage[..fields]) {
        Ok(Status::Complete(length)) => {
            let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
                return Err(bad(REQUEST_LINE));
            };
            let headers: &'b [Header<'b>] = request.headers;
            judge_method(method.as_bytes())?;
            judge_target_bytes(target.as_bytes(), limits)?;
            let (authority, target) = split_target(method, target)?;
            // httparse lets a CR stand only before LF and LF only at a line's end: fewer CRs than lines is a bare LF.
            if memchr::memchr_iter(b'\r', &head[..length]).count() != headers.len() + 2 {
                return Err(bad(BARE_LF));
            }
            let version = if minor == 0 { Version::Http10 } else { Version::Http11 };
            let meaning = Meaning::of(headers, version)?;
            Ok(Some(Head {
                length: skipped + length,
                method,
                target,
                authority: authority.unwrap_or(meaning.host),
                version,
                framing: meaning.framing,
                keep_alive: meaning.keep_alive,
                expect_continue: meaning.expect_continue,
                upgrade: meaning.upgrade,
                headers,
            }))
        }
        // httparse refuses a version before it is all there; where our judge does not, 400 or 505 is still open.
        Ok(Status::Partial) | Err(Error::Version) => {
            judge_request_line(head, limits)?;
            if input.len() >= ceiling {
                return Err(Rejection::limited(
                    431,
                    "request head must end within the limit head_bytes",
                    Limit::HeadBytes,
                ));
            }
            Ok(None)
        }
        Err(error) => {
            judge_request_line(head, limits)?;
            Err(match error {
                Error::HeaderName => bad(HEADER_NAME),
                Error::HeaderValue => bad(HEADER_VALUE),
                Error::NewLine => bad(BARE_CR),
                Error::TooManyHeaders => TOO_MANY_FIELDS,
                _ => bad(REQUEST_LINE),
            })
        }
    }
}

/// From here on the end is looked for before the fields are read again, so that a head delivered in many pieces
/// costs a search for each and no parse.
const LONG_HEAD: usize = 8 * 1024;

/// RFC 9112 2.2 lets a server skip an empty line before a request; clients of old sent one after a POST body.
fn leading_empty_lines(bytes: &[u8]) -> Result<usize, Rejection> {
    let mut at = 0;
    while at < 4 && bytes[at..].starts_with(b"\r\n") {
        at += 2;
    }
    match bytes[at..] {
        [b'\n', ..] => Err(bad(BARE_LF)),
        [b'\r', b'\n', ..] => Err(bad("at most two empty lines may precede a request, found more")),
        [b'\r', _, ..] => Err(bad(BARE_CR)),
        _ => Ok(at),
    }
}

/// Judges a request line that httparse refused or has not seen the end of, as far as it is there. Goes from left to
/// right and uses the judges of the complete line, so both come to the same verdict.
fn judge_request_line(line: &[u8], limits: &Limits) -> Result<(), Rejection> {
    if line == b"\r" {
        return Ok(());
    }
    let Some(end) = line.iter().position(|byte| !is(*byte, TOKEN)) else { return Ok(()) };
    if end == 0 || line[end] != b' ' {
        return Err(bad("request line must start with a method token and one space"));
    }
    judge_method(&line[..end])?;
    let (method, rest) = (&line[..end], &line[end + 1..]);
    let Some(end) = memchr::memchr(b' ', rest) else { return judge_target_bytes(rest, limits) };
    let target = &rest[..end];
    judge_target_bytes(target, limits)?;
    let (Ok(method), Ok(target)) = (str::from_utf8(method), str::from_utf8(target)) else {
        return Err(bad(TARGET_BYTE));
    };
    split_target(method, target)?;
    judge_version(&rest[end + 1..])
}

/// Longer than every registered method, and than what people make up.
const LONGEST_METHOD: usize = 64;
/// A DNS name has at most 253 bytes; no more than this crosses to the host in the request line.
const LONGEST_AUTHORITY: usize = 1024;

fn judge_method(method: &[u8]) -> Result<(), Rejection> {
    match method {
        b"CONNECT" => Err(Rejection::new(501, "CONNECT is not implemented here")),
        // RFC 9112 section 3: a method longer than any the server knows.
        _ if method.len() > LONGEST_METHOD => Err(Rejection::new(501, "the method is longer than any known")),
        _ => Ok(()),
    }
}

/// The bytes of a target, or of its front when the rest is not there yet.
fn judge_target_bytes(target: &[u8], limits: &Limits) -> Result<(), Rejection> {
    let limit = limits.uri_bytes as usize;
    let judged = &target[..target.len().min(limit)];
    if !matches!(judged.first(), None | Some(b'/' | b'*' | b'h' | b'H')) {
        return Err(bad(TARGET_FORM));
    }
    if !judged.iter().all(|byte| is(*byte, TARGET)) {
        judge_unusual_bytes(judged)?;
    }
    if target.len() > limit {
        return Err(Rejection::limited(414, "request target must fit the limit uri_bytes", Limit::UriBytes));
    }
    Ok(())
}

/// `"` in a path and a backquote in a query are no RFC 3986 characters, but clients send them and
/// `http::uri::PathAndQuery` takes them: so do we.
#[cold]
fn judge_unusual_bytes(target: &[u8]) -> Result<(), Rejection> {
    let query = memchr::memchr(b'?', target).unwrap_or(target.len());
    for (at, byte) in target.iter().enumerate() {
        match byte {
            b'"' if at < query => {}
            b'`' if at > query => {}
            b'#' => return Err(bad("request target must not carry a fragment, found '#'")),
            byte if is(*byte, TARGET) => {}
            _ => return Err(bad(TARGET_BYTE)),
        }
    }
    Ok(())
}

/// The authority (absolute form only) and the path with query of a target of the four forms of RFC 9112 3.2.
fn split_target<'b>(method: &str, target: &'b str) -> Result<(Option<&'b str>, &'b str), Rejection> {
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((None, target));
    }
    let bytes = target.as_bytes();
    let scheme = match bytes {
        _ if bytes.get(..7).is_some_and(|front| front.eq_ignore_ascii_case(b"http://")) => 7,
        _ if bytes.get(..8).is_some_and(|front| front.eq_ignore_ascii_case(b"https://")) => 8,
        _ => return Err(bad(TARGET_FORM)),
    };
    let rest = &target[scheme..];
    let end = memchr::memchr2(b'/', b'?', rest.as_bytes()).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if !is_authority(authority.as_bytes()) {
        return Err(bad("absolute-form target must name a host with an optional port"));
    }
    match path {
        "" => Ok((Some(authority), "/")),
        // The path would have to be made up in front of the query, and readers differ on whether it is there.
        _ if path.starts_with('?') => Err(bad("absolute-form target with a query must have a path")),
        _ => Ok((Some(authority), path)),
    }
}

/// What follows the second space of a request line.
fn judge_version(found: &[u8]) -> Result<(), Rejection> {
    for (at, byte) in found.iter().take(10).enumerate() {
        match (at, byte) {
            (0..5, byte) if *byte == b"HTTP/"[at] => {}
            (5 | 7, b'0'..=b'9') | (6, b'.') | (9, b'\n') => {}
            (8, b'\r') if matches!(&found[5..8], b"1.0" | b"1.1") => {}
            (8, b'\r') => return Err(Rejection::new(505, "version must be HTTP/1.0 or HTTP/1.1")),
            (8, b'\n') => return Err(bad(BARE_LF)),
            (9, _) => return Err(bad(BARE_CR)),
            _ => return Err(bad(REQUEST_LINE)),
        }
    }
    Ok(())
}

/// What the fields of a head say about the message and the connection.
struct Meaning<'b> {
    host: &'b str,
    framing: Framing,
    keep_alive: bool,
    expect_continue: bool,
    upgrade: bool,
}

impl<'b> Meaning<'b> {
    fn of(headers: &[Header<'b>], version: Version) -> Result<Meaning<'b>, Rejection> {
        let mut host = None;
        let mut length = None;
        let mut chunked = false;
        let mut expect_continue = false;
        let mut upgrade_field = false;
        let mut connection = Connection::default();
        for Header { name, value } in headers {
            match name.len() {
                4 if name.eq_ignore_ascii_case("host") => {
                    if host.is_some() {
                        return Err(bad("exactly one Host field is allowed, found another"));
                    }
                    host = Some(host_value(value)?);
                }
                6 if name.eq_ignore_ascii_case("expect") && version == Version::Http11 => {
                    if !value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(Rejection::new(417, "Expect must be '100-continue'"));
                    }
                    expect_continue = true;
                }
                7 if name.eq_ignore_ascii_case("upgrade") => upgrade_field = true,
                10 if name.eq_ignore_ascii_case("connection") => connection.add(value)?,
                14 if name.eq_ignore_ascii_case("content-length") => {
                    if length.is_some() {
                        return Err(bad("exactly one Content-Length field is allowed, found another"));
                    }
                    length = Some(content_length(value)?);
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    if version == Version::Http10 {
                        return Err(bad("HTTP/1.0 has no Transfer-Encoding, found one"));
                    }
                    if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(bad("Transfer-Encoding must be exactly one field 'chunked'"));
                    }
                    chunked = true;
                }
                _ => {}
            }
        }
        let framing = match (chunked, length) {
            (true, Some(_)) => return Err(bad("Content-Length must not come with Transfer-Encoding, found both")),
            (true, None) => Framing::Chunked,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::None,
        };
        if host.is_none() && version == Version::Http11 {
            return Err(bad("HTTP/1.1 requires a Host field, found none"));
        }
        Ok(Meaning {
            host: host.unwrap_or(""),
            framing,
            keep_alive: !connection.close && (version == Version::Http11 || connection.keep_alive),
            expect_continue,
            // RFC 9110 7.8: Upgrade in HTTP/1.0 is ignored.
            upgrade: upgrade_field && connection.upgrade && version == Version::Http11,
        })
    }
}

/// The tokens of all Connection fields; one `close` wins over any `keep-alive`.
#[derive(Default)]
struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
}

impl Connection {
    fn add(&mut self, value: &[u8]) -> Result<(), Rejection> {
        for token in value.split(|byte| *byte == b',') {
            let token = token.trim_ascii();
            // A reader that skips the whole field for one odd byte (hyper does) would miss the `close` beside it.
            if !token.iter().all(|byte| is(*byte, TOKEN)) {
                return Err(bad("Connection must be a list of tokens, found another byte"));
            }
            match token.len() {
                5 => self.close |= token.eq_ignore_ascii_case(b"close"),
                7 => self.upgrade |= token.eq_ignore_ascii_case(b"upgrade"),
                10 => self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive"),
                _ => {}
            }
        }
        Ok(())
    }
}

fn host_value(value: &[u8]) -> Result<&str, Rejection> {
    match str::from_utf8(value) {
        Ok(host) if is_authority(value) => Ok(host),
        _ => Err(bad("Host must be a host name or address with an optional port")),
    }
}

/// uri-host [":" port] of RFC 3986, without userinfo. Stricter in two places where readers differ: no
/// percent-encoding in the name (decoded or not?) and no empty port.
pub(crate) fn is_authority(text: &[u8]) -> bool {
    if text.len() > LONGEST_AUTHORITY {
        return false;
    }
    let (host_is_valid, port) = match text {
        [b'[', inner @ ..] => {
            let Some(end) = memchr::memchr(b']', inner) else { return false };
            (str::from_utf8(&inner[..end]).is_ok_and(|host| host.parse::<Ipv6Addr>().is_ok()), &inner[end + 1..])
        }
        _ => {
            let end = text.iter().position(|byte| !is(*byte, HOST)).unwrap_or(text.len());
            (end > 0, &text[end..])
        }
    };
    host_is_valid
        && match port {
            [] => true,
            [b':', digits @ ..] => {
                (1..=5).contains(&digits.len())
                    && digits.iter().all(u8::is_ascii_digit)
                    && digits.iter().fold(0, |port, digit| port * 10 + u32::from(digit - b'0')) <= 65_535
            }
            _ => false,
        }
}

fn content_length(value: &[u8]) -> Result<u64, Rejection> {
    const WANTED: Rejection = bad("Content-Length must be one decimal number below 2^63");
    if value.is_empty() {
        return Err(WANTED);
    }
    value.iter().try_fold(0u64, |length, digit| match digit {
        b'0'..=b'9' => length
            .checked_mul(10)
            .and_then(|length| length.checked_add(u64::from(digit - b'0')))
            .filter(|length| *length <= i64::MAX as u64)
            .ok_or(WANTED),
        _ => Err(WANTED),
    })
}

const fn bad(reason: &'static str) -> Rejection {
    Rejection::new(400, reason)
}

const BARE_CR: &str = "a line must end with CRLF, found CR without LF";
const BARE_LF: &str = "a line must end with CRLF, found LF without CR";
const HEADER_NAME: &str = "a field must start with a name token and ':', without white space around or folding";
const HEADER_VALUE: &str = "a field value must have no control bytes and end with CRLF";
const REQUEST_LINE: &str = "request line must be 'method target HTTP/1.x' with single spaces";
const TARGET_BYTE: &str = "request target must be RFC 3986 characters, found another byte";
const TARGET_FORM: &str = "request target must start with '/', be an http(s) URI, or be '*' with OPTIONS";
const TOO_MANY_FIELDS: Rejection =
    Rejection::limited(431, "fields must not exceed the limit header_fields", Limit::HeaderFields);

/// Byte classes: `tchar` of RFC 9110 5.6.2, bytes good anywhere in a target, bytes of a host name.
const TOKEN: u8 = 1;
const TARGET: u8 = 2;
const HOST: u8 = 4;

#[inline(always)]
fn is(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        let word = byte.is_ascii_alphanumeric();
        if word || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~') {
            classes[at] |= TOKEN;
        }
        if word || matches!(byte, b'!' | b'$'..=b';' | b'=' | b'?'..=b'_' | b'{'..=b'~') {
            classes[at] |= TARGET;
        }
        if word || matches!(byte, b'!' | b'$' | b'&'..=b'.' | b';' | b'=' | b'_' | b'~') {
            classes[at] |= HOST;
        }
        at += 1;
    }
    classes
};

#[cfg(test)]
mod tests;
