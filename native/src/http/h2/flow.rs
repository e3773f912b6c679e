//! Bodies on their way to the peer: pieces in h2's hands, and how far each stream's have come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use bytes::{Buf, Bytes};
use h2::SendStream;

use super::Shared;
use crate::exchange::{Inlet, Stream};

/// One stream's answer as far as h2 has it; counted in `open` for as long as it lives.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) shared: Arc<Shared>,
    /// The exchange's id, where it is told what has gone; else 0.
    id: AtomicU64,
    held: AtomicUsize,
    moved: AtomicU64,
    /// The connection's task knows that the stream waits, by a [`Hand::Running`]. Sequential with `held`: whoever lists
    /// and whoever takes off the list must not both leave it to the other.
    listed: AtomicBool,
}

impl Flow {
    pub(super) fn new(shared: Arc<Shared>) -> Arc<Flow> {
        shared.open.fetch_add(1, Ordering::Relaxed);
        let listed = AtomicBool::new(false);
        Arc::new(Flow { shared, id: AtomicU64::new(0), held: AtomicUsize::new(0), moved: AtomicU64::new(0), listed })
    }

    /// From here on the exchange is told what has gone, or (0) it is not.
    pub(super) fn report(&self, id: u64) {
        self.id.store(id, Ordering::Relaxed);
    }

    pub(super) fn piece(self: &Arc<Self>, bytes: Bytes) -> Piece {
        self.held.fetch_add(bytes.len(), Ordering::SeqCst);
        Piece { size: bytes.len(), bytes, flow: self.clone() }
    }

    /// Whether h2 holds bytes that have not left.
    pub(super) fn waits(&self) -> bool {
        self.held.load(Ordering::SeqCst) > 0
    }

    /// The stream's task waits for the host: somebody else has to see to it that the peer takes what h2 holds.
    pub(super) fn list(self: &Arc<Self>, stream: &Stream) {
        if self.waits() && !self.listed.swap(true, Ordering::SeqCst) {
            self.clone().hold(Hand::Running(stream.inlet()));
        }
    }

    /// The answer is complete, though it may not have left.
    pub(super) fn leave(self: Arc<Self>, send: SendStream<Piece>) {
        self.listed.store(false, Ordering::SeqCst);
        if self.waits() {
            self.hold(Hand::Over(send));
        }
    }

    fn hold(self: Arc<Self>, hand: Hand) {
        let shared = self.shared.clone();
        let held = Held { flow: self, hand, moved: 0, since: None };
        if let Some(fresh) = &mut *shared.fresh() {
            fresh.push(held);
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Body bytes in h2's hands. Dropped when they are written, or when the stream is reset.
#[derive(Debug)]
pub(super) struct Piece {
    bytes: Bytes,
    size: usize,
    flow: Arc<Flow>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.flow.moved.fetch_add(count as u64, Ordering::Relaxed);
        self.flow.shared.moved.fetch_add(count as u64, Ordering::Relaxed);
        self.bytes.advance(count);
    }
}

impl Drop for Piece {
    /// Runs with h2's lock held: nothing of h2 may be called here, nor dropped.
    fn drop(&mut self) {
        self.flow.held.fetch_sub(self.size, Ordering::SeqCst);
        let id = self.flow.id.load(Ordering::Relaxed);
        if id != 0 {
            self.flow.shared.connection.site.exchange.sent(id, self.size);
        }
    }
}

/// A stream whose answer waits in h2.
#[derive(Debug)]
pub(super) struct Held {
    flow: Arc<Flow>,
    pub(super) hand: Hand,
    /// Bytes the peer had taken when this was looked at, and since when it is no more.
    moved: u64,
    since: Option<u64>,
}

/// How a stream that waits can be ended.
#[derive(Debug)]
pub(super) enum Hand {
    /// Its task will do it.
    Running(Inlet),
    /// There is no task any more.
    Over(SendStream<Piece>),
}

impl Held {
    /// Whether it still does. A running stream that does not lists itself again when it does.
    pub(super) fn waits(&self) -> bool {
        let flow = &self.flow;
        if matches!(self.hand, Hand::Over(_)) {
            return flow.waits();
        }
        // Not listed: its task is over, and has left another entry if need be.
        if !flow.listed.load(Ordering::SeqCst) || flow.waits() {
            return flow.listed.load(Ordering::SeqCst);
        }
        flow.listed.store(false, Ordering::SeqCst);
        flow.waits() && !flow.listed.swap(true, Ordering::SeqCst)
    }

    /// Whether the peer has taken nothing for so long.
    pub(super) fn is_overdue(&mut self, now: u64, patience: u64) -> bool {
        let moved = self.flow.moved.load(Ordering::Relaxed);
        if moved != std::mem::replace(&mut self.moved, moved) {
            self.since = None;
        }
        now - *self.since.get_or_insert(now) >= patience
    }
}
