//! The stream table and the queue of events: plain data under the exchange's lock.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::Bytes;

use super::{Counters, INDEX_BITS, MAX_GENERATION, Opening, Order, QUEUE_ARENA, QUEUE_RECORDS};
use crate::batch::Queue;
use crate::record::{Command, Event, FLAG_END, FLAG_LENT, FLAG_TEXT, MESSAGE_COST, Reason, Record};

/// A stream with this many orders is slow: what more it gets is copied apart. Each would pin the arena it came in, which
/// other streams share: thousands of messages of a hundred bytes would hold 64 KiB each.
const BEHIND: usize = 2;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) slots: Vec<Slot>,
    pub(super) free: Vec<u32>,
    pub(super) filling: Queue,
    pub(super) consumer: Option<Waker>,
    /// Those that found no room, and those that have used theirs up and come after them.
    pub(super) producers: Vec<Waker>,
    pub(super) served: Vec<Waker>,
    pub(super) names: u64,
    pub(super) closed: bool,
    pub(super) counters: Counters,
}

#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) generation: u64,
    pub(super) live: bool,
    pub(super) parent: u64,
    pub(super) orders: VecDeque<Order>,
    pub(super) waker: Option<Waker>,
    pub(super) feeder: Option<Waker>,
    /// What the protocol may still tell. Below zero when the last piece could not be cut to fit: the host gives all of it
    /// back, and forgetting the excess would widen the window a little each time.
    pub(super) credit: i64,
    pub(super) window: u32,
    pub(super) outstanding: u32,
    pub(super) returned: u32,
    /// The peer's side is complete and the host was told.
    pub(super) ended: bool,
    /// The host gave its last command, or the stream was broken off.
    pub(super) finished: bool,
    /// The host has taken the stream over: its END closes one direction only.
    pub(super) duplex: bool,
    /// The host has taken the stream over before the body was complete: the next END is the body's, not the peer's.
    pub(super) body: bool,
    /// What is carried are messages.
    pub(super) messages: bool,
    /// The host has ended its direction of a duplex stream.
    pub(super) sealed: bool,
}

/// What is done when the lock is free: a waker may do anything, and an order's drop may give a loan back, which wakes too.
#[derive(Debug, Default)]
pub(super) struct After {
    pub(super) wakers: Vec<Waker>,
    pub(super) orders: Vec<Order>,
}

impl After {
    pub(super) fn run(self) {
        self.wakers.into_iter().for_each(Waker::wake);
    }
}

impl Slot {
    /// What one DATA costs besides its payload.
    pub(super) fn cost(&self) -> u32 {
        if self.messages { MESSAGE_COST } else { 0 }
    }

    pub(super) fn credit(&self) -> u32 {
        u32::try_from(self.credit.max(0)).unwrap_or(u32::MAX)
    }
}

impl State {
    pub(super) fn has_events(&self) -> bool {
        !self.filling.records.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.filling.records.len() >= QUEUE_RECORDS || self.filling.arena.len() >= QUEUE_ARENA
    }

    pub(super) fn allot(&mut self, opening: &Opening<'_>, waker: &Waker) -> Option<u64> {
        let index = match self.free.pop() {
            Some(index) => index as usize,
            None if self.slots.len() < 1 << INDEX_BITS => {
                self.slots.push(Slot::default());
                self.slots.len() - 1
            }
            None => return None,
        };
        self.counters.opened += 1;
        self.counters.live += 1;
        let slot = &mut self.slots[index];
        slot.generation += 1;
        slot.live = true;
        slot.parent = opening.parent;
        slot.credit = i64::from(opening.credit);
        slot.window = opening.window;
        slot.outstanding = 0;
        slot.returned = 0;
        slot.ended = opening.flags & FLAG_END != 0;
        slot.finished = false;
        slot.duplex = false;
        slot.body = false;
        slot.messages = false;
        slot.sealed = false;
        slot.waker = Some(waker.clone());
        Some(slot.generation << INDEX_BITS | index as u64)
    }

    pub(super) fn slot(&mut self, id: u64) -> Option<&mut Slot> {
        let slot = self.slots.get_mut((id & ((1 << INDEX_BITS) - 1)) as usize)?;
        (slot.live && slot.generation == id >> INDEX_BITS).then_some(slot)
    }

    /// Frees the slot.
    pub(super) fn release(&mut self, id: u64, after: &mut After) {
        let index = (id & ((1 << INDEX_BITS) - 1)) as usize;
        let slot = &mut self.slots[index];
        slot.live = false;
        slot.waker = None;
        after.wakers.extend(slot.feeder.take());
        after.orders.extend(slot.orders.drain(..));
        if slot.orders.capacity() > 64 {
            slot.orders = VecDeque::new();
        }
        self.counters.live -= 1;
        if slot.generation < MAX_GENERATION {
            self.free.push(index as u32);
        }
    }

    pub(super) fn deliver(&mut self, id: u64, aux: u32, mut order: Order, after: &mut After) {
        let Some(slot) = self.slot(id) else {
            self.counters.stale_commands += 1;
            after.orders.push(order);
            return;
        };
        // On a duplex stream of bytes END with a code says that nothing more is read either; it may follow a plain END.
        let deafens = order.command == Command::End && order.code != 0 && slot.duplex && !slot.messages;
        let late = slot.sealed && !deafens && !matches!(order.command, Command::Reset | Command::Credit);
        if slot.finished || late {
            self.counters.stale_commands += 1;
            after.orders.push(order);
            return;
        }
        after.wakers.extend(slot.waker.take());
        match order.command {
            Command::Credit => {
                slot.credit = slot.credit.saturating_add(i64::from(aux));
                after.wakers.extend(slot.feeder.take());
                return;
            }
            Command::Reset => after.orders.extend(slot.orders.drain(..)),
            // What it would mean now, nobody can say.
            Command::Upgrade if slot.duplex => return self.break_off(id, Reason::Internal, after),
            Command::Upgrade => {
                slot.duplex = true;
                slot.messages = order.flags & FLAG_TEXT != 0;
                // What follows the body is another protocol's, with an END of its own.
                slot.body = !std::mem::take(&mut slot.ended);
                if aux > 0 {
                    slot.window = aux;
                }
            }
            Command::Data => slot.outstanding = slot.outstanding.saturating_add(slot.cost()),
            _ => {}
        }
        let lent = order.flags & FLAG_LENT != 0;
        if !(lent && order.end) {
            slot.outstanding = slot.outstanding.saturating_add(u32::try_from(order.body.len()).unwrap_or(u32::MAX));
        }
        if slot.outstanding > slot.window {
            self.counters.overflows += 1;
            after.orders.push(order);
            self.break_off(id, Reason::Limit, after);
            return;
        }
        slot.sealed = order.end;
        slot.finished = order.end && (!slot.duplex || slot.ended || deafens || order.command == Command::Reset);
        if slot.finished {
            after.wakers.extend(slot.feeder.take());
        }
        if slot.orders.len() >= BEHIND {
            if !lent {
                order.body = Bytes::copy_from_slice(&order.body);
            }
            order.head = Bytes::copy_from_slice(&order.head);
        }
        slot.orders.push_back(order);
    }

    /// Resets a stream towards both sides at once.
    pub(super) fn break_off(&mut self, id: u64, reason: Reason, after: &mut After) {
        let Some(slot) = self.slot(id) else { return };
        if std::mem::replace(&mut slot.finished, true) {
            return;
        }
        let (parent, code) = (slot.parent, reason as u16);
        after.orders.extend(slot.orders.drain(..));
        let (head, body) = (Bytes::new(), Bytes::new());
        slot.orders.push_back(Order { command: Command::Reset, end: true, flags: 0, code, head, body });
        after.wakers.extend(slot.waker.take());
        after.wakers.extend(slot.feeder.take());
        let kind = Event::Reset as u8;
        self.filling.push(Record { stream: id, parent, kind, flags: FLAG_END, code, ..Record::default() }, &[]);
        after.wakers.extend(self.consumer.take());
    }
}
