//! Who drives the sockets, and how everything starts and stops.
//!
//! `io_threads = 0`: the thread that calls [`Runtime::next`] drives a current-thread runtime and nothing crosses a
//! thread. A standby thread takes the driving over when the host stays away for a tick, and keeps it (*sticky*) while the
//! host's absences are long; the policy is in [`Absences`]. `io_threads = 1`: the standby always drives.
//! `io_threads >= 2`: a multi-thread runtime drives itself. The exchange is the same in all three (ADR 0002).

mod seat;
mod stop;

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

#[cfg(unix)]
use std::os::fd::OwnedFd;
#[cfg(unix)]
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use self::seat::{Absences, Seat, stand_by};
use self::stop::wind_down;
use crate::batch::Batch;
use crate::connections::{Connections, Phase};
use crate::error::{Error, Result, Status};
use crate::exchange::Exchange;
use crate::listen::{Bound, Listener};
use crate::record::Event;

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
        self.check_running()?;
        let _context = self.inner.tokio.enter();
        let listener = bound.listen(&self.inner.exchange, &self.inner.connections)?;
        lock(&self.inner.listeners).insert(listener.id(), listener);
        Ok(())
    }

    /// Whether new listeners are taken: not once the runtime is stopping.
    pub fn check_running(&self) -> Result<()> {
        match *self.inner.deadline.borrow() {
            Some(_) => Err(Error::new(Status::Stopping, "the runtime is stopping")),
            None => Ok(()),
        }
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
            // At once, not in the task: an answer given right after this call already says `connection: close`.
            connections.set_phase(Phase::Drain);
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
        batch.clear();
        let polled = timeout.is_some_and(|timeout| timeout.is_zero());
        inner.arrive(&mut absences);
        let turn = if inner.driven && !inner.seat.sticky.load(Ordering::Relaxed) {
            inner.drive(timeout)
        } else {
            inner.wait(timeout)
        };
        batch.watched = turn.watched;
        let taken = inner.exchange.take(batch);
        if polled && taken.is_ok() {
            inner.arm_signal();
        }
        inner.depart(&mut absences);
        match (taken?, turn.status) {
            (0, status) if !turn.watched => Ok(status),
            (_, Status::Woken) => {
                // Events are told first; the wake is for the next call, so that it is never lost.
                inner.woken.store(true, Ordering::SeqCst);
                Ok(Status::Ok)
            }
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
    /// Has an eventfd written when events begin to wait after a `next` with timeout zero.
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
        let waker = Waker::from(Arc::new(Parked(thread::current())));
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

    /// After a poll: what comes from now on is signalled, and so is what `take` has left.
    fn arm_signal(&self) {
        if let Some(signal) = lock(&self.signal).as_ref()
            && self.exchange.poll_events(&Context::from_waker(signal)).is_ready()
        {
            signal.wake_by_ref();
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
