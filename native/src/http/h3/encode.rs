//! What we send on a request's stream, as bytes: frames (RFC 9114 section 7) and field sections (RFC 9204) that use the static
//! table and nothing else.
//!
//! Written here and not by h3, because a section that was sent before need not be encoded again: building a header map and
//! encoding it was half of what a small answer cost.

const DATA: u8 = 0x00;
const HEADERS: u8 = 0x01;

/// A name of the static table (RFC 9204 appendix A), its index, and those of the values that are there with it.
type Entry = (&'static [u8], u8, &'static [(&'static [u8], u8)]);

/// What answers have.
const STATIC: [Entry; 15] = [
    (b"accept-ranges", 32, &[(b"bytes", 32)]),
    (b"access-control-allow-origin", 35, &[(b"*", 35)]),
    (b"cache-control", 36, &[(b"no-cache", 39), (b"no-store", 40), (b"public, max-age=31536000", 41)]),
    (b"content-disposition", 3, &[]),
    (b"content-encoding", 42, &[(b"br", 42), (b"gzip", 43)]),
    (b"content-length", CONTENT_LENGTH, &[(b"0", CONTENT_LENGTH)]),
    (
        b"content-type",
        44,
        &[
            (b"application/javascript", 45),
            (b"application/json", 46),
            (b"image/gif", 48),
            (b"image/jpeg", 49),
            (b"image/png", 50),
            (b"text/css", 51),
            (b"text/html; charset=utf-8", 52),
            (b"text/plain", 53),
        ],
    ),
    (b"date", DATE, &[]),
    (b"etag", 7, &[]),
    (b"last-modified", 10, &[]),
    (b"link", 11, &[]),
    (b"location", 12, &[]),
    (b"server", 92, &[]),
    (b"set-cookie", 14, &[]),
    (b"vary", 59, &[(b"accept-encoding", 59), (b"origin", 60)]),
];
const CONTENT_LENGTH: u8 = 4;
const DATE: u8 = 6;

/// Appends the head of a response: HEADERS with these fields, which [`fields`] has encoded.
pub(super) fn head(out: &mut Vec<u8>, status: u16, fields: &[u8], length: Option<u64>, date: Option<&[u8]>) {
    out.push(HEADERS);
    // The length comes before what it counts. It may take more bytes than it needs (RFC 9000 section 16), so four are kept
    // for it, which count to 2^30.
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    // Required insert count and base: there is no dynamic table (RFC 9204 section 4.5.1).
    out.extend_from_slice(&[0, 0]);
    status_line(out, status);
    out.extend_from_slice(fields);
    if let Some(length) = length {
        known(out, CONTENT_LENGTH, itoa::Buffer::new().format(length).as_bytes());
    }
    if let Some(date) = date {
        known(out, DATE, date);
    }
    let size = (out.len() - at - 4) as u64;
    if size < 0x4000_0000 {
        out[at..at + 4].copy_from_slice(&(size as u32 | 0x8000_0000).to_be_bytes());
    } else {
        let mut longer = Vec::new();
        varint(&mut longer, size);
        out.splice(at..at + 4, longer);
    }
}

/// Appends HEADERS with trailers.
pub(super) fn trailers(out: &mut Vec<u8>, fields: &[u8]) {
    out.push(HEADERS);
    varint(out, fields.len() as u64 + 2);
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(fields);
}

/// Appends the head of a DATA frame.
pub(super) fn data(out: &mut Vec<u8>, size: usize) {
    out.push(DATA);
    varint(out, size as u64);
}

/// Appends field lines (RFC 9204 sections 4.5.2, 4.5.4 and 4.5.6).
pub(super) fn fields<'f>(out: &mut Vec<u8>, fields: impl Iterator<Item = (&'f [u8], &'f [u8])>) {
    for (name, value) in fields {
        match STATIC.iter().find(|(known, ..)| *known == name) {
            Some((_, index, values)) => match values.iter().find(|(known, _)| *known == value) {
                Some((_, whole)) => integer(out, 0xc0, 6, (*whole).into()),
                None => known(out, *index, value),
            },
            None => {
                integer(out, 0x20, 3, name.len() as u64);
                out.extend_from_slice(name);
                text(out, value);
            }
        }
    }
}

fn status_line(out: &mut Vec<u8>, status: u16) {
    const INDICES: [(u16, u8); 14] = [
        (103, 24),
        (200, 25),
        (304, 26),
        (404, 27),
        (503, 28),
        (100, 63),
        (204, 64),
        (206, 65),
        (302, 66),
        (400, 67),
        (403, 68),
        (421, 69),
        (425, 70),
        (500, 71),
    ];
    match INDICES.iter().find(|(known, _)| *known == status) {
        Some((_, index)) => integer(out, 0xc0, 6, (*index).into()),
        None => known(out, 24, itoa::Buffer::new().format(status).as_bytes()),
    }
}

/// A value whose name is in the static table.
fn known(out: &mut Vec<u8>, index: u8, value: &[u8]) {
    integer(out, 0x50, 4, index.into());
    text(out, value);
}

fn text(out: &mut Vec<u8>, value: &[u8]) {
    integer(out, 0, 7, value.len() as u64);
    out.extend_from_slice(value);
}

/// A prefixed integer (RFC 7541 section 5.1) after the bits that come before it.
fn integer(out: &mut Vec<u8>, first: u8, prefix: u8, value: u64) {
    let most = (1u64 << prefix) - 1;
    if value < most {
        out.push(first | value as u8);
        return;
    }
    out.push(first | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// A variable-length integer (RFC 9000 section 16).
fn varint(out: &mut Vec<u8>, value: u64) {
    match value {
        0..0x40 => out.push(value as u8),
        0x40..0x4000 => out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes()),
        0x4000..0x4000_0000 => out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(value | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        fields(&mut out, [(name, value)].into_iter());
        out
    }

    #[test]
    fn integers_are_those_of_the_standards() {
        let prefixed = |value, prefix| {
            let mut out = Vec::new();
            integer(&mut out, 0, prefix, value);
            out
        };
        // RFC 7541 appendix C.1.
        assert_eq!(prefixed(10, 5), [0x0a]);
        assert_eq!(prefixed(1337, 5), [0x1f, 0x9a, 0x0a]);
        assert_eq!(prefixed(42, 8), [0x2a]);
        assert_eq!(prefixed(31, 5), [0x1f, 0]);
        // RFC 9000 appendix A.1.
        for (value, bytes) in [
            (37, &[0x25][..]),
            (15_293, &[0x7b, 0xbd]),
            (494_878_333, &[0x9d, 0x7f, 0x3e, 0x7d]),
            (151_288_809_941_952_652, &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]),
        ] {
            let mut out = Vec::new();
            varint(&mut out, value);
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn fields_are_indexed_where_the_static_table_has_them() {
        assert_eq!(encoded(b"content-type", b"text/plain"), [0xc0 | 53]);
        assert_eq!(encoded(b"vary", b"accept-encoding"), [0xc0 | 59]);
        assert_eq!(encoded(b"server", b"x"), [0x5f, 92 - 15, 1, b'x']);
        assert_eq!(encoded(b"etag", b"y"), [0x57, 1, b'y']);
        assert_eq!(encoded(b"x-own", b""), [0x25, b'x', b'-', b'o', b'w', b'n', 0]);
        // A name of seven bytes no longer fits the three bits.
        assert_eq!(encoded(b"x-owned", b"z")[..3], [0x27, 0, b'x']);
    }

    #[test]
    fn a_head_counts_what_it_holds() {
        let mut out = Vec::new();
        head(&mut out, 200, &[0xc0 | 53], Some(5), None);
        assert_eq!(out, [HEADERS, 0x80, 0, 0, 7, 0, 0, 0xc0 | 25, 0xc0 | 53, 0x54, 1, b'5']);
        out.clear();
        head(&mut out, 799, &[0; 100], None, Some(b"now"));
        assert_eq!(out[..5], [HEADERS, 0x80, 0, 0, (out.len() - 5) as u8]);
        assert_eq!(out[7..13], [0x5f, 24 - 15, 3, b'7', b'9', b'9']);
        assert_eq!(out[out.len() - 5..], [0x56, 3, b'n', b'o', b'w']);
        out.clear();
        data(&mut out, 100);
        trailers(&mut out, &[1, 2]);
        assert_eq!(out, [DATA, 0x40, 100, HEADERS, 4, 0, 0, 1, 2]);
    }
}
