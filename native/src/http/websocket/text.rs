//! UTF-8 that comes in pieces, cut anywhere.

use std::str::from_utf8;

/// Checks one text; remembers the character that the last piece has begun and not ended.
#[derive(Debug, Default)]
pub struct Text {
    begun: [u8; 4],
    length: usize,
}

impl Text {
    /// Takes the next piece; false when the text is no UTF-8, which is known with the first wrong byte.
    pub fn take(&mut self, mut piece: &[u8]) -> bool {
        while self.length > 0
            && let [first, rest @ ..] = piece
        {
            self.begun[self.length] = *first;
            self.length += 1;
            piece = rest;
            match from_utf8(&self.begun[..self.length]) {
                Ok(_) => self.length = 0,
                Err(cause) if cause.error_len().is_none() => {}
                Err(_) => return false,
            }
        }
        let Err(cause) = from_utf8(piece) else { return true };
        // Incomplete is at most three bytes, or it would be wrong.
        let begun = &piece[cause.valid_up_to()..];
        if cause.error_len().is_some() {
            return false;
        }
        self.begun[..begun.len()].copy_from_slice(begun);
        self.length = begun.len();
        true
    }

    /// Whether the text may end here.
    pub fn is_whole(&self) -> bool {
        self.length == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the text is in pieces of this size: `None` when a piece was refused.
    fn in_pieces(text: &[u8], size: usize) -> Option<bool> {
        let mut known = Text::default();
        text.chunks(size).all(|piece| known.take(piece)).then(|| known.is_whole())
    }

    #[test]
    fn it_does_not_matter_where_a_text_is_cut() {
        let cases: [&[u8]; 10] = [
            b"",
            b"plain",
            "Grüße, 世界 🌍!".as_bytes(),
            "\u{7f}\u{80}\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}".as_bytes(),
            b"\xc0\x80",             // an overlong NUL
            b"\xed\xa0\x80",         // a surrogate
            b"\xf4\x90\x80\x80",     // beyond U+10FFFF
            b"a\x80",                // a continuation of nothing
            b"caf\xc3",              // cut short
            b"\xce\xba\xe1\xbd\xb9", // a Greek word
        ];
        for text in cases {
            for size in 1..=text.len().max(1) {
                let found = in_pieces(text, size);
                assert_eq!(found == Some(true), from_utf8(text).is_ok(), "{text:x?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn the_first_wrong_byte_is_enough() {
        let mut known = Text::default();
        assert!(known.take(b"\xf4"));
        assert!(!known.is_whole());
        assert!(!known.take(b"\x90"));
    }
}
