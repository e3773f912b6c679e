//! From a client's bytes to messages and control frames, as they come: nothing is kept but the state between two bytes.
//!
//! A message is handed out in pieces, so its size costs no memory here; a frame is waited for only while it is small. What is
//! wrong is found with the first byte that shows it. There are no extensions.

use super::frame::{self, Header, Opcode};
use super::text::Text;

/// A frame up to this size is handed out whole: two pieces would be two events.
const WHOLE: u64 = 16 * 1024;

/// What the front of the input is.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'i> {
    /// Bytes of a message; with `last`, all that was left of it.
    Data {
        bytes: &'i [u8],
        text: bool,
        last: bool,
    },
    Ping(&'i [u8]),
    Pong(&'i [u8]),
    Close {
        code: u16,
        reason: &'i [u8],
    },
}

/// How one look at the input ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Look<'i> {
    Piece(Piece<'i>),
    /// Nothing can be told before more comes.
    Hungry,
    /// A message goes on here, and there is no room for it.
    Blocked,
}

/// Why the connection fails (RFC 6455 section 7.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Protocol(&'static str),
    NotText,
    TooBig,
}

/// One connection's reading side.
#[derive(Debug)]
pub struct Reader {
    /// Most bytes of one message.
    limit: u64,
    frame: Option<Header>,
    message: Option<Message>,
}

/// A message that has begun.
#[derive(Debug)]
struct Message {
    /// `None`: binary.
    text: Option<Text>,
    /// Bytes of its frames so far, the one that is arriving included.
    size: u64,
}

impl Reader {
    pub fn new(limit: u64) -> Reader {
        Reader { limit, frame: None, message: None }
    }

    /// Looks at the front of `bytes` and takes the masks off what it hands out, at most `room` bytes of a message (`None`:
    /// not even an empty one). Answers how many bytes are dealt with, too.
    pub fn look<'i>(&mut self, bytes: &'i mut [u8], room: Option<usize>) -> Result<(usize, Look<'i>), Refusal> {
        let mut at = 0;
        loop {
            let mut header = match self.frame.take() {
                Some(header) => header,
                None => match Header::read(&bytes[at..]).map_err(Refusal::Protocol)? {
                    None => return Ok((at, Look::Hungry)),
                    Some((header, size)) => {
                        at += size;
                        self.begin(&header)?;
                        header
                    }
                },
            };
            let here = (bytes.len() - at) as u64;
            if here < header.length.min(WHOLE) {
                self.frame = Some(header);
                return Ok((at, Look::Hungry));
            }
            if header.opcode.is_control() {
                let end = at + header.length as usize;
                let payload = &mut bytes[at..end];
                frame::unmask(payload, &mut header.mask);
                return Ok((end, Look::Piece(control(header.opcode, payload)?)));
            }
            if header.length == 0 && !header.last {
                continue;
            }
            let Some(room) = room else {
                self.frame = Some(header);
                return Ok((at, Look::Blocked));
            };
            let size = here.min(header.length).min(room as u64);
            let end = at + size as usize;
            let data = &mut bytes[at..end];
            frame::unmask(data, &mut header.mask);
            header.length -= size;
            let last = header.last && header.length == 0;
            let text = self.pass(data, last)?;
            // The frame is over, but for an empty last one nothing would say that its message is.
            if header.length > 0 {
                self.frame = Some(header);
            }
            return Ok((end, Look::Piece(Piece::Data { bytes: data, text, last })));
        }
    }

    /// Whether this frame may come now.
    fn begin(&mut self, header: &Header) -> Result<(), Refusal> {
        let text = match (header.opcode, &self.message) {
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(()),
            (Opcode::Continuation, None) => {
                return Err(Refusal::Protocol("a continuation came before the message it continues"));
            }
            (Opcode::Continuation, Some(_)) => None,
            (_, Some(_)) => return Err(Refusal::Protocol("a message began before the last one was complete")),
            (Opcode::Text, None) => Some(Text::default()),
            (Opcode::Binary, None) => None,
        };
        let message = self.message.get_or_insert(Message { text, size: 0 });
        // Both are below 2^63.
        message.size += header.length;
        if message.size > self.limit { Err(Refusal::TooBig) } else { Ok(()) }
    }

    /// Checks a piece of the message that has begun; whether it is text.
    fn pass(&mut self, data: &[u8], last: bool) -> Result<bool, Refusal> {
        let Some(message) = &mut self.message else { return Ok(false) };
        let text = message.text.is_some();
        if let Some(known) = &mut message.text
            && !(known.take(data) && (!last || known.is_whole()))
        {
            return Err(Refusal::NotText);
        }
        if last {
            self.message = None;
        }
        Ok(text)
    }
}

fn control(opcode: Opcode, payload: &[u8]) -> Result<Piece<'_>, Refusal> {
    match opcode {
        Opcode::Ping => Ok(Piece::Ping(payload)),
        Opcode::Pong => Ok(Piece::Pong(payload)),
        _ => {
            let (code, reason) = frame::close(payload).map_err(Refusal::Protocol)?;
            if std::str::from_utf8(reason).is_err() {
                return Err(Refusal::NotText);
            }
            Ok(Piece::Close { code, reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIN: u8 = 0x80;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Header::write(&mut out, false, Opcode::Continuation, payload.len());
        (out[0], out[1]) = (first, out[1] | 0x80);
        let mut mask = *b"\x37\xfa\x21\x3d";
        out.extend_from_slice(&mask);
        let from = out.len();
        out.extend_from_slice(payload);
        frame::unmask(&mut out[from..], &mut mask);
        out
    }

    /// What is heard of `bytes` when they come in segments of `size`, with `room` for each piece.
    fn heard(bytes: &[u8], size: usize, room: usize, limit: u64) -> Result<Vec<String>, Refusal> {
        let (mut reader, mut waiting, mut told) = (Reader::new(limit), Vec::new(), Vec::new());
        for segment in bytes.chunks(size.max(1)) {
            waiting.extend_from_slice(segment);
            loop {
                let (used, look) = reader.look(&mut waiting, Some(room))?;
                let hungry = match look {
                    Look::Piece(piece) => {
                        told.push(format!("{piece:?}"));
                        false
                    }
                    look => look == Look::Hungry,
                };
                waiting.drain(..used);
                if hungry {
                    break;
                }
            }
        }
        Ok(told)
    }

    /// The messages of a stream of frames, however it is cut.
    fn messages(bytes: &[u8], size: usize, room: usize) -> Result<Vec<(bool, Vec<u8>)>, Refusal> {
        let (mut reader, mut waiting, mut whole, mut data) = (Reader::new(1 << 20), Vec::new(), Vec::new(), Vec::new());
        for segment in bytes.chunks(size) {
            waiting.extend_from_slice(segment);
            loop {
                let (used, look) = reader.look(&mut waiting, Some(room))?;
                let more = match look {
                    Look::Piece(Piece::Data { bytes, text, last }) => {
                        assert!(bytes.len() <= room);
                        data.extend_from_slice(bytes);
                        if last {
                            whole.push((text, std::mem::take(&mut data)));
                        }
                        true
                    }
                    Look::Piece(_) => true,
                    Look::Hungry | Look::Blocked => false,
                };
                waiting.drain(..used);
                if !more {
                    break;
                }
            }
        }
        Ok(whole)
    }

    #[test]
    fn messages_do_not_depend_on_how_they_are_cut() {
        let long = "ä".repeat(20_000).into_bytes();
        let frames = [
            masked(FIN | 1, b"hello"),
            masked(2, b"one "),
            masked(FIN | 9, b"ping between"),
            masked(0, b""),
            masked(FIN, b"two"),
            masked(FIN | 1, b""),
            masked(1, &long[..30_001]),
            masked(FIN, &long[30_001..]),
            masked(FIN | 2, &[0xff; 70_000]),
        ]
        .concat();
        let expected = [
            (true, b"hello".to_vec()),
            (false, b"one two".to_vec()),
            (true, Vec::new()),
            (true, long),
            (false, vec![0xff; 70_000]),
        ];
        for (size, room) in [(1, 100_000), (7, 3), (1000, 1), (64 * 1024, 64 * 1024), (frames.len(), 100_000)] {
            assert!(messages(&frames, size, room).unwrap() == expected, "segments of {size}, room for {room}");
        }
    }

    #[test]
    fn a_small_frame_is_told_once_and_a_large_one_as_it_comes() {
        let whole = heard(&masked(FIN | 2, &[b'x'; 16_384]), 100, 100_000, 1 << 20).unwrap();
        assert_eq!(whole.len(), 1);
        let large = heard(&masked(FIN | 2, &[b'x'; 100_000]), 16_384, 100_000, 1 << 20).unwrap();
        assert!((2..=7).contains(&large.len()), "{} pieces", large.len());
    }

    #[test]
    fn an_empty_fragment_is_nothing_and_an_empty_end_is_one() {
        let told = heard(&[masked(1, b""), masked(0, b""), masked(FIN, b"")].concat(), 1, 10, 10).unwrap();
        assert_eq!(told, [r#"Data { bytes: [], text: true, last: true }"#]);
    }

    #[test]
    fn without_room_control_frames_before_a_message_are_heard() {
        let mut reader = Reader::new(100);
        let mut bytes = [masked(FIN | 9, b"p"), masked(FIN | 2, b"")].concat();
        let (used, look) = reader.look(&mut bytes, None).unwrap();
        assert_eq!(look, Look::Piece(Piece::Ping(b"p")));
        let mut bytes = bytes.split_off(used);
        let (used, look) = reader.look(&mut bytes, None).unwrap();
        assert_eq!((used, look), (6, Look::Blocked));
        let last = Piece::Data { bytes: b"", text: false, last: true };
        assert_eq!(reader.look(&mut [], Some(0)).unwrap(), (0, Look::Piece(last)));
    }

    #[test]
    fn what_breaks_the_rules_is_refused_with_the_first_byte_that_shows_it() {
        let protocol = |bytes: &[u8]| matches!(heard(bytes, 1, 9, 1000), Err(Refusal::Protocol(_)));
        assert!(protocol(&masked(FIN, b"")), "a continuation of nothing");
        assert!(protocol(&[masked(1, b"a"), masked(FIN | 1, b"b")].concat()), "a message inside a message");
        assert!(protocol(&masked(FIN | 8, b"\x03")), "half a code");
        assert!(protocol(&masked(FIN | 8, &1005u16.to_be_bytes())), "a code nobody sends");
        assert!(protocol(b"\x81\x05hello"), "no mask");
        assert_eq!(heard(&masked(FIN | 8, b"\x03\xe8\xff"), 1, 9, 1000), Err(Refusal::NotText));
        assert_eq!(heard(&masked(FIN | 1, b"\xff"), 1, 9, 1000), Err(Refusal::NotText));
        assert_eq!(heard(&[masked(1, b"\xc3"), masked(FIN, b"")].concat(), 1, 9, 1000), Err(Refusal::NotText));
    }

    #[test]
    fn a_message_that_is_too_big_is_refused_by_its_header() {
        assert_eq!(heard(&masked(FIN | 2, &[0; 11])[..8], 1, 9, 10), Err(Refusal::TooBig));
        let claims = [0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4];
        assert_eq!(heard(&claims, 20, 9, 10), Err(Refusal::TooBig));
        let parts = [masked(2, &[0; 6]), masked(0, &[0; 4]), masked(FIN, &[0; 1])].concat();
        assert_eq!(heard(&parts, 1, 9, 10), Err(Refusal::TooBig));
        assert!(heard(&masked(FIN | 2, &[0; 10]), 1, 9, 10).is_ok());
    }
}
