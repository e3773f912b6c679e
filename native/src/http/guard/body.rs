//! Where a request body ends: Content-Length and chunked framing (RFC 9112 section 7.1).

use std::ops::Range;

use super::{BARE_CR, BARE_LF, Framing, HEADER_NAME, HEADER_VALUE, Rejection, TOKEN, TOO_MANY_FIELDS, bad, is};
use crate::limits::{Limit, Limits};

/// One chunk-size line with its extension and CRLF; also what a caller may have to buffer of it.
const CHUNK_LINE_BYTES: usize = 4096;
/// All extensions of one body: they carry no data, so without a limit they are free work for us.
const EXTENSION_BYTES: usize = 16 * 1024;

/// Framing state of one request body.
#[derive(Debug)]
pub struct Body {
    state: State,
    extension_bytes: usize,
    trailer_bytes_left: usize,
    trailer_fields_left: usize,
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Done,
}

/// What [`Body::decode`] made of its input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decoded<'i> {
    /// Bytes of input that are dealt with, data and framing.
    pub consumed: usize,
    /// The part of them that is body.
    pub data: &'i [u8],
    /// Whether the body ended; what follows is the next request.
    pub done: bool,
}

impl Body {
    /// A body about to be read; `limits` bound its trailer section.
    pub fn new(framing: Framing, limits: &Limits) -> Body {
        Body {
            state: match framing {
                Framing::None | Framing::Length(0) => State::Done,
                Framing::Length(length) => State::Length(length),
                Framing::Chunked => State::ChunkSize,
            },
            extension_bytes: 0,
            trailer_bytes_left: limits.head_bytes as usize,
            trailer_fields_left: limits.header_fields as usize,
            trailers: Vec::new(),
        }
    }

    /// Whether the body ended.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes still to come, where Content-Length told.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Done => Some(0),
            _ => None,
        }
    }

    /// Decodes the front of `input`: how many bytes were consumed and which part of `input` is body data. Nothing
    /// consumed and not done means that more input is needed behind this one.
    pub fn decode<'i>(&mut self, input: &'i [u8]) -> Result<Decoded<'i>, Rejection> {
        let (consumed, data) = self.advance(input)?;
        Ok(Decoded { consumed, data: &input[data], done: self.is_done() })
    }

    /// Decodes like [`Body::decode`], chunk after chunk while they bring less than `room`, and moves their data together:
    /// what one read has brought is one piece, in however many chunks it came.
    pub fn gather<'i>(&mut self, input: &'i mut [u8], room: usize) -> Result<Decoded<'i>, Rejection> {
        let mut consumed = 0;
        let mut data = 0..0;
        while data.len() < room {
            let (used, slice) = self.advance(&input[consumed..])?;
            let slice = consumed + slice.start..consumed + slice.end;
            if data.is_empty() {
                data = slice;
            } else {
                let end = data.end + slice.len();
                input.copy_within(slice, data.end);
                data.end = end;
            }
            consumed += used;
            if used == 0 || self.is_done() {
                break;
            }
        }
        Ok(Decoded { consumed, data: &input[data], done: self.is_done() })
    }

    /// Deals with the front of `input` up to the end of its first slice of data: how much that is, and where the slice lies.
    fn advance(&mut self, input: &[u8]) -> Result<(usize, Range<usize>), Rejection> {
        let mut data = 0..0;
        let mut consumed = 0;
        loop {
            let rest = &input[consumed..];
            let step = match self.state {
                State::Done => break,
                // One slice per call: a second chunk waits for the next one.
                State::Length(_) | State::Chunk(_) if !data.is_empty() || rest.is_empty() => break,
                State::Length(left) => {
                    let (taken, left) = take(rest, left);
                    data = consumed..consumed + taken;
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    taken
                }
                State::Chunk(left) => {
                    let (taken, left) = take(rest, left);
                    data = consumed..consumed + taken;
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    taken
                }
                State::ChunkEnd => match rest {
                    [] | [b'\r'] => break,
                    [b'\r', b'\n', ..] => {
                        self.state = State::ChunkSize;
                        2
                    }
                    _ => return Err(bad("chunk data must be followed by CRLF, found another byte")),
                },
                State::ChunkSize => match chunk_size(rest)? {
                    None => break,
                    Some(line) => {
                        self.extension_bytes += line.extension_bytes;
                        if self.extension_bytes > EXTENSION_BYTES {
                            return Err(bad("chunk extensions of a body must fit 16 KiB"));
                        }
                        self.state = if line.size == 0 { State::Trailers } else { State::Chunk(line.size) };
                        line.length
                    }
                },
                State::Trailers => match self.trailer_line(rest)? {
                    None => break,
                    Some(length) => length,
                },
            };
            consumed += step;
        }
        Ok((consumed, data))
    }

    /// Trailer section, "name\0value\0name\0value", names lower-case; empty when none.
    pub fn trailers(&self) -> &[u8] {
        &self.trailers
    }

    /// Takes one line of the trailer section; its length, `None` when it is not all there.
    fn trailer_line(&mut self, input: &[u8]) -> Result<Option<usize>, Rejection> {
        let window = &input[..input.len().min(self.trailer_bytes_left)];
        let end = memchr::memchr2(b'\r', b'\n', window);
        let line = match end.map(|end| (end, &window[end..])) {
            Some((_, [b'\n', ..])) => return Err(bad(BARE_LF)),
            Some((end, [b'\r', b'\n', ..])) => &window[..end],
            Some((_, [b'\r', _, ..])) => return Err(bad(BARE_CR)),
            _ if window.len() == self.trailer_bytes_left => {
                return Err(Rejection::limited(
                    431,
                    "trailer section must end within the limit head_bytes",
                    Limit::HeadBytes,
                ));
            }
            _ => return Ok(None),
        };
        let length = line.len() + 2;
        self.trailer_bytes_left -= length;
        if line.is_empty() {
            self.state = State::Done;
            return Ok(Some(length));
        }
        self.trailer_fields_left = self.trailer_fields_left.checked_sub(1).ok_or(TOO_MANY_FIELDS)?;
        let (name, value) = trailer_field(line)?;
        if !self.trailers.is_empty() {
            self.trailers.push(0);
        }
        self.trailers.extend(name.iter().map(u8::to_ascii_lowercase));
        self.trailers.push(0);
        self.trailers.extend_from_slice(value);
        Ok(Some(length))
    }
}

/// How many of the bytes that are left of a slice are here, and how many are left then.
fn take(input: &[u8], left: u64) -> (usize, u64) {
    let taken = usize::try_from(left).map_or(input.len(), |left| input.len().min(left));
    (taken, left - taken as u64)
}

struct ChunkLine {
    size: u64,
    extension_bytes: usize,
    length: usize,
}

/// chunk-size [ chunk-ext ] CRLF; `None` when it is not all there.
fn chunk_size(input: &[u8]) -> Result<Option<ChunkLine>, Rejection> {
    const WANTED: Rejection = bad("chunk size must be 1 to 16 hex digits below 2^63, then ';' or CRLF");
    let line = &input[..input.len().min(CHUNK_LINE_BYTES)];
    let mut size = 0u64;
    let mut at = 0;
    while let Some(digit) = line.get(at).and_then(|byte| (*byte as char).to_digit(16)) {
        // Past 15 digits the top bit decides; a 17th digit would have to shift it out.
        if at == 16 {
            return Err(WANTED);
        }
        size = size << 4 | u64::from(digit);
        at += 1;
    }
    if size > i64::MAX as u64 {
        return Err(WANTED);
    }
    let digits = at;
    match line.get(at) {
        None => return Ok(None),
        Some(_) if digits == 0 => return Err(WANTED),
        Some(b'\r') => {}
        Some(b';') => {
            // RFC 9112 7.1.1: unknown extensions are ignored. A line end inside one is CVE-2025-55315.
            match line[at..].iter().position(|byte| is_control(*byte)) {
                Some(length) => at += length,
                None if line.len() == CHUNK_LINE_BYTES => return Err(bad(CHUNK_LINE)),
                None => return Ok(None),
            }
        }
        Some(_) => return Err(WANTED),
    }
    match line[at..] {
        [b'\r', b'\n', ..] => Ok(Some(ChunkLine { size, extension_bytes: at - digits, length: at + 2 })),
        [b'\r'] if line.len() == CHUNK_LINE_BYTES => Err(bad(CHUNK_LINE)),
        [b'\r'] => Ok(None),
        [b'\r', ..] => Err(bad(BARE_CR)),
        [b'\n', ..] => Err(bad(BARE_LF)),
        _ => Err(bad("chunk extension must have no control bytes, found one")),
    }
}

const CHUNK_LINE: &str = "chunk size line must fit 4096 bytes";

fn trailer_field(line: &[u8]) -> Result<(&[u8], &[u8]), Rejection> {
    let end = line.iter().position(|byte| !is(*byte, TOKEN)).unwrap_or(line.len());
    if end == 0 || line.get(end) != Some(&b':') {
        return Err(bad(HEADER_NAME));
    }
    let (name, value) = (&line[..end], &line[end + 1..]);
    if value.iter().any(|byte| is_control(*byte)) {
        return Err(bad(HEADER_VALUE));
    }
    if FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden.as_bytes())) {
        return Err(bad("trailers must not carry framing, routing, authentication or content fields, found one"));
    }
    // Without control bytes, the white space at the ends is SP and HTAB.
    Ok((name, value.trim_ascii()))
}

fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// RFC 9110 6.5.1: fields that had to be known before the body.
const FORBIDDEN: [&str; 31] = [
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
    "x-forwarded-for",
    "x-forwarded-host",
];
