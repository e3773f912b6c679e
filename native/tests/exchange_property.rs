//! The exchange against a model: random steps of a protocol side and a host over one exchange, compared after each step.
//!
//! The model is the queue as two lists and each stream as a few numbers. It predicts every event, order, counter and
//! wake-up; what the host saw is checked once more, stream by stream, against the rules that are told to users.

#[path = "support/pair.rs"]
mod pair;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use pair::{Commands, Flag, Host, Peer, Told, bytes, idle};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use server_native::error::Status;
use server_native::exchange::{Counters, Exchange, Opening, Order};
use server_native::record::{
    Command, Event, FLAG_END, FLAG_LENT, FLAG_MORE, FLAG_TEXT, MESSAGE_COST, Protocol, Reason, Record,
};

const QUEUE_RECORDS: usize = 4096;
const QUEUE_ARENA: usize = 128 * 1024;
/// As in exchange.rs: bytes of loans that are told without another event.
const RETURNS: usize = 256 * 1024;
/// As in batch.rs: bytes of body in one record.
const PIECE: usize = 64 * 1024;

/// What one side does. `at` chooses among all streams there have been, so many steps come too late.
#[derive(Clone, Debug)]
enum Step {
    Open {
        credit: u32,
        window: u32,
        line: usize,
        fields: usize,
        body: usize,
        end: bool,
    },
    /// With `over`, more than the credit, as a piece that cannot be cut.
    Push {
        at: Index,
        size: usize,
        end: bool,
        inlet: bool,
        over: bool,
    },
    PushMessage {
        at: Index,
        size: usize,
        flags: u8,
    },
    PushPong {
        at: Index,
        size: usize,
    },
    PushClose {
        at: Index,
        code: u16,
        size: usize,
    },
    /// A stream of its own that fills the queue.
    Flood {
        count: usize,
        size: usize,
    },
    PushEnd {
        at: Index,
        size: usize,
        inlet: bool,
    },
    PollOrders {
        at: Index,
        most: usize,
    },
    PollCredit {
        at: Index,
    },
    Sent {
        at: Index,
        bytes: usize,
    },
    Fail {
        at: Index,
        inlet: bool,
    },
    Drop {
        at: Index,
    },
    Announce {
        size: usize,
        log: bool,
    },
    Submit {
        says: Vec<(Index, Say)>,
        wrong: Option<(Index, Wrong)>,
    },
    Apply,
    WaitForRoom,
    WaitForEvents,
    Take {
        count: usize,
    },
    Close,
}

#[derive(Clone, Debug)]
enum Say {
    Head {
        fields: usize,
        body: usize,
        end: bool,
    },
    /// Lent ones with LENT in `flags`.
    Data {
        size: usize,
        end: bool,
        flags: u8,
    },
    End {
        trailers: usize,
        code: u16,
    },
    Upgrade {
        messages: bool,
        window: u32,
        fields: usize,
    },
    Ping {
        size: usize,
    },
    Reset,
    Credit {
        size: u32,
    },
    Inform {
        fields: usize,
    },
    Nobody,
}

#[derive(Clone, Debug)]
enum Wrong {
    Kind,
    Payload,
    Status,
}

/// A stream as the model sees it, with the real one.
#[derive(Debug)]
struct Known {
    id: u64,
    parent: u64,
    peer: Option<Peer>,
    /// The protocol may still do something.
    live: bool,
    /// The table has a slot for it.
    slot: bool,
    finished: bool,
    ended: bool,
    /// The host's direction has ended.
    sealed: bool,
    /// Its END ends one direction only.
    duplex: bool,
    messages: bool,
    /// It was taken over before its body was complete.
    body: bool,
    credit: i64,
    window: u32,
    outstanding: u32,
    returned: u32,
    orders: VecDeque<Order>,
    must_wake: bool,
    must_feed: bool,
    feeding: bool,
    waiting: bool,
    /// For the rules: what the host allowed and by how much a single piece passed it, what it sent, how often its commands
    /// could begin another count of ends.
    granted: u64,
    excess: u64,
    said: u64,
    upgrades: usize,
}

struct World {
    exchange: Arc<Exchange>,
    host: Host,
    streams: Vec<Known>,
    filling: VecDeque<Told>,
    filling_bytes: usize,
    /// Loans made, and those that were told back; the rest is what orders hold.
    lent: HashMap<u16, usize>,
    returned: HashSet<u16>,
    inbox: Vec<(u64, u32, Order)>,
    log: Vec<Told>,
    ids: HashSet<u64>,
    counters: Counters,
    closed: bool,
    producer: Arc<Flag>,
    consumer: Arc<Flag>,
    applier: Arc<Flag>,
    room_awaited: bool,
    /// The host has made room, which whoever drives tells the producer.
    room_made: bool,
    events_awaited: bool,
    must_give_room: bool,
    must_tell: bool,
    must_apply: bool,
    applier_known: bool,
    /// Records that are told without asking for room.
    unasked: usize,
    seed: u32,
}

impl World {
    fn new() -> World {
        let exchange = Arc::new(Exchange::default());
        World {
            host: Host::new(&exchange),
            producer: Flag::new(&exchange),
            consumer: Flag::new(&exchange),
            applier: Flag::new(&exchange),
            exchange,
            streams: Vec::new(),
            filling: VecDeque::new(),
            filling_bytes: 0,
            lent: HashMap::new(),
            returned: HashSet::new(),
            inbox: Vec::new(),
            log: Vec::new(),
            ids: HashSet::new(),
            counters: Counters::default(),
            closed: false,
            room_awaited: false,
            room_made: false,
            events_awaited: false,
            must_give_room: false,
            must_tell: false,
            must_apply: false,
            applier_known: false,
            unasked: 0,
            seed: 0,
        }
    }

    fn bytes(&mut self, size: usize) -> Vec<u8> {
        self.seed += 1;
        bytes(self.seed, size)
    }

    fn is_full(&self) -> bool {
        self.filling.len() >= QUEUE_RECORDS || self.filling_bytes >= QUEUE_ARENA
    }

    fn has_room(&self) -> bool {
        let has_room = self.exchange.poll_ready(&Context::from_waker(&self.producer.waker())).is_ready();
        assert_eq!(has_room, !self.is_full() || self.closed);
        has_room
    }

    /// Bytes of the loans that are back and that the host was not told of; `None` when there are none.
    fn returns(&self) -> Option<usize> {
        let orders = self.inbox.iter().map(|(_, _, order)| order);
        let orders = orders.chain(self.streams.iter().flat_map(|known| &known.orders));
        let held: HashSet<u16> = orders.filter(|order| order.flags & FLAG_LENT != 0).map(|order| order.code).collect();
        let back = self.lent.iter().filter(|(token, _)| !held.contains(token) && !self.returned.contains(token));
        back.map(|(_, size)| *size).reduce(|all, size| all + size)
    }

    fn has_events(&self) -> bool {
        !self.filling.is_empty() || self.returns().is_some_and(|bytes| bytes >= RETURNS)
    }

    fn tell(&mut self, event: Event, record: Record, payload: &[u8]) {
        self.filling.push_back(Told::new(event, record, payload));
        self.filling_bytes += payload.len();
        self.must_tell |= self.events_awaited;
        self.events_awaited = false;
    }

    fn choose(&self, at: &Index) -> Option<usize> {
        (!self.streams.is_empty()).then(|| at.index(self.streams.len()))
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Open { credit, window, line, fields, body, end } => {
                let (line, fields, body) = (self.bytes(*line), self.bytes(*fields), self.bytes(*body));
                self.open(*credit, *window, &line, &fields, &body, *end);
            }
            Step::Push { at, size, end, inlet, over } => {
                let data = self.bytes(*size);
                let Some(at) = self.choose(at) else { return };
                self.push(at, data, *end, *inlet, *over);
            }
            Step::PushMessage { at, size, flags } => {
                let data = self.bytes(*size);
                let Some(at) = self.choose(at) else { return };
                self.push_message(at, data, *flags);
            }
            Step::PushPong { at, size } => {
                let data = self.bytes(*size);
                let Some(at) = self.choose(at) else { return };
                let Some(peer) = &self.streams[at].peer else { return };
                peer.stream.push_pong(&data);
                self.unasked += 1;
                self.told(at, Event::Pong, 0, 0, &data);
            }
            Step::PushClose { at, code, size } => {
                let reason = self.bytes(*size);
                let Some(at) = self.choose(at) else { return };
                let Some(peer) = &self.streams[at].peer else { return };
                peer.stream.push_close(*code, &reason);
                self.unasked += 1;
                self.told(at, Event::End, FLAG_END, *code, &reason);
            }
            Step::Flood { count, size } => {
                let before = self.streams.len();
                self.open(1 << 30, 2, b"flood", b"", b"", false);
                for _ in 0..*count {
                    if before == self.streams.len() || !self.has_room() {
                        break;
                    }
                    let data = self.bytes(*size);
                    self.push(before, data, false, false, false);
                }
            }
            Step::PushEnd { at, size, inlet } => {
                let trailers = self.bytes(*size);
                let Some(at) = self.choose(at) else { return };
                self.push_end(at, &trailers, *inlet);
            }
            Step::PollOrders { at, most } => {
                let Some(at) = self.choose(at) else { return };
                for _ in 0..*most {
                    if !self.poll_order(at) {
                        break;
                    }
                }
            }
            Step::PollCredit { at } => {
                let Some(at) = self.choose(at) else { return };
                self.poll_credit(at);
            }
            Step::Sent { at, bytes } => {
                let Some(at) = self.choose(at) else { return };
                self.sent(at, *bytes);
            }
            Step::Fail { at, inlet } => {
                let Some(at) = self.choose(at) else { return };
                if *inlet {
                    if let Some(peer) = &self.streams[at].peer {
                        peer.inlet.fail(Reason::Protocol);
                        self.break_off(at, Reason::Protocol);
                    }
                } else if let Some(peer) = &mut self.streams[at].peer {
                    peer.stream.fail(Reason::Timeout);
                    self.failed(at, Reason::Timeout);
                }
            }
            Step::Drop { at } => {
                let Some(at) = self.choose(at) else { return };
                if let Some(peer) = self.streams[at].peer.take() {
                    drop(peer);
                    self.failed(at, Reason::Gone);
                    self.streams[at].must_feed = false;
                    self.streams[at].must_wake = false;
                }
            }
            Step::Announce { size, log } => {
                let payload = self.bytes(*size);
                let (event, code) = if *log { (Event::Log, 30) } else { (Event::Accept, 0) };
                self.exchange.announce(event, 0, 9, code, 5, &payload);
                if *log && self.is_full() {
                    self.counters.logs_dropped += 1;
                } else {
                    self.unasked += 1;
                    self.tell(event, Record { parent: 9, code, aux: 5, ..Record::default() }, &payload);
                }
            }
            Step::Submit { says, wrong } => self.submit(says, wrong.as_ref()),
            Step::Apply => self.apply(),
            Step::WaitForRoom => {
                self.producer.take();
                self.must_give_room = false;
                self.room_awaited = !self.has_room();
            }
            Step::WaitForEvents => {
                self.consumer.take();
                self.must_tell = false;
                let ready = self.exchange.poll_events(&Context::from_waker(&self.consumer.waker())).is_ready();
                let has_events = self.has_events();
                assert_eq!(ready, has_events || self.closed);
                assert_eq!(self.exchange.has_events(), has_events);
                self.events_awaited = !ready;
            }
            Step::Take { count } => {
                for _ in 0..*count {
                    if !self.take() {
                        break;
                    }
                    self.check();
                }
            }
            Step::Close => self.close(),
        }
    }

    fn open(&mut self, credit: u32, window: u32, line: &[u8], fields: &[u8], body: &[u8], end: bool) {
        if !self.has_room() {
            return;
        }
        let parent = self.exchange.name();
        assert!(self.ids.insert(parent), "a name was given twice");
        let flags = if end { FLAG_END } else { 0 };
        let opening = Opening { parent, protocol: Protocol::Http2, flags, credit, window, body };
        let Some(peer) = Peer::open(&self.exchange, opening, line, fields) else {
            assert!(self.closed);
            return;
        };
        assert!(!self.closed);
        let id = peer.id();
        assert!(self.ids.insert(id), "an id was given twice");
        self.counters.opened += 1;
        self.counters.live += 1;
        let (flags, code, aux) = (flags | Protocol::Http2 as u8, line.len() as u16, body.len() as u32);
        let record = Record { stream: id, parent, flags, code, aux, ..Record::default() };
        self.tell(Event::Open, record, &[line, fields, body].concat());
        self.streams.push(Known {
            id,
            parent,
            peer: Some(peer),
            live: true,
            slot: true,
            finished: false,
            ended: end,
            sealed: false,
            duplex: false,
            messages: false,
            body: false,
            credit: i64::from(credit),
            window,
            outstanding: 0,
            returned: 0,
            orders: VecDeque::new(),
            must_wake: false,
            must_feed: false,
            feeding: false,
            waiting: true,
            granted: u64::from(credit),
            excess: 0,
            said: 0,
            upgrades: 0,
        });
    }

    fn push(&mut self, at: usize, mut data: Vec<u8>, end: bool, inlet: bool, over: bool) {
        if !self.has_room() {
            return;
        }
        let known = &mut self.streams[at];
        let Some(peer) = &known.peer else { return };
        assert_eq!(peer.stream.credit(), if known.live && known.slot { known.credit() } else { 0 });
        if !over || known.credit() == 0 {
            data.truncate((known.credit() as usize).saturating_sub(known.cost()));
        }
        if inlet {
            peer.inlet.push(&data, end)
        } else {
            peer.stream.push(&data, end)
        }
        self.told(at, Event::Data, if end { FLAG_END } else { 0 }, 0, &data);
    }

    fn push_message(&mut self, at: usize, mut data: Vec<u8>, flags: u8) {
        if !self.has_room() {
            return;
        }
        let known = &self.streams[at];
        let Some(peer) = &known.peer else { return };
        let Some(room) = (peer.stream.credit() as usize).checked_sub(MESSAGE_COST as usize + 1) else { return };
        data.truncate(room + 1);
        peer.stream.push_message(&data, flags);
        self.told(at, Event::Data, flags, 0, &data);
    }

    fn push_end(&mut self, at: usize, trailers: &[u8], inlet: bool) {
        let known = &mut self.streams[at];
        let Some(peer) = &known.peer else { return };
        if inlet {
            peer.inlet.push_end(trailers)
        } else {
            peer.stream.push_end(trailers)
        }
        self.unasked += 1;
        self.told(at, Event::End, FLAG_END, 0, trailers);
    }

    /// What is told of a stream, unless nobody is there to hear it: the rules of ADR 0001.
    fn told(&mut self, at: usize, event: Event, flags: u8, code: u16, payload: &[u8]) {
        let known = &mut self.streams[at];
        if !known.slot || known.finished || known.ended {
            return;
        }
        if flags & FLAG_END != 0 && !std::mem::take(&mut known.body) {
            known.ended = true;
            // A closed message stream is over; of a duplex one that is when the host has ended too.
            known.finished = known.messages || known.sealed;
        }
        if event == Event::Data {
            known.credit -= (payload.len() + known.cost()) as i64;
            known.excess = known.excess.max(known.credit.min(0).unsigned_abs());
        }
        if event == Event::Data && !known.messages {
            return self.poured(at, flags, payload);
        }
        let record = Record { stream: known.id, parent: known.parent, flags, code, ..Record::default() };
        self.tell(event, record, payload);
    }

    /// Bytes that follow bytes are one event, up to a size.
    fn poured(&mut self, at: usize, flags: u8, mut payload: &[u8]) {
        let (stream, parent) = (self.streams[at].id, self.streams[at].parent);
        if let Some(last) = self.filling.back_mut()
            && last.is(Event::Data)
            && (last.record.stream, last.record.flags) == (stream, 0)
        {
            let (here, rest) = payload.split_at(payload.len().min(PIECE - last.payload.len()));
            last.payload.extend_from_slice(here);
            last.record.length = last.payload.len() as u32;
            self.filling_bytes += here.len();
            self.must_tell |= std::mem::replace(&mut self.events_awaited, false);
            payload = rest;
            if payload.is_empty() {
                last.record.flags = flags;
                return;
            }
        }
        loop {
            let (here, rest) = payload.split_at(payload.len().min(PIECE));
            let flags = if rest.is_empty() { flags } else { 0 };
            self.tell(Event::Data, Record { stream, parent, flags, ..Record::default() }, here);
            payload = rest;
            if payload.is_empty() {
                return;
            }
        }
    }

    /// One look for an order; answers whether there was one.
    fn poll_order(&mut self, at: usize) -> bool {
        let known = &mut self.streams[at];
        let Some(peer) = &mut known.peer else { return false };
        known.must_wake = false;
        let got = peer.poll();
        if !known.live || !known.slot {
            assert_eq!(got, Poll::Ready(None));
            known.live = false;
            return false;
        }
        assert!(peer.stream.is_live() || !known.orders.is_empty());
        let Some(order) = known.orders.pop_front() else {
            assert_eq!(got, if self.closed { Poll::Ready(None) } else { Poll::Pending });
            known.waiting = !self.closed;
            return false;
        };
        assert_eq!(got, Poll::Ready(Some(order.clone())));
        // The slot of a duplex stream stays for the peer's direction, until the protocol lets go.
        if order.end && (!known.duplex || order.command == Command::Reset) {
            known.live = false;
            self.release(at);
        }
        true
    }

    fn poll_credit(&mut self, at: usize) {
        let known = &mut self.streams[at];
        let Some(peer) = &known.peer else { return };
        known.must_feed = false;
        let expected = match known.credit {
            _ if !known.slot || known.finished => Poll::Ready(None),
            ..=0 => Poll::Pending,
            _ => Poll::Ready(Some(known.credit())),
        };
        assert_eq!(peer.poll_credit(), expected);
        known.feeding |= expected.is_pending();
    }

    fn sent(&mut self, at: usize, bytes: usize) {
        let known = &mut self.streams[at];
        let Some(peer) = &known.peer else { return };
        peer.stream.sent(bytes);
        if !known.live || !known.slot || bytes == 0 {
            return;
        }
        let bytes = (bytes as u32).min(known.outstanding);
        known.outstanding -= bytes;
        known.returned += bytes;
        if known.returned >= known.window / 2 && !known.finished {
            let aux = std::mem::take(&mut known.returned);
            let record = Record { stream: known.id, parent: known.parent, aux, ..Record::default() };
            self.unasked += 1;
            self.tell(Event::Writable, record, &[]);
        }
    }

    fn failed(&mut self, at: usize, reason: Reason) {
        let known = &mut self.streams[at];
        if !std::mem::replace(&mut known.live, false) || !known.slot {
            return;
        }
        let (finished, stream, parent) = (known.finished, known.id, known.parent);
        self.release(at);
        if !finished {
            self.reset(stream, parent, reason);
        }
    }

    fn release(&mut self, at: usize) {
        let known = &mut self.streams[at];
        known.slot = false;
        known.orders.clear();
        known.must_feed |= std::mem::replace(&mut known.feeding, false);
        self.counters.live -= 1;
    }

    fn break_off(&mut self, at: usize, reason: Reason) {
        let known = &mut self.streams[at];
        if !known.slot || std::mem::replace(&mut known.finished, true) {
            return;
        }
        let order = Order {
            command: Command::Reset,
            end: true,
            flags: 0,
            code: reason as u16,
            head: Vec::new().into(),
            body: Vec::new().into(),
        };
        known.orders = VecDeque::from([order]);
        known.wake();
        known.feed();
        let (stream, parent) = (known.id, known.parent);
        self.reset(stream, parent, reason);
    }

    fn reset(&mut self, stream: u64, parent: u64, reason: Reason) {
        self.unasked += 1;
        let record = Record { stream, parent, flags: FLAG_END, code: reason as u16, ..Record::default() };
        self.tell(Event::Reset, record, &[]);
    }

    fn submit(&mut self, says: &[(Index, Say)], wrong: Option<&(Index, Wrong)>) {
        let (mut commands, mut orders) = (Commands::default(), Vec::new());
        for (at, say) in says {
            let id = self.choose(at).map_or(0, |at| self.streams[at].id);
            let mut flags = 0;
            let (command, end, code, aux, head, body) = match say {
                Say::Head { fields, body, end } => (Command::Head, *end, 200, 0, *fields, *body),
                Say::Data { size, end, flags: kind } => {
                    // The number of a loan is the code too, which DATA has no other use for.
                    let may = *size > 0 && wrong.is_none() && self.lent.len() < 60_000;
                    flags = if may { *kind } else { *kind & !FLAG_LENT };
                    let lent = flags & FLAG_LENT != 0;
                    let code = if lent { self.lent.len() as u16 + 1 } else { 0 };
                    if lent {
                        self.lent.insert(code, *size);
                    }
                    (Command::Data, *end, code, 0, 0, *size)
                }
                Say::End { trailers, code } => (Command::End, true, *code, 0, *trailers, 0),
                Say::Reset => (Command::Reset, true, Reason::Cancelled as u16, 0, 0, 0),
                Say::Credit { size } => (Command::Credit, false, 0, *size, 0, 0),
                Say::Inform { fields } => (Command::Inform, false, 103, 0, *fields, 0),
                Say::Upgrade { messages, window, fields } => {
                    flags = if *messages { FLAG_TEXT } else { 0 };
                    (Command::Upgrade, false, 101, *window, *fields, 0)
                }
                Say::Ping { size } => (Command::Ping, false, 0, 0, *size, 0),
                Say::Nobody => (Command::End, true, 0, 0, 0, 0),
            };
            // Ids nobody ever had: a slot that is not there, a later generation, a name.
            let id =
                if matches!(say, Say::Nobody) { [0, !0, id + (1 << 50), 1 << 63][body_seed(self.seed)] } else { id };
            let (head, body) = (self.bytes(head), self.bytes(body));
            commands = match command {
                Command::Head => commands.head(id, code, &head, &body, end),
                Command::Data if flags & FLAG_LENT != 0 => commands.lend(id, code, &body, flags, end),
                Command::Data => commands.message(id, &body, flags, end),
                Command::End => commands.close(id, code, &head),
                Command::Reset => commands.reset(id, Reason::Cancelled),
                Command::Credit => commands.credit(id, aux),
                Command::Inform => commands.inform(id, code, &head),
                Command::Upgrade => commands.upgrade(id, flags, aux, &head),
                Command::Ping => commands.ping(id, &head),
            };
            orders.push((id, aux, Order { command, end, flags, code, head: head.into(), body: body.into() }));
        }
        if let Some((place, wrong)) = wrong
            && !commands.records.is_empty()
        {
            let place = place.index(commands.records.len());
            let arena = commands.arena.len() as u32;
            let record = &mut commands.records[place];
            match wrong {
                Wrong::Kind => record.kind = 77,
                Wrong::Payload => record.length = arena + 1,
                Wrong::Status => (record.kind, record.code) = (Command::Head as u8, 101),
            }
            let error = commands.submit(&self.exchange).unwrap_err();
            assert_eq!(error.status, Status::InvalidArgument);
            assert!(error.text.starts_with(&format!("command {place}: ")), "{}", error.text);
            return;
        }
        commands.submit(&self.exchange).unwrap();
        self.must_apply |= std::mem::replace(&mut self.applier_known, false);
        for (id, _, order) in &orders {
            if let Some(known) = self.streams.iter_mut().find(|known| known.id == *id) {
                // At most: whether it is a message's turns out when it is applied.
                known.said += order.body.len() as u64 + u64::from(MESSAGE_COST);
            }
        }
        self.inbox.append(&mut orders);
    }

    fn apply(&mut self) {
        self.applier.take();
        self.must_apply = false;
        self.exchange.apply(Some(&self.applier.waker()));
        self.applier_known = true;
        self.must_give_room |= std::mem::replace(&mut self.room_made, false);
        for (id, aux, order) in std::mem::take(&mut self.inbox) {
            let Some(at) = self.streams.iter().position(|known| known.id == id && known.slot && !known.finished) else {
                self.counters.stale_commands += 1;
                continue;
            };
            let known = &mut self.streams[at];
            // What ends the reading too may follow what has ended the writing.
            let deafens = order.command == Command::End && order.code != 0 && known.duplex && !known.messages;
            if known.sealed && !deafens && !matches!(order.command, Command::Credit | Command::Reset) {
                self.counters.stale_commands += 1;
                continue;
            }
            known.wake();
            if order.command == Command::Credit {
                known.credit += i64::from(aux);
                known.granted += u64::from(aux);
                known.feed();
                continue;
            }
            if order.command == Command::Reset {
                known.orders.clear();
            }
            if order.command == Command::Upgrade {
                if known.duplex {
                    self.break_off(at, Reason::Internal);
                    continue;
                }
                known.duplex = true;
                known.messages = order.flags & FLAG_TEXT != 0;
                known.body = !known.ended;
                known.ended = false;
                known.upgrades += 1;
                if aux > 0 {
                    known.window = aux;
                }
            }
            let cost = if order.command == Command::Data { known.cost() } else { 0 };
            let whole = order.end && order.flags & FLAG_LENT != 0;
            let size = if whole { 0 } else { order.body.len() };
            known.outstanding = known.outstanding.saturating_add((size + cost) as u32);
            if known.outstanding > known.window {
                self.counters.overflows += 1;
                self.break_off(at, Reason::Limit);
                continue;
            }
            known.sealed = order.end;
            known.finished = order.end && (!known.duplex || known.ended || deafens || order.command == Command::Reset);
            if known.finished {
                known.feed();
            }
            known.orders.push_back(order);
        }
    }

    fn take(&mut self) -> bool {
        let mut got = self.host.take();
        let mut expected: Vec<Told> = self.filling.drain(..).collect();
        self.filling_bytes = 0;
        if self.returns().is_some() {
            // In any order: what is compared is that each comes once, and none that is held.
            let told = got.as_mut().ok().and_then(Vec::pop).expect("RETURNED");
            assert!(told.is(Event::Returned) && told.record.stream == 0);
            for token in told.payload.chunks_exact(8) {
                let token = u64::from_ne_bytes(token.try_into().unwrap()) as u16;
                assert!(self.lent.contains_key(&token) && self.returned.insert(token), "loan {token} came back twice");
            }
            assert!(self.returns().is_none(), "all that are back are told at once");
        } else if expected.is_empty() && self.closed {
            assert_eq!(got.unwrap_err().status, Status::Closed);
            return false;
        }
        assert!(got.as_ref() == Ok(&expected), "a batch differs from what was told: {:?}", got.map(|told| told.len()));
        if std::mem::replace(&mut self.room_awaited, false) {
            self.room_made = true;
            self.must_apply |= std::mem::replace(&mut self.applier_known, false);
        }
        self.log.append(&mut expected);
        true
    }

    fn close(&mut self) {
        self.exchange.close();
        self.closed = true;
        self.streams.iter_mut().filter(|known| known.slot).for_each(Known::wake);
        self.must_give_room |= std::mem::take(&mut self.room_awaited) | std::mem::take(&mut self.room_made);
        self.must_tell |= std::mem::replace(&mut self.events_awaited, false);
    }

    fn check(&self) {
        let expected = Counters {
            queued_records: self.filling.len() as u64,
            queued_bytes: self.filling_bytes as u64,
            // Each stream has a parent of its own here.
            busy: self.counters.live,
            ..self.counters
        };
        assert_eq!(self.exchange.counters(), expected);
        // Whoever asks for room overshoots by one piece.
        assert!(self.filling.len() <= QUEUE_RECORDS + self.unasked);
        for known in &self.streams {
            if let Some(peer) = &known.peer {
                assert!(!known.must_wake || peer.flag.is_set(), "stream {} was not woken for its orders", known.id);
                assert!(!known.must_feed || peer.feeder.is_set(), "stream {} was not woken for credit", known.id);
            }
        }
        assert!(!self.must_give_room || self.producer.is_set(), "a producer waits for room that is there");
        assert!(!self.must_tell || self.consumer.is_set(), "the host waits for events that are there");
        assert!(!self.must_apply || self.applier.is_set(), "whoever drives was not told of commands or room");
    }

    /// Ends everything and looks at all the host was told.
    fn finish(mut self) {
        self.apply();
        for at in 0..self.streams.len() {
            while self.poll_order(at) {}
        }
        if !self.closed {
            self.close();
        }
        self.check();
        assert!(Peer::open(&self.exchange, pair::opening(0, 0), b"", b"").is_none());
        assert!(self.exchange.poll_ready(&idle()).is_ready());
        for at in 0..self.streams.len() {
            while self.poll_order(at) {}
            if let Some(mut peer) = self.streams[at].peer.take() {
                assert_eq!(peer.poll(), Poll::Ready(None), "no order after the end");
                drop(peer);
                self.failed(at, Reason::Gone);
            }
        }
        self.check();
        assert_eq!(self.exchange.counters().live, 0);
        while self.take() {}
        assert!(!self.exchange.has_events());
        assert_eq!(self.lent.len(), self.returned.len());
        self.check();
        for known in &self.streams {
            assert_rules(known, self.log.iter().filter(|told| told.record.stream == known.id));
        }
        let mut told: HashMap<u64, usize> = HashMap::new();
        for event in self.log.iter().filter(|event| event.is(Event::Open)) {
            *told.entry(event.record.stream).or_default() += 1;
        }
        assert_eq!(told.len(), self.streams.len());
    }
}

impl Known {
    fn credit(&self) -> u32 {
        self.credit.clamp(0, i64::from(u32::MAX)) as u32
    }

    /// What a piece costs besides its bytes.
    fn cost(&self) -> usize {
        if self.messages { MESSAGE_COST as usize } else { 0 }
    }

    fn wake(&mut self) {
        self.must_wake |= std::mem::replace(&mut self.waiting, false);
    }

    fn feed(&mut self) {
        self.must_feed |= std::mem::replace(&mut self.feeding, false);
    }
}

/// What a user may rely on, without the model.
fn assert_rules<'a>(known: &Known, events: impl Iterator<Item = &'a Told>) {
    let (mut ends, mut over, mut received, mut writable) = (0, false, 0, 0);
    // One for the body, one for what came after it.
    let most = 1 + known.upgrades;
    for (index, told) in events.enumerate() {
        assert_eq!(told.is(Event::Open), index == 0, "OPEN comes first and once");
        assert!(!over, "RESET comes last");
        assert_eq!(told.record.parent, known.parent);
        if told.is(Event::Reset) {
            over = true;
        } else if told.is(Event::Writable) {
            writable += u64::from(told.record.aux);
        } else {
            assert!(ends < most, "nothing after the peer's side is complete");
            ends += usize::from(told.record.flags & FLAG_END != 0);
            received += if told.is(Event::Data) { told.payload.len() as u64 } else { 0 };
        }
    }
    assert!(received <= known.granted + known.excess, "credit was exceeded by more than one piece");
    assert!(writable <= known.said, "more window came back than was used");
}

fn body_seed(seed: u32) -> usize {
    seed as usize % 4
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![12 => 0..64usize, 3 => 0..5_000usize, 1 => 0..300_000usize]
}

/// Flags of a piece of a message.
fn kind() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), Just(FLAG_TEXT), Just(FLAG_MORE), Just(FLAG_TEXT | FLAG_MORE)]
}

fn say() -> impl Strategy<Value = Say> {
    prop_oneof![
        2 => (size(), size(), any::<bool>()).prop_map(|(fields, body, end)| Say::Head { fields, body, end }),
        6 => (size(), prop::bool::weighted(0.1), kind()).prop_map(|(size, end, flags)| Say::Data { size, end, flags }),
        3 => (size(), prop::bool::weighted(0.3), kind())
            .prop_map(|(size, end, flags)| Say::Data { size, end, flags: flags | FLAG_LENT }),
        2 => (0..40usize, prop_oneof![Just(0), Just(1), Just(1000)]).prop_map(|(trailers, code)| Say::End { trailers, code }),
        2 => (any::<bool>(), prop_oneof![Just(0u32), 2..500_000u32], 0..40usize)
            .prop_map(|(messages, window, fields)| Say::Upgrade { messages, window, fields }),
        1 => (0..=125usize).prop_map(|size| Say::Ping { size }),
        1 => Just(Say::Reset),
        4 => prop_oneof![0..100u32, 0..200_000u32, Just(u32::MAX)].prop_map(|size| Say::Credit { size }),
        1 => (0..40usize).prop_map(|fields| Say::Inform { fields }),
        1 => Just(Say::Nobody),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let at = any::<Index>;
    let wrong = (at(), prop_oneof![Just(Wrong::Kind), Just(Wrong::Payload), Just(Wrong::Status)]);
    let credit = prop_oneof![Just(0u32), 0..100u32, 0..500_000u32, Just(1 << 30)];
    let window = prop_oneof![2..100u32, 2..500_000u32];
    prop_oneof![
        6 => (credit, window, 0..200usize, size(), prop_oneof![Just(0), 0..200_000usize], prop::bool::weighted(0.3))
            .prop_map(|(credit, window, line, fields, body, end)| Step::Open { credit, window, line, fields, body, end }),
        8 => (at(), size(), prop::bool::weighted(0.1), any::<bool>(), prop::bool::weighted(0.2))
            .prop_map(|(at, size, end, inlet, over)| Step::Push { at, size, end, inlet, over }),
        4 => (at(), size(), kind()).prop_map(|(at, size, flags)| Step::PushMessage { at, size, flags }),
        1 => (at(), 0..=125usize).prop_map(|(at, size)| Step::PushPong { at, size }),
        1 => (at(), 1000..1016u16, 0..=123usize).prop_map(|(at, code, size)| Step::PushClose { at, code, size }),
        1 => (1..6_000usize, prop_oneof![2 => 0..8usize, 1 => 500..4_000usize])
            .prop_map(|(count, size)| Step::Flood { count, size }),
        1 => (at(), 0..64usize, any::<bool>()).prop_map(|(at, size, inlet)| Step::PushEnd { at, size, inlet }),
        6 => (at(), 1..5usize).prop_map(|(at, most)| Step::PollOrders { at, most }),
        3 => at().prop_map(|at| Step::PollCredit { at }),
        4 => (at(), size()).prop_map(|(at, bytes)| Step::Sent { at, bytes }),
        1 => (at(), any::<bool>()).prop_map(|(at, inlet)| Step::Fail { at, inlet }),
        1 => at().prop_map(|at| Step::Drop { at }),
        1 => (0..200usize, any::<bool>()).prop_map(|(size, log)| Step::Announce { size, log }),
        8 => (vec((at(), say()), 0..6), prop::option::weighted(0.1, wrong))
            .prop_map(|(says, wrong)| Step::Submit { says, wrong }),
        8 => Just(Step::Apply),
        4 => Just(Step::WaitForRoom),
        2 => Just(Step::WaitForEvents),
        5 => prop_oneof![Just(1), 1..12usize].prop_map(|count| Step::Take { count }),
        1 => prop::bool::weighted(0.05).prop_map(|close| if close { Step::Close } else { Step::Apply }),
    ]
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(512)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_exchange_does_what_the_model_says(steps in vec(step(), 1..160)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.finish();
    }
}
