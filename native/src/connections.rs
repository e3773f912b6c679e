//! Every open connection: how many there are, when each is overdue, and how all of them are told to stop.
//!
//! One task looks at all deadlines a few times a second instead of one timer per connection: arming a deadline is an
//! atomic store, which a request does several times, and ten thousand idle connections cost ten thousand loads a tick.
//! A deadline therefore fires late, by up to one tick (an eighth of the shortest timeout, at most half a second), and
//! by up to another when many fire together: what they cost the host is spread, so that others are served in between.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderValue;
use tokio::sync::Notify;

use crate::limits::{Limit, Limits, Meter};

const NEVER: u64 = u64::MAX;
const FIRED: u64 = 0;
const SLOWEST_TICK_MS: u32 = 500;
/// Deadlines that fire in the same tick are woken in turns this far apart.
const TURN_MS: u32 = 4;

/// What all connections are asked to do.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Phase {
    /// Serve.
    Run = 0,
    /// Finish what is in flight, take nothing new.
    Drain = 1,
    /// End now.
    Kill = 2,
}

/// The registry, one per runtime.
#[derive(Debug)]
pub struct Connections {
    table: Mutex<Table>,
    start: Instant,
    phase: AtomicU8,
    tick_ms: AtomicU32,
    changed: Notify,
    /// How often limits were applied.
    pub meter: Meter,
    date: Mutex<Date>,
}

/// `date: ` and an IMF-fixdate and CRLF (RFC 9110 section 5.6.7).
pub const DATE_LENGTH: usize = 37;

/// The date in the forms that heads need, made once a second.
#[derive(Debug)]
struct Date {
    line: [u8; DATE_LENGTH],
    value: HeaderValue,
}

#[derive(Debug, Default)]
struct Table {
    watches: HashMap<u64, Arc<Watch>>,
    per_listener: HashMap<u64, u32>,
    per_address: HashMap<(u64, IpAddr), u32>,
    accepted: u64,
    refused: u64,
    overdue: u64,
}

/// One connection's deadline and waker.
#[derive(Debug)]
pub struct Watch {
    deadline: AtomicU64,
    phase: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

/// Membership in the registry; dropping it takes the connection out.
#[derive(Debug)]
pub struct Member {
    connections: Arc<Connections>,
    /// The deadline of this connection.
    pub watch: Arc<Watch>,
    id: u64,
    /// `None`: a stream with a task of its own, whose connection is counted already.
    listener: Option<u64>,
    address: Option<IpAddr>,
}

/// Figures for `sn_debug_stats`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Open now.
    pub open: u64,
    /// Taken in since the start.
    pub accepted: u64,
    /// Turned away because a connection limit was reached.
    pub refused: u64,
    /// Deadlines that fired.
    pub overdue: u64,
}

impl Default for Connections {
    fn default() -> Self {
        Connections {
            table: Mutex::default(),
            start: Instant::now(),
            phase: AtomicU8::new(Phase::Run as u8),
            tick_ms: AtomicU32::new(SLOWEST_TICK_MS),
            changed: Notify::new(),
            meter: Meter::default(),
            date: Mutex::new(Date::now()),
        }
    }
}

impl Connections {
    /// Takes a connection in, or says that a limit forbids it.
    pub fn admit(
        self: &Arc<Self>,
        id: u64,
        listener: u64,
        address: Option<IpAddr>,
        limits: &Limits,
    ) -> Result<Member, &'static str> {
        let mut table = self.lock();
        if table.per_listener.get(&listener).copied().unwrap_or(0) >= limits.connections {
            table.refused += 1;
            self.meter.count(Limit::Connections);
            return Err("limit connections reached");
        }
        let counted = address.filter(|_| limits.connections_per_address > 0);
        if let Some(address) = counted {
            let count = table.per_address.entry((listener, address)).or_insert(0);
            if *count >= limits.connections_per_address {
                table.refused += 1;
                self.meter.count(Limit::ConnectionsPerAddress);
                return Err("limit connections_per_address reached");
            }
            *count += 1;
        }
        *table.per_listener.entry(listener).or_insert(0) += 1;
        table.accepted += 1;
        let (watch, first) = self.watch(&mut table, id);
        drop(table);
        if first {
            self.tick_ms.fetch_min(limits.shortest_ms().div_ceil(8), Ordering::Relaxed);
            self.changed.notify_waiters();
        }
        Ok(Member { connections: self.clone(), watch, id, listener: Some(listener), address: counted })
    }

    fn watch(&self, table: &mut Table, id: u64) -> (Arc<Watch>, bool) {
        let watch = Arc::new(Watch {
            deadline: AtomicU64::new(NEVER),
            phase: AtomicU8::new(self.phase.load(Ordering::Relaxed)),
            waker: Mutex::new(None),
        });
        table.watches.insert(id, watch.clone());
        (watch, table.watches.len() == 1)
    }

    /// Milliseconds since the start, never 0.
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }

    /// The current date header line.
    pub fn date(&self) -> [u8; DATE_LENGTH] {
        self.lock_date().line
    }

    /// The current date as the value of a field.
    pub fn date_value(&self) -> HeaderValue {
        self.lock_date().value.clone()
    }

    fn lock_date(&self) -> MutexGuard<'_, Date> {
        self.date.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// The current date alone, as IMF-fixdate.
    pub fn imf_date(&self) -> [u8; DATE_LENGTH - 8] {
        let line = self.date();
        std::array::from_fn(|index| line[index + 6])
    }

    /// Asks every connection, present and future, to drain or to end.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::SeqCst);
        let watches: Vec<_> = self.lock().watches.values().cloned().collect();
        for watch in watches {
            watch.phase.store(phase as u8, Ordering::SeqCst);
            watch.wake();
        }
    }

    /// Makes sure deadlines of a listener with these limits fire in time.
    pub fn heed(&self, limits: &Limits) {
        self.tick_ms.fetch_min(limits.shortest_ms().div_ceil(8).max(5), Ordering::Relaxed);
    }

    /// Returns when no connection is left.
    pub async fn wait_empty(&self) {
        loop {
            let changed = self.changed.notified();
            if self.lock().watches.is_empty() {
                return;
            }
            changed.await;
        }
    }

    /// Fires overdue deadlines for ever; sleeps without a timer while there is no connection.
    pub async fn keep_time(self: Arc<Self>) {
        loop {
            let changed = self.changed.notified();
            if self.lock().watches.is_empty() {
                changed.await;
                *self.lock_date() = Date::now();
                continue;
            }
            let tick_ms = self.tick_ms.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(tick_ms.into())).await;
            *self.lock_date() = Date::now();
            let overdue = self.fired();
            self.wake_spread(&overdue, tick_ms).await;
        }
    }

    /// Those whose deadline has passed, and is taken back.
    fn fired(&self) -> Vec<Arc<Watch>> {
        let now = self.now();
        let mut table = self.lock();
        let overdue: Vec<_> = table.watches.values().filter(|watch| watch.fire(now)).cloned().collect();
        table.overdue += overdue.len() as u64;
        overdue
    }

    /// Wakes them over a tick. Whoever is woken by something else meanwhile ends then.
    async fn wake_spread(&self, overdue: &[Arc<Watch>], tick_ms: u32) {
        let turns = (tick_ms / TURN_MS).max(1) as usize;
        for (turn, few) in overdue.chunks(overdue.len().div_ceil(turns).max(1)).enumerate() {
            if turn > 0 {
                tokio::time::sleep(Duration::from_millis(TURN_MS.into())).await;
            }
            few.iter().for_each(|watch| watch.wake());
        }
    }

    /// Figures as of now.
    pub fn figures(&self) -> Figures {
        let table = self.lock();
        Figures {
            // Not the watches: a tunnel has one of its own.
            open: table.per_listener.values().map(|count| u64::from(*count)).sum(),
            accepted: table.accepted,
            refused: table.refused,
            overdue: table.overdue,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

impl Watch {
    /// Registers the task to wake. A task has one waker for life, so once is enough.
    pub fn register(&self, waker: &Waker) {
        *self.waker.lock().unwrap_or_else(|poison| poison.into_inner()) = Some(waker.clone());
    }

    /// Sets the moment (in [`Connections::now`] terms) after which [`Watch::fired`] is true and the task is woken.
    pub fn arm(&self, deadline: u64) {
        self.deadline.store(deadline, Ordering::Relaxed);
    }

    /// Takes the deadline back.
    pub fn disarm(&self) {
        self.deadline.store(NEVER, Ordering::Relaxed);
    }

    /// Whether a deadline is set that has not fired.
    pub fn is_armed(&self) -> bool {
        self.deadline.load(Ordering::Relaxed) != NEVER
    }

    /// Whether the deadline has passed.
    pub fn fired(&self) -> bool {
        self.deadline.load(Ordering::Relaxed) == FIRED
    }

    /// What the connection is asked to do.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Run,
            1 => Phase::Drain,
            _ => Phase::Kill,
        }
    }

    fn fire(&self, now: u64) -> bool {
        let deadline = self.deadline.load(Ordering::Relaxed);
        // The exchange fails when the task has just set a new deadline: then that one counts.
        deadline != FIRED
            && deadline <= now
            && self.deadline.compare_exchange(deadline, FIRED, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Has the task look at everything again.
    pub fn wake(&self) {
        let waker = self.waker.lock().unwrap_or_else(|poison| poison.into_inner()).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Member {
    /// The connection's id in events.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Arms the deadline `milliseconds` from now.
    pub fn within(&self, milliseconds: u32) {
        self.watch.arm(self.connections.now() + u64::from(milliseconds));
    }

    /// A deadline and a phase for a task that carries one stream of this connection. It takes no connection's place.
    pub fn branch(&self, id: u64) -> Member {
        let (watch, _) = self.connections.watch(&mut self.connections.lock(), id);
        Member { connections: self.connections.clone(), watch, id, listener: None, address: None }
    }

    /// Counts a limit that was applied to this connection.
    pub fn count(&self, limit: Limit) {
        self.connections.meter.count(limit);
    }

    /// The registry.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut table = self.connections.lock();
        table.watches.remove(&self.id);
        let empty = table.watches.is_empty();
        if let Some(listener) = self.listener
            && let Some(count) = table.per_listener.get_mut(&listener)
        {
            *count -= 1;
            if *count == 0 {
                table.per_listener.remove(&listener);
            }
        }
        if let (Some(listener), Some(address)) = (self.listener, self.address) {
            let key = (listener, address);
            if let Some(count) = table.per_address.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    table.per_address.remove(&key);
                }
            }
        }
        drop(table);
        if empty {
            self.connections.changed.notify_waiters();
        }
    }
}

impl Date {
    fn now() -> Date {
        let text = httpdate::fmt_http_date(SystemTime::now());
        // An IMF-fixdate always has 29 bytes (RFC 9110 section 5.6.7), up to the year 9999.
        let text = &text.as_bytes()[..29];
        let mut line = [0; DATE_LENGTH];
        line[..6].copy_from_slice(b"date: ");
        line[6..35].copy_from_slice(text);
        line[35..].copy_from_slice(b"\r\n");
        Date { line, value: HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static("")) }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Context, Wake};

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many of `count` that fired together are woken at once, and how many in the end.
    fn woken(count: u64, tick_ms: u32) -> (usize, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let connections = Arc::new(Connections::default());
        let (woken, limits) = (Arc::new(Woken::default()), Limits::default());
        let members: Vec<_> = (0..count).map(|id| connections.admit(id, 0, None, &limits).unwrap()).collect();
        for member in &members {
            member.watch.register(&woken.clone().into());
            member.watch.arm(1);
        }
        let overdue = connections.fired();
        assert_eq!(overdue.len() as u64, count);
        let _entered = runtime.enter();
        let mut waking = Box::pin(connections.wake_spread(&overdue, tick_ms));
        let done = waking.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        let first = woken.0.load(Ordering::Relaxed);
        if !done {
            runtime.block_on(waking);
        }
        (first, woken.0.load(Ordering::Relaxed))
    }

    #[test]
    fn many_deadlines_of_one_tick_are_spread_over_it() {
        assert_eq!(woken(0, 125), (0, 0));
        assert_eq!(woken(1, 125), (1, 1));
        assert_eq!(woken(1000, 125), (33, 1000), "31 turns");
        assert_eq!(woken(1000, 5), (1000, 1000), "a tick of one turn");
    }
}
