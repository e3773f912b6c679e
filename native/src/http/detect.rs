//! HTTP/2 with prior knowledge is told from HTTP/1.1 by its first bytes.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;

use tokio::io::ReadBuf;

use super::{Connection, Transport};
use crate::connections::Phase;
use crate::limits::Limit;

/// The connection preface of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What of it is a whole head to HTTP/1.1, with a version that is not ours. Who goes on otherwise has broken HTTP/2, and is told
/// in its words.
const HEAD: &[u8] = PREFACE.split_at(18).0;

/// Reads until the first bytes are, or cannot become, the HTTP/2 preface. `first` keeps what was read.
pub(super) async fn is_http2<S: Transport>(
    socket: &mut S,
    connection: &Connection,
    first: &mut Vec<u8>,
) -> io::Result<bool> {
    let watch = &connection.member.watch;
    connection.member.within(connection.site.limits.detection_ms);
    poll_fn(|context| {
        if first.is_empty() {
            watch.register(context.waker());
        }
        loop {
            let known = first.len().min(PREFACE.len());
            if first[..known] != PREFACE[..known] {
                return Poll::Ready(Ok(first.starts_with(HEAD)));
            }
            if known == PREFACE.len() {
                return Poll::Ready(Ok(true));
            }
            if watch.fired() {
                connection.member.count(Limit::DetectionMs);
            }
            if watch.fired() || watch.phase() != Phase::Run {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let mut room = [const { std::mem::MaybeUninit::uninit() }; 16 * 1024];
            let mut buffer = ReadBuf::uninit(&mut room);
            match Pin::new(&mut *socket).poll_read(context, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(cause)) => return Poll::Ready(Err(cause)),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    // Half-closed after less than a request line, or at once: nobody waits for an answer to nothing.
                    return Poll::Ready(if first.is_empty() {
                        Err(io::ErrorKind::UnexpectedEof.into())
                    } else {
                        Ok(first.starts_with(HEAD))
                    });
                }
                Poll::Ready(Ok(())) => first.extend_from_slice(buffer.filled()),
            }
        }
    })
    .await
}
