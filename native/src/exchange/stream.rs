//! The protocol's hands on one stream.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::table::After;
use super::{Exchange, Order, wake_consumer};
use crate::record::{Command, Event, FLAG_END, Reason, Record};

/// The protocol's end of one stream. Dropping it while the host still expects something tells RESET.
#[derive(Debug)]
pub struct Stream {
    pub(super) exchange: Arc<Exchange>,
    pub(super) id: u64,
    pub(super) live: bool,
}

impl Stream {
    /// The stream's id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The host's next order; `None` when the exchange is closed or the last order was given.
    ///
    /// The order that ends the stream frees its slot: later commands are stale, and no event follows. The slot of an upgraded
    /// stream stays until this is dropped.
    pub fn poll_order(&mut self, context: &Context<'_>) -> Poll<Option<Order>> {
        if !self.live {
            return Poll::Ready(None);
        }
        let mut state = self.exchange.lock();
        let closed = state.closed;
        let Some(slot) = state.slot(self.id) else {
            self.live = false;
            return Poll::Ready(None);
        };
        if let Some(order) = slot.orders.pop_front() {
            if order.end && (!slot.duplex || order.command == Command::Reset) {
                self.live = false;
                let mut after = After::default();
                state.release(self.id, &mut after);
                drop(state);
                after.run();
            }
            return Poll::Ready(Some(order));
        }
        if closed {
            return Poll::Ready(None);
        }
        match &slot.waker {
            Some(known) if known.will_wake(context.waker()) => {}
            _ => slot.waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Bytes that may be pushed now. Grows with CREDIT, which wakes the task that polls for orders.
    pub fn credit(&self) -> u32 {
        let mut state = self.exchange.lock();
        if self.live { state.slot(self.id).map_or(0, |slot| slot.credit()) } else { 0 }
    }

    /// Whether the host still listens: false once it gave its last order.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Tells the host bytes of body. The caller keeps within [`Stream::credit`], or waits until what it took more is back.
    pub fn push(&self, data: &[u8], end: bool) {
        self.exchange.tell(self.id, Event::Data, if end { FLAG_END } else { 0 }, 0, data);
    }

    /// Tells the host that the peer's side is complete.
    pub fn push_end(&self, trailers: &[u8]) {
        self.exchange.tell(self.id, Event::End, FLAG_END, 0, trailers);
    }

    /// Tells the host a message, or with MORE a piece of one. It costs [`MESSAGE_COST`](crate::record::MESSAGE_COST) of
    /// credit besides its bytes.
    pub fn push_message(&self, data: &[u8], flags: u8) {
        self.exchange.tell(self.id, Event::Data, flags, 0, data);
    }

    /// Tells the host what a pong carried.
    pub fn push_pong(&self, data: &[u8]) {
        self.exchange.tell(self.id, Event::Pong, 0, 0, data);
    }

    /// Tells the host that the peer has closed a message stream, with which code and reason; nothing follows.
    pub fn push_close(&self, code: u16, reason: &[u8]) {
        self.exchange.tell(self.id, Event::End, FLAG_END, code, reason);
    }

    /// `bytes` of what the host sent have left for the peer.
    pub fn sent(&self, bytes: usize) {
        if self.live && bytes > 0 {
            self.exchange.sent(self.id, bytes);
        }
    }

    /// A second hand on the stream, for a task that feeds it while another answers.
    pub fn inlet(&self) -> Inlet {
        Inlet { exchange: self.exchange.clone(), id: self.id }
    }

    /// Ends the stream early and tells the host why, unless it has already given its last order.
    pub fn fail(&mut self, reason: Reason) {
        if !std::mem::replace(&mut self.live, false) {
            return;
        }
        let mut state = self.exchange.lock();
        let Some(slot) = state.slot(self.id) else { return };
        let (parent, finished) = (slot.parent, slot.finished);
        let mut after = After::default();
        state.release(self.id, &mut after);
        if !finished {
            let kind = Event::Reset as u8;
            let record =
                Record { stream: self.id, parent, kind, flags: FLAG_END, code: reason as u16, ..Record::default() };
            state.filling.push(record, &[]);
        }
        wake_consumer(state);
        after.run();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.fail(if std::thread::panicking() { Reason::Internal } else { Reason::Gone });
    }
}

/// Feeds a stream from another task than the one that takes its orders.
#[derive(Debug)]
pub struct Inlet {
    exchange: Arc<Exchange>,
    id: u64,
}

impl Inlet {
    /// Ready with the credit when there is some; with `None` when the host listens no more.
    pub fn poll_credit(&self, context: &Context<'_>) -> Poll<Option<u32>> {
        let mut state = self.exchange.lock();
        match state.slot(self.id) {
            None => Poll::Ready(None),
            Some(slot) if slot.finished => Poll::Ready(None),
            Some(slot) if slot.credit > 0 => Poll::Ready(Some(slot.credit())),
            Some(slot) => {
                slot.feeder = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Ready when the host listens no more; for a task that waits for the peer meanwhile.
    pub fn poll_over(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.exchange.lock();
        match state.slot(self.id).filter(|slot| !slot.finished) {
            None => Poll::Ready(()),
            Some(slot) => {
                slot.feeder = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The request went wrong while it was read: tells the host RESET, and the task that answers gets the same order.
    pub fn fail(&self, reason: Reason) {
        let mut state = self.exchange.lock();
        let mut after = After::default();
        state.break_off(self.id, reason, &mut after);
        drop(state);
        after.run();
    }

    /// The queue the stream feeds.
    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    /// Tells the host bytes of body.
    pub fn push(&self, data: &[u8], end: bool) {
        self.exchange.tell(self.id, Event::Data, if end { FLAG_END } else { 0 }, 0, data);
    }

    /// Tells the host that the peer's side is complete.
    pub fn push_end(&self, trailers: &[u8]) {
        self.exchange.tell(self.id, Event::End, FLAG_END, 0, trailers);
    }
}
