//! Serves HTTP/2 through hyper: each request is a stream of the exchange, flow control is coupled at both ends.
//!
//! Reading: a frame is taken from hyper, which returns its window to the peer, only while the host has credit. Writing: hyper
//! asks for the next piece only when the peer's window is open; a piece counts as sent when h2 lets go of it.

mod body;
mod prefixed;

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, COOKIE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, request};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use self::body::Outgoing;
use self::prefixed::Prefixed;
use super::guard::is_authority;
use super::heads::{is_hop_by_hop, pairs, parse_length};
use super::routes::Route;
use super::{Connection, Transport};
use crate::connections::Phase;
use crate::exchange::{Inlet, Opening, Order, Stream};
use crate::record::{Command, Event, FLAG_END, Protocol, Reason};

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
        let over = served.as_mut().poll(context).is_ready();
        timer.arm(&shared);
        if over { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
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

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Outgoing>, Abandoned> {
    let counted = Counted::new(shared.clone());
    let (parts, mut incoming) = request.into_parts();
    let site = shared.connection.site.clone();
    let head = match Head::read(&parts, &shared) {
        Ok(head) => head,
        Err((status, reason)) => return Ok(plain(status, reason, counted)),
    };
    if incoming.is_end_stream()
        && let Some(route) = site.routes.find(parts.method.as_str(), head.target)
    {
        return Ok(constant(route, &parts.method, counted));
    }
    poll_fn(|context| site.exchange.poll_ready(context)).await;
    let mut body = Vec::new();
    if head.length.is_some_and(|length| length <= u64::from(site.limits.inline_body_bytes)) {
        while let Some(frame) = next_frame(&mut incoming).await {
            match frame.map_err(|_| Abandoned)?.into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(_) => break,
            }
        }
    }
    let whole = incoming.is_end_stream();
    let opening = Opening {
        parent: shared.connection.member.id(),
        protocol: Protocol::Http2,
        flags: if whole { FLAG_END } else { 0 },
        credit: site.limits.receive_window,
        window: site.limits.send_window,
        body: &body,
    };
    let fill = |arena: &mut Vec<u8>| head.write(&parts, arena);
    let waker = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
    let Some(mut stream) = site.exchange.open(opening, &waker, fill) else {
        return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, "too many streams are open", counted));
    };
    if !whole {
        tokio::spawn(upload(incoming, stream.inlet(), site.limits.body_bytes));
    }
    loop {
        let order = poll_fn(|context| stream.poll_order(context)).await.ok_or(Abandoned)?;
        match order.command {
            Command::Head => return respond(order, stream, &parts.method, counted),
            // hyper cannot send interim responses over HTTP/2; they are optional for the client (RFC 9110 section 15.2).
            Command::Inform => {}
            Command::Reset if Reason::from_number(order.code) == Reason::Limit => {
                return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than limit body_bytes", counted));
            }
            Command::Data | Command::End | Command::Reset | Command::Credit => return Err(Abandoned),
        }
    }
}

/// What the exchange needs of a request head.
struct Head<'p> {
    target: &'p str,
    authority: &'p str,
    length: Option<u64>,
}

impl<'p> Head<'p> {
    fn read(parts: &'p request::Parts, shared: &Shared) -> Result<Head<'p>, (StatusCode, &'static str)> {
        let limits = &shared.connection.site.limits;
        if parts.method == Method::CONNECT {
            return Err((StatusCode::NOT_IMPLEMENTED, "CONNECT is not implemented here"));
        }
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        if target.len() > limits.uri_bytes as usize {
            return Err((StatusCode::URI_TOO_LONG, "the target is longer than limit uri_bytes"));
        }
        if parts.headers.len() > limits.header_fields as usize {
            let reason = "more fields than limit header_fields";
            return Err((StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, reason));
        }
        // ":authority" wins over host (RFC 9113 section 8.3.1); one of the two must be there.
        let mut hosts = parts.headers.get_all(HOST).iter();
        let host = hosts.next();
        let authority = match (parts.uri.authority(), host) {
            (Some(authority), _) => authority.as_str(),
            (None, Some(host)) => host.to_str().unwrap_or(""),
            (None, None) => "",
        };
        if hosts.next().is_some() || !is_authority(authority.as_bytes()) {
            return Err((StatusCode::BAD_REQUEST, ":authority or a single valid host is needed"));
        }
        let length = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if limits.body_bytes > 0 && length.is_some_and(|length: u64| length > limits.body_bytes) {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than limit body_bytes"));
        }
        Ok(Head { target, authority, length })
    }

    /// Writes line and fields of OPEN into the arena; answers the line's length.
    fn write(&self, parts: &request::Parts, arena: &mut Vec<u8>) -> usize {
        let start = arena.len();
        let scheme = parts.uri.scheme_str().unwrap_or("http");
        arena.extend_from_slice([parts.method.as_str(), self.target, scheme, self.authority].join("\0").as_bytes());
        let line = arena.len() - start;
        arena.extend_from_slice(b"host\0");
        arena.extend_from_slice(self.authority.as_bytes());
        for (name, value) in parts.headers.iter().filter(|(name, _)| **name != HOST && **name != COOKIE) {
            for part in [name.as_str().as_bytes(), value.as_bytes()] {
                arena.push(0);
                arena.extend_from_slice(part);
            }
        }
        // Crumbs of one cookie field (RFC 9113 section 8.2.3).
        for (index, crumb) in parts.headers.get_all(COOKIE).iter().enumerate() {
            arena.extend_from_slice(if index == 0 { b"\0cookie\0" } else { b"; " });
            arena.extend_from_slice(crumb.as_bytes());
        }
        line
    }
}

/// Feeds the request body to the host within its credit.
async fn upload(mut incoming: Incoming, inlet: Inlet, limit: u64) {
    let mut received = 0;
    loop {
        let credit = poll_fn(|context| match inlet.exchange().poll_ready(context) {
            Poll::Ready(()) => inlet.poll_credit(context),
            Poll::Pending => Poll::Pending,
        });
        if credit.await.is_none() {
            return;
        }
        match next_frame(&mut incoming).await {
            // The responder is dropped by hyper when the stream was reset, and tells the host.
            Some(Err(_)) => return inlet.fail(Reason::Gone),
            None => return inlet.push_end(&[]),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    received += data.len() as u64;
                    if limit > 0 && received > limit {
                        return inlet.fail(Reason::Limit);
                    }
                    // A frame is at most `h2_frame_bytes`, which may pass the batch's arena: cut it.
                    data.chunks(64 * 1024).for_each(|piece| inlet.push(piece, false));
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

fn joined(fields: &HeaderMap) -> Vec<u8> {
    let parts: Vec<&[u8]> =
        fields.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), value.as_bytes()]).collect();
    parts.join(&0)
}

fn respond(order: Order, stream: Stream, method: &Method, counted: Counted) -> Result<Response<Outgoing>, Abandoned> {
    let site = counted.0.connection.site.clone();
    let log = |text: String| {
        site.exchange.announce(Event::Log, 0, site.listener, 40, 0, text.as_bytes());
    };
    let head = match fields(&order.head) {
        Ok(fields) => {
            StatusCode::from_u16(order.code).map(|status| (status, fields)).map_err(|error| error.to_string())
        }
        Err(text) => Err(text),
    };
    let (status, mut fields) = match head {
        Ok(head) => head,
        Err(text) => {
            log(format!("a response head was refused and the client got 500: {text}"));
            return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, "", counted));
        }
    };
    let bodiless = matches!(order.code, 204 | 205 | 304);
    let is_head = method == Method::HEAD;
    let declared: Option<u64> = fields.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if order.end && !is_head && !bodiless {
        let size = order.body.len() as u64;
        if declared.is_some_and(|length| length != size) {
            log(format!("a response was refused and the client got 500: its content-length is not {size}"));
            return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, "", counted));
        }
        fields.insert(CONTENT_LENGTH, size.into());
    } else if order.code == 204 {
        fields.remove(CONTENT_LENGTH);
    } else if order.code == 205 {
        fields.insert(CONTENT_LENGTH, 0.into());
    } else if order.end && is_head && declared.is_none() && !order.body.is_empty() {
        fields.insert(CONTENT_LENGTH, order.body.len().into());
    }
    let silent = is_head || bodiless;
    let mut body = Outgoing {
        first: Some(order.body).filter(|body| !silent && !body.is_empty()),
        end: order.end,
        left: declared.filter(|_| !silent && !order.end),
        silent,
        id: stream.id(),
        stream: Some(stream),
        counted,
    };
    let first = body.first.as_ref().map_or(0, Bytes::len) as u64;
    body.count(first, false)?;
    Ok(assemble(status, fields, body))
}

fn constant(route: &Route, method: &Method, counted: Counted) -> Response<Outgoing> {
    // `Routes::add` checked both with the rules of HTTP/1.1, which are stricter.
    let mut fields = fields(&route.fields).unwrap_or_default();
    let status = StatusCode::from_u16(route.template.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if !route.template.is_bodiless() {
        fields.insert(CONTENT_LENGTH, route.body.len().into());
    }
    let body = if method == Method::HEAD { Bytes::new() } else { route.body.clone() };
    assemble(status, fields, Outgoing::fixed(body, counted))
}

fn plain(status: StatusCode, reason: &str, counted: Counted) -> Response<Outgoing> {
    let body = if reason.is_empty() { Bytes::new() } else { Bytes::from(format!("{reason}\n")) };
    let mut fields = HeaderMap::new();
    fields.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    fields.insert(CONTENT_LENGTH, body.len().into());
    assemble(status, fields, Outgoing::fixed(body, counted))
}

fn assemble(status: StatusCode, fields: HeaderMap, body: Outgoing) -> Response<Outgoing> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    response
}

/// The host's NUL-joined fields, without those that HTTP/2 forbids (RFC 9113 section 8.2.2).
fn fields(block: &[u8]) -> Result<HeaderMap, String> {
    let mut fields = HeaderMap::new();
    for (name, value) in pairs(block)?.filter(|(name, _)| !is_hop_by_hop(name)) {
        let text = || String::from_utf8_lossy(name).into_owned();
        if name == b"content-length" && (parse_length(value).is_err() || fields.contains_key(CONTENT_LENGTH)) {
            return Err("content-length must be digits, once".to_owned());
        }
        let name = HeaderName::from_lowercase(name).map_err(|_| format!("header name {:?} is no token", text()))?;
        let value =
            HeaderValue::from_bytes(value).map_err(|_| format!("value of header {:?} has a control", text()))?;
        fields.append(name, value);
    }
    Ok(fields)
}
