//! One request being answered: orders out, body in, both as far as the socket and the host allow.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use super::{AHEAD, BODY_TOO_LARGE, CONTINUE, NEXT, OVER, READ, Session, Stage, Step};
use crate::exchange::{QUEUE_ARENA, Stream};
use crate::http::Transport;
use crate::http::attend::{GATHERED, Share};
use crate::http::guard::{Body, Decoded, Framing, Rejection, Version};
use crate::http::heads::Delimiter;
use crate::http::upgrade::Mode;
use crate::limits::Limit;
use crate::record::Reason;

/// One read of a body of known length takes at most this much, what the queue holds: every read costs the peer a wake-up, and
/// more than stays in the core's cache costs both copies that follow.
const READ_BODY: usize = QUEUE_ARENA;
/// Room for one read, however little credit there is: a chunk line may be longer than it.
const READ_LEAST: usize = 16 * 1024;

thread_local! {
    /// Where bodies are read to. Not on the stack, which may be small in a thread of the host's.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// One request being answered.
pub(super) struct Exchanging {
    pub(super) stream: Stream,
    pub(super) body: Body,
    pub(super) received: u64,
    pub(super) version: Version,
    pub(super) is_head: bool,
    pub(super) expects: bool,
    pub(super) persistent: bool,
    pub(super) answer: Answer,
    pub(super) unreported: usize,
    /// What the client offered besides HTTP.
    pub(super) offer: Option<Box<Offer>>,
}

/// An `Upgrade` the host may accept.
pub(super) struct Offer {
    /// The first of `upgrade`.
    pub(super) protocol: Vec<u8>,
    /// Value of `sec-websocket-key`.
    pub(super) key: Option<Vec<u8>>,
}

/// How far the response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Awaited,
    Body(Delimiter, u64),
    Complete,
    Upgraded(Mode),
}

pub(super) enum Halt {
    Gone,
    Refused(Rejection),
}

impl<S: Transport> Session<S> {
    pub(super) fn poll_exchange(&mut self, mut exchanging: Box<Exchanging>, context: &mut Context<'_>) -> Step {
        let now = &mut *exchanging;
        if self.connection.member.watch.fired() && self.overdue(now) {
            return self.late(now);
        }
        loop {
            if let Answer::Upgraded(mode) = now.answer {
                let Exchanging { stream, body, .. } = *exchanging;
                self.stage = Stage::Upgraded(stream, mode, body);
                return NEXT;
            }
            while now.answer != Answer::Complete && self.output.has_room() {
                match now.stream.poll_order(context) {
                    Poll::Pending => break,
                    Poll::Ready(Some(order)) => {
                        if let Err(reason) = self.obey(now, order) {
                            now.stream.fail(reason);
                            self.socket.cut();
                            return OVER;
                        }
                        if matches!(now.answer, Answer::Upgraded(_)) {
                            break;
                        }
                    }
                    Poll::Ready(None) => {
                        self.socket.cut();
                        return OVER;
                    }
                }
            }
            if matches!(now.answer, Answer::Upgraded(_)) {
                continue;
            }
            if now.expects && now.stream.credit() > 0 && now.answer == Answer::Awaited {
                now.expects = false;
                self.output.tail().extend_from_slice(CONTINUE);
            }
            // Orders left for want of room have no waker: they are looked at again as soon as there is some.
            let full = !self.output.has_room();
            let flushed = self.poll_flush(context);
            // Heads and chunk lines count as body here: that much of the window comes back a moment early.
            let taken = std::mem::take(&mut self.progress) as usize;
            let taken = if flushed.is_ready() { now.unreported } else { taken.min(now.unreported) };
            now.unreported -= taken;
            now.stream.sent(taken);
            match flushed {
                Poll::Ready(Ok(())) => {
                    if now.answer == Answer::Complete {
                        let persistent = now.persistent;
                        let body =
                            std::mem::replace(&mut now.body, Body::new(Framing::None, &self.connection.site.limits));
                        drop(exchanging);
                        self.after_answer(persistent, Some(body));
                        return NEXT;
                    }
                    if full {
                        continue;
                    }
                }
                Poll::Ready(Err(_)) => {
                    now.stream.fail(Reason::Gone);
                    return OVER;
                }
                Poll::Pending => {}
            }
            match self.poll_body(now, context) {
                Ok(true) => {}
                Ok(false) => {
                    self.stage = Stage::Exchange(exchanging);
                    return Poll::Pending;
                }
                Err(Halt::Gone) => {
                    now.stream.fail(Reason::Gone);
                    return OVER;
                }
                Err(Halt::Refused(rejection)) => {
                    let reason = if rejection.status == 413 { Reason::Limit } else { Reason::Protocol };
                    return self.break_off(now, reason, rejection);
                }
            }
        }
    }

    /// Moves body bytes to the host within its credit, and keeps an eye on the socket otherwise.
    /// True when something moved, so that another round may find more to do.
    fn poll_body(&mut self, now: &mut Exchanging, context: &mut Context<'_>) -> Result<bool, Halt> {
        self.unread = !self.eof;
        if self.share.is_over() {
            Share::pass_to(&self.connection.site.exchange, context);
            return Ok(false);
        }
        if !now.body.is_done() && now.stream.is_live() {
            if self.share.poll_room(&self.connection.site.exchange, context).is_pending() {
                return Ok(false);
            }
            let mut input = std::mem::take(&mut self.input);
            let fed = self.feed(now, input.bytes_mut());
            input.consume(fed.as_ref().map_or(0, |count| *count));
            self.input = input;
            // Only when all that is here was looked at is more read.
            if fed.map_err(Halt::Refused)? > 0 {
                return Ok(true);
            }
        }
        let reading_body = !now.body.is_done() && now.stream.is_live();
        if reading_body && (now.expects || now.stream.credit() == 0) {
            // Not the peer's turn: its rate does not count while the host makes it wait.
            if self.body_since.take().is_some() {
                self.arm();
            }
            return Ok(false);
        }
        if self.eof {
            let reason = "the connection closed in the middle of the body";
            return if reading_body { Err(Halt::Refused(Rejection::new(400, reason))) } else { Ok(false) };
        }
        if !reading_body && self.input.len() >= AHEAD {
            return Ok(false);
        }
        self.unread = false;
        if reading_body && self.body_since.is_none() {
            self.arm_body(0);
        }
        ROOM.with_borrow_mut(|room| {
            // Beyond the credit bytes wait here, and chunk lines wait to be understood: then little is read.
            let credit = now.stream.credit() as usize;
            let sized = reading_body && now.body.remaining().is_some();
            let most = credit.clamp(READ_LEAST, if sized { READ_BODY } else { READ });
            room.resize(READ_BODY, 0);
            self.read_body(now, reading_body, &mut room[..most], context)
        })
    }

    fn read_body(
        &mut self,
        now: &mut Exchanging,
        reading_body: bool,
        room: &mut [u8],
        context: &mut Context<'_>,
    ) -> Result<bool, Halt> {
        let mut buffer = ReadBuf::new(room);
        match Pin::new(&mut self.socket).poll_read(context, &mut buffer) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(_)) => return Err(Halt::Gone),
            Poll::Ready(Ok(())) => {}
        }
        let bytes = buffer.filled_mut();
        self.eof |= bytes.is_empty();
        self.share.bytes(bytes.len());
        let mut fed = 0;
        if reading_body && !bytes.is_empty() {
            self.arm_body(bytes.len() as u64);
            if self.input.is_empty() {
                fed = self.feed(now, bytes).map_err(Halt::Refused)?;
            }
        }
        self.input.extend(&bytes[fed..]);
        Ok(true)
    }

    /// Tells the host body bytes from the front of `bytes`, in one piece, if it has credit; answers how many were used. Chunks
    /// behind the first [`GATHERED`] bytes are left to the next call.
    ///
    /// The piece may pass the credit by less than one read: a chunk line cut by it could never be understood.
    fn feed(&mut self, now: &mut Exchanging, bytes: &mut [u8]) -> Result<usize, Rejection> {
        let limit = self.connection.site.limits.body_bytes;
        let Decoded { consumed, data, done } = now.body.gather(bytes, GATHERED.min(now.stream.credit() as usize))?;
        self.share.framing(consumed - data.len());
        now.received += data.len() as u64;
        if limit > 0 && now.received > limit {
            return Err(BODY_TOO_LARGE);
        }
        let plain = now.body.trailers().is_empty();
        if !data.is_empty() {
            now.stream.push(data, done && plain);
        }
        if done && (data.is_empty() || !plain) {
            now.stream.push_end(now.body.trailers());
        }
        if done {
            self.body_since = None;
            self.arm();
        }
        Ok(consumed)
    }

    /// The request went wrong after the host was told: tell it, and the client too if nothing was answered yet.
    fn break_off(&mut self, now: &mut Exchanging, reason: Reason, rejection: Rejection) -> Step {
        now.stream.fail(reason);
        if now.answer == Answer::Awaited {
            self.refuse(rejection);
            return NEXT;
        }
        if let Some(limit) = rejection.limit {
            self.connection.member.count(limit);
        }
        self.socket.cut();
        OVER
    }

    fn late(&mut self, now: &mut Exchanging) -> Step {
        if self.write_deadline.is_some() && !self.output.is_empty() {
            self.connection.member.count(Limit::WriteStallMs);
            now.stream.fail(Reason::Timeout);
            self.socket.cut();
            return OVER;
        }
        let reason = "the body came slower than limit body_rate";
        self.break_off(now, Reason::Timeout, Rejection::limited(408, reason, Limit::BodyRate))
    }

    /// Whether a deadline that fired still counts: progress may have moved it since.
    fn overdue(&mut self, now: &Exchanging) -> bool {
        let time = self.connection.member.connections().now();
        let stalled = self.write_deadline.is_some_and(|deadline| deadline <= time);
        let slow = !now.body.is_done() && self.body_deadline().is_some_and(|deadline| deadline <= time);
        if !stalled && !slow {
            self.arm();
        }
        stalled || slow
    }
}
