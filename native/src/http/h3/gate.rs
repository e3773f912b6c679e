//! Reads the frames of a stream before h3 does: stops what h3 would hold without bound, and requests it would take though
//! they are malformed ([`section`](super::section)).
//!
//! DATA passes unread: h3 hands it on as it comes.

use std::fmt;

use super::section::is_well_formed;

/// Type of DATA (RFC 9114 section 7.2.1).
const DATA: u64 = 0x00;
/// Type of HEADERS (RFC 9114 section 7.2.2).
const HEADERS: u64 = 0x01;
/// Stream type of the control stream (RFC 9114 section 6.2.1).
const CONTROL: u64 = 0x00;
/// h3 reads this frame type as an endless WebTransport stream, which we never offer.
const WEBTRANSPORT: u64 = 0x41;
/// Frames of a control stream are settings and numbers; those of no known type are padding.
const SMALL: u64 = 1024;

/// Encoded requests up to this size reach the decoder, which answers 431 to those that decode to more than the limit.
const LONGEST_SECTION: u64 = 128 * 1024;

/// The stream is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// A frame claims more than we hold.
    Excess { length: u64, ceiling: u64 },
    /// The request breaks the rules for pseudo-header fields.
    Malformed,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Excess { length, ceiling } => {
                write!(formatter, "a frame of {length} bytes is larger than {ceiling}")
            }
            Refused::Malformed => formatter.write_str("pseudo-header fields must come first, once each"),
        }
    }
}

impl std::error::Error for Refused {}

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Gate {
    state: State,
    /// Longest HEADERS.
    ceiling: u64,
    integer: Integer,
    /// The first field section, until it is whole and judged; the second is trailers.
    section: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The type of a unidirectional stream comes first.
    StreamType,
    FrameType,
    FrameLength(u64),
    Payload(u64),
    /// Payload of the first HEADERS.
    Section(u64),
    /// A stream that h3 reads as something else than frames.
    Free,
}

/// A variable-length integer that may arrive in pieces (RFC 9000 section 16).
#[derive(Clone, Copy, Debug, Default)]
struct Integer {
    value: u64,
    left: u8,
    begun: bool,
}

impl Integer {
    fn take(&mut self, byte: u8) -> Option<u64> {
        if self.begun {
            self.value = self.value << 8 | u64::from(byte);
            self.left -= 1;
        } else {
            self.begun = true;
            self.left = (1 << (byte >> 6)) - 1;
            self.value = u64::from(byte & 0x3f);
        }
        if self.left > 0 {
            return None;
        }
        Some(std::mem::take(self).value)
    }
}

impl Gate {
    pub(super) fn request(ceiling: u32) -> Gate {
        let ceiling = LONGEST_SECTION.max(u64::from(ceiling) * 2);
        Gate { state: State::FrameType, ceiling, integer: Integer::default(), section: Some(Vec::new()) }
    }

    pub(super) fn unidirectional() -> Gate {
        Gate { state: State::StreamType, ceiling: SMALL, integer: Integer::default(), section: None }
    }

    /// Follows the stream by these bytes.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> Result<(), Refused> {
        while !bytes.is_empty() {
            match self.state {
                State::Free => return Ok(()),
                State::Payload(left) => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[count..];
                    let left = left - count as u64;
                    self.state = if left == 0 { State::FrameType } else { State::Payload(left) };
                }
                State::Section(left) => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let (here, rest) = bytes.split_at(count);
                    bytes = rest;
                    let left = left - count as u64;
                    self.state = if left == 0 { State::FrameType } else { State::Section(left) };
                    // Nearly always it is all here, and nothing is copied.
                    let section = self.section.get_or_insert_default();
                    let judged = if left > 0 {
                        section.extend_from_slice(here);
                        continue;
                    } else if section.is_empty() {
                        is_well_formed(here)
                    } else {
                        section.extend_from_slice(here);
                        is_well_formed(section)
                    };
                    self.section = None;
                    if !judged {
                        return Err(Refused::Malformed);
                    }
                }
                state => {
                    let number = self.integer.take(bytes[0]);
                    bytes = &bytes[1..];
                    if let Some(number) = number {
                        self.state = self.after(state, number)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn after(&self, state: State, number: u64) -> Result<State, Refused> {
        match state {
            State::StreamType if number == CONTROL => Ok(State::FrameType),
            // QPACK's instructions are bounded by h3's dynamic table of no bytes; other types h3 stops reading.
            State::StreamType => Ok(State::Free),
            State::FrameType if number == WEBTRANSPORT => Err(Refused::Excess { length: u64::MAX, ceiling: 0 }),
            State::FrameType => Ok(State::FrameLength(number)),
            State::FrameLength(kind) => {
                let ceiling = match kind {
                    DATA => u64::MAX,
                    HEADERS => self.ceiling,
                    _ => SMALL,
                };
                match number {
                    length if length > ceiling => Err(Refused::Excess { length, ceiling }),
                    0 => Ok(State::FrameType),
                    length if kind == HEADERS && self.section.is_some() => Ok(State::Section(length)),
                    length => Ok(State::Payload(length)),
                }
            }
            state => Ok(state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(mut gate: Gate, bytes: &[u8], size: usize) -> Result<State, Refused> {
        for piece in bytes.chunks(size) {
            gate.pass(piece)?;
        }
        Ok(gate.state)
    }

    #[test]
    fn frames_pass_however_they_are_cut() {
        // HEADERS of 3 (a GET), DATA of 2, HEADERS of 1 (trailers), an unknown type (0x21) of 1, DATA of 16,384 in four bytes.
        let stream = [1, 3, 0, 0, 0xd1, 0, 2, 9, 9, 1, 1, 9, 0x21, 1, 9, 0, 0x80, 0, 0x40, 0, 9];
        for size in 1..=stream.len() {
            assert_eq!(passes(Gate::request(100), &stream, size), Ok(State::Payload(16_383)));
        }
    }

    #[test]
    fn a_malformed_request_stops_however_it_is_cut() {
        // Two methods.
        let stream = [1, 4, 0, 0, 0xd1, 0xd1];
        for size in 1..=stream.len() {
            assert_eq!(passes(Gate::request(100), &stream, size), Err(Refused::Malformed));
        }
    }

    #[test]
    fn what_would_be_held_whole_is_bounded() {
        let excess = |length, ceiling| Err(Refused::Excess { length, ceiling });
        assert_eq!(passes(Gate::request(100), &[1, 0x80, 2, 0, 1], 1), excess(131_073, LONGEST_SECTION));
        assert_eq!(passes(Gate::request(100), &[1, 0x80, 2, 0, 0], 1), Ok(State::Section(131_072)));
        let huge = [0x21, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(passes(Gate::request(100), &huge, 9), excess((1 << 62) - 1, SMALL));
        assert_eq!(passes(Gate::unidirectional(), &[0, 4, 0x44, 1], 1), excess(1025, SMALL));
        assert!(passes(Gate::request(100), &[0x40, 0x41], 2).is_err());
    }

    #[test]
    fn other_unidirectional_streams_are_not_frames() {
        assert_eq!(passes(Gate::unidirectional(), &[2, 0xff, 0xff, 0xff], 4), Ok(State::Free));
    }
}
