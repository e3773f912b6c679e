//! What one connection's deadline means when it fires: idle, a silent peer, answers that nobody takes.
//!
//! No stream has a timer. The connection's task looks over the streams whose answer waits in h2, a few times in
//! `write_stall_ms`; a stream that is answered at once is never among them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Context;

use h2::{Ping, PingPong, Reason as Code};

use super::Shared;
use super::flow::{Hand, Held};
use crate::connections::Phase;
use crate::limits::Limit;
use crate::record::Reason;

/// Looks at waiting answers in one `write_stall_ms`: a stall is found late by at most this part of it.
const LOOKS: u32 = 4;
/// How long a GOAWAY that ends the connection may take to leave.
const FAREWELL_MS: u64 = 1_000;

/// Deadlines of one connection.
#[derive(Debug)]
pub(super) struct Clock {
    draining: bool,
    leaving: bool,
    /// Whether `due` is that of an idle connection; `None` before the first, and when it has passed.
    quiet: Option<bool>,
    due: u64,
    ping: Option<Pinger>,
    /// Answers that wait in h2, and room for the new ones.
    held: Vec<Held>,
    fresh: Vec<Held>,
    /// Bytes the peer had taken at the last look, and since when it is no more.
    moved: u64,
    since: u64,
}

#[derive(Debug)]
struct Pinger {
    pings: PingPong,
    interval: u64,
    due: u64,
    /// An answer is owed.
    asked: bool,
}

pub(super) enum Verdict {
    Serve,
    /// GOAWAY; what is in flight is finished.
    Drain,
    /// GOAWAY(ENHANCE_YOUR_CALM), and the end.
    Calm,
    End,
}

impl Clock {
    pub(super) fn new(shared: &Shared, pings: Option<PingPong>) -> Clock {
        let now = shared.connection.member.connections().now();
        let interval = u64::from(shared.limits().h2_ping_ms);
        let pings = pings.filter(|_| interval > 0);
        Clock {
            draining: false,
            leaving: false,
            quiet: None,
            due: 0,
            ping: pings.map(|pings| Pinger { pings, interval, due: now + interval, asked: false }),
            held: Vec::new(),
            fresh: Vec::new(),
            moved: 0,
            since: now,
        }
    }

    /// Whether the connection ends as soon as the peer could know why.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving
    }

    pub(super) fn poll_pong(&mut self, context: &mut Context<'_>) {
        if let Some(ping) = self.ping.as_mut().filter(|ping| ping.asked) {
            // An error is the connection's, which whoever polls it finds too.
            ping.asked = ping.pings.poll_pong(context).is_pending();
        }
    }

    /// What is to be done now.
    pub(super) fn look(&mut self, shared: &Arc<Shared>) -> Verdict {
        let member = &shared.connection.member;
        if member.watch.phase() == Phase::Kill {
            return Verdict::End;
        }
        if shared.resets.exceed(shared.limits().h2_resets) && !self.leaving {
            member.count(Limit::H2Resets);
            self.leaving = true;
            self.due = member.connections().now() + FAREWELL_MS;
            member.watch.arm(self.due);
            return Verdict::Calm;
        }
        let mut drain = member.watch.phase() == Phase::Drain;
        if member.watch.fired() {
            let now = member.connections().now();
            if self.ping.as_mut().is_some_and(|ping| ping.is_unanswered(now, shared)) {
                member.count(Limit::H2PingMs);
                return Verdict::End;
            }
            if self.due <= now {
                let quiet = self.quiet.take();
                if self.leaving || (shared.is_quiet() && quiet == Some(true) && self.draining) {
                    return Verdict::End;
                }
                if shared.is_quiet() && quiet == Some(true) {
                    member.count(Limit::IdleMs);
                    drain = true;
                } else if self.stalled(shared, now) {
                    shared.cut.store(true, Ordering::Relaxed);
                    return Verdict::End;
                }
            }
        }
        if drain && !std::mem::replace(&mut self.draining, true) { Verdict::Drain } else { Verdict::Serve }
    }

    /// Sets the deadline that comes next.
    pub(super) fn arm(&mut self, shared: &Shared) {
        let member = &shared.connection.member;
        let quiet = shared.is_quiet();
        let changed = !self.leaving && self.quiet != Some(quiet);
        if changed {
            let limits = shared.limits();
            let wait = if quiet { limits.idle_ms } else { limits.write_stall_ms.div_ceil(LOOKS) };
            self.quiet = Some(quiet);
            self.due = member.connections().now() + u64::from(wait);
        }
        if changed || member.watch.fired() {
            member.watch.arm(self.ping.as_ref().map_or(self.due, |ping| ping.due.min(self.due)));
        }
    }

    /// Takes over the answers that began to wait, without those that have gone meanwhile: most have, as h2 has just written.
    pub(super) fn collect(&mut self, shared: &Shared) {
        match &mut *shared.fresh() {
            Some(fresh) if !fresh.is_empty() => std::mem::swap(&mut self.fresh, fresh),
            _ => return,
        }
        self.held.extend(self.fresh.drain(..).filter(Held::waits));
        // No more than `h2_streams` wait at a time: the others have gone since they were taken over.
        if self.held.len() > 2 * shared.limits().h2_streams as usize {
            self.held.retain(Held::waits);
        }
    }

    /// Resets the streams whose peer has taken nothing for too long. Whether none of them moves: then it is the connection.
    fn stalled(&mut self, shared: &Arc<Shared>, now: u64) -> bool {
        let member = &shared.connection.member;
        let patience = u64::from(shared.limits().write_stall_ms);
        let moved = shared.moved.load(Ordering::Relaxed);
        if moved != std::mem::replace(&mut self.moved, moved) {
            self.since = now;
        }
        self.held.retain(Held::waits);
        if self.held.is_empty() {
            self.since = now;
        }
        let overdue: Vec<_> = self.held.extract_if(.., |held| held.is_overdue(now, patience)).collect();
        if overdue.is_empty() {
            return false;
        }
        if now - self.since >= patience {
            member.count(Limit::WriteStallMs);
            return true;
        }
        for held in overdue {
            member.count(Limit::WriteStallMs);
            match held.hand {
                // Its task is told too, and resets the stream.
                Hand::Running(inlet) => inlet.fail(Reason::Timeout),
                Hand::Over(mut send) => send.send_reset(Code::CANCEL),
            }
        }
        false
    }
}

impl Pinger {
    /// Asks a peer that has said nothing since the last look; whether the answer to that is overdue.
    fn is_unanswered(&mut self, now: u64, shared: &Shared) -> bool {
        if self.due > now {
            return false;
        }
        if self.asked {
            return true;
        }
        self.due = now + self.interval;
        let heard = shared.heard.swap(false, Ordering::Relaxed);
        // Refused only when the connection is over, which whoever polls it finds too.
        self.asked = !heard && self.pings.send_ping(Ping::opaque()).is_ok();
        false
    }
}
