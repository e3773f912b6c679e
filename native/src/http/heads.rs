//! Response heads as HTTP/1.1 bytes. A head that was sent before is not encoded or checked again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::upgrade::Mode;
use super::websocket::accept_key;
use crate::connections::DATE_LENGTH;

/// Distinct heads kept; a host that makes them all different pays the encoding each time.
const CACHED: usize = 512;
/// Longer field blocks are not kept.
const CACHED_BYTES: usize = 2048;

/// A checked head: status line and fields, without framing and date, ready to be copied.
#[derive(Debug)]
pub struct Template {
    bytes: Vec<u8>,
    /// The status code.
    pub status: u16,
    /// The host's content-length.
    pub length: Option<u64>,
    /// The host asked for `connection: close`.
    pub close: bool,
    dated: bool,
    /// The host names its own alternatives.
    advertised: bool,
    section: OnceLock<Box<[u8]>>,
    map: OnceLock<HeaderMap>,
}

/// How the body after a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delimiter {
    /// There is none, and no field says so (1xx, 204, 304, HEAD without a length).
    Nothing,
    /// content-length.
    Length(u64),
    /// transfer-encoding: chunked.
    Chunked,
    /// The end of the connection.
    Close,
}

/// What `connection` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// The version's default.
    Implied,
    /// `connection: keep-alive`, for HTTP/1.0.
    KeepAlive,
    /// `connection: close`.
    Close,
}

/// The cache of templates, one per listener.
#[derive(Debug, Default)]
pub struct Heads {
    known: Mutex<HashMap<Bytes, Vec<Arc<Template>>>>,
}

impl Heads {
    /// The template for this status and these NUL-joined fields, or what is wrong with them.
    pub fn template(&self, status: u16, fields: &[u8]) -> Result<Arc<Template>, String> {
        let mut known = self.known.lock().unwrap_or_else(|poison| poison.into_inner());
        if let Some(template) = known.get(fields).and_then(|all| all.iter().find(|one| one.status == status)) {
            return Ok(template.clone());
        }
        let template = Arc::new(Template::new(status, fields)?);
        if fields.len() <= CACHED_BYTES {
            if known.len() >= CACHED {
                known.clear();
            }
            known.entry(Bytes::copy_from_slice(fields)).or_default().push(template.clone());
        }
        Ok(template)
    }
}

impl Template {
    /// Checks and encodes a head. Fields that frame the message or belong to one hop are ours, not the host's.
    pub fn new(status: u16, fields: &[u8]) -> Result<Template, String> {
        let mut template = Template {
            bytes: Vec::with_capacity(64 + fields.len()),
            status,
            length: None,
            close: false,
            dated: false,
            advertised: false,
            section: OnceLock::new(),
            map: OnceLock::new(),
        };
        status_line(&mut template.bytes, status);
        for (name, value) in pairs(fields)? {
            check_field(name, value)?;
            match name {
                b"content-length" => {
                    if template.length.replace(parse_length(value)?).is_some() {
                        return Err("content-length must be given once, found two".to_owned());
                    }
                }
                b"connection" => template.close |= value.eq_ignore_ascii_case(b"close"),
                // The only response that names protocols without switching, and it must (RFC 9110 section 15.5.22).
                b"upgrade" if status == 426 => {
                    write_field(&mut template.bytes, b"connection", b"upgrade");
                    write_field(&mut template.bytes, name, value);
                }
                _ if is_hop_by_hop(name) => {}
                _ => {
                    template.dated |= name == b"date";
                    template.advertised |= name == b"alt-svc";
                    write_field(&mut template.bytes, name, value);
                }
            }
        }
        Ok(template)
    }

    /// Whether the host says when.
    pub fn is_dated(&self) -> bool {
        self.dated
    }

    /// Whether the host names alternative services.
    pub fn is_advertised(&self) -> bool {
        self.advertised
    }

    /// The host's fields, without those that frame the message or belong to one hop.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        // What `new` has written: a status line, then a line for each field.
        let lines = self.bytes.split(|byte| *byte == b'\n').skip(1).filter_map(|line| line.strip_suffix(b"\r"));
        let fields = lines.filter_map(|line| {
            let colon = memchr::memchr(b':', line)?;
            Some((&line[..colon], &line[colon + 2..]))
        });
        fields.filter(|(name, _)| !is_hop_by_hop(name))
    }

    /// The same in another encoding, which is made once.
    pub fn section(&self, encode: impl FnOnce(&Template) -> Vec<u8>) -> &[u8] {
        self.section.get_or_init(|| encode(self).into_boxed_slice())
    }

    /// The same as a map, which is made once, to be cloned.
    pub fn map(&self, make: impl FnOnce(&Template) -> HeaderMap) -> &HeaderMap {
        self.map.get_or_init(|| make(self))
    }

    /// Whether this status never has a body (RFC 9110 sections 6.4.1 and, with a length of 0, 15.3.6).
    pub fn is_bodiless(&self) -> bool {
        matches!(self.status, 100..=199 | 204 | 205 | 304)
    }

    /// Appends the whole head; `alt_svc` is left out when empty or when the host has one.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        delimiter: Delimiter,
        persistence: Persistence,
        alt_svc: &[u8],
        date: impl FnOnce() -> [u8; DATE_LENGTH],
    ) {
        out.extend_from_slice(&self.bytes);
        match delimiter {
            Delimiter::Length(length) => {
                out.extend_from_slice(b"content-length: ");
                out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                out.extend_from_slice(b"\r\n");
            }
            Delimiter::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Delimiter::Nothing | Delimiter::Close => {}
        }
        match persistence {
            Persistence::Implied => {}
            Persistence::KeepAlive => out.extend_from_slice(b"connection: keep-alive\r\n"),
            Persistence::Close => out.extend_from_slice(b"connection: close\r\n"),
        }
        if !alt_svc.is_empty() && !self.advertised {
            write_field(out, b"alt-svc", alt_svc);
        }
        if !self.dated {
            out.extend_from_slice(&date());
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the head that accepts an upgrade; for WebSocket with the answer to the client's key (RFC 6455 section 4.2.2).
pub(super) fn write_switch(
    out: &mut Vec<u8>,
    protocol: &[u8],
    key: Option<&[u8]>,
    mode: Mode,
    fields: &[u8],
) -> Result<(), String> {
    let before = out.len();
    status_line(out, 101);
    write_field(out, b"connection", b"upgrade");
    write_field(out, b"upgrade", if mode == Mode::Messages { b"websocket" } else { protocol });
    if mode == Mode::Messages {
        let key = key.ok_or("the client has sent no sec-websocket-key")?;
        write_field(out, b"sec-websocket-accept", accept_key(key).as_bytes());
    }
    if let Err(text) = write_fields(out, fields) {
        out.truncate(before);
        return Err(text);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends an interim response (RFC 9110 section 15.2).
pub fn write_interim(out: &mut Vec<u8>, status: u16, fields: &[u8]) -> Result<(), String> {
    let before = out.len();
    status_line(out, status);
    if let Err(text) = write_fields(out, fields) {
        out.truncate(before);
        return Err(text);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends the fields of a trailer section.
pub fn write_fields(out: &mut Vec<u8>, fields: &[u8]) -> Result<(), String> {
    for (name, value) in pairs(fields)? {
        check_field(name, value)?;
        if !is_hop_by_hop(name) && name != b"content-length" {
            write_field(out, name, value);
        }
    }
    Ok(())
}

/// Names and values of a NUL-joined block.
pub fn pairs(fields: &[u8]) -> Result<impl Iterator<Item = (&[u8], &[u8])>, String> {
    let parts = if fields.is_empty() { 0 } else { memchr::memchr_iter(0, fields).count() + 1 };
    if parts % 2 != 0 {
        return Err(format!("a head must be name, value, name, value ..., found {parts} parts"));
    }
    let mut rest = fields.split(|byte| *byte == 0);
    Ok(std::iter::from_fn(move || Some((rest.next()?, rest.next()?))))
}

/// Whether a field belongs to one hop, so that the host's value must not pass (RFC 9110 section 7.6.1).
pub fn is_hop_by_hop(name: &[u8]) -> bool {
    matches!(name, b"connection" | b"transfer-encoding" | b"keep-alive" | b"upgrade" | b"proxy-connection" | b"te")
}

fn check_field(name: &[u8], value: &[u8]) -> Result<(), String> {
    let token = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(byte);
    if name.is_empty() || !name.iter().all(token) {
        return Err(format!("header name must be a lower-case token, found {:?}", String::from_utf8_lossy(name)));
    }
    if value.iter().any(|byte| (*byte < 0x20 && *byte != b'\t') || *byte == 0x7f) {
        let name = String::from_utf8_lossy(name);
        return Err(format!("value of header {name:?} has a control character (CR, LF, NUL, ...)"));
    }
    Ok(())
}

/// Digits and nothing else, which `u64::from_str` is not strict enough for.
pub fn parse_length(value: &[u8]) -> Result<u64, String> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let number = digits.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten();
    number.ok_or_else(|| format!("content-length must be digits, found {:?}", String::from_utf8_lossy(value)))
}

fn status_line(out: &mut Vec<u8>, status: u16) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b' ');
    // The space stays when there is no phrase (RFC 9112 section 4).
    let phrase = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("");
    out.extend_from_slice(phrase.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(status: u16, fields: &[u8], delimiter: Delimiter, persistence: Persistence) -> String {
        let mut out = Vec::new();
        Template::new(status, fields).unwrap().write(&mut out, delimiter, persistence, b"", || [b'D'; DATE_LENGTH]);
        String::from_utf8(out).unwrap().replace(&"D".repeat(DATE_LENGTH), "date\r\n")
    }

    #[test]
    fn a_head_has_our_framing_and_not_the_hosts() {
        let fields = b"content-type\0text/plain\0transfer-encoding\0gzip\0connection\0keep-alive\0x\0y";
        assert_eq!(
            written(200, fields, Delimiter::Length(5), Persistence::Implied),
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nx: y\r\ncontent-length: 5\r\ndate\r\n\r\n"
        );
    }

    #[test]
    fn the_fields_of_a_template_are_the_hosts() {
        let template = Template::new(426, b"a\0b: c\0upgrade\0websocket\0content-length\x005\0x\0").unwrap();
        let fields: Vec<_> = template.fields().collect();
        assert_eq!(fields, [(&b"a"[..], &b"b: c"[..]), (b"x", b"")]);
        assert_eq!(template.section(|_| vec![7]), [7]);
        assert_eq!(template.section(|_| vec![8]), [7]);
    }

    #[test]
    fn an_unknown_status_keeps_the_space_and_a_hosts_date_is_kept() {
        assert_eq!(
            written(799, b"date\0now", Delimiter::Chunked, Persistence::Close),
            "HTTP/1.1 799 \r\ndate: now\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        );
    }

    #[test]
    fn bad_fields_are_refused_with_a_reason() {
        for (fields, part) in [
            (&b"a"[..], "found 1 parts"),
            (b"A\0b", "lower-case token"),
            (b"\0b", "lower-case token"),
            (b"a\0b\r\nc: d", "control character"),
            (b"content-length\0+5", "digits"),
        ] {
            let text = Template::new(200, fields).map(|_| ()).unwrap_err();
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn the_cache_tells_statuses_apart() {
        let heads = Heads::default();
        let first = heads.template(200, b"a\0b").unwrap();
        assert_eq!(heads.template(404, b"a\0b").unwrap().status, 404);
        assert!(Arc::ptr_eq(&first, &heads.template(200, b"a\0b").unwrap()));
    }
}
