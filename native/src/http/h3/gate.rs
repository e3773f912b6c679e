//! Reads the frame headers of a stream before h3 does, and stops what h3 would hold without bound.
//!
//! Knows types and lengths (RFC 9114 section 7.1), nothing of what is in a frame. DATA passes: h3 hands it on as it comes.

use std::fmt;

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

/// Something claims more than we hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Excess {
    length: u64,
    ceiling: u64,
}

impl fmt::Display for Excess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a frame of {} bytes is larger than {}", self.length, self.ceiling)
    }
}

impl std::error::Error for Excess {}

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Gate {
    state: State,
    /// Longest HEADERS.
    ceiling: u64,
    integer: Integer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The type of a unidirectional stream comes first.
    StreamType,
    FrameType,
    FrameLength(u64),
    Payload(u64),
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
        Gate { state: State::FrameType, ceiling: ceiling.into(), integer: Integer::default() }
    }

    pub(super) fn unidirectional(ceiling: u32) -> Gate {
        Gate { state: State::StreamType, ..Gate::request(ceiling) }
    }

    /// Follows the stream by these bytes.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) -> Result<(), Excess> {
        while !bytes.is_empty() {
            match self.state {
                State::Free => return Ok(()),
                State::Payload(left) => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    bytes = &bytes[count..];
                    let left = left - count as u64;
                    self.state = if left == 0 { State::FrameType } else { State::Payload(left) };
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

    fn after(&self, state: State, number: u64) -> Result<State, Excess> {
        match state {
            State::StreamType if number == CONTROL => Ok(State::FrameType),
            // QPACK's instructions are bounded by h3's dynamic table of no bytes; other types h3 stops reading.
            State::StreamType => Ok(State::Free),
            State::FrameType if number == WEBTRANSPORT => Err(Excess { length: u64::MAX, ceiling: 0 }),
            State::FrameType => Ok(State::FrameLength(number)),
            State::FrameLength(kind) => {
                let ceiling = match kind {
                    DATA => u64::MAX,
                    HEADERS => self.ceiling,
                    _ => SMALL,
                };
                match number {
                    length if length > ceiling => Err(Excess { length, ceiling }),
                    0 => Ok(State::FrameType),
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

    fn passes(mut gate: Gate, bytes: &[u8], size: usize) -> Result<State, Excess> {
        for piece in bytes.chunks(size) {
            gate.pass(piece)?;
        }
        Ok(gate.state)
    }

    #[test]
    fn frames_pass_however_they_are_cut() {
        // HEADERS of 3, DATA of 2, an unknown type (0x21) of 1, DATA of 16,384 claimed in four bytes.
        let stream = [1, 3, 9, 9, 9, 0, 2, 9, 9, 0x21, 1, 9, 0, 0x80, 0, 0x40, 0, 9];
        for size in 1..=stream.len() {
            assert_eq!(passes(Gate::request(100), &stream, size), Ok(State::Payload(16_383)));
        }
    }

    #[test]
    fn what_would_be_held_whole_is_bounded() {
        let excess = |length, ceiling| Err(Excess { length, ceiling });
        assert_eq!(passes(Gate::request(100), &[1, 0x40, 101], 1), excess(101, 100));
        assert_eq!(passes(Gate::request(100), &[1, 0x40, 100], 1), Ok(State::Payload(100)));
        let huge = [0x21, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(passes(Gate::request(100), &huge, 9), excess((1 << 62) - 1, SMALL));
        assert_eq!(passes(Gate::unidirectional(100), &[0, 4, 0x44, 1], 1), excess(1025, SMALL));
        assert!(passes(Gate::request(100), &[0x40, 0x41], 2).is_err());
    }

    #[test]
    fn other_unidirectional_streams_are_not_frames() {
        assert_eq!(passes(Gate::unidirectional(100), &[2, 0xff, 0xff, 0xff], 4), Ok(State::Free));
    }
}
