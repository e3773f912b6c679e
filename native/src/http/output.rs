//! Bytes on their way to the socket: small pieces copied together, one large piece left where it is.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;

/// Bodies from this size on are written from where they are.
const LARGE: usize = 8 * 1024;
/// Beyond this nothing more is taken until the socket has taken some.
const FULL: usize = 64 * 1024;
/// What an idle connection keeps.
const KEPT: usize = 1024;

/// The write buffer of one HTTP/1.1 connection.
#[derive(Debug, Default)]
pub struct Output {
    /// Small pieces: heads, chunk lines, short bodies.
    pub buffer: Vec<u8>,
    start: usize,
    large: Bytes,
    after: Vec<u8>,
    /// The socket has taken bytes that it may still hold itself: a record of TLS.
    unflushed: bool,
}

impl Output {
    /// Whether more may be added.
    pub fn has_room(&self) -> bool {
        self.large.is_empty() && self.after.is_empty() && self.buffer.len() - self.start < FULL
    }

    /// Whether everything has gone.
    pub fn is_empty(&self) -> bool {
        !self.unflushed && !self.has_bytes()
    }

    /// Bytes that have not gone to the socket.
    pub fn len(&self) -> usize {
        self.buffer.len() - self.start + self.large.len() + self.after.len()
    }

    fn has_bytes(&self) -> bool {
        !self.buffer.is_empty() || !self.large.is_empty() || !self.after.is_empty()
    }

    /// Adds body bytes as they are.
    pub fn push(&mut self, body: Bytes) {
        debug_assert!(self.has_room());
        if body.len() < LARGE { self.buffer.extend_from_slice(&body) } else { self.large = body }
    }

    /// Adds body bytes as one chunk (RFC 9112 section 7.1). An empty one would end the body, so it is left out.
    pub fn push_chunk(&mut self, body: Bytes) {
        if body.is_empty() {
            return;
        }
        let mut digits = [0; 16];
        self.buffer.extend_from_slice(hexadecimal(body.len(), &mut digits));
        self.buffer.extend_from_slice(b"\r\n");
        self.push(body);
        self.tail().extend_from_slice(b"\r\n");
    }

    /// Where bytes go that follow everything added so far.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        if self.large.is_empty() { &mut self.buffer } else { &mut self.after }
    }

    /// Writes as much as the socket takes; ready when all has gone, out of its own buffers too. `progress` counts bytes written.
    pub fn poll_flush<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        context: &mut Context<'_>,
        progress: &mut u64,
    ) -> Poll<io::Result<()>> {
        while self.has_bytes() {
            let written = if self.large.is_empty() && self.after.is_empty() {
                ready!(Pin::new(&mut *socket).poll_write(context, &self.buffer[self.start..]))?
            } else {
                let slices =
                    [IoSlice::new(&self.buffer[self.start..]), IoSlice::new(&self.large), IoSlice::new(&self.after)];
                ready!(Pin::new(&mut *socket).poll_write_vectored(context, &slices))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
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
        let large = written.min(self.large.len());
        self.large.advance(large);
        if self.large.is_empty() {
            self.large = Bytes::new();
        }
        self.after.drain(..written - large);
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
    use std::task::Waker;

    /// Takes a few bytes at a time.
    struct Narrow(Vec<u8>, usize);

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
            output.buffer.extend_from_slice(b"head\r\n");
            output.push_chunk(body.clone());
            let (mut socket, mut progress) = (Narrow(Vec::new(), 7), 0);
            let mut context = Context::from_waker(Waker::noop());
            assert!(output.poll_flush(&mut socket, &mut context, &mut progress).is_ready());
            let expected = [format!("head\r\n{size:x}\r\n").as_bytes(), &body, b"\r\n"].concat();
            assert!(socket.0 == expected && progress == expected.len() as u64 && output.is_empty());
        }
    }
}
