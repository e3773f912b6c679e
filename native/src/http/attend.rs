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

/// What one connection tells the host before others that wait for room come first, in bytes. To change the connection with every
/// queue would take each one's bytes cold from the kernel, at half the rate; this much is a third of a millisecond.
const RUN: usize = 1024 * 1024;

/// How much a task may still do before the others.
#[derive(Debug)]
pub(super) struct Share {
    left: usize,
    /// Read since the task has last let others go first.
    run: usize,
}

impl Share {
    /// That of the first poll.
    pub(super) fn new() -> Share {
        Share { left: SHARE, run: 0 }
    }

    /// The next poll begins.
    pub(super) fn renew(&mut self) {
        self.left = SHARE;
    }

    /// Bytes were read.
    pub(super) fn bytes(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
        self.run = self.run.saturating_add(count);
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
        self.left == 0
    }

    /// Ready when the host's queue has room. Otherwise the task is woken when it has; behind those that wait too if it has had its
    /// run.
    pub(super) fn poll_room(&mut self, exchange: &Exchange, context: &Context<'_>) -> Poll<()> {
        if self.run < RUN {
            return exchange.poll_ready(context);
        }
        let polled = exchange.poll_more(context);
        if polled.is_pending() {
            self.run = 0;
        }
        polled
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::task::{Wake, Waker};

    use super::*;
    use crate::batch::Batch;
    use crate::record::Event;

    /// Wakes into a list, so that the order shows.
    struct Named(&'static str, Arc<Mutex<Vec<&'static str>>>);

    impl Wake for Named {
        fn wake(self: Arc<Self>) {
            self.1.lock().unwrap().push(self.0);
        }
    }

    #[test]
    fn after_its_run_and_not_before_a_connection_lets_others_go_first() {
        let exchange = Exchange::default();
        let woken = Arc::new(Mutex::new(Vec::new()));
        let mut uploading = Share::new();
        let mut in_order_after = |read: usize| {
            let waker = |name| Waker::from(Arc::new(Named(name, woken.clone())));
            while exchange.poll_ready(&Context::from_waker(Waker::noop())).is_ready() {
                exchange.announce(Event::Accept, 0, 0, 0, 0, b"");
            }
            uploading.renew();
            uploading.bytes(read);
            assert!(uploading.poll_room(&exchange, &Context::from_waker(&waker("uploads"))).is_pending());
            assert!(Share::new().poll_room(&exchange, &Context::from_waker(&waker("waits"))).is_pending());
            exchange.take(&mut Batch::default()).unwrap();
            exchange.apply(None);
            std::mem::take(&mut *woken.lock().unwrap())
        };
        assert_eq!(in_order_after(RUN - 1), ["uploads", "waits"]);
        assert_eq!(in_order_after(1), ["waits", "uploads"]);
        assert_eq!(in_order_after(1), ["uploads", "waits"], "the next run has begun");
    }
}
