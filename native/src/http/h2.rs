//! Serves HTTP/2 through hyper: each request is a stream of the exchange, flow control is coupled at both ends.
//!
//! Reading: a frame is taken from hyper, which returns its window to the peer, only while the host has credit. Writing: hyper
//! asks for the next piece only when the peer's window is open; a piece counts as sent when h2 lets go of it.

mod body;
mod prefixed;
mod tunnel;

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use self::body::Outgoing;
use self::prefixed::Prefixed;
use self::tunnel::Tunnel;
use super::guard;
use super::input::Input;
use super::message::{Head, Pace, Plan, Refusal, SLOW, TOO_LARGE, TOO_MANY, fields, joined};
use super::output::Output;
use super::upgrade::{Channel, Mode};
use super::{Connection, Transport};
use crate::connections::Phase;
use crate::exchange::{Inlet, Opening, Order, Stream};
use crate::limits::Limit;
use crate::record::{Command, FLAG_END, FLAG_UPGRADE, Protocol, Reason};

/// What the streams of one connection share with its task.
#[derive(Debug)]
struct Shared {
    connection: Connection,
    streams: AtomicU64,
    /// Bytes h2 holds because the peer has not taken them.
    held: AtomicU64,
    /// Pieces the peer has taken.
    taken: AtomicU64,
}

/// Serves until the connection ends. `first` is what detection has read already.
pub async fn serve<S: Transport>(socket: S, first: Vec<u8>, mut connection: Connection) {
    connection.announce();
    let limits = connection.site.limits;
    let shared =
        Arc::new(Shared { connection, streams: AtomicU64::new(0), held: AtomicU64::new(0), taken: AtomicU64::new(0) });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .enable_connect_protocol()
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(limits.h2_header_list_bytes)
        .initial_stream_window_size(limits.h2_window)
        .initial_connection_window_size(limits.h2_window)
        .max_frame_size(limits.h2_frame_bytes)
        .max_pending_accept_reset_streams(limits.h2_pending_resets as usize)
        .max_send_buf_size(limits.send_window as usize);
    if limits.h2_ping_ms > 0 {
        let interval = Duration::from_millis(limits.h2_ping_ms.into());
        builder.keep_alive_interval(interval).keep_alive_timeout(interval);
    }
    let of_service = shared.clone();
    let service = service_fn(move |request| answer(of_service.clone(), request));
    let io = TokioIo::new(Prefixed { first: first.into(), socket });
    let mut served = pin!(builder.serve_connection(io, service));
    let watch = &shared.connection.member.watch;
    let mut timer = Timer { draining: false, quiet: None, taken: 0 };
    let mut registered = false;
    poll_fn(|context| {
        if !std::mem::replace(&mut registered, true) {
            watch.register(context.waker());
        }
        match timer.look(&shared) {
            Verdict::Serve => {}
            Verdict::Drain => served.as_mut().graceful_shutdown(),
            Verdict::End => return Poll::Ready(()),
        }
        // An error here is the peer's or the transport's; its streams have been reset by now.
        match served.as_mut().poll(context) {
            Poll::Ready(Err(cause)) => {
                if let Some(limit) = passed(&cause) {
                    shared.connection.member.count(limit);
                }
                return Poll::Ready(());
            }
            Poll::Ready(Ok(())) => return Poll::Ready(()),
            Poll::Pending => {}
        }
        timer.arm(&shared);
        Poll::Pending
    })
    .await;
}

/// The limit whose passing ended the connection, if one did.
fn passed(cause: &hyper::Error) -> Option<Limit> {
    if cause.is_timeout() {
        return Some(Limit::H2PingMs);
    }
    let mut source = std::error::Error::source(cause);
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<h2::Error>() {
            let calm = cause.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
            return (calm && cause.is_library()).then_some(Limit::H2PendingResets);
        }
        source = cause.source();
    }
    None
}

/// Idle and write-stall deadlines of one connection.
struct Timer {
    draining: bool,
    /// Whether the deadline that runs is the idle one; `None` before the first.
    quiet: Option<bool>,
    taken: u64,
}

enum Verdict {
    Serve,
    Drain,
    End,
}

impl Timer {
    fn look(&mut self, shared: &Shared) -> Verdict {
        let watch = &shared.connection.member.watch;
        if watch.phase() == Phase::Kill {
            return Verdict::End;
        }
        let mut drain = watch.phase() == Phase::Drain;
        if watch.fired() {
            let idle = shared.streams.load(Ordering::Relaxed) == 0 && shared.held.load(Ordering::Relaxed) == 0;
            let stalled = shared.held.load(Ordering::Relaxed) > 0 && shared.taken.load(Ordering::Relaxed) == self.taken;
            if stalled {
                shared.connection.member.count(Limit::WriteStallMs);
            } else if idle && !self.draining {
                shared.connection.member.count(Limit::IdleMs);
            }
            if stalled || (idle && self.draining) {
                // A peer that keeps its windows shut holds our memory on every stream: end the connection.
                return Verdict::End;
            }
            drain |= idle;
            self.quiet = None;
        }
        if drain && !std::mem::replace(&mut self.draining, true) { Verdict::Drain } else { Verdict::Serve }
    }

    fn arm(&mut self, shared: &Shared) {
        let limits = &shared.connection.site.limits;
        let taken = shared.taken.load(Ordering::Relaxed);
        let quiet = shared.streams.load(Ordering::Relaxed) == 0 && shared.held.load(Ordering::Relaxed) == 0;
        if self.quiet == Some(quiet) && (quiet || taken == self.taken) {
            return;
        }
        self.quiet = Some(quiet);
        self.taken = taken;
        shared.connection.member.within(if quiet { limits.idle_ms } else { limits.write_stall_ms });
    }
}

/// One stream in `streams`, for as long as it lives.
#[derive(Debug)]
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: Arc<Shared>) -> Counted {
        shared.streams.fetch_add(1, Ordering::Relaxed);
        Counted(shared)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The stream is reset with INTERNAL_ERROR: what hyper makes of any error of ours (RFC 9113 section 8.1).
#[derive(Debug)]
struct Abandoned;

impl fmt::Display for Abandoned {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the stream was given up")
    }
}

impl std::error::Error for Abandoned {}

async fn answer(shared: Arc<Shared>, mut request: Request<Incoming>) -> Result<Response<Outgoing>, Abandoned> {
    let counted = Counted::new(shared.clone());
    let protocol = request.extensions().get::<hyper::ext::Protocol>().cloned();
    let upgrade = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
    let (parts, mut incoming) = request.into_parts();
    let site = shared.connection.site.clone();
    let head = match Head::read(&parts, protocol.as_ref().map(|protocol| protocol.as_str()), &site.limits) {
        Ok(head) => head,
        Err(refusal) => {
            shared.connection.count_refusal(refusal);
            return Ok(refuse(refusal, counted));
        }
    };
    if incoming.is_end_stream()
        && let Some(route) = site.routes.find(parts.method.as_str(), head.target)
    {
        let (mut plan, body) = Plan::constant(route, &parts.method);
        plan.advertise(&site);
        return Ok(assemble(plan, Outgoing::fixed(body, counted)));
    }
    poll_fn(|context| site.exchange.poll_ready(context)).await;
    let mut body = Vec::new();
    let mut pace = Pace::new(&site.limits);
    if head.length.is_some_and(|length| length <= u64::from(site.limits.inline_body_bytes)) {
        loop {
            let Some(frame) = pace.next(next_frame(&mut incoming)).await else {
                shared.connection.count_refusal(SLOW);
                return Ok(refuse(SLOW, counted));
            };
            let Some(frame) = frame else { break };
            match frame.map_err(|_| Abandoned)?.into_data() {
                Ok(data) => {
                    pace.received(data.len());
                    body.extend_from_slice(&data);
                }
                Err(_) => break,
            }
        }
    }
    // What comes on the stream of an extended CONNECT is the other protocol's.
    let whole = incoming.is_end_stream() || upgrade.is_some();
    let opening = Opening {
        parent: shared.connection.member.id(),
        protocol: Protocol::Http2,
        flags: if whole { FLAG_END } else { 0 } | if upgrade.is_some() { FLAG_UPGRADE } else { 0 },
        credit: site.limits.receive_window,
        window: site.limits.send_window,
        body: &body,
    };
    let fill = |arena: &mut Vec<u8>| head.write(&parts, site.scheme(), arena);
    let waker = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
    let Some(mut stream) = site.exchange.open(opening, &waker, fill) else {
        return Ok(refuse(TOO_MANY, counted));
    };
    if !whole {
        tokio::spawn(upload(incoming, stream.inlet(), pace, site.limits.body_bytes));
    }
    loop {
        let order = poll_fn(|context| stream.poll_order(context)).await.ok_or(Abandoned)?;
        match order.command {
            Command::Head => return respond(order, stream, &parts.method, counted),
            Command::Upgrade => return Ok(switch(&order, stream, upgrade, counted)),
            // hyper cannot send interim responses over HTTP/2; they are optional for the client (RFC 9110 section 15.2).
            Command::Inform => {}
            Command::Reset => {
                let refusal = match Reason::from_number(order.code) {
                    Reason::Limit => TOO_LARGE,
                    Reason::Timeout => SLOW,
                    _ => return Err(Abandoned),
                };
                shared.connection.count_refusal(refusal);
                return Ok(refuse(refusal, counted));
            }
            Command::Data | Command::End | Command::Ping | Command::Credit => return Err(Abandoned),
        }
    }
}

fn respond(order: Order, stream: Stream, method: &Method, counted: Counted) -> Result<Response<Outgoing>, Abandoned> {
    let site = counted.0.connection.site.clone();
    let mut plan = match Plan::of(&order, method) {
        Ok(plan) => plan,
        Err(text) => return Ok(failed(&format!("a response was refused and the client got 500: {text}"), counted)),
    };
    plan.advertise(&site);
    let mut body = Outgoing {
        first: Some(order.body).filter(|body| !plan.silent && !body.is_empty()),
        end: order.end,
        left: plan.left,
        silent: plan.silent,
        id: stream.id(),
        stream: Some(stream),
        counted,
    };
    let first = body.first.as_ref().map_or(0, Bytes::len) as u64;
    body.count(first, false)?;
    Ok(assemble(plan, body))
}

/// Accepts an extended CONNECT (RFC 8441 section 5): the stream goes on as a tunnel, in a task of its own.
fn switch(order: &Order, mut stream: Stream, upgrade: Option<OnUpgrade>, counted: Counted) -> Response<Outgoing> {
    let Some(upgrade) = upgrade else {
        stream.fail(Reason::Internal);
        return failed("the host accepts an upgrade that the client has not offered", counted);
    };
    let mut plan = match fields(&order.head) {
        Ok(fields) => Plan { status: StatusCode::OK, fields, silent: true, left: None },
        Err(text) => {
            stream.fail(Reason::Internal);
            return failed(&format!("an upgrade was refused and the client got 500: {text}"), counted);
        }
    };
    plan.fields.remove(CONTENT_LENGTH);
    let (shared, mode) = (counted.0.clone(), Mode::of(order.flags));
    let answered = Counted::new(shared.clone());
    tokio::spawn(async move {
        // Without it the client has reset the stream; dropping ours tells the host.
        let Ok(upgraded) = upgrade.await else { return };
        let site = shared.connection.site.clone();
        let member = shared.connection.member.branch(site.exchange.name());
        let tunnel = Tunnel(TokioIo::new(upgraded));
        let body = guard::Body::new(guard::Framing::None, &site.limits);
        let (input, output) = (Input::default(), Output::default());
        Channel::new(tunnel, input, output, stream, &member, &site).serve(mode, body).await;
        drop(counted);
    });
    assemble(plan, Outgoing::fixed(Bytes::new(), answered))
}

fn failed(text: &str, counted: Counted) -> Response<Outgoing> {
    counted.0.connection.log(text);
    refuse((StatusCode::INTERNAL_SERVER_ERROR, ""), counted)
}

fn refuse(refusal: Refusal, counted: Counted) -> Response<Outgoing> {
    let (plan, body) = Plan::refusal(refusal);
    assemble(plan, Outgoing::fixed(body, counted))
}

fn assemble(plan: Plan, body: Outgoing) -> Response<Outgoing> {
    let mut response = Response::new(body);
    *response.status_mut() = plan.status;
    *response.headers_mut() = plan.fields;
    response
}

/// Feeds the request body to the host within its credit, and holds the peer to the body rate meanwhile.
async fn upload(mut incoming: Incoming, inlet: Inlet, mut pace: Pace, limit: u64) {
    let mut received = 0;
    loop {
        let begun = Instant::now();
        let credit = poll_fn(|context| match inlet.exchange().poll_ready(context) {
            Poll::Ready(()) => inlet.poll_credit(context),
            Poll::Pending => Poll::Pending,
        });
        if credit.await.is_none() {
            return;
        }
        pace.pause(begun.elapsed());
        match pace.next(next_frame(&mut incoming)).await {
            None => return inlet.fail(Reason::Timeout),
            // The responder is dropped by hyper when the stream was reset, and tells the host.
            Some(Some(Err(_))) => return inlet.fail(Reason::Gone),
            Some(None) => return inlet.push_end(&[]),
            Some(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    pace.received(data.len());
                    received += data.len() as u64;
                    if limit > 0 && received > limit {
                        return inlet.fail(Reason::Limit);
                    }
                    inlet.push(&data, false);
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return inlet.push_end(&joined(&trailers));
                }
            },
        }
    }
}

async fn next_frame(incoming: &mut Incoming) -> Option<hyper::Result<Frame<Bytes>>> {
    poll_fn(|context| Pin::new(&mut *incoming).poll_frame(context)).await
}
