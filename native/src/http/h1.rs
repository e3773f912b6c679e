//! Serves HTTP/1.1 and 1.0 on one connection, from the gate, one request at a time and in order.
//!
//! A connection is in one of four stages; [`Session::poll`] runs the current one until it must wait:
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

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use super::guard::{self, Body, Framing, Head, Rejection, Version};
use super::heads::{self, Delimiter, Persistence, Template};
use super::input::Input;
use super::output::Output;
use super::{Connection, Transport};
use crate::connections::Phase;
use crate::exchange::{Opening, Order, Stream};
use crate::limits::Limits;
use crate::record::{Command, Event, FLAG_END, FLAG_EXPECT, Protocol, Reason};

/// One read takes at most this much; the room is on the stack, so an idle connection holds no buffer.
const READ: usize = 64 * 1024;
/// Input kept while a request is being answered; then the socket is left alone (pipelining is bounded).
const AHEAD: usize = 64 * 1024;
/// A rest of an unread body up to this size is read away to keep the connection.
const DISCARD: u64 = 64 * 1024;
/// How long and how much is read away before a close.
const LINGER_MS: u32 = 2_000;
const LINGER_BYTES: u64 = 1024 * 1024;
const BODY_TOO_LARGE: &str = "the body is larger than limit body_bytes";

/// Serves until the connection ends. `first` is what detection has read already.
pub async fn serve<S: Transport>(socket: S, first: Vec<u8>, connection: Connection) {
    let mut session = Session {
        socket,
        connection,
        input: first.into(),
        fresh: true,
        eof: false,
        output: Output::default(),
        stage: Stage::Head,
        wanted: 0,
        served: 0,
        body_since: None,
        write_deadline: None,
    };
    session.connection.member.within(session.connection.site.limits.detection_ms);
    poll_fn(|context| {
        if session.served == 0 {
            session.connection.member.watch.register(context.waker());
        }
        session.poll(context)
    })
    .await;
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
    served: u64,
    /// Since when, and how much of, a body is being read: the rate limit.
    body_since: Option<(u64, u64)>,
    write_deadline: Option<u64>,
}

enum Stage {
    Head,
    Exchange(Box<Exchanging>),
    Discard(Body),
    Linger { shut: bool, left: u64 },
}

/// One request being answered.
struct Exchanging {
    stream: Stream,
    body: Body,
    received: u64,
    version: Version,
    is_head: bool,
    expects: bool,
    persistent: bool,
    answer: Answer,
    unreported: usize,
}

/// How far the response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Awaited,
    Body(Delimiter, u64),
    Complete,
}

type Step = Poll<ControlFlow<()>>;
const NEXT: Step = Poll::Ready(ControlFlow::Continue(()));
const OVER: Step = Poll::Ready(ControlFlow::Break(()));

impl<S: Transport> Session<S> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
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
            };
            match step {
                Poll::Pending => return Poll::Pending,
                OVER => return Poll::Ready(()),
                NEXT => {}
            }
        }
    }

    fn poll_head(&mut self, context: &mut Context<'_>) -> Step {
        loop {
            if self.fresh && !self.input.is_empty() && self.input.len() >= self.wanted {
                self.fresh = false;
                let mut input = std::mem::take(&mut self.input);
                let taken = self.read_request(input.bytes(), context);
                if let Taken::Bytes(count) = taken {
                    input.consume(count);
                }
                self.input = input;
                match taken {
                    Taken::Nothing => {}
                    Taken::Blocked => {
                        self.fresh = true;
                        return Poll::Pending;
                    }
                    Taken::Bytes(_) => {
                        self.fresh = true;
                        return NEXT;
                    }
                }
            }
            let stalled = self.write_deadline.is_some();
            let flushed = self.poll_flush(context);
            if let Poll::Ready(Err(_)) = flushed {
                return OVER;
            }
            if stalled && self.write_deadline.is_none() {
                self.connection.member.within(self.connection.site.limits.idle_ms);
            }
            let watch = &self.connection.member.watch;
            if watch.fired() {
                if !self.output.is_empty() {
                    self.socket.cut();
                    return OVER;
                }
                if self.input.is_empty() || self.eof {
                    return OVER;
                }
                self.refuse(Rejection { status: 408, reason: "the request did not arrive in time" });
                return NEXT;
            }
            if flushed.is_pending() {
                return Poll::Pending;
            }
            // Half a head is no request yet; a body being collected is one in flight, until the deadline.
            if self.eof || (watch.phase() != Phase::Run && self.wanted == 0) {
                return OVER;
            }
            match self.poll_read_request(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return OVER,
                Poll::Ready(Ok(true)) => return NEXT,
                Poll::Ready(Ok(false)) => {}
            }
        }
    }

    /// Reads once; when nothing was kept before, the request is parsed from the stack and never copied.
    fn poll_read_request(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<bool>> {
        let mut room = [const { MaybeUninit::uninit() }; READ];
        let mut buffer = ReadBuf::uninit(&mut room);
        match Pin::new(&mut self.socket).poll_read(context, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(cause)) => return Poll::Ready(Err(cause)),
            Poll::Ready(Ok(())) => {}
        }
        let bytes = buffer.filled();
        if bytes.is_empty() {
            self.eof = true;
            return Poll::Ready(Ok(false));
        }
        if !self.input.is_empty() {
            self.input.extend(bytes);
            self.fresh = true;
            if self.wanted > 0 {
                self.arm_body(bytes.len() as u64);
            }
            return Poll::Ready(Ok(false));
        }
        match self.read_request(bytes, context) {
            Taken::Bytes(count) => {
                self.input.extend(&bytes[count..]);
                self.fresh = true;
                Poll::Ready(Ok(true))
            }
            taken => {
                self.input.extend(bytes);
                self.fresh = matches!(taken, Taken::Blocked);
                if self.wanted == 0 {
                    self.connection.member.within(self.connection.site.limits.head_ms);
                }
                if self.fresh { Poll::Pending } else { Poll::Ready(Ok(false)) }
            }
        }
    }

    /// Lets the gate read one request from the front of `input` and begins its exchange.
    fn read_request(&mut self, input: &[u8], context: &mut Context<'_>) -> Taken {
        let mut storage = [const { MaybeUninit::uninit() }; 256];
        let head = match guard::read_head(input, &self.connection.site.limits, &mut storage) {
            Ok(Some(head)) => head,
            Ok(None) => return Taken::Nothing,
            Err(rejection) => {
                self.refuse(rejection);
                return Taken::Bytes(input.len());
            }
        };
        let site = self.connection.site.clone();
        let limits = &site.limits;
        if let Framing::Length(length) = head.framing {
            if limits.body_bytes > 0 && length > limits.body_bytes {
                self.refuse(Rejection { status: 413, reason: BODY_TOO_LARGE });
                return Taken::Bytes(input.len());
            }
            let whole = head.length as u64 + length;
            let collected = length <= u64::from(limits.inline_body_bytes) && !head.expect_continue;
            if collected && whole > input.len() as u64 {
                if self.eof {
                    self.refuse(Rejection { status: 400, reason: "the body is shorter than its content-length" });
                    return Taken::Bytes(input.len());
                }
                if self.wanted == 0 {
                    self.arm_body((input.len() - head.length) as u64);
                }
                // `whole` is bounded by the head's and the inline body's limits here.
                self.wanted = whole as usize;
                return Taken::Nothing;
            }
        }
        if head.framing == Framing::None
            && let Some(route) = site.routes.find(head.method, head.target)
        {
            let persistence = self.persistence(head.version, head.keep_alive);
            let date = || self.connection.member.connections().date();
            route.template.write(&mut self.output.buffer, route.delimiter(), persistence, date);
            if head.method == "GET" {
                // Not `push`: several pipelined answers may be waiting, and constants are small.
                self.output.buffer.extend_from_slice(&route.body);
            }
            self.after_answer(persistence != Persistence::Close, None);
            return Taken::Bytes(head.length);
        }
        self.begin(&head, input, context)
    }

    fn begin(&mut self, head: &Head<'_>, input: &[u8], context: &mut Context<'_>) -> Taken {
        let site = self.connection.site.clone();
        if site.exchange.poll_ready(context).is_pending() {
            return Taken::Blocked;
        }
        let limits = &site.limits;
        let mut body = Body::new(head.framing, limits);
        let mut gathered = Vec::new();
        let (consumed, inline) = match take_inline(&mut body, head, input, limits, &mut gathered) {
            Ok((taken, inline)) => (head.length + taken, inline),
            Err(rejection) => {
                self.refuse(rejection);
                return Taken::Bytes(input.len());
            }
        };
        let whole = body.is_done() && body.trailers().is_empty();
        self.connection.announce();
        let protocol = if head.version == Version::Http11 { Protocol::Http11 } else { Protocol::Http10 };
        let expects = head.expect_continue && !body.is_done() && inline.is_empty();
        let credit = if expects { 0 } else { site.limits.receive_window.saturating_sub(inline.len() as u32) };
        let opening = Opening {
            parent: self.connection.member.id(),
            protocol,
            flags: if whole { FLAG_END } else { 0 } | if expects { FLAG_EXPECT } else { 0 },
            credit,
            window: site.limits.send_window,
            body: inline,
        };
        let Some(stream) = site.exchange.open(opening, context.waker(), |arena| write_head(arena, head)) else {
            self.refuse(Rejection { status: 503, reason: "too many streams are open" });
            return Taken::Bytes(input.len());
        };
        if body.is_done() && !whole {
            stream.push_end(body.trailers());
        }
        self.served += 1;
        self.wanted = 0;
        self.body_since = None;
        self.connection.member.watch.disarm();
        self.stage = Stage::Exchange(Box::new(Exchanging {
            stream,
            body,
            received: inline.len() as u64,
            version: head.version,
            is_head: head.method == "HEAD",
            expects,
            persistent: head.keep_alive,
            answer: Answer::Awaited,
            unreported: 0,
        }));
        Taken::Bytes(consumed)
    }

    fn poll_exchange(&mut self, mut exchanging: Box<Exchanging>, context: &mut Context<'_>) -> Step {
        let now = &mut *exchanging;
        if self.connection.member.watch.fired() && self.overdue(now) {
            return self.late(exchanging);
        }
        loop {
            while now.answer != Answer::Complete && self.output.has_room() {
                match now.stream.poll_order(context) {
                    Poll::Pending => break,
                    Poll::Ready(Some(order)) => {
                        if let Err(reason) = self.obey(now, order) {
                            now.stream.fail(reason);
                            self.socket.cut();
                            return OVER;
                        }
                    }
                    Poll::Ready(None) => {
                        self.socket.cut();
                        return OVER;
                    }
                }
            }
            if now.expects && now.stream.credit() > 0 && now.answer == Answer::Awaited {
                now.expects = false;
                self.output.buffer.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            }
            // Orders left for want of room have no waker: they are looked at again as soon as there is some.
            let full = !self.output.has_room();
            match self.poll_flush(context) {
                Poll::Ready(Ok(())) => {
                    now.stream.sent(std::mem::take(&mut now.unreported));
                    if now.answer == Answer::Complete {
                        let persistent = now.persistent;
                        let body = std::mem::replace(&mut now.body, Body::new(Framing::None, &self.connection.site.limits));
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
                    return self.break_off(exchanging, reason, rejection);
                }
            }
        }
    }

    /// Moves body bytes to the host within its credit, and keeps an eye on the socket otherwise.
    /// True when something moved, so that another round may find more to do.
    fn poll_body(&mut self, now: &mut Exchanging, context: &mut Context<'_>) -> Result<bool, Halt> {
        let mut moved = false;
        if !now.body.is_done() && now.stream.is_live() {
            if self.connection.site.exchange.poll_ready(context).is_pending() {
                return Ok(false);
            }
            let mut input = std::mem::take(&mut self.input);
            let fed = self.feed(now, input.bytes());
            if let Ok(count) = fed {
                input.consume(count);
                moved = count > 0;
            }
            self.input = input;
            fed.map_err(Halt::Refused)?;
        }
        let reading_body = !now.body.is_done() && now.stream.is_live();
        if reading_body && (now.expects || now.stream.credit() == 0) {
            // Not the peer's turn: its rate does not count while the host makes it wait.
            if self.body_since.take().is_some() {
                self.arm();
            }
            return Ok(moved);
        }
        if self.eof {
            let reason = "the connection closed in the middle of the body";
            return if reading_body { Err(Halt::Refused(Rejection { status: 400, reason })) } else { Ok(moved) };
        }
        if !reading_body && self.input.len() >= AHEAD {
            return Ok(moved);
        }
        if reading_body && self.body_since.is_none() {
            self.arm_body(0);
        }
        let mut room = [const { MaybeUninit::uninit() }; READ];
        let mut buffer = ReadBuf::uninit(&mut room);
        match Pin::new(&mut self.socket).poll_read(context, &mut buffer) {
            Poll::Pending => return Ok(moved),
            Poll::Ready(Err(_)) => return Err(Halt::Gone),
            Poll::Ready(Ok(())) => {}
        }
        let bytes = buffer.filled();
        self.eof |= bytes.is_empty();
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

    /// Tells the host body bytes from the front of `bytes` while it has credit; answers how many were used.
    ///
    /// The last piece may pass the credit by less than one read: a chunk line cut by it could never be understood.
    fn feed(&mut self, now: &mut Exchanging, bytes: &[u8]) -> Result<usize, Rejection> {
        let limit = self.connection.site.limits.body_bytes;
        let mut used = 0;
        while used < bytes.len() && !now.body.is_done() && now.stream.credit() > 0 {
            let decoded = now.body.decode(&bytes[used..])?;
            let (consumed, done, data) = (decoded.consumed, decoded.done, decoded.data);
            now.received += data.len() as u64;
            if limit > 0 && now.received > limit {
                return Err(Rejection { status: 413, reason: BODY_TOO_LARGE });
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
            if consumed == 0 {
                break;
            }
            used += consumed;
        }
        Ok(used)
    }

    fn obey(&mut self, now: &mut Exchanging, order: Order) -> Result<(), Reason> {
        match order.command {
            Command::Head if now.answer == Answer::Awaited => self.answer(now, order),
            Command::Inform if now.answer == Answer::Awaited => {
                if now.version == Version::Http11
                    && let Err(text) = heads::write_interim(&mut self.output.buffer, order.code, &order.head)
                {
                    self.log(&format!("an interim response was left out: {text}"));
                }
                Ok(())
            }
            Command::Data | Command::End => {
                let Answer::Body(delimiter, left) = now.answer else {
                    self.log("the host sent a body before its head; the stream is reset");
                    return Err(Reason::Internal);
                };
                self.answer_body(now, delimiter, left, order)
            }
            Command::Reset => Err(Reason::from_number(order.code)),
            Command::Head | Command::Inform | Command::Credit => {
                self.log("the host sent a second head; the stream is reset");
                Err(Reason::Internal)
            }
        }
    }

    fn answer(&mut self, now: &mut Exchanging, order: Order) -> Result<(), Reason> {
        let site = self.connection.site.clone();
        let template = match site.heads.template(order.code, &order.head) {
            Ok(template) => template,
            Err(text) => {
                self.log(&format!("a response head was refused and the client got 500: {text}"));
                self.write_error(500, "", now.is_head);
                now.persistent = false;
                now.answer = Answer::Complete;
                return Ok(());
            }
        };
        let delimiter = delimiter(&template, &order, now);
        let silent = now.is_head || template.is_bodiless();
        if let (Delimiter::Length(length), true) = (delimiter, order.end && !silent)
            && length != order.body.len() as u64
        {
            self.log(&format!("content-length is {length}, the body has {} bytes; the stream is reset", order.body.len()));
            return Err(Reason::Internal);
        }
        let unread = !now.body.is_done() && (now.expects || now.body.remaining().is_none_or(|left| left > DISCARD));
        now.persistent &= !template.close && !unread && delimiter != Delimiter::Close;
        let persistence = self.persistence(now.version, now.persistent);
        now.persistent = persistence != Persistence::Close;
        let date = || self.connection.member.connections().date();
        template.write(&mut self.output.buffer, delimiter, persistence, date);
        if order.end {
            now.answer = Answer::Complete;
            if silent {
                return Ok(());
            }
            match delimiter {
                Delimiter::Chunked => {
                    self.output.push_chunk(order.body);
                    // Only a streamed answer is chunked, and it ends with its own END.
                }
                _ => self.output.push(order.body),
            }
            return Ok(());
        }
        now.answer = Answer::Body(if silent { Delimiter::Nothing } else { delimiter }, match delimiter {
            Delimiter::Length(length) => length,
            _ => u64::MAX,
        });
        if order.body.is_empty() {
            return Ok(());
        }
        let Answer::Body(delimiter, left) = now.answer else { return Ok(()) };
        self.answer_body(now, delimiter, left, Order { command: Command::Data, ..order })
    }

    fn answer_body(&mut self, now: &mut Exchanging, delimiter: Delimiter, left: u64, order: Order) -> Result<(), Reason> {
        let size = order.body.len() as u64;
        let (end, trailers) = (order.end, order.head);
        if delimiter == Delimiter::Nothing {
            now.stream.sent(order.body.len());
        } else {
            if size > left || (end && matches!(delimiter, Delimiter::Length(_)) && size < left) {
                self.log(&format!("the response body has not the length its head says ({left} bytes were left, {size} came)"));
                return Err(Reason::Internal);
            }
            now.unreported += order.body.len();
            match delimiter {
                Delimiter::Chunked => self.output.push_chunk(order.body),
                _ => self.output.push(order.body),
            }
        }
        now.answer = if end { Answer::Complete } else { Answer::Body(delimiter, left.saturating_sub(size)) };
        if end && delimiter == Delimiter::Chunked {
            self.end_chunks(&trailers);
        }
        Ok(())
    }

    fn end_chunks(&mut self, trailers: &[u8]) {
        let last = self.output.tail();
        last.extend_from_slice(b"0\r\n");
        let before = last.len();
        let refused = heads::write_fields(last, trailers).err();
        if refused.is_some() {
            last.truncate(before);
        }
        last.extend_from_slice(b"\r\n");
        if let Some(text) = refused {
            self.log(&format!("trailers were left out: {text}"));
        }
    }

    /// What comes after a whole response: the next request, the rest of this one's body, or the end.
    fn after_answer(&mut self, persistent: bool, body: Option<Body>) {
        let limits = &self.connection.site.limits;
        self.fresh = true;
        self.wanted = 0;
        self.body_since = None;
        self.write_deadline = None;
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
                return OVER;
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
        self.write_error(rejection.status, rejection.reason, false);
        self.input.clear();
        self.after_answer(false, None);
        if let Stage::Linger { left, .. } = &mut self.stage {
            *left = LINGER_BYTES;
        }
    }

    /// The request went wrong after the host was told: tell it, and the client too if nothing was answered yet.
    fn break_off(&mut self, exchanging: Box<Exchanging>, reason: Reason, rejection: Rejection) -> Step {
        let Exchanging { mut stream, answer, .. } = *exchanging;
        stream.fail(reason);
        if answer == Answer::Awaited {
            self.refuse(rejection);
            return NEXT;
        }
        self.socket.cut();
        OVER
    }

    fn late(&mut self, mut exchanging: Box<Exchanging>) -> Step {
        if self.write_deadline.is_some() && !self.output.is_empty() {
            exchanging.stream.fail(Reason::Timeout);
            self.socket.cut();
            return OVER;
        }
        let reason = "the body came slower than limit body_rate";
        self.break_off(exchanging, Reason::Timeout, Rejection { status: 408, reason })
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

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut progress = 0;
        let flushed = self.output.poll_flush(&mut self.socket, context, &mut progress);
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
            template.write(&mut self.output.buffer, delimiter, Persistence::Close, date);
            if !is_head {
                self.output.buffer.extend_from_slice(body.as_bytes());
            }
        }
    }

    fn log(&self, text: &str) {
        self.connection.site.exchange.announce(Event::Log, 0, self.connection.site.listener, 40, 0, text.as_bytes());
    }
}

enum Taken {
    /// More input is needed.
    Nothing,
    /// The host's queue is full; the task is woken when it has room.
    Blocked,
    /// This much of the input; the stage has changed or an answer was written.
    Bytes(usize),
}

enum Halt {
    Gone,
    Refused(Rejection),
}

fn delimiter(template: &Template, order: &Order, now: &Exchanging) -> Delimiter {
    if matches!(template.status, 204 | 100..=199) {
        return Delimiter::Nothing;
    }
    if template.status == 205 {
        return Delimiter::Length(0);
    }
    if now.is_head || template.status == 304 {
        // What a GET would have said (RFC 9110 section 8.6), if the host knows.
        let known = template.length.or((order.end && !order.body.is_empty()).then_some(order.body.len() as u64));
        return known.map_or(Delimiter::Nothing, Delimiter::Length);
    }
    match template.length {
        Some(length) => Delimiter::Length(length),
        None if order.end => Delimiter::Length(order.body.len() as u64),
        None if now.version == Version::Http11 => Delimiter::Chunked,
        None => Delimiter::Close,
    }
}

/// Takes what is here of the body, up to the inline limit. A body of known length is taken only whole or from where it lies;
/// small chunks are gathered.
fn take_inline<'i>(
    body: &mut Body,
    head: &Head<'_>,
    input: &'i [u8],
    limits: &Limits,
    gathered: &'i mut Vec<u8>,
) -> Result<(usize, &'i [u8]), Rejection> {
    let rest = &input[head.length..];
    let room = limits.inline_body_bytes as usize;
    if head.framing != Framing::Chunked {
        let here = &rest[..rest.len().min(room)];
        let decoded = body.decode(here)?;
        return Ok((decoded.consumed, decoded.data));
    }
    let mut used = 0;
    while gathered.len() < room && !body.is_done() {
        let decoded = body.decode(&rest[used..])?;
        used += decoded.consumed;
        gathered.extend_from_slice(decoded.data);
        if decoded.consumed == 0 {
            break;
        }
    }
    if limits.body_bytes > 0 && gathered.len() as u64 > limits.body_bytes {
        return Err(Rejection { status: 413, reason: BODY_TOO_LARGE });
    }
    Ok((used, gathered))
}

/// Writes line and fields of OPEN into the arena; answers the line's length.
fn write_head(arena: &mut Vec<u8>, head: &Head<'_>) -> usize {
    let start = arena.len();
    for (index, part) in [head.method, head.target, "http", head.authority].into_iter().enumerate() {
        if index > 0 {
            arena.push(0);
        }
        arena.extend_from_slice(part.as_bytes());
    }
    let line = arena.len() - start;
    for (index, field) in head.headers.iter().enumerate() {
        if index > 0 {
            arena.push(0);
        }
        let at = arena.len();
        arena.extend_from_slice(field.name.as_bytes());
        arena[at..].make_ascii_lowercase();
        arena.push(0);
        arena.extend_from_slice(field.value);
    }
    line
}
