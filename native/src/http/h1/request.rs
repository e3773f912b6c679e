//! From bytes to an open stream: the Head stage of a connection.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use super::exchange::{Answer, Exchanging, Offer};
use super::{BODY_TOO_LARGE, NEXT, OVER, READ, Session, Stage, Step};
use crate::connections::Phase;
use crate::exchange::Opening;
use crate::http::Transport;
use crate::http::attend::Share;
use crate::http::guard::{self, Body, Framing, Head, Rejection, Version};
use crate::http::heads::Persistence;
use crate::limits::{Limit, Limits};
use crate::record::{FLAG_END, FLAG_EXPECT, FLAG_UPGRADE, Protocol};

impl<S: Transport> Session<S> {
    pub(super) fn poll_head(&mut self, context: &mut Context<'_>) -> Step {
        loop {
            // An answer nobody takes leaves no room for the next, and a client that sends on and on waits for others.
            if self.has_request() && self.output.has_room() && !self.share.is_over() {
                self.fresh = false;
                let mut input = std::mem::take(&mut self.input);
                let taken = self.read_request(input.bytes(), context);
                if let Taken::Bytes(count) = taken {
                    input.consume(count);
                }
                self.input = input;
                match taken {
                    Taken::Nothing => self.await_rest(),
                    Taken::Blocked => {
                        self.fresh = true;
                        return Poll::Pending;
                    }
                    Taken::Bytes(_) => {
                        self.fresh = true;
                        self.share.piece();
                        return NEXT;
                    }
                }
            }
            let stalled = self.write_deadline.is_some();
            let flushed = self.poll_flush(context);
            if let Poll::Ready(Err(_)) = flushed {
                return OVER;
            }
            if stalled && self.write_deadline.is_none() && self.wanted == 0 {
                let limits = &self.connection.site.limits;
                self.connection.member.within(if self.begun { limits.head_ms } else { limits.idle_ms });
            }
            let watch = &self.connection.member.watch;
            if watch.fired() {
                let member = &self.connection.member;
                if !self.output.is_empty() {
                    member.count(Limit::WriteStallMs);
                    self.socket.cut();
                    return OVER;
                }
                if self.input.is_empty() || self.eof {
                    member.count(if self.served { Limit::IdleMs } else { Limit::DetectionMs });
                    return self.leave();
                }
                let limit = if self.wanted > 0 { Limit::BodyRate } else { Limit::HeadMs };
                self.refuse(Rejection::limited(408, "the request did not arrive in time", limit));
                return NEXT;
            }
            if flushed.is_pending() {
                return Poll::Pending;
            }
            if self.share.is_over() {
                Share::pass(context);
                return Poll::Pending;
            }
            if self.has_request() {
                continue;
            }
            // Half a head is no request yet; a body being collected is one in flight, until the deadline.
            if self.eof || (watch.phase() != Phase::Run && self.wanted == 0) {
                return self.leave();
            }
            match self.poll_read_request(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return OVER,
                Poll::Ready(Ok(true)) => return NEXT,
                Poll::Ready(Ok(false)) => {}
            }
        }
    }

    /// Whether what is here may be a request that the gate has not seen.
    fn has_request(&self) -> bool {
        self.fresh && !self.input.is_empty() && self.input.len() >= self.wanted
    }

    /// The beginning of a head is here: the rest has its time from now on, however it comes.
    fn await_rest(&mut self) {
        if self.wanted == 0 && !std::mem::replace(&mut self.begun, true) {
            self.connection.member.within(self.connection.site.limits.head_ms);
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
        self.share.bytes(bytes.len());
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
                self.await_rest();
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
                self.refuse(BODY_TOO_LARGE);
                return Taken::Bytes(input.len());
            }
            let whole = head.length as u64 + length;
            let collected = length <= u64::from(limits.inline_body_bytes) && !head.expect_continue;
            if collected && whole > input.len() as u64 {
                if self.eof {
                    self.refuse(Rejection::new(400, "the body is shorter than its content-length"));
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
            let persistence = self.persistence(head.version, head.keep_alive && !route.template.close);
            let date = || self.connection.member.connections().date();
            route.template.write(self.output.tail(), route.delimiter(), persistence, &site.alt_svc, date);
            if head.method == "GET" {
                self.output.push(route.body.clone());
            }
            self.after_answer(persistence != Persistence::Close, None);
            return Taken::Bytes(head.length);
        }
        self.begin(&head, input, context)
    }

    fn begin(&mut self, head: &Head<'_>, input: &[u8], context: &mut Context<'_>) -> Taken {
        let site = self.connection.site.clone();
        if self.share.poll_room(&site.exchange, context).is_pending() {
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
            flags: if whole { FLAG_END } else { 0 }
                | if expects { FLAG_EXPECT } else { 0 }
                | if head.upgrade { FLAG_UPGRADE } else { 0 },
            credit,
            window: site.limits.send_window,
            body: inline,
        };
        let Some(stream) = site.exchange.open(opening, context.waker(), |arena| write_head(arena, head, site.scheme()))
        else {
            self.refuse(Rejection::new(503, "too many streams are open"));
            return Taken::Bytes(input.len());
        };
        if body.is_done() && !whole {
            stream.push_end(body.trailers());
        }
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
            offer: head.upgrade.then(|| offer(head)),
        }));
        Taken::Bytes(consumed)
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
        return Err(BODY_TOO_LARGE);
    }
    Ok((used, gathered))
}

fn offer(head: &Head<'_>) -> Box<Offer> {
    let field = |name: &str| head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
    let value = |name| field(name).map(|field| field.value);
    // A list, the client's favourite first; what is switched to is named alone (RFC 9110 section 7.8).
    let first = value("upgrade").and_then(|all| all.split(|byte| *byte == b',').next()).unwrap_or_default();
    Box::new(Offer { protocol: first.trim_ascii().to_vec(), key: value("sec-websocket-key").map(<[u8]>::to_vec) })
}

/// Writes line and fields of OPEN into the arena; answers the line's length.
fn write_head(arena: &mut Vec<u8>, head: &Head<'_>, scheme: &str) -> usize {
    let start = arena.len();
    for (index, part) in [head.method, head.target, scheme, head.authority].into_iter().enumerate() {
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
