//! Both ends of an exchange without sockets, clock or threads: a protocol's end ([`Peer`]), the host's end ([`Host`]) and
//! wakers that only count ([`Flag`]). Whoever tests steps both.

// Each test program uses its part of this.
#![allow(dead_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use server_native::batch::Batch;
use server_native::error::Result;
use server_native::exchange::{Exchange, Inlet, Opening, Order, Stream};
use server_native::record::{Command, Event, FLAG_END, FLAG_LENT, Loan, Protocol, Reason, Record};

/// A waker that counts, and each time calls back into the exchange: it deadlocks if it is called under the lock.
#[derive(Debug, Default)]
pub struct Flag {
    woken: AtomicU32,
    exchange: Weak<Exchange>,
}

impl Flag {
    pub fn new(exchange: &Arc<Exchange>) -> Arc<Flag> {
        Arc::new(Flag { woken: AtomicU32::new(0), exchange: Arc::downgrade(exchange) })
    }

    pub fn waker(self: &Arc<Self>) -> Waker {
        self.clone().into()
    }

    /// Whether it was woken since it was last asked.
    pub fn take(&self) -> bool {
        self.woken.swap(0, Ordering::SeqCst) > 0
    }

    pub fn is_set(&self) -> bool {
        self.woken.load(Ordering::SeqCst) > 0
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::SeqCst);
        if let Some(exchange) = self.exchange.upgrade() {
            exchange.counters();
        }
    }
}

/// For commands that lend nothing.
pub fn nothing_lent(loan: Loan) -> Bytes {
    panic!("nothing is lent here, found {loan:?}")
}

/// A waker that does nothing, for looks that no one waits after.
pub fn idle() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Bytes that differ from place to place and from `seed` to `seed`.
pub fn bytes(seed: u32, size: usize) -> Vec<u8> {
    (0..size).map(|at| (at as u32).wrapping_mul(31).wrapping_add(seed.wrapping_mul(97)).to_le_bytes()[0]).collect()
}

/// What a stream is opened with, for tests that care for none of it.
pub fn opening(credit: u32, window: u32) -> Opening<'static> {
    Opening { parent: 7, protocol: Protocol::Tcp, flags: 0, credit, window, body: &[] }
}

/// The protocol's end of one stream; the first waker is for orders, the second for credit.
#[derive(Debug)]
pub struct Peer {
    pub stream: Stream,
    pub inlet: Inlet,
    pub flag: Arc<Flag>,
    pub feeder: Arc<Flag>,
}

impl Peer {
    pub fn open(exchange: &Arc<Exchange>, opening: Opening<'_>, line: &[u8], fields: &[u8]) -> Option<Peer> {
        let flag = Flag::new(exchange);
        let fill = |arena: &mut Vec<u8>| {
            arena.extend_from_slice(line);
            arena.extend_from_slice(fields);
            line.len()
        };
        let stream = exchange.open(opening, &flag.waker(), fill)?;
        Some(Peer { inlet: stream.inlet(), stream, flag, feeder: Flag::new(exchange) })
    }

    pub fn id(&self) -> u64 {
        self.stream.id()
    }

    pub fn poll(&mut self) -> Poll<Option<Order>> {
        self.flag.take();
        self.stream.poll_order(&Context::from_waker(&self.flag.waker()))
    }

    pub fn poll_credit(&self) -> Poll<Option<u32>> {
        self.feeder.take();
        self.inlet.poll_credit(&Context::from_waker(&self.feeder.waker()))
    }

    /// Every order that is there.
    pub fn orders(&mut self) -> Vec<Order> {
        std::iter::from_fn(|| match self.poll() {
            Poll::Ready(order) => order,
            Poll::Pending => None,
        })
        .collect()
    }
}

/// One event as the host got it; `record.offset` is 0, so that two of them can be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub record: Record,
    pub payload: Vec<u8>,
}

impl Told {
    pub fn new(event: Event, record: Record, payload: &[u8]) -> Told {
        let length = payload.len() as u32 - if event == Event::Open { record.aux } else { 0 };
        Told { record: Record { kind: event as u8, offset: 0, length, ..record }, payload: payload.to_vec() }
    }

    pub fn is(&self, event: Event) -> bool {
        self.record.kind == event as u8
    }
}

/// The host's end.
#[derive(Debug)]
pub struct Host {
    exchange: Arc<Exchange>,
    batch: Batch,
}

impl Host {
    pub fn new(exchange: &Arc<Exchange>) -> Host {
        Host { exchange: exchange.clone(), batch: Batch::default() }
    }

    /// One batch; its payloads must lie one behind the other.
    pub fn take(&mut self) -> Result<Vec<Told>> {
        let count = self.exchange.take(&mut self.batch)?;
        assert_eq!(count, self.batch.records().len());
        let mut end = 0;
        let told = self.batch.records().iter().map(|record| {
            assert_eq!(record.offset, end, "payloads of a batch are contiguous");
            let payload = self.batch.payload(record).to_vec();
            end += payload.len() as u32;
            Told { record: Record { offset: 0, ..*record }, payload }
        });
        Ok(told.collect())
    }

    /// Every event that is there.
    pub fn drain(&mut self) -> Vec<Told> {
        let mut all = Vec::new();
        while let Ok(told) = self.take() {
            if told.is_empty() {
                break;
            }
            all.extend(told);
        }
        all
    }

    /// Submits and applies at once, as a host that drives does.
    pub fn say(&self, commands: &Commands) {
        commands.submit(&self.exchange).expect("the commands are right");
        self.exchange.apply(None);
    }
}

/// Commands with the arena their payloads lie in.
#[derive(Clone, Debug, Default)]
pub struct Commands {
    pub records: Vec<Record>,
    pub arena: Vec<u8>,
    /// What is lent, by token; an address is the token too, and never looked at.
    pub lent: HashMap<u64, Vec<u8>>,
}

/// Bytes of a test's that are given back when nobody holds them any more.
struct Borrowed {
    bytes: Vec<u8>,
    loan: Loan,
    exchange: Weak<Exchange>,
}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(exchange) = self.exchange.upgrade() {
            exchange.give_back(self.loan.token, self.loan.length);
        }
    }
}

impl Commands {
    pub fn head(self, stream: u64, status: u16, fields: &[u8], body: &[u8], end: bool) -> Commands {
        let mut commands = self.add(stream, Command::Head, end, status, body.len() as u32, fields);
        commands.arena.extend_from_slice(body);
        commands
    }

    pub fn data(self, stream: u64, body: &[u8], end: bool) -> Commands {
        self.add(stream, Command::Data, end, 0, 0, body)
    }

    pub fn submit(&self, exchange: &Arc<Exchange>) -> Result<()> {
        exchange.submit(&self.records, &self.arena, |loan| {
            let bytes = self.lent[&loan.token].clone();
            assert_eq!(bytes.len() as u64, loan.length);
            Bytes::from_owner(Borrowed { bytes, loan, exchange: Arc::downgrade(exchange) })
        })
    }

    /// DATA that is lent; `token` is its code too.
    pub fn lend(mut self, stream: u64, token: u16, body: &[u8], flags: u8, end: bool) -> Commands {
        self.lent.insert(token.into(), body.to_vec());
        let loan = [token.into(), body.len() as u64, token.into()].map(u64::to_ne_bytes).concat();
        let flags = flags | FLAG_LENT;
        self.add(stream, Command::Data, end, token, 0, &loan).flagged(flags)
    }

    /// DATA of several pieces that are lent together.
    pub fn lend_two(mut self, stream: u64, token: u16, bodies: [&[u8]; 2], end: bool) -> Commands {
        let mut loans = Vec::new();
        for (body, token) in bodies.into_iter().zip([u64::from(token), 0]) {
            self.lent.insert(token, body.to_vec());
            loans.extend([1, body.len() as u64, token].map(u64::to_ne_bytes).concat());
        }
        self.add(stream, Command::Data, end, 0, 0, &loans).flagged(FLAG_LENT)
    }

    /// DATA with TEXT and MORE.
    pub fn message(self, stream: u64, body: &[u8], flags: u8, end: bool) -> Commands {
        self.data(stream, body, end).flagged(flags)
    }

    pub fn end(self, stream: u64, trailers: &[u8]) -> Commands {
        self.close(stream, 0, trailers)
    }

    /// END with a code.
    pub fn close(self, stream: u64, code: u16, reason: &[u8]) -> Commands {
        self.add(stream, Command::End, true, code, 0, reason)
    }

    pub fn upgrade(self, stream: u64, flags: u8, window: u32, fields: &[u8]) -> Commands {
        self.add(stream, Command::Upgrade, false, 101, window, fields).flagged(flags)
    }

    pub fn ping(self, stream: u64, payload: &[u8]) -> Commands {
        self.add(stream, Command::Ping, false, 0, 0, payload)
    }

    pub fn reset(self, stream: u64, reason: Reason) -> Commands {
        self.add(stream, Command::Reset, true, reason as u16, 0, &[])
    }

    pub fn credit(self, stream: u64, size: u32) -> Commands {
        self.add(stream, Command::Credit, false, 0, size, &[])
    }

    pub fn inform(self, stream: u64, status: u16, fields: &[u8]) -> Commands {
        self.add(stream, Command::Inform, false, status, 0, fields)
    }

    fn flagged(mut self, flags: u8) -> Commands {
        if let Some(last) = self.records.last_mut() {
            last.flags |= flags;
        }
        self
    }

    fn add(mut self, stream: u64, command: Command, end: bool, code: u16, aux: u32, payload: &[u8]) -> Commands {
        let (offset, length) = (self.arena.len() as u32, payload.len() as u32);
        let flags = if end { FLAG_END } else { 0 };
        self.records.push(Record { stream, parent: 0, offset, length, kind: command as u8, flags, code, aux });
        self.arena.extend_from_slice(payload);
        self
    }
}
