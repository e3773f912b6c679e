//! Judges the pseudo-header fields of an encoded request, which h3 takes in any order and number.
//!
//! Reads the structure of a field section (RFC 9204 section 4.5) and the names that begin with a colon, nothing else. What
//! it cannot read it lets pass: h3 decodes the same bytes and refuses them.

/// The rules of RFC 9114 section 4.3: pseudo-header fields come first, once each, and are a request's.
pub(super) fn is_well_formed(section: &[u8]) -> bool {
    let mut reader = Reader(section);
    // Required insert count and base: there is no dynamic table.
    if reader.integer(8).and_then(|_| reader.integer(7)).is_none() {
        return true;
    }
    let (mut seen, mut regular) = (0u8, false);
    while !reader.0.is_empty() {
        match reader.line() {
            None => return true,
            Some(Name::Regular) => regular = true,
            Some(Name::Pseudo(bit)) if regular || seen & bit != 0 || bit == STATUS => return false,
            Some(Name::Pseudo(bit)) => seen |= bit,
        }
    }
    true
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Regular,
    Pseudo(u8),
}

const AUTHORITY: u8 = 1;
const PATH: u8 = 2;
const METHOD: u8 = 4;
const SCHEME: u8 = 8;
const STATUS: u8 = 16;
const PROTOCOL: u8 = 32;
/// One of no known name; h3 refuses it.
const UNKNOWN: u8 = 64;

/// Names as they are, and under the Huffman code (RFC 7541 appendix B), which has one form for each.
const NAMES: [(u8, &[u8], &[u8]); 6] = [
    (AUTHORITY, b":authority", &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f]),
    (METHOD, b":method", &[0xb9, 0x49, 0x53, 0x39, 0xe4]),
    (PATH, b":path", &[0xb9, 0x58, 0xd3, 0x3f]),
    (SCHEME, b":scheme", &[0xb8, 0x82, 0x4e, 0x5a, 0x4b]),
    (STATUS, b":status", &[0xb8, 0x84, 0x8d, 0x36, 0xa3]),
    (PROTOCOL, b":protocol", &[0xb9, 0x5d, 0x87, 0x49, 0xc8, 0x7a, 0x3f]),
];
/// The seven bits of a colon.
const COLON: u8 = 0x5c;

/// Pseudo-header fields of the static table (RFC 9204 appendix A).
fn of_static(index: u64) -> Name {
    match index {
        0 => Name::Pseudo(AUTHORITY),
        1 => Name::Pseudo(PATH),
        15..=21 => Name::Pseudo(METHOD),
        22 | 23 => Name::Pseudo(SCHEME),
        24..=28 | 63..=71 => Name::Pseudo(STATUS),
        _ => Name::Regular,
    }
}

fn of_literal(name: &[u8], huffman: bool) -> Name {
    let known = NAMES.iter().find(|(_, plain, coded)| name == if huffman { *coded } else { *plain });
    let colon = name.first().is_some_and(|first| if huffman { first >> 1 == COLON } else { *first == b':' });
    match known {
        Some((bit, ..)) => Name::Pseudo(*bit),
        None if colon => Name::Pseudo(UNKNOWN),
        None => Name::Regular,
    }
}

struct Reader<'s>(&'s [u8]);

impl<'s> Reader<'s> {
    /// One field line (RFC 9204 sections 4.5.2 to 4.5.6).
    fn line(&mut self) -> Option<Name> {
        let first = *self.0.first()?;
        match first.leading_zeros() {
            0 => {
                let is_static = first & 0x40 != 0;
                let index = self.integer(6)?;
                is_static.then(|| of_static(index))
            }
            1 => {
                let is_static = first & 0x10 != 0;
                let index = self.integer(4)?;
                self.string(7)?;
                is_static.then(|| of_static(index))
            }
            2 => {
                let huffman = first & 0x08 != 0;
                let name = self.string(3)?;
                self.string(7)?;
                Some(of_literal(name, huffman))
            }
            _ => None,
        }
    }

    fn string(&mut self, prefix: u32) -> Option<&'s [u8]> {
        let length = usize::try_from(self.integer(prefix)?).ok()?;
        let (string, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(string)
    }

    /// An integer with a prefix of so many bits (RFC 7541 section 5.1).
    fn integer(&mut self, prefix: u32) -> Option<u64> {
        let mask = u64::MAX >> (64 - prefix);
        let (first, mut rest) = self.0.split_first()?;
        let mut value = u64::from(*first) & mask;
        if value == mask {
            let mut shift = 0;
            loop {
                let (byte, after) = rest.split_first()?;
                rest = after;
                // Longer ones mean nothing that could be here.
                if shift > 28 {
                    return None;
                }
                value += u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte & 0x80 == 0 {
                    break;
                }
            }
        }
        self.0 = rest;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(lines: &[&[u8]]) -> bool {
        is_well_formed(&[&[0, 0][..], &lines.concat()].concat())
    }

    const GET: &[u8] = &[0xc0 | 17];
    const HTTPS: &[u8] = &[0xc0 | 23];
    const ROOT: &[u8] = &[0xc1];
    const ACCEPT: &[u8] = &[0xc0 | 29];
    /// `:authority: a`, its name from the static table.
    const NAMED: &[u8] = &[0x50, 1, b'a'];
    /// `:method: X`, spelled out.
    const PLAIN: &[u8] = &[0x27, 0, b':', b'm', b'e', b't', b'h', b'o', b'd', 1, b'X'];
    /// The same under the Huffman code.
    const CODED: &[u8] = &[0x2d, 0xb9, 0x49, 0x53, 0x39, 0xe4, 1, b'X'];

    #[test]
    fn an_ordinary_request_passes() {
        assert!(judged(&[GET, HTTPS, ROOT, NAMED, ACCEPT, ACCEPT]));
        assert!(judged(&[CODED, HTTPS, ROOT, NAMED]));
        assert!(judged(&[PLAIN, HTTPS, ROOT, NAMED]));
    }

    #[test]
    fn a_pseudo_header_field_comes_once_and_first() {
        assert!(!judged(&[GET, GET]));
        assert!(!judged(&[GET, PLAIN]));
        assert!(!judged(&[CODED, PLAIN]));
        assert!(!judged(&[GET, ACCEPT, ROOT]));
        assert!(!judged(&[NAMED, GET, NAMED]));
    }

    #[test]
    fn a_status_is_no_part_of_a_request() {
        assert!(!judged(&[GET, &[0xc0 | 25]]));
        assert!(!judged(&[&[0x2d, 0xb8, 0x84, 0x8d, 0x36, 0xa3, 1, b'2']]));
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_decoder() {
        for section in [&[][..], &[0], &[0, 0, 0x80], &[0, 0, 0x10], &[0, 0, 0x27, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]]
        {
            assert!(is_well_formed(section), "{section:x?}");
        }
    }
}
