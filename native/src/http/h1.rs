//! Serves HTTP/1.1 and 1.0 on one connection, from the gate, one request at a time and in order.
//!
//! A connection is in one of four stages, or has left HTTP ([`upgrade`]); [`Session::poll`] runs the current one until it must wait:
//!
//! ```text
//!   Head ──request──▶ Exchange ──answered──▶ Head            keep-alive, body read to its end
//!    │                   │ └──────answered──▶ Discard ──▶ Head   a short rest of the body is read away
//!    │ refused           │ answered, close
//!    └────────▶ Linger ◀─┘                                   FIN first, then read until the peer's FIN: a close with
//!                                                            unread input would send RST and destroy the answer
//! ```
//!
//! Timers are deadlines in [`Watch`](crate::connections::Watch): detection and head and idle in Head, body rate while we
//! read a body, write stall while the socket takes nothing.

mod answer;
mod exchange;
mod request;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use self::exchange::Exchanging;
use super::attend::{Attended, Share, attend};
use super::guard::{Body, Rejection, Version};
use super::heads::{Delimiter, Persistence, Template};
use super::input::Input;
use super::output::Output;
use super::upgrade::{Channel, Mode};
use super::{Connection, Transport};
use crate::connections::Phase;
use crate::exchange::Stream;
use crate::limits::Limit;
use crate::record::Reason;

/// One read takes at most this much; the room is on the stack, so an idle connection holds no buffer.
const READ: usize = 64 * 1024;
/// Input kept while a request is being answered; then the socket is left alone (pipelining is bounded).
const AHEAD: usize = 64 * 1024;
/// A rest of an unread body up to this size is read away to keep the connection.
const DISCARD: u64 = 64 * 1024;
/// How long and how much is read away before a close.
const LINGER_MS: u32 = 2_000;
const LINGER_BYTES: u64 = 1024 * 1024;
const BODY_TOO_LARGE: Rejection = Rejection::limited(413, "the body is larger than limit body_bytes", Limit::BodyBytes);
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Serves until the connection ends. `first` is what detection has read already.
pub async fn serve<S: Transport>(socket: S, first: Vec<u8>, connection: Connection) {
    let mut session = Session::new(socket, first, connection);
    session.connection.member.within(session.connection.site.limits.detection_ms);
    poll_fn(|context| {
        session.connection.member.watch.register(context.waker());
        Poll::Ready(())
    })
    .await;
    attend(&mut session).await;
    if let Stage::Upgraded(stream, mode, body) = session.stage {
        let Session { socket, connection, input, output, .. } = session;
        let channel = Channel::new(socket, input, output, stream, &connection.member, &connection.site);
        // Boxed: its state would otherwise be part of every idle connection.
        Box::pin(channel.serve(mode, body)).await;
    }
}

struct Session<S> {
    socket: S,
    connection: Connection,
    input: Input,
    /// `input` has bytes the gate has not seen.
    fresh: bool,
    eof: bool,
    output: Output,
    stage: Stage,
    /// Bytes of head and declared body to collect before the request is told; 0 when none is known.
    wanted: usize,
    /// Since when, and how much of, a body is being read: the rate limit.
    body_since: Option<(u64, u64)>,
    write_deadline: Option<u64>,
    /// Bytes the socket has taken since the host was last told.
    progress: u64,
    /// A request was answered: what is waited for is the next one.
    served: bool,
    /// The beginning of a head is here, and the deadline for the rest runs.
    begun: bool,
    share: Share,
    /// The socket was left alone in the middle of an exchange.
    unread: bool,
}

enum Stage {
    Head,
    Exchange(Box<Exchanging>),
    Discard(Body),
    Linger {
        shut: bool,
        left: u64,
    },
    /// The connection has left HTTP: the session is over, and the stream goes on without it, the rest of the body first.
    Upgraded(Stream, Mode, Body),
}

type Step = Poll<ControlFlow<()>>;
const NEXT: Step = Poll::Ready(ControlFlow::Continue(()));
const OVER: Step = Poll::Ready(ControlFlow::Break(()));

impl<S: Transport> Attended for Session<S> {
    type Socket = S;

    fn unread(&self) -> Option<&S> {
        self.unread.then_some(&self.socket)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.share.renew();
        self.unread = false;
        loop {
            if self.connection.member.watch.phase() == Phase::Kill {
                if let Stage::Exchange(exchanging) = &mut self.stage {
                    exchanging.stream.fail(Reason::Stopping);
                }
                self.socket.cut();
                return Poll::Ready(());
            }
            let step = match std::mem::replace(&mut self.stage, Stage::Head) {
                Stage::Head => self.poll_head(context),
                Stage::Exchange(exchanging) => self.poll_exchange(exchanging, context),
                Stage::Discard(body) => self.poll_discard(body, context),
                Stage::Linger { shut, left } => self.poll_linger(shut, left, context),
                upgraded @ Stage::Upgraded(..) => {
                    self.stage = upgraded;
                    return Poll::Ready(());
                }
            };
            match step {
                Poll::Pending => return Poll::Pending,
                OVER => return Poll::Ready(()),
                NEXT => {}
            }
        }
    }
}

impl<S: Transport> Session<S> {
    fn new(socket: S, first: Vec<u8>, connection: Connection) -> Session<S> {
        Session {
            socket,
            connection,
            input: first.into(),
            fresh: true,
            eof: false,
            output: Output::default(),
            stage: Stage::Head,
            wanted: 0,
            body_since: None,
            write_deadline: None,
            progress: 0,
            served: false,
            begun: false,
            share: Share::new(),
            unread: false,
        }
    }

    /// What comes after a whole response: the next request, the rest of this one's body, or the end.
    fn after_answer(&mut self, persistent: bool, body: Option<Body>) {
        let limits = &self.connection.site.limits;
        self.fresh = true;
        self.served = true;
        self.begun = false;
        self.wanted = 0;
        self.body_since = None;
        self.write_deadline = None;
        self.unread = false;
        let unread = body.filter(|body| !body.is_done());
        self.stage = match (persistent, unread) {
            (true, None) => Stage::Head,
            (true, Some(body)) => Stage::Discard(body),
            (false, unread) => {
                let left = if unread.is_some() || !self.input.is_empty() { LINGER_BYTES } else { 0 };
                Stage::Linger { shut: false, left }
            }
        };
        match self.stage {
            Stage::Head => self.connection.member.within(limits.idle_ms),
            Stage::Discard(_) => self.connection.member.within(limits.body_grace_ms.max(LINGER_MS)),
            _ => self.connection.member.within(LINGER_MS),
        }
    }

    /// Ends a connection that owes nothing. Not by dropping it: TLS announces its end, or the peer takes it for an attack
    /// (RFC 8446 section 6.1).
    fn leave(&mut self) -> Step {
        self.stage = Stage::Linger { shut: false, left: 0 };
        self.connection.member.within(LINGER_MS);
        NEXT
    }

    fn poll_discard(&mut self, mut body: Body, context: &mut Context<'_>) -> Step {
        loop {
            let Ok(decoded) = body.decode(self.input.bytes()) else { return OVER };
            let (consumed, done) = (decoded.consumed, decoded.done);
            self.input.consume(consumed);
            if done {
                self.after_answer(true, None);
                return NEXT;
            }
            if consumed > 0 {
                continue;
            }
            if self.connection.member.watch.fired() || self.eof {
                return self.leave();
            }
            match self.poll_read(context) {
                Poll::Pending => {
                    self.stage = Stage::Discard(body);
                    return Poll::Pending;
                }
                Poll::Ready(Err(_)) => return OVER,
                Poll::Ready(Ok(_)) => {}
            }
        }
    }

    fn poll_linger(&mut self, mut shut: bool, mut left: u64, context: &mut Context<'_>) -> Step {
        let watch = &self.connection.member.watch;
        if watch.fired() {
            return OVER;
        }
        let waits = match self.poll_flush(context) {
            Poll::Pending => true,
            Poll::Ready(Err(_)) => return OVER,
            Poll::Ready(Ok(())) => false,
        };
        if !waits && !shut {
            match Pin::new(&mut self.socket).poll_shutdown(context) {
                Poll::Pending => {}
                Poll::Ready(Err(_)) => return OVER,
                Poll::Ready(Ok(())) => shut = true,
            }
        }
        if shut && (left == 0 || self.eof) {
            return OVER;
        }
        while left > 0 && !self.eof {
            if self.share.is_over() {
                Share::pass(context);
                break;
            }
            self.input.clear();
            match self.poll_read(context) {
                Poll::Pending => break,
                Poll::Ready(Err(_)) => return OVER,
                Poll::Ready(Ok(count)) => left = left.saturating_sub(count as u64),
            }
        }
        if shut && (left == 0 || self.eof) {
            return OVER;
        }
        self.stage = Stage::Linger { shut, left };
        Poll::Pending
    }

    /// Answers what the gate refused and closes; the host never hears of it.
    fn refuse(&mut self, rejection: Rejection) {
        if let Some(limit) = rejection.limit {
            self.connection.member.count(limit);
        }
        self.write_error(rejection.status, rejection.reason, false);
        self.input.clear();
        self.after_answer(false, None);
        if let Stage::Linger { left, .. } = &mut self.stage {
            *left = LINGER_BYTES;
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut progress = 0;
        let flushed = self.output.poll_flush(&mut self.socket, context, &mut progress);
        self.progress += progress;
        match flushed {
            Poll::Pending if progress > 0 || self.write_deadline.is_none() => {
                let stall = u64::from(self.connection.site.limits.write_stall_ms);
                self.write_deadline = Some(self.connection.member.connections().now() + stall);
                self.arm();
            }
            Poll::Ready(_) if self.write_deadline.take().is_some() => self.arm(),
            _ => {}
        }
        flushed
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let mut room = [const { MaybeUninit::uninit() }; READ];
        let mut buffer = ReadBuf::uninit(&mut room);
        match Pin::new(&mut self.socket).poll_read(context, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(cause)) => Poll::Ready(Err(cause)),
            Poll::Ready(Ok(())) => {
                let bytes = buffer.filled();
                self.eof |= bytes.is_empty();
                self.fresh = true;
                self.share.bytes(bytes.len());
                self.input.extend(bytes);
                Poll::Ready(Ok(bytes.len()))
            }
        }
    }

    /// Counts body bytes against the rate limit from now on.
    fn arm_body(&mut self, count: u64) {
        let now = self.connection.member.connections().now();
        let (since, received) = self.body_since.unwrap_or((now, 0));
        self.body_since = Some((since, received + count));
        self.arm();
    }

    fn body_deadline(&self) -> Option<u64> {
        let limits = &self.connection.site.limits;
        let (since, received) = self.body_since.filter(|_| limits.body_rate > 0)?;
        Some(since + u64::from(limits.body_grace_ms) + received.saturating_mul(1000) / u64::from(limits.body_rate))
    }

    /// Arms the earlier of the two deadlines an exchange can have.
    fn arm(&self) {
        match [self.write_deadline, self.body_deadline()].into_iter().flatten().min() {
            Some(deadline) => self.connection.member.watch.arm(deadline),
            None => self.connection.member.watch.disarm(),
        }
    }

    fn persistence(&self, version: Version, wanted: bool) -> Persistence {
        let wanted = wanted && self.connection.member.watch.phase() == Phase::Run;
        match (version, wanted) {
            (_, false) => Persistence::Close,
            (Version::Http10, true) => Persistence::KeepAlive,
            (Version::Http11, true) => Persistence::Implied,
        }
    }

    fn write_error(&mut self, status: u16, reason: &str, is_head: bool) {
        let body = if reason.is_empty() { String::new() } else { format!("{reason}\n") };
        // These fields are tokens and plain text, which `Template::new` always takes.
        if let Ok(template) = Template::new(status, b"content-type\0text/plain; charset=utf-8") {
            let date = || self.connection.member.connections().date();
            let delimiter = Delimiter::Length(body.len() as u64);
            template.write(self.output.tail(), delimiter, Persistence::Close, &[], date);
            if !is_head {
                self.output.tail().extend_from_slice(body.as_bytes());
            }
        }
    }

    fn log(&self, text: &str) {
        self.connection.log(text);
    }
}
