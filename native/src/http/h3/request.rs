//! One HTTP/3 request, from its first frame to the last byte of its answer.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h3::error::{Code, StreamError};
use h3::server::{RequestResolver, RequestStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, Entry, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode, request};

use super::transport::{self, Receiver, Sender, Side};
use super::upload::Upload;
use crate::exchange::{Opening, Order, Stream};
use crate::http::Connection;
use crate::http::message::{Head, Plan, Refusal, SLOW, TOO_LARGE, TOO_MANY, fields};
use crate::limits::{Limit, Limits};
use crate::record::{Command, FLAG_END, Protocol, Reason};

/// What the requests of one connection share with its task.
pub(super) struct Shared {
    pub(super) connection: Connection,
    open: AtomicU32,
    /// Second in which resets are counted, and how many there were.
    second: AtomicU64,
    resets: AtomicU32,
}

impl Shared {
    pub(super) fn new(connection: Connection) -> Shared {
        connection.member.within(connection.site.limits.idle_ms);
        Shared { connection, open: AtomicU32::new(0), second: AtomicU64::new(0), resets: AtomicU32::new(0) }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.connection.site.limits
    }

    pub(super) fn is_idle(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// Whether the peer resets requests faster than any client would.
    pub(super) fn is_excessive(&self) -> bool {
        self.resets.load(Ordering::Relaxed) > self.limits().h3_resets
    }

    fn count_reset(&self) {
        let second = self.connection.member.connections().now() / 1000;
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.resets.store(0, Ordering::Relaxed);
        }
        self.resets.fetch_add(1, Ordering::Relaxed);
        if self.is_excessive() {
            self.connection.member.watch.wake();
        }
    }
}

/// One request in `open`, for as long as it lives.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: Arc<Shared>) -> Counted {
        shared.open.fetch_add(1, Ordering::Relaxed);
        shared.connection.member.watch.disarm();
        Counted(shared)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            let member = &self.0.connection.member;
            member.within(self.0.limits().idle_ms);
            if member.watch.phase() != crate::connections::Phase::Run {
                member.watch.wake();
            }
        }
    }
}

/// The answer's half of the stream. Dropped before it is done, it resets the stream: the client sees no clean end.
struct Reply {
    stream: RequestStream<Sender, Bytes>,
    side: Side,
    stall: Duration,
    date: [u8; 29],
    done: bool,
}

/// The stream cannot go on; who had to be told has been.
pub(super) struct Broken(pub(super) Reason);

impl From<StreamError> for Broken {
    fn from(_: StreamError) -> Self {
        Broken(Reason::Gone)
    }
}

impl Reply {
    /// Waits for the peer to take what is sent, as long as it takes something now and then.
    async fn patient<T>(
        side: &Side,
        stall: Duration,
        send: impl Future<Output = Result<T, StreamError>>,
    ) -> Result<T, Broken> {
        let mut send = pin!(send);
        if let Poll::Ready(sent) = poll_fn(|context| Poll::Ready(send.as_mut().poll(context))).await {
            return Ok(sent?);
        }
        loop {
            let before = side.written();
            match tokio::time::timeout(stall, &mut send).await {
                Ok(sent) => return Ok(sent?),
                Err(_) if side.written() != before => {}
                Err(_) => return Err(Broken(Reason::Timeout)),
            }
        }
    }

    async fn head(&mut self, status: StatusCode, mut fields: HeaderMap) -> Result<(), Broken> {
        if !status.is_informational()
            && let Entry::Vacant(entry) = fields.entry(DATE)
            && let Ok(date) = HeaderValue::from_bytes(&self.date)
        {
            // A server with a clock says when (RFC 9110 section 6.6.1).
            entry.insert(date);
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = fields;
        Self::patient(&self.side, self.stall, self.stream.send_response(response)).await
    }

    async fn data(&mut self, data: Bytes) -> Result<(), Broken> {
        if data.is_empty() {
            return Ok(());
        }
        Self::patient(&self.side, self.stall, self.stream.send_data(data)).await
    }

    async fn finish(&mut self) -> Result<(), Broken> {
        Self::patient(&self.side, self.stall, self.stream.finish()).await?;
        self.done = true;
        Ok(())
    }

    async fn whole(&mut self, (plan, body): (Plan, Bytes)) -> Result<(), Broken> {
        self.head(plan.status, plan.fields).await?;
        self.data(body).await?;
        self.finish().await
    }

    fn reset(&mut self, code: Code) {
        self.done = true;
        self.stream.stop_stream(code);
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.done {
            self.stream.stop_stream(Code::H3_INTERNAL_ERROR);
        }
    }
}

pub(super) type Incoming = RequestStream<Receiver, Bytes>;

/// Reads one request, has the host answer it, and sends the answer.
pub(super) async fn answer(resolver: RequestResolver<transport::Connection, Bytes>, side: Side, shared: Arc<Shared>) {
    let counted = Counted::new(shared.clone());
    let member = &shared.connection.member;
    let patience = Duration::from_millis(shared.limits().head_ms.into());
    // Dropping the resolver ends the stream, which a client reads as an incomplete response.
    let resolved = match tokio::time::timeout(patience, resolver.resolve_request()).await {
        Ok(resolved) => resolved,
        Err(_) => return member.count(Limit::HeadMs),
    };
    let (request, stream) = match resolved {
        Ok(resolved) => resolved,
        // h3 has answered 431, or reset the stream or the connection with the code that fits.
        Err(StreamError::HeaderTooBig { .. }) => return member.count(Limit::H3FieldSectionBytes),
        Err(_) => return shared.count_reset(),
    };
    let (parts, ()) = request.into_parts();
    let (sender, mut incoming) = stream.split();
    let stall = Duration::from_millis(shared.limits().write_stall_ms.into());
    let mut reply = Reply { stream: sender, side, stall, date: member.connections().imf_date(), done: false };
    if is_malformed(&parts) {
        incoming.stop_sending(Code::H3_MESSAGE_ERROR);
        return reply.reset(Code::H3_MESSAGE_ERROR);
    }
    match exchange(&parts, &mut reply, incoming, &shared).await {
        Ok(()) => {}
        Err(Broken(Reason::Limit)) => {
            // The body was too large before the host was told of the request.
            shared.connection.count_refusal(TOO_LARGE);
            if reply.whole(Plan::refusal(TOO_LARGE)).await.is_err() {
                reply.reset(Code::H3_REQUEST_CANCELLED);
            }
        }
        Err(Broken(Reason::Protocol)) => reply.reset(Code::H3_MESSAGE_ERROR),
        Err(Broken(Reason::Gone)) => {
            shared.count_reset();
            reply.reset(Code::H3_REQUEST_CANCELLED);
        }
        Err(Broken(Reason::Timeout)) => {
            member.count(Limit::WriteStallMs);
            reply.reset(Code::H3_REQUEST_CANCELLED);
        }
        Err(Broken(_)) => reply.reset(Code::H3_INTERNAL_ERROR),
    }
    drop(counted);
}

/// Fields that HTTP/3 forbids (RFC 9114 section 4.2), and lengths that are none; h3 has judged the pseudo-headers.
fn is_malformed(parts: &request::Parts) -> bool {
    const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    let forbidden = [CONNECTION, TRANSFER_ENCODING, UPGRADE, KEEP_ALIVE, PROXY_CONNECTION];
    let mut lengths = parts.headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next().map(|value| crate::http::heads::parse_length(value.as_bytes()));
    forbidden.iter().any(|name| parts.headers.contains_key(name))
        || parts.headers.get_all(TE).iter().any(|value| value.as_bytes() != b"trailers")
        || matches!(length, Some(Err(_)))
        || lengths.next().is_some()
}

fn declared(parts: &request::Parts) -> Option<u64> {
    parts.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

async fn exchange(
    parts: &request::Parts,
    reply: &mut Reply,
    incoming: Incoming,
    shared: &Arc<Shared>,
) -> Result<(), Broken> {
    let connection = &shared.connection;
    let site = &connection.site;
    let refused = |refusal: Refusal| Plan::refusal(refusal);
    let declared = declared(parts);
    let mut upload = Upload::new(incoming, declared, &site.limits);
    let mut body = Vec::new();
    upload.take_ready(&mut body).await?;
    let head = match Head::read(parts, None, &site.limits) {
        Ok(head) => head,
        Err(refusal) => {
            connection.count_refusal(refusal);
            tokio::spawn(upload.discard());
            return reply.whole(refused(refusal)).await;
        }
    };
    if upload.ended
        && body.is_empty()
        && let Some(route) = site.routes.find(parts.method.as_str(), head.target)
    {
        return reply.whole(Plan::constant(route, &parts.method)).await;
    }
    if head.length.is_some_and(|length| length <= u64::from(site.limits.inline_body_bytes)) {
        while !upload.ended {
            match upload.next().await {
                Ok(Some(data)) => body.extend_from_slice(&data),
                Ok(None) => break,
                Err(Broken(Reason::Timeout)) => {
                    connection.count_refusal(SLOW);
                    tokio::spawn(upload.discard());
                    return reply.whole(refused(SLOW)).await;
                }
                Err(broken) => return Err(broken),
            }
        }
    }
    poll_fn(|context| site.exchange.poll_ready(context)).await;
    let trailers = if upload.ended { upload.trailers().await? } else { Vec::new() };
    let whole = upload.ended && trailers.is_empty();
    let opening = Opening {
        parent: connection.member.id(),
        protocol: Protocol::Http3,
        flags: if whole { FLAG_END } else { 0 },
        credit: site.limits.receive_window.saturating_sub(body.len() as u32),
        window: site.limits.send_window,
        body: &body,
    };
    let waker = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
    let fill = |arena: &mut Vec<u8>| head.write(parts, site.scheme(), arena);
    let Some(mut stream) = site.exchange.open(opening, &waker, fill) else {
        return reply.whole(refused(TOO_MANY)).await;
    };
    if upload.ended && !whole {
        stream.push_end(&trailers);
    } else if !upload.ended {
        tokio::spawn(upload.feed(stream.inlet()));
    }
    loop {
        let order = next_order(&mut stream, reply).await?;
        match order.command {
            Command::Head => return respond(order, stream, parts, reply, shared).await,
            Command::Inform => {
                if let (Ok(status), Ok(fields)) = (StatusCode::from_u16(order.code), fields(&order.head)) {
                    reply.head(status, fields).await?;
                }
            }
            Command::Upgrade => {
                connection.log("the host accepts an upgrade that the client has not offered");
                stream.fail(Reason::Internal);
                return reply.whole(refused((StatusCode::INTERNAL_SERVER_ERROR, ""))).await;
            }
            Command::Reset => {
                let refusal = match Reason::from_number(order.code) {
                    Reason::Limit => TOO_LARGE,
                    Reason::Timeout => SLOW,
                    reason => return Err(Broken(reason)),
                };
                connection.count_refusal(refusal);
                return reply.whole(refused(refusal)).await;
            }
            Command::Data | Command::End | Command::Ping | Command::Credit => return Err(Broken(Reason::Internal)),
        }
    }
}

/// The host's next order, unless the client wants no answer any more.
async fn next_order(stream: &mut Stream, reply: &mut Reply) -> Result<Order, Broken> {
    poll_fn(|context| {
        if let Poll::Ready(order) = stream.poll_order(context) {
            return Poll::Ready(order.ok_or(Broken(Reason::Stopping)));
        }
        if reply.side.poll_stopped(context).is_ready() {
            stream.fail(Reason::Gone);
            return Poll::Ready(Err(Broken(Reason::Gone)));
        }
        Poll::Pending
    })
    .await
}

async fn respond(
    order: Order,
    mut stream: Stream,
    parts: &request::Parts,
    reply: &mut Reply,
    shared: &Arc<Shared>,
) -> Result<(), Broken> {
    let connection = &shared.connection;
    let mut plan = match Plan::of(&order, &parts.method) {
        Ok(plan) => plan,
        Err(text) => {
            connection.log(&format!("a response was refused and the client got 500: {text}"));
            stream.fail(Reason::Internal);
            return reply.whole(Plan::refusal((StatusCode::INTERNAL_SERVER_ERROR, ""))).await;
        }
    };
    reply.head(plan.status, std::mem::take(&mut plan.fields)).await?;
    let (mut body, mut end, mut trailers) = (order.body, order.end, Bytes::new());
    loop {
        let size = body.len();
        if !plan.silent {
            plan.count(size as u64, end).map_err(|text| {
                connection.log(&text);
                stream.fail(Reason::Internal);
                Broken(Reason::Internal)
            })?;
            reply.data(body).await?;
        }
        stream.sent(size);
        if end {
            if !trailers.is_empty()
                && let Ok(fields) = fields(&trailers)
            {
                Reply::patient(&reply.side, reply.stall, reply.stream.send_trailers(fields)).await?;
            }
            return reply.finish().await;
        }
        let order = next_order(&mut stream, reply).await?;
        match order.command {
            Command::Data | Command::End => (body, end, trailers) = (order.body, order.end, order.head),
            Command::Credit => body = Bytes::new(),
            _ => return Err(Broken(Reason::Internal)),
        }
    }
}

impl Side {
    fn poll_stopped(&mut self, context: &mut std::task::Context<'_>) -> Poll<()> {
        Pin::new(&mut self.stopped).poll(context)
    }
}
