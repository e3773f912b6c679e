//! What the tasks of all connections we read ourselves have in common: how long one poll may take, and how a client is
//! missed whose bytes nobody reads.
//!
//! A socket that is left alone, because the host gives no credit, is not heard either. Its end cannot be told from a half-close,
//! behind which there may be data to read; a reset can, and is watched for as long as nothing is read.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use super::Transport;
use crate::exchange::Exchange;

/// What one poll may do, in bytes. As much as an upload's default window: more would be an answer's time for everybody else.
const SHARE: usize = 256 * 1024;
/// What a request, a message or a control frame counts besides: 32 of them are a share, however small. A message is a
/// microsecond or two of the host's, and there may be a thousand connections.
const PIECE: usize = 8 * 1024;
/// What a byte of chunk framing counts: chunks of one byte are much work for little.
const FRAMING: usize = 32;
/// Bytes of body gathered from chunks before the share is looked at again.
pub(super) const GATHERED: usize = 4 * 1024;

/// How much a task may still do before the others.
#[derive(Debug)]
pub(super) struct Share(usize);

impl Share {
    /// That of one poll.
    pub(super) fn new() -> Share {
        Share(SHARE)
    }

    /// Bytes were read.
    pub(super) fn bytes(&mut self, count: usize) {
        self.0 = self.0.saturating_sub(count);
    }

    /// Chunk framing was read.
    pub(super) fn framing(&mut self, count: usize) {
        self.bytes(count * FRAMING);
    }

    /// A request, a message or a control frame was dealt with.
    pub(super) fn piece(&mut self) {
        self.bytes(PIECE);
    }

    /// Whether others come first. Then [`Share::pass`] or [`Share::pass_to`] has the task polled again.
    pub(super) fn is_over(&self) -> bool {
        self.0 == 0
    }

    /// Has the task polled again once all others and the sockets, which a wake would come before, have been looked at.
    pub(super) fn pass(context: &mut Context<'_>) {
        let _ = pin!(tokio::task::yield_now()).poll(context);
    }

    /// The same for a task that tells the host: when the host has taken what it was told.
    pub(super) fn pass_to(exchange: &Exchange, context: &mut Context<'_>) {
        if !exchange.wake_when_taken(context.waker()) {
            Share::pass(context);
        }
    }
}

/// One connection as a machine of steps.
pub(super) trait Attended {
    type Socket: Transport;

    /// Goes on until it must wait; ready when the connection is over.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()>;

    /// The socket, when the last poll has left it unread though the peer may send.
    fn unread(&self) -> Option<&Self::Socket>;
}

/// Polls until the connection is over; also when the peer has reset it and that is not to be seen by reading.
pub(super) async fn attend<A: Attended>(attended: &mut A) {
    loop {
        let over = poll_fn(|context| match attended.poll(context) {
            Poll::Pending if attended.unread().is_none() => Poll::Pending,
            polled => Poll::Ready(polled.is_ready()),
        });
        if over.await {
            return;
        }
        let Some(socket) = attended.unread() else { continue };
        // Boxed: its state would otherwise be part of every idle connection.
        let mut reset = Box::pin(socket.reset());
        let mut waited = false;
        let reset = poll_fn(|context| match reset.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(true),
            // Woken by something else, which the machine knows of: all its wakers are this task's.
            Poll::Pending if std::mem::replace(&mut waited, true) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        });
        if reset.await {
            return;
        }
    }
}
