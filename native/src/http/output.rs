//! Bytes on their way to the socket: small pieces copied together, large ones left where they are.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};

use super::Transport;
use crate::unsent;

/// Bodies from this size on are written from where they are.
const LARGE: usize = 8 * 1024;
/// Beyond this nothing more is taken until the socket has taken some.
const FULL: usize = 256 * 1024;
/// Slices of one vectored write.
const SLICES: usize = 64;
/// What an idle connection keeps.
const KEPT: usize = 1024;
/// A socket that takes this much at once has sent at least two thirds of it on the spot: its window is large, and its peer has
/// read to make it so.
const SWIFT: usize = 3 * unsent::NARROW as usize;

/// The write buffer of one connection.
#[derive(Debug, Default)]
pub struct Output {
    /// Small pieces: heads, chunk lines, short bodies.
    buffer: Vec<u8>,
    start: usize,
    /// Large pieces, each with the small ones that follow it.
    large: VecDeque<(Bytes, Vec<u8>)>,
    /// Bytes in `large`, without those after the last piece, which may grow.
    large_bytes: usize,
    /// The socket has taken bytes that it may still hold itself: a record of TLS.
    unflushed: bool,
    /// The peer takes much at once, and the socket knows.
    swift: bool,
}

impl Output {
    /// Whether more may be added.
    pub fn has_room(&self) -> bool {
        self.large.len() < SLICES / 2 && self.len() < FULL
    }

    /// Whether everything has gone.
    pub fn is_empty(&self) -> bool {
        !self.unflushed && !self.has_bytes()
    }

    /// Bytes that have not gone to the socket.
    pub fn len(&self) -> usize {
        let after = self.large.back().map_or(0, |(_, after)| after.len());
        self.buffer.len() - self.start + self.large_bytes + after
    }

    fn has_bytes(&self) -> bool {
        !self.buffer.is_empty() || !self.large.is_empty()
    }

    /// Adds body bytes as they are.
    pub fn push(&mut self, body: Bytes) {
        if body.len() < LARGE {
            self.tail().extend_from_slice(&body);
        } else {
            let after = self.large.back().map_or(0, |(_, after)| after.len());
            self.large_bytes += after + body.len();
            self.large.push_back((body, Vec::new()));
        }
    }

    /// Adds body bytes as one chunk (RFC 9112 section 7.1). An empty one would end the body, so it is left out.
    pub fn push_chunk(&mut self, body: Bytes) {
        if body.is_empty() {
            return;
        }
        let mut digits = [0; 16];
        let tail = self.tail();
        tail.extend_from_slice(hexadecimal(body.len(), &mut digits));
        tail.extend_from_slice(b"\r\n");
        self.push(body);
        self.tail().extend_from_slice(b"\r\n");
    }

    /// Where bytes go that follow everything added so far.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        match self.large.back_mut() {
            Some((_, after)) => after,
            None => &mut self.buffer,
        }
    }

    /// Writes as much as the socket takes; ready when all has gone, out of its own buffers too. `progress` counts bytes
    /// written.
    pub fn poll_flush<S: Transport>(
        &mut self,
        socket: &mut S,
        context: &mut Context<'_>,
        progress: &mut u64,
    ) -> Poll<io::Result<()>> {
        while self.has_bytes() {
            let written = if self.large.is_empty() {
                ready!(Pin::new(&mut *socket).poll_write(context, &self.buffer[self.start..]))?
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let pieces = self.large.iter().flat_map(|(large, after)| [&large[..], &after[..]]);
                let mut count = 0;
                for piece in [&self.buffer[self.start..]].into_iter().chain(pieces).filter(|piece| !piece.is_empty()) {
                    if count == SLICES {
                        break;
                    }
                    slices[count] = IoSlice::new(piece);
                    count += 1;
                }
                ready!(Pin::new(&mut *socket).poll_write_vectored(context, &slices[..count]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if written >= SWIFT && !self.swift {
                self.swift = true;
                socket.widen();
            }
            *progress += written as u64;
            self.unflushed = true;
            self.advance(written);
        }
        ready!(Pin::new(socket).poll_flush(context))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        let small = written.min(self.buffer.len() - self.start);
        self.start += small;
        written -= small;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.buffer.shrink_to(KEPT);
            self.start = 0;
        }
        let mut pieces = self.large.len();
        while let Some((large, after)) = self.large.front_mut() {
            let count = written.min(large.len());
            large.advance(count);
            self.large_bytes -= count;
            written -= count;
            let count = written.min(after.len());
            after.drain(..count);
            written -= count;
            if pieces > 1 {
                self.large_bytes -= count;
            }
            if !large.is_empty() || !after.is_empty() {
                return;
            }
            self.large.pop_front();
            pieces -= 1;
        }
        if self.large.is_empty() {
            self.large.shrink_to(0);
        }
    }
}

fn hexadecimal(mut number: usize, digits: &mut [u8; 16]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[number % 16];
        number /= 16;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Waker;
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

    /// Takes so many bytes at a time, and knows whether it was widened.
    struct Narrow(Vec<u8>, usize, AtomicBool);

    impl Transport for Narrow {
        fn cut(&self) {}

        fn widen(&self) {
            self.2.store(true, Ordering::Relaxed);
        }

        async fn reset(&self) {}
    }

    impl AsyncRead for Narrow {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.1);
            self.0.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn pieces_arrive_in_order_however_little_the_socket_takes() {
        for size in [1, LARGE - 1, LARGE, 3 * LARGE] {
            let body = Bytes::from(vec![b'x'; size]);
            let mut output = Output::default();
            output.tail().extend_from_slice(b"head\r\n");
            output.push_chunk(body.clone());
            output.push_chunk(body.clone());
            let (mut socket, mut progress) = (Narrow(Vec::new(), 7, AtomicBool::default()), 0);
            let mut context = Context::from_waker(Waker::noop());
            assert!(output.poll_flush(&mut socket, &mut context, &mut progress).is_ready());
            let expected = {
                let chunk = [format!("{size:x}\r\n").as_bytes(), &body, b"\r\n"].concat();
                [b"head\r\n", &chunk[..], &chunk[..]].concat()
            };
            assert_eq!(output.len(), 0);
            assert!(socket.0 == expected && progress == expected.len() as u64 && output.is_empty());
        }
    }

    #[test]
    fn only_a_socket_that_takes_much_at_once_is_widened() {
        for (takes, widened) in [(SWIFT - 1, false), (SWIFT, true)] {
            let (mut output, mut progress) = (Output::default(), 0);
            output.push(Bytes::from(vec![b'x'; 10 * SWIFT]));
            let mut socket = Narrow(Vec::new(), takes, AtomicBool::default());
            let mut context = Context::from_waker(Waker::noop());
            assert!(output.poll_flush(&mut socket, &mut context, &mut progress).is_ready());
            assert_eq!(socket.2.into_inner(), widened, "{takes} bytes at a time");
        }
    }
}
