//! The core: the stream table, the queue of events and the inbox of commands. It knows no socket, clock or protocol.
//!
//! Rules kept here and nowhere else:
//! * a stream id is an index and a generation, and a slot whose generations are used up is retired: ids are never reused;
//! * a producer looks at [`Exchange::poll_ready`] before it opens a stream or pushes data, so the queue is bounded;
//! * data moves only against credit (towards the host) and against the send window (towards the peer);
//! * END and RESET of a stream are told at most once, and not at all once the host has given its last command;
//! * the host's END is its last command, except on an upgraded stream, whose other direction goes on;
//! * `submit` only copies; whoever drives calls `apply` first thing.
//!
//! Wakers are called with no lock held: a waker may do anything, taking our locks included.

mod stream;
mod table;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

pub use self::stream::{Inlet, Stream};
use self::table::{After, State};
use crate::batch::Batch;
use crate::error::{Error, Result, Status};
use crate::record::{Command, Event, FLAG_END, FLAG_LENT, FLAG_MORE, FLAG_TEXT, Loan, Protocol, Record};

/// Events waiting for the host beyond which producers wait.
const QUEUE_RECORDS: usize = 4096;
/// Bytes of payload waiting for the host beyond which producers wait. Small enough that what is copied into the queue, out of
/// it and into the host's own memory stays in a core's cache: 4 MiB made uploads take twice the time, 256 KiB 1.5 times on a core
/// of 2 MiB. With 64 KiB the calls cost more than the cache saves.
pub(crate) const QUEUE_ARENA: usize = 128 * 1024;
/// Most bytes of head and body one OPEN tells; the limits of heads and inline bodies keep far below.
const OPEN_BYTES: usize = 512 * 1024;
/// Bytes of commands not yet applied beyond which `submit` answers BUSY. Only a host that ignores windows gets here.
const INBOX_BYTES: usize = 256 * 1024 * 1024;
/// Loans of fewer bytes than this come back with the next event; an event of their own would be a turn of the host's for each
/// message it sends.
const RETURNS: usize = 256 * 1024;
/// Up to this size one copy of the host's arena is shared by all streams it is for; larger payloads are copied apart,
/// so that a slow stream cannot pin another's megabytes.
const SHARED_ARENA: usize = 64 * 1024;
const INDEX_BITS: u32 = 24;
const MAX_GENERATION: u64 = (1 << (63 - INDEX_BITS)) - 1;
/// Ids of connections and listeners, which are named but have no slot, carry the top bit.
const NAME_BIT: u64 = 1 << 63;

/// What the host said to one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// HEAD, DATA, END, RESET, INFORM, UPGRADE or PING.
    pub command: Command,
    /// Nothing follows.
    pub end: bool,
    /// TEXT and MORE of DATA, TEXT of UPGRADE, LENT of HEAD and DATA.
    pub flags: u8,
    /// Status, reason or close code.
    pub code: u16,
    /// Fields of HEAD, INFORM and UPGRADE, trailers or reason of END, payload of PING.
    pub head: Bytes,
    /// Body bytes of HEAD and DATA.
    pub body: Bytes,
}

/// Figures for `sn_debug_stats` and for tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Streams opened since the start.
    pub opened: u64,
    /// Streams that have a slot now.
    pub live: u64,
    /// Connections that have one of those.
    pub busy: u64,
    /// Commands for streams that are over: late answers, not errors.
    pub stale_commands: u64,
    /// Streams reset because the host sent more than the window.
    pub overflows: u64,
    /// LOG events left out because the queue was full.
    pub logs_dropped: u64,
    /// Events not yet taken.
    pub queued_records: u64,
    /// Payload bytes not yet taken.
    pub queued_bytes: u64,
}

/// The stream table and both queues.
#[derive(Debug, Default)]
pub struct Exchange {
    state: Mutex<State>,
    inbox: Mutex<Inbox>,
    returns: Mutex<Returns>,
}

/// Loans on their way back. Under a lock of their own: a flush gives back many, and needs nothing else.
#[derive(Debug, Default)]
struct Returns {
    tokens: Vec<u8>,
    /// Of the loans behind `tokens`.
    bytes: usize,
    consumer: Option<Waker>,
}

impl Returns {
    /// Whether the host should hear of them without anything else.
    fn are_due(&self) -> bool {
        self.bytes >= RETURNS
    }
}

#[derive(Debug, Default)]
struct Inbox {
    orders: Vec<(u64, u32, Order)>,
    bytes: usize,
    /// Producers for whom the host has made room. Woken before the streams that got orders: those have used the room last, and
    /// a stream that gets credit with each batch would always come first.
    roomy: Vec<Waker>,
    applier: Option<Waker>,
}

/// What a new stream starts with.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// The connection or session it belongs to.
    pub parent: u64,
    /// What carries it.
    pub protocol: Protocol,
    /// END, EXPECT.
    pub flags: u8,
    /// Bytes the producer may push before the host grants more.
    pub credit: u32,
    /// Bytes the host may send before the peer has taken some.
    pub window: u32,
    /// Body bytes that are already here.
    pub body: &'a [u8],
}

impl Exchange {
    /// An id for something that is named in events but is no stream: a listener, a connection.
    pub fn name(&self) -> u64 {
        let mut state = self.lock();
        state.names += 1;
        NAME_BIT | state.names
    }

    /// Opens a stream and tells the host. `fill` appends line and fields to the arena and returns the line's length.
    ///
    /// `None` when every slot is taken, the exchange is closed, or head and body are more than an OPEN (or a line more than its
    /// 16 bits of length) can tell.
    pub fn open(
        self: &Arc<Self>,
        opening: Opening<'_>,
        waker: &Waker,
        fill: impl FnOnce(&mut Vec<u8>) -> usize,
    ) -> Option<Stream> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let offset = state.filling.arena.len();
        let line = fill(&mut state.filling.arena);
        let length = state.filling.arena.len() - offset;
        state.filling.arena.extend_from_slice(opening.body);
        let fits = line <= u16::MAX as usize && length + opening.body.len() <= OPEN_BYTES;
        let Some(id) = fits.then(|| state.allot(&opening, waker)).flatten() else {
            state.filling.arena.truncate(offset);
            return None;
        };
        state.filling.records.push(Record {
            stream: id,
            parent: opening.parent,
            offset: offset as u32,
            length: length as u32,
            kind: Event::Open as u8,
            flags: opening.flags | opening.protocol as u8,
            code: line as u16,
            aux: opening.body.len() as u32,
        });
        wake_consumer(state);
        Some(Stream { exchange: self.clone(), id, live: true })
    }

    /// Tells the host something about a connection, a listener or the runtime itself (stream 0).
    pub fn announce(&self, event: Event, stream: u64, parent: u64, code: u16, aux: u32, payload: &[u8]) {
        let mut state = self.lock();
        if event == Event::Log && state.is_full() {
            state.counters.logs_dropped += 1;
            return;
        }
        state.filling.push(Record { stream, parent, kind: event as u8, code, aux, ..Record::default() }, payload);
        wake_consumer(state);
    }

    /// Ready when the queue has room, or nobody will make any; a producer waits here before it opens a stream or pushes
    /// data.
    pub fn poll_ready(&self, context: &Context<'_>) -> Poll<()> {
        self.poll_room(context, |state| &mut state.producers)
    }

    /// [`Exchange::poll_ready`] for a producer that has had much room: when there is no more it comes behind those that found none.
    /// With `poll_ready` the first that is woken fills the queue, asks first, and is the first again.
    pub fn poll_more(&self, context: &Context<'_>) -> Poll<()> {
        self.poll_room(context, |state| &mut state.served)
    }

    fn poll_room(&self, context: &Context<'_>, list: impl FnOnce(&mut State) -> &mut Vec<Waker>) -> Poll<()> {
        let mut state = self.lock();
        if !state.is_full() || state.closed {
            return Poll::Ready(());
        }
        let (list, waker) = (list(&mut state), context.waker());
        if !list.iter().any(|waiting| waiting.will_wake(waker)) {
            list.push(waker.clone());
        }
        Poll::Pending
    }

    /// Has a producer that has had its share woken once the host has taken what waits now, behind all that found no room.
    /// False when nothing waits, and nobody would wake it.
    ///
    /// Those that only ask again would come first each time the host makes room, and use it up.
    pub fn wake_when_taken(&self, waker: &Waker) -> bool {
        let mut state = self.lock();
        let waits = !state.filling.records.is_empty() && !state.closed;
        if waits {
            state.served.push(waker.clone());
        }
        waits
    }

    /// Whether there are events to take.
    pub fn has_events(&self) -> bool {
        self.lock().has_events() || self.returns().are_due()
    }

    /// Ready when there are events to take or the exchange is closed.
    pub fn poll_events(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.lock();
        let mut returns = self.returns();
        if state.has_events() || state.closed || returns.are_due() {
            return Poll::Ready(());
        }
        for known in [&mut state.consumer, &mut returns.consumer] {
            if !known.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
                *known = Some(context.waker().clone());
            }
        }
        Poll::Pending
    }

    /// Moves the events that are there into `batch`; never waits for more. Whoever drives wakes those who waited for room: from
    /// outside of its thread each of them would cost a system call.
    pub fn take(&self, batch: &mut Batch) -> Result<usize> {
        let mut state = self.lock();
        let mut returns = self.returns();
        if !returns.tokens.is_empty() {
            state.filling.push(Record { kind: Event::Returned as u8, ..Record::default() }, &returns.tokens);
            returns.tokens.clear();
            returns.bytes = 0;
        }
        drop(returns);
        batch.swap(&mut state.filling);
        let count = batch.records().len();
        let closed = state.closed && count == 0;
        let (mut producers, mut served) = (std::mem::take(&mut state.producers), std::mem::take(&mut state.served));
        drop(state);
        if !producers.is_empty() || !served.is_empty() {
            let mut inbox = self.inbox();
            inbox.roomy.append(&mut producers);
            inbox.roomy.append(&mut served);
            wake_applier(inbox);
        }
        if closed { Err(Error::new(Status::Closed, "the runtime has stopped")) } else { Ok(count) }
    }

    /// Copies commands into the inbox; they take effect when whoever drives calls [`Exchange::apply`].
    ///
    /// Nothing is taken when any record is wrong. A command for a stream that is over is no error. `borrow` makes the bytes of
    /// a loan, which call [`Exchange::give_back`] when the last of its group is dropped; it is called only when all is taken.
    pub fn submit(&self, records: &[Record], arena: &[u8], mut borrow: impl FnMut(Loan) -> Bytes) -> Result<()> {
        for (index, record) in records.iter().enumerate() {
            check(record, arena).map_err(|text| Error::invalid(format!("command {index}: {text}")))?;
        }
        let shared = if arena.len() <= SHARED_ARENA { Bytes::copy_from_slice(arena) } else { Bytes::new() };
        let piece = |from: usize, length: usize| match length {
            0 => Bytes::new(),
            _ if shared.is_empty() => Bytes::copy_from_slice(&arena[from..from + length]),
            _ => shared.slice(from..from + length),
        };
        let mut inbox = self.inbox();
        // A record without payload takes room too.
        let size = arena.len() + records.len() * size_of::<(u64, u32, Order)>();
        if inbox.bytes > 0 && inbox.bytes.saturating_add(size) > INBOX_BYTES {
            return Err(Error::new(Status::Busy, format!("{} bytes of commands wait already", inbox.bytes)));
        }
        inbox.bytes += size;
        inbox.orders.reserve(records.len());
        for record in records {
            let Some(command) = Command::from_number(record.kind) else { continue };
            let (offset, length) = (record.offset as usize, record.length as usize);
            let end = record.flags & FLAG_END != 0 || matches!(command, Command::End | Command::Reset);
            let (flags, code) = (record.flags & (FLAG_TEXT | FLAG_MORE | FLAG_LENT), record.code);
            let (head, body) = match command {
                Command::Head => (piece(offset, length), (offset + length, record.aux as usize)),
                Command::Data => (Bytes::new(), (offset, length)),
                _ => (piece(offset, length), (offset, 0)),
            };
            let mut push = |end, head, body| {
                inbox.orders.push((record.stream, record.aux, Order { command, end, flags, code, head, body }));
            };
            if flags & FLAG_LENT == 0 {
                push(end, head, piece(body.0, body.1));
                continue;
            }
            let mut loans = Loan::read(&arena[body.0..body.0 + body.1]);
            while let Some(loan) = loans.next() {
                push(end && loans.len() == 0, head.clone(), borrow(loan));
            }
        }
        wake_applier(inbox);
        Ok(())
    }

    /// Nobody reads what was lent under this token any more, `length` bytes of it.
    pub fn give_back(&self, token: u64, length: u64) {
        let mut returns = self.returns();
        returns.tokens.extend_from_slice(&token.to_ne_bytes());
        returns.bytes = returns.bytes.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        let consumer = if returns.are_due() { returns.consumer.take() } else { None };
        drop(returns);
        if let Some(waker) = consumer {
            waker.wake();
        }
    }

    /// Hands the inbox to the streams and wakes them. `applier` is woken at the next submit; `None` when nobody drives.
    pub fn apply(&self, applier: Option<&Waker>) {
        let (orders, roomy) = {
            let mut inbox = self.inbox();
            match (applier, &inbox.applier) {
                (Some(waker), Some(known)) if known.will_wake(waker) => {}
                _ => inbox.applier = applier.cloned(),
            }
            inbox.bytes = 0;
            (std::mem::take(&mut inbox.orders), std::mem::take(&mut inbox.roomy))
        };
        roomy.into_iter().for_each(Waker::wake);
        if orders.is_empty() {
            return;
        }
        let mut after = After::default();
        after.wakers.reserve(orders.len());
        let mut state = self.lock();
        for (id, aux, order) in orders {
            state.deliver(id, aux, order, &mut after);
        }
        drop(state);
        after.run();
    }

    /// Nobody drives from here on: the next submit wakes no one, the next driver applies first thing.
    pub fn leave(&self) {
        self.inbox().applier = None;
    }

    /// Wakes whoever waits for events, who then looks at more than events.
    pub fn nudge(&self) {
        wake_consumer(self.lock());
    }

    /// Ends everything: streams get no more orders, the host gets CLOSED after the last event.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let mut wakers: Vec<Waker> = state.slots.iter_mut().filter_map(|slot| slot.waker.take()).collect();
        wakers.append(&mut state.producers);
        wakers.append(&mut state.served);
        wakers.extend(state.consumer.take());
        drop(state);
        wakers.append(&mut self.inbox().roomy);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Figures as of now. Looks at every slot.
    pub fn counters(&self) -> Counters {
        let state = self.lock();
        let busy: HashSet<u64> = state.slots.iter().filter(|slot| slot.live).map(|slot| slot.parent).collect();
        Counters {
            busy: busy.len() as u64,
            queued_records: state.filling.records.len() as u64,
            queued_bytes: state.filling.arena.len() as u64,
            ..state.counters
        }
    }

    /// `bytes` of what the host sent to this stream have left for the peer; tells WRITABLE now and then.
    pub fn sent(&self, id: u64, bytes: usize) {
        let mut state = self.lock();
        let Some(slot) = state.slot(id) else { return };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(slot.outstanding);
        slot.outstanding -= bytes;
        slot.returned += bytes;
        // Half a window at a time: an event per chunk would cost more than the chunk.
        if slot.returned >= slot.window / 2 && !slot.finished {
            let (returned, parent) = (std::mem::take(&mut slot.returned), slot.parent);
            let record = Record { stream: id, parent, kind: Event::Writable as u8, aux: returned, ..Record::default() };
            state.filling.push(record, &[]);
            wake_consumer(state);
        }
    }

    fn tell(&self, id: u64, event: Event, flags: u8, code: u16, payload: &[u8]) {
        let mut state = self.lock();
        let Some(slot) = state.slot(id) else { return };
        if slot.finished || slot.ended {
            return;
        }
        let ends = flags & FLAG_END != 0;
        slot.ended = ends && !slot.body;
        slot.body &= !ends;
        // Nothing is expected of a host that has ended its side of an upgraded stream before; a closed message stream is
        // over on both sides at once (RFC 6455 section 7.1.4).
        slot.finished = slot.ended && (slot.sealed || slot.messages);
        let parent = slot.parent;
        if event == Event::Data {
            slot.credit -= i64::from(payload.len() as u32 + slot.cost());
        }
        let bytes = event == Event::Data && !slot.messages;
        let record = Record { stream: id, parent, kind: event as u8, flags, code, ..Record::default() };
        if bytes {
            state.filling.pour(record, payload)
        } else {
            state.filling.push(record, payload)
        }
        wake_consumer(state);
    }

    fn returns(&self) -> MutexGuard<'_, Returns> {
        self.returns.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock would have been caught at the stream's task; the table stays usable.
        self.state.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

fn wake_applier(mut inbox: MutexGuard<'_, Inbox>) {
    let applier = inbox.applier.take();
    drop(inbox);
    if let Some(waker) = applier {
        waker.wake();
    }
}

fn wake_consumer(mut state: MutexGuard<'_, State>) {
    let consumer = state.consumer.take();
    drop(state);
    if let Some(waker) = consumer {
        waker.wake();
    }
}

fn check(record: &Record, arena: &[u8]) -> std::result::Result<(), String> {
    let Some(command) = Command::from_number(record.kind) else {
        return Err(format!("kind must be a command (1 to 7, 9), found {}", record.kind));
    };
    let body = if command == Command::Head { record.aux as u64 } else { 0 };
    let end = record.offset as u64 + record.length as u64 + body;
    if end > arena.len() as u64 {
        return Err(format!("payload ends at byte {end} of an arena of {}", arena.len()));
    }
    if record.flags & FLAG_LENT != 0 {
        let from = record.offset as usize + if command == Command::Head { record.length as usize } else { 0 };
        let size = end as usize - from;
        let most = if command == Command::Head { 24 } else { usize::MAX };
        if !matches!(command, Command::Head | Command::Data) {
            return Err(format!("only HEAD and DATA lend, found the flag LENT on {command:?}"));
        }
        if size == 0 || !size.is_multiple_of(24) || size > most {
            return Err(format!("HEAD has one loan of 24 bytes, DATA one or more, found {size} bytes"));
        }
        for (index, loan) in Loan::read(&arena[from..end as usize]).enumerate() {
            if loan.address == 0 || !(1..=isize::MAX as u64).contains(&loan.length) || (loan.token == 0) != (index > 0)
            {
                return Err(format!(
                    "loan {index} must have an address, a length, and a token if it is the first, found {loan:?}"
                ));
            }
        }
    }
    match command {
        Command::Head if !(200..=999).contains(&record.code) => {
            Err(format!("status of HEAD must be 200 to 999, found {}", record.code))
        }
        Command::Inform if record.flags & FLAG_END != 0 => Err("INFORM ends nothing, found the flag END".into()),
        Command::Inform if !(100..=199).contains(&record.code) => {
            Err(format!("status of INFORM must be 100 to 199, found {}", record.code))
        }
        Command::Upgrade if record.flags & FLAG_END != 0 => Err("UPGRADE ends nothing, found the flag END".into()),
        Command::Upgrade if !matches!(record.code, 0 | 101) => {
            Err(format!("status of UPGRADE must be 101, or 0 to write none, found {}", record.code))
        }
        Command::Ping if record.length > 125 => {
            Err(format!("a ping carries at most 125 bytes (RFC 6455 section 5.5), found {}", record.length))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Everything else is tested from outside, in tests/exchange_*.rs; nobody outside can use up 2^39 generations.
    #[test]
    fn a_slot_whose_generations_are_used_up_is_retired() {
        let exchange = Arc::new(Exchange::default());
        let opening = Opening { parent: 0, protocol: Protocol::Tcp, flags: 0, credit: 0, window: 0, body: &[] };
        let open = || exchange.open(opening, Waker::noop(), |_| 0).expect("a free slot");
        drop(open());
        exchange.lock().slots[0].generation = MAX_GENERATION - 1;
        let last = open();
        assert_eq!(last.id(), MAX_GENERATION << INDEX_BITS);
        assert_eq!(last.id() & NAME_BIT, 0);
        drop(last);
        assert_eq!(open().id(), 1 << INDEX_BITS | 1, "the next stream gets another slot");
    }
}
