//! The right to drive, who has it, and the standby thread that takes it over.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::task::{Poll, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::{Inner, lock};

/// How long the host may stay away before the standby looks after the sockets.
const TICK: Duration = Duration::from_millis(20);

/// The right to drive, and what the two threads that may have it tell each other.
#[derive(Debug, Default)]
pub(super) struct Seat {
    pub(super) taken: Mutex<()>,
    pub(super) epoch: AtomicU32,
    pub(super) inside: AtomicBool,
    pub(super) dozing: AtomicBool,
    pub(super) sticky: AtomicBool,
    pub(super) hand_back: AtomicBool,
    pub(super) stop: AtomicBool,
    pub(super) driver: Mutex<Option<Waker>>,
    pub(super) standby: Mutex<Option<Thread>>,
}

/// Decides from the host's absences between two `next` whether it should drive: the state behind `sticky`.
#[derive(Debug, Default)]
pub(super) struct Absences {
    pub(super) left: Option<Instant>,
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
    pub(super) fn judge(&mut self, absence: Duration, sticky: bool) -> bool {
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

impl Seat {
    /// Takes the seat for the host; the standby hands it back first if it has it.
    pub(super) fn claim(&self) -> MutexGuard<'_, ()> {
        if let Ok(guard) = self.taken.try_lock() {
            return guard;
        }
        self.hand_back.store(true, Ordering::SeqCst);
        self.wake_driver();
        let guard = lock(&self.taken);
        self.hand_back.store(false, Ordering::SeqCst);
        guard
    }

    pub(super) fn wake_driver(&self) {
        let driver = lock(&self.driver).clone();
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    pub(super) fn wake_standby(&self) {
        if let Some(standby) = &*lock(&self.standby) {
            standby.unpark();
        }
    }

    /// Blocks the standby until it is needed; false when it should end.
    pub(super) fn wait_for_absence(&self) -> bool {
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

pub(super) fn stand_by(inner: &Inner) {
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
