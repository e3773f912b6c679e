//! Who drives the sockets, and how everything starts and stops.
//!
//! `io_threads = 0`: the thread that calls [`Runtime::next`] drives a current-thread runtime and nothing crosses a
//! thread. A standby thread takes the driving over when the host stays away for a tick, and keeps it (*sticky*) while the
//! host's absences are long; the policy is in [`Absences`]. `io_threads = 1`: the standby always drives.
//! `io_threads >= 2`: a multi-thread runtime drives itself. The exchange is the same in all three (ADR 0002).

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

#[cfg(unix)]
use std::os::fd::OwnedFd;
#[cfg(unix)]
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::batch::Batch;
use crate::connections::{Connections, Phase};
use crate::error::{Error, Result, Status};
use crate::exchange::Exchange;
use crate::listen::{Bound, Listener};
use crate::record::Event;

/// How long the host may stay away before the standby looks after the sockets.
const TICK: Duration = Duration::from_millis(20);
/// Time between the notice to handlers (DRAIN) and the deadline, at most; a quarter of the grace if that is less.
const NOTICE: Duration = Duration::from_secs(1);
/// After the deadline tasks get this long to write their resets.
const KILL_TIME: Duration = Duration::from_secs(1);

/// A running core: one tokio runtime, one exchange, any number of listeners.
#[derive(Debug)]
pub struct Runtime {
    inner: Arc<Inner>,
    standby: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    exchange: Arc<Exchange>,
    connections: Arc<Connections>,
    tokio: tokio::runtime::Runtime,
    seat: Seat,
    driven: bool,
    pump: Mutex<Absences>,
    listeners: Mutex<HashMap<u64, Listener>>,
    #[cfg(unix)]
    watched: Mutex<Option<Arc<AsyncFd<OwnedFd>>>>,
    signal: Mutex<Option<Waker>>,
    woken: AtomicBool,
    deadline: watch::Sender<Option<Instant>>,
}

/// The right to drive, and what the two threads that may have it tell each other.
#[derive(Debug, Default)]
struct Seat {
    taken: Mutex<()>,
    epoch: AtomicU32,
    inside: AtomicBool,
    dozing: AtomicBool,
    sticky: AtomicBool,
    hand_back: AtomicBool,
    stop: AtomicBool,
    driver: Mutex<Option<Waker>>,
    standby: Mutex<Option<Thread>>,
}

/// Decides from the host's absences between two `next` whether it should drive: the state behind `sticky`.
#[derive(Debug, Default)]
struct Absences {
    left: Option<Instant>,
    slow: u32,
    quick: u32,
}

impl Absences {
    /// An absence this long is a handler at work or a fight for the GIL, and holds every other connection up.
    const SLOW: Duration = Duration::from_millis(3);
    const QUICK: Duration = Duration::from_millis(1);
    /// Slow absences that make the standby go on driving.
    const STICK: u32 = 4;
    /// Quick absences in a row that give the driving back, or take one slow absence off the count.
    const RELEASE: u32 = 64;

    /// Judges one absence; answers whether the standby should drive from now on.
    fn judge(&mut self, absence: Duration, sticky: bool) -> bool {
        if absence >= Self::SLOW {
            self.slow = (self.slow + 1).min(Self::STICK);
            self.quick = 0;
        } else if absence < Self::QUICK {
            self.quick += 1;
            if self.quick >= Self::RELEASE {
                self.quick = 0;
                self.slow = if sticky { 0 } else { self.slow.saturating_sub(1) };
            }
        }
        if sticky { self.slow > 0 } else { self.slow >= Self::STICK }
    }
}

impl Runtime {
    /// Starts the threads the mode needs; listeners come later.
    pub fn start(io_threads: u32) -> Result<Runtime> {
        if io_threads > 64 {
            return Err(Error::invalid(format!("io_threads must be 0 to 64, found {io_threads}")));
        }
        let mut builder = if io_threads >= 2 {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(io_threads as usize);
            builder
        } else {
            tokio::runtime::Builder::new_current_thread()
        };
        let tokio = builder
            .enable_io()
            .enable_time()
            .thread_name("server-native-io")
            .build()
            .map_err(|cause| Error::io("the runtime cannot start", &cause))?;
        let inner = Arc::new(Inner {
            exchange: Arc::default(),
            connections: Arc::default(),
            tokio,
            seat: Seat::default(),
            driven: io_threads == 0,
            pump: Mutex::default(),
            listeners: Mutex::default(),
            #[cfg(unix)]
            watched: Mutex::default(),
            signal: Mutex::default(),
            woken: AtomicBool::new(false),
            deadline: watch::Sender::new(None),
        });
        inner.tokio.spawn(inner.connections.clone().keep_time());
        let standby = if io_threads >= 2 {
            let exchange = inner.exchange.clone();
            inner.tokio.spawn(poll_fn(move |context| {
                exchange.apply(Some(context.waker()));
                Poll::<()>::Pending
            }));
            None
        } else {
            inner.seat.sticky.store(io_threads == 1, Ordering::SeqCst);
            let of_thread = inner.clone();
            let handle = thread::Builder::new()
                .name("server-native-io".into())
                .spawn(move || stand_by(&of_thread))
                .map_err(|cause| Error::io("the standby thread cannot start", &cause))?;
            *lock(&inner.seat.standby) = Some(handle.thread().clone());
            Some(handle)
        };
        Ok(Runtime { inner, standby })
    }

    /// The stream table of this runtime.
    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.inner.exchange
    }

    /// The connections of this runtime.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.inner.connections
    }

    /// Adds a bound listener; it accepts from now on.
    pub fn listen(&self, bound: Bound) -> Result<()> {
        if self.inner.deadline.borrow().is_some() {
            return Err(Error::new(Status::Stopping, "the runtime is stopping"));
        }
        let _context = self.inner.tokio.enter();
        let listener = bound.listen(&self.inner.exchange, &self.inner.connections)?;
        lock(&self.inner.listeners).insert(listener.id(), listener);
        Ok(())
    }

    /// Stops accepting on one listener; its connections go on. Tells CLOSED for it.
    pub fn close_listener(&self, id: u64) -> Result<()> {
        let Some(listener) = lock(&self.inner.listeners).remove(&id) else {
            return Err(Error::new(Status::NotFound, format!("no listener has the id {id}")));
        };
        drop(listener);
        self.inner.exchange.announce(Event::Closed, id, 0, 0, 0, &[]);
        Ok(())
    }

    /// Begins to stop and returns at once: nothing new is accepted, what is in flight has `grace`. A later call with an
    /// earlier deadline hastens it. `next` answers CLOSED when all is over.
    pub fn stop(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        let mut first = false;
        self.inner.deadline.send_modify(|known| {
            first = known.is_none();
            *known = Some(known.map_or(deadline, |known| known.min(deadline)));
        });
        if first {
            let listeners = std::mem::take(&mut *lock(&self.inner.listeners));
            for (id, listener) in listeners {
                drop(listener);
                self.inner.exchange.announce(Event::Closed, id, 0, 0, 0, &[]);
            }
            let (exchange, connections) = (self.inner.exchange.clone(), self.inner.connections.clone());
            self.inner.tokio.spawn(wind_down(exchange, connections, self.inner.deadline.subscribe()));
        }
    }

    /// Takes events into `batch`, driving the sockets or waiting for who drives them.
    ///
    /// `timeout` zero polls once, `None` waits without end. One thread at a time; others get BUSY.
    pub fn next(&self, batch: &mut Batch, timeout: Option<Duration>) -> Result<Status> {
        let inner = &*self.inner;
        let mut absences = match inner.pump.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poison)) => poison.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::new(Status::Busy, "another thread is inside sn_next of this runtime"));
            }
        };
        batch.header.watched = 0;
        inner.arrive(&mut absences);
        let turn = if inner.driven && !inner.seat.sticky.load(Ordering::Relaxed) {
            inner.drive(timeout)
        } else {
            inner.wait(timeout)
        };
        batch.header.watched = u32::from(turn.watched);
        let taken = inner.exchange.take(batch);
        inner.depart(&mut absences);
        match taken? {
            0 if turn.watched => Ok(Status::Ok),
            0 => Ok(turn.status),
            _ => Ok(Status::Ok),
        }
    }

    /// Makes the current or the next `next` return at once.
    pub fn wake(&self) {
        self.inner.woken.store(true, Ordering::SeqCst);
        self.inner.exchange.nudge();
    }

    /// Whether the standby thread drives, for `sn_debug_stats`.
    pub fn is_sticky(&self) -> bool {
        self.inner.seat.sticky.load(Ordering::Relaxed)
    }

    /// Watches a descriptor: `next` returns and sets `watched` when it becomes readable. `None` watches nothing.
    ///
    /// Readiness is edge-triggered: after it was told, the host reads until nothing is left before it relies on it again.
    #[cfg(unix)]
    pub fn watch(&self, descriptor: Option<AsyncFd<OwnedFd>>) {
        *lock(&self.inner.watched) = descriptor.map(Arc::new);
    }

    /// The context a descriptor must be registered in.
    pub fn enter(&self) -> tokio::runtime::EnterGuard<'_> {
        self.inner.tokio.enter()
    }
}

impl Runtime {
    /// Has an eventfd written when events begin to wait after a `next` with timeout zero found none.
    #[cfg(unix)]
    pub fn signal(&self, descriptor: Option<OwnedFd>) {
        *lock(&self.inner.signal) = descriptor.map(|descriptor| Waker::from(Arc::new(Signalled(descriptor))));
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let seat = &self.inner.seat;
        seat.stop.store(true, Ordering::SeqCst);
        self.inner.exchange.close();
        seat.wake_driver();
        seat.wake_standby();
        if let Some(handle) = self.standby.take() {
            // The standby never waits for the host, so this ends within one poll. A panic there was already printed.
            let _ = handle.join();
        }
    }
}

struct Turn {
    status: Status,
    watched: bool,
}

impl Inner {
    fn arrive(&self, absences: &mut Absences) {
        self.seat.inside.store(true, Ordering::Relaxed);
        if !self.driven {
            return;
        }
        if let Some(left) = absences.left {
            let sticky = self.seat.sticky.load(Ordering::Relaxed);
            let wanted = absences.judge(left.elapsed(), sticky);
            if wanted != sticky {
                self.seat.sticky.store(wanted, Ordering::SeqCst);
                if wanted {
                    self.seat.wake_standby();
                }
            }
        }
    }

    fn depart(&self, absences: &mut Absences) {
        if !self.driven {
            return;
        }
        absences.left = Some(Instant::now());
        self.seat.epoch.fetch_add(1, Ordering::SeqCst);
        self.seat.inside.store(false, Ordering::SeqCst);
        if self.seat.dozing.load(Ordering::SeqCst) {
            self.seat.wake_standby();
        }
    }

    /// Drives the runtime on the calling thread until there is something to tell.
    fn drive(&self, timeout: Option<Duration>) -> Turn {
        let seat = self.seat.claim();
        let turn = self.tokio.block_on(async {
            let mut timer = pin!(timeout.filter(|timeout| !timeout.is_zero()).map(tokio::time::sleep));
            // A zero timeout is one poll of the sockets and one more of the tasks they woke; a timer would round up to
            // 1 ms. Events that wait already are no reason to leave the answers just applied unwritten.
            let mut polls_left = if timeout.is_some_and(|timeout| timeout.is_zero()) { 2u32 } else { 1 };
            poll_fn(|context| {
                self.exchange.apply(Some(context.waker()));
                let waits = self.exchange.has_events();
                if polls_left > 0 && (polls_left == 2 || waits == timeout.is_none_or(|timeout| !timeout.is_zero())) {
                    polls_left -= 1;
                    return defer(context);
                }
                polls_left = 0;
                if let Some(turn) = self.look(context) {
                    return Poll::Ready(turn);
                }
                match (timer.as_mut().as_pin_mut(), timeout) {
                    (Some(timer), _) => timer.poll(context).map(|()| Turn { status: Status::Timeout, watched: false }),
                    (None, Some(_)) => Poll::Ready(Turn { status: Status::Timeout, watched: false }),
                    (None, None) => Poll::Pending,
                }
            })
            .await
        });
        self.exchange.leave();
        drop(seat);
        turn
    }

    /// Waits on the calling thread while others drive.
    fn wait(&self, timeout: Option<Duration>) -> Turn {
        let polled = timeout.is_some_and(|timeout| timeout.is_zero());
        let signal = if polled { lock(&self.signal).clone() } else { None };
        let waker = signal.unwrap_or_else(|| Waker::from(Arc::new(Parked(thread::current()))));
        let mut context = Context::from_waker(&waker);
        let until = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if let Some(turn) = self.look(&mut context) {
                return turn;
            }
            match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(left) if left.is_zero() => return Turn { status: Status::Timeout, watched: false },
                Some(left) => thread::park_timeout(left),
                None => thread::park(),
            }
        }
    }

    fn look(&self, context: &mut Context<'_>) -> Option<Turn> {
        let watched = self.poll_watched(context);
        let events = self.exchange.poll_events(context).is_ready();
        if self.woken.swap(false, Ordering::SeqCst) {
            return Some(Turn { status: Status::Woken, watched });
        }
        (events || watched).then_some(Turn { status: Status::Ok, watched })
    }

    #[cfg(unix)]
    fn poll_watched(&self, context: &mut Context<'_>) -> bool {
        let Some(watched) = lock(&self.watched).clone() else { return false };
        match watched.poll_read_ready(context) {
            Poll::Ready(Ok(mut guard)) => {
                guard.clear_ready();
                true
            }
            // An error means the runtime is shutting down; `take` says so.
            Poll::Ready(Err(_)) | Poll::Pending => false,
        }
    }

    #[cfg(not(unix))]
    fn poll_watched(&self, _context: &mut Context<'_>) -> bool {
        false
    }
}

impl Seat {
    /// Takes the seat for the host; the standby hands it back first if it has it.
    fn claim(&self) -> MutexGuard<'_, ()> {
        if let Ok(guard) = self.taken.try_lock() {
            return guard;
        }
        self.hand_back.store(true, Ordering::SeqCst);
        self.wake_driver();
        let guard = lock(&self.taken);
        self.hand_back.store(false, Ordering::SeqCst);
        guard
    }

    fn wake_driver(&self) {
        let driver = lock(&self.driver).clone();
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    fn wake_standby(&self) {
        if let Some(standby) = &*lock(&self.standby) {
            standby.unpark();
        }
    }

    /// Blocks the standby until it is needed; false when it should end.
    fn wait_for_absence(&self) -> bool {
        let mut last = self.epoch.load(Ordering::SeqCst);
        loop {
            if self.stop.load(Ordering::SeqCst) {
                return false;
            }
            if self.sticky.load(Ordering::SeqCst) {
                return true;
            }
            thread::park_timeout(TICK);
            let epoch = self.epoch.load(Ordering::SeqCst);
            let same = epoch == std::mem::replace(&mut last, epoch);
            if !same {
                continue;
            }
            if !self.inside.load(Ordering::SeqCst) {
                return true;
            }
            // The host has waited inside for a whole tick: nothing to do until it leaves. It checks `dozing` after it has
            // moved `epoch`, we check `epoch` after we have set `dozing`: one of the two sees the other.
            self.dozing.store(true, Ordering::SeqCst);
            let asleep = || !self.stop.load(Ordering::SeqCst) && !self.sticky.load(Ordering::SeqCst);
            while asleep() && self.epoch.load(Ordering::SeqCst) == epoch {
                thread::park();
            }
            self.dozing.store(false, Ordering::SeqCst);
        }
    }
}

fn stand_by(inner: &Inner) {
    let seat = &inner.seat;
    while seat.wait_for_absence() {
        let guard = lock(&seat.taken);
        inner.tokio.block_on(poll_fn(|context| {
            *lock(&seat.driver) = Some(context.waker().clone());
            inner.exchange.apply(Some(context.waker()));
            let hand_back = seat.hand_back.load(Ordering::SeqCst) || seat.stop.load(Ordering::SeqCst);
            if hand_back { Poll::Ready(()) } else { Poll::Pending }
        }));
        *lock(&seat.driver) = None;
        inner.exchange.leave();
        drop(guard);
        // The host waits for the seat: let it have it before we ask again.
        while seat.hand_back.load(Ordering::SeqCst) && !seat.stop.load(Ordering::SeqCst) {
            thread::yield_now();
        }
    }
}

async fn wind_down(
    exchange: Arc<Exchange>,
    connections: Arc<Connections>,
    mut deadline: watch::Receiver<Option<Instant>>,
) {
    connections.set_phase(Phase::Drain);
    let begun = Instant::now();
    let mut told = false;
    loop {
        let until = (*deadline.borrow_and_update()).unwrap_or(begun);
        let notice = NOTICE.min(until.saturating_duration_since(begun) / 4);
        let pause = if told { until } else { until.checked_sub(notice).unwrap_or(until) };
        tokio::select! {
            biased;
            () = connections.wait_empty() => break,
            changed = deadline.changed() => if changed.is_err() { break },
            () = tokio::time::sleep_until(pause.into()) => {
                if told {
                    connections.set_phase(Phase::Kill);
                    // Only a task that cannot be woken is left after this, and dropping the runtime ends that.
                    let _ = tokio::time::timeout(KILL_TIME, connections.wait_empty()).await;
                    break;
                }
                told = true;
                exchange.announce(Event::Drain, 0, 0, 0, notice.as_millis() as u32, &[]);
            }
        }
    }
    exchange.close();
}

/// Wakes a thread that waits in [`Inner::wait`].
struct Parked(Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// Wakes an event loop that is not ours.
#[cfg(unix)]
struct Signalled(OwnedFd);

#[cfg(unix)]
impl Wake for Signalled {
    fn wake(self: Arc<Self>) {
        // Fails only when the counter is full, and then the loop has been told already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

/// Pending, but polled again after the driver was (what `tokio::task::yield_now` does, inside a `poll_fn`).
fn defer<T>(context: &mut Context<'_>) -> Poll<T> {
    let mut yielded = pin!(tokio::task::yield_now());
    let _ = yielded.as_mut().poll(context);
    Poll::Pending
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(absences: &mut Absences, sticky: &mut bool, milliseconds: u64, times: u32) {
        for _ in 0..times {
            *sticky = absences.judge(Duration::from_millis(milliseconds), *sticky);
        }
    }

    #[test]
    fn long_absences_stick_and_quick_ones_release() {
        let (mut absences, mut sticky) = (Absences::default(), false);
        judged(&mut absences, &mut sticky, 5, Absences::STICK - 1);
        assert!(!sticky);
        judged(&mut absences, &mut sticky, 5, 1);
        assert!(sticky);
        judged(&mut absences, &mut sticky, 0, Absences::RELEASE - 1);
        assert!(sticky);
        judged(&mut absences, &mut sticky, 5, 1);
        judged(&mut absences, &mut sticky, 0, Absences::RELEASE - 1);
        assert!(sticky, "a slow absence starts the count of quick ones again");
        judged(&mut absences, &mut sticky, 0, 1);
        assert!(!sticky);
    }

    #[test]
    fn rare_long_absences_never_stick() {
        let (mut absences, mut sticky) = (Absences::default(), false);
        for _ in 0..100 {
            judged(&mut absences, &mut sticky, 50, 1);
            judged(&mut absences, &mut sticky, 0, Absences::RELEASE);
            assert!(!sticky);
        }
    }
}
