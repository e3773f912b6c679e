//! One frame of RFC 6455 section 5.2: its header, its mask, and what a close frame carries.

/// What a header says of its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    fn of(nibble: u8) -> Option<Opcode> {
        [Opcode::Continuation, Opcode::Text, Opcode::Binary, Opcode::Close, Opcode::Ping, Opcode::Pong]
            .into_iter()
            .find(|opcode| *opcode as u8 == nibble)
    }

    pub fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// Most bytes a control frame carries (RFC 6455 section 5.5).
pub const CONTROL: u64 = 125;

/// A header of the peer's, checked as far as it can be by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub last: bool,
    pub opcode: Opcode,
    pub mask: [u8; 4],
    pub length: u64,
}

impl Header {
    /// Reads a client's header from the front of `bytes`, and its size; `None` when more is needed. What is wrong in its
    /// first two bytes is said before the others have come.
    pub fn read(bytes: &[u8]) -> Result<Option<(Header, usize)>, &'static str> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err("a reserved bit is set, and no extension was agreed on");
        }
        let Some(opcode) = Opcode::of(first & 0x0f) else { return Err("the opcode is none of RFC 6455") };
        let (last, short) = (first & 0x80 != 0, second & 0x7f);
        if second & 0x80 == 0 {
            return Err("a client must mask its frames");
        }
        if opcode.is_control() && !last {
            return Err("a control frame must not be fragmented");
        }
        if opcode.is_control() && u64::from(short) > CONTROL {
            return Err("a control frame carries at most 125 bytes");
        }
        let (length, least, rest) = match (short, rest) {
            (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 126, rest),
            (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 1 << 16, rest)
            }
            (126 | 127, _) => return Ok(None),
            (short, rest) => (u64::from(short), 0, rest),
        };
        if length < least || length > i64::MAX as u64 {
            return Err("a length must be written in as few bytes as it needs, and in 63 bits");
        }
        let [a, b, c, d, rest @ ..] = rest else { return Ok(None) };
        let header = Header { last, opcode, mask: [*a, *b, *c, *d], length };
        Ok(Some((header, bytes.len() - rest.len())))
    }

    /// Appends a header of ours, which has no mask.
    pub fn write(out: &mut Vec<u8>, last: bool, opcode: Opcode, length: usize) {
        out.push(if last { 0x80 } else { 0 } | opcode as u8);
        match length {
            0..126 => out.push(length as u8),
            126..0x1_0000 => {
                out.push(126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                out.push(127);
                out.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
    }
}

/// Takes the mask off `bytes`, and turns it so that it fits what follows them.
pub fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        let plain = u64::from_ne_bytes(<[u8; 8]>::try_from(&*word).unwrap_or_default()) ^ wide;
        word.copy_from_slice(&plain.to_ne_bytes());
    }
    let rest = words.into_remainder();
    rest.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    let turn = rest.len() % 4;
    mask.rotate_left(turn);
}

/// No code came with the close (RFC 6455 section 7.1.5).
pub const NO_STATUS: u16 = 1005;

/// Code and reason of a close frame; `Err` for a payload that cannot be one (RFC 6455 section 5.5.1).
pub fn close(payload: &[u8]) -> Result<(u16, &[u8]), &'static str> {
    let (code, reason) = match payload {
        [] => return Ok((NO_STATUS, &[])),
        [_] => return Err("a close code must be two bytes"),
        [a, b, reason @ ..] => (u16::from_be_bytes([*a, *b]), reason),
    };
    // Section 7.4 and IANA's registry; 1004 to 1006 and 1015 are never sent.
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 => Ok((code, reason)),
        _ => Err("the close code is not one that may be sent"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<(Header, usize)>, &'static str> {
        Header::read(bytes)
    }

    fn masked(first: u8, length: &[u8]) -> Vec<u8> {
        [&[first][..], length, b"mask"].concat()
    }

    #[test]
    fn a_header_is_read_when_all_of_it_is_here_and_not_before() {
        for (bytes, length) in [
            (masked(0x82, &[0x80]), 0),
            (masked(0x82, &[0x80 | 125]), 125),
            (masked(0x82, &[0xfe, 0, 126]), 126),
            (masked(0x82, &[0xfe, 0xff, 0xff]), 65_535),
            (masked(0x82, &[0xff, 0, 0, 0, 0, 0, 1, 0, 0]), 65_536),
            (masked(0x82, &[0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), i64::MAX as u64),
        ] {
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut]), Ok(None), "{cut} bytes of {bytes:x?}");
            }
            let header = Header { last: true, opcode: Opcode::Binary, mask: *b"mask", length };
            assert_eq!(read(&[&bytes[..], b"more"].concat()), Ok(Some((header, bytes.len()))));
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_second_byte() {
        for (bytes, part) in [
            ([0xc1, 0x80], "reserved bit"),
            ([0xa1, 0x80], "reserved bit"),
            ([0x91, 0x80], "reserved bit"),
            ([0x83, 0x80], "opcode"),
            ([0x8b, 0x80], "opcode"),
            ([0x81, 0x00], "mask"),
            ([0x09, 0x80], "fragmented"),
            ([0x89, 0xfe], "125"),
            ([0x88, 0xff], "125"),
        ] {
            assert!(read(&bytes).unwrap_err().contains(part), "{bytes:x?}");
        }
    }

    #[test]
    fn a_length_has_one_way_to_be_written() {
        for length in [&[0xfe, 0, 125][..], &[0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff], &[0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(read(&masked(0x82, length)).unwrap_err().contains("as few bytes"), "{length:x?}");
        }
    }

    #[test]
    fn our_headers_say_what_theirs_do_but_for_the_mask() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 5_000_000] {
            let mut out = Vec::new();
            Header::write(&mut out, false, Opcode::Text, length);
            out[1] |= 0x80;
            out.extend_from_slice(b"mask");
            let header = Header { last: false, opcode: Opcode::Text, mask: *b"mask", length: length as u64 };
            assert_eq!(read(&out), Ok(Some((header, out.len()))));
        }
    }

    #[test]
    fn a_mask_comes_off_in_pieces_of_any_size() {
        let plain: Vec<u8> = (0..100).collect();
        let veiled: Vec<u8> = plain.iter().zip(b"mask".iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        for size in 1..=plain.len() {
            let (mut bytes, mut mask) = (veiled.clone(), *b"mask");
            bytes.chunks_mut(size).for_each(|piece| unmask(piece, &mut mask));
            assert_eq!(bytes, plain, "pieces of {size}");
        }
    }

    #[test]
    fn close_codes_that_may_be_sent() {
        let code = |code: u16| close(&[&code.to_be_bytes()[..], b"why"].concat()).map(|(code, _)| code).ok();
        let sent: Vec<u16> = (0..=u16::MAX).filter(|number| code(*number).is_some()).collect();
        let registered = (1000..=1003).chain(1007..=1014).chain(3000..=4999);
        assert_eq!(sent, registered.collect::<Vec<_>>());
        assert_eq!(close(b""), Ok((NO_STATUS, &b""[..])));
        assert!(close(b"\x03").is_err());
        assert_eq!(close(b"\x03\xe8why"), Ok((1000, &b"why"[..])));
    }
}
