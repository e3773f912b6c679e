//! One HTTP/3 request, from its first frame to the last byte of its answer.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h3::error::{Code, StreamError};
use h3::server::RequestStream;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, StatusCode, request};
use quinn::WriteError;

use super::encode;
use super::transport::{self, Half, Receiver, Sender, number};
use super::upload::Upload;
use crate::exchange::{Opening, Order, Stream};
use crate::http::Connection;
use crate::http::heads::Template;
use crate::http::message::{Extent, Head, Refusal, Resets, SLOW, TOO_LARGE, TOO_MANY};
use crate::limits::{Limit, Limits};
use crate::record::{Command, FLAG_END, Protocol, Reason};

/// A body up to this size is copied behind its head.
const COPIED: usize = 1024;

/// What the requests of one connection share with its task.
pub(super) struct Shared {
    pub(super) connection: Connection,
    open: AtomicU32,
    resets: Resets,
}

impl Shared {
    pub(super) fn new(connection: Connection) -> Shared {
        connection.member.within(connection.site.limits.idle_ms);
        Shared { connection, open: AtomicU32::new(0), resets: Resets::default() }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.connection.site.limits
    }

    pub(super) fn is_idle(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// Whether the peer resets requests faster than any client would.
    pub(super) fn is_excessive(&self) -> bool {
        self.resets.exceed(self.limits().h3_resets)
    }

    fn count_reset(&self) {
        self.resets.count(self.connection.member.connections().now());
        if self.is_excessive() {
            self.connection.member.watch.wake();
        }
    }
}

/// One request in `open`, for as long as it lives.
pub(super) struct Counted(Arc<Shared>);

impl Counted {
    pub(super) fn new(shared: Arc<Shared>) -> Counted {
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
    stream: quinn::SendStream,
    /// h3 counts the request as under way for as long as it has this.
    _sender: RequestStream<Sender, Bytes>,
    /// Ready when the peer wants no answer any more; made when the answer is waited for.
    stopped: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    counted: Counted,
    done: bool,
}

/// The stream cannot go on; who had to be told has been.
pub(super) struct Broken(pub(super) Reason);

impl From<StreamError> for Broken {
    fn from(_: StreamError) -> Self {
        Broken(Reason::Gone)
    }
}

impl From<WriteError> for Broken {
    fn from(_: WriteError) -> Self {
        Broken(Reason::Gone)
    }
}

impl Reply {
    fn new(stream: quinn::SendStream, sender: RequestStream<Sender, Bytes>, counted: Counted) -> Reply {
        Reply { stream, _sender: sender, stopped: None, counted, done: false }
    }

    /// The frame of a response head.
    fn head(&self, template: &Template, length: Option<u64>) -> Vec<u8> {
        let section = template.section(|template| {
            let mut section = Vec::new();
            encode::fields(&mut section, template.fields());
            section
        });
        let date = self.shared().connection.member.connections().imf_date();
        // A server with a clock says when (RFC 9110 section 6.6.1).
        let date = Some(&date[..]).filter(|_| !template.is_dated() && template.status >= 200);
        let mut frame = Vec::with_capacity(section.len() + 128);
        encode::head(&mut frame, template.status, section, length, date);
        frame
    }

    /// Sends `frames` and the body behind them, if there is one. A small one is copied: two pieces cost more.
    async fn send(&mut self, mut frames: Vec<u8>, mut body: Bytes) -> Result<(), Broken> {
        if !body.is_empty() {
            encode::data(&mut frames, body.len());
            if body.len() <= COPIED {
                frames.extend_from_slice(&body);
                body = Bytes::new();
            }
        }
        let count = if body.is_empty() { 1 } else { 2 };
        let mut pieces = [Bytes::from(frames), body];
        let mut left = &mut pieces[..count];
        let stall = Duration::from_millis(self.shared().limits().write_stall_ms.into());
        while left.first().is_some_and(|piece| !piece.is_empty()) {
            let written = {
                let mut write = pin!(self.stream.write_chunks(left));
                // A timer only for who has to wait.
                match poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await {
                    Poll::Ready(written) => written?,
                    Poll::Pending => {
                        let waiting = Box::pin(tokio::time::timeout(stall, write));
                        waiting.await.map_err(|_| Broken(Reason::Timeout))??
                    }
                }
            };
            // A piece taken in part is shortened where it lies.
            left = &mut left[written.chunks..];
        }
        Ok(())
    }

    async fn trailers(&mut self, fields: &[u8]) -> Result<(), Broken> {
        // A template checks fields and leaves out what belongs to one hop; of this one nothing else is looked at.
        let checked = match Template::new(200, fields) {
            Ok(checked) => checked,
            Err(text) => {
                self.shared().connection.log(&format!("trailers were left out: {text}"));
                return Ok(());
            }
        };
        let (mut section, mut frame) = (Vec::new(), Vec::new());
        encode::fields(&mut section, checked.fields());
        encode::trailers(&mut frame, &section);
        self.send(frame, Bytes::new()).await
    }

    fn finish(&mut self) -> Result<(), Broken> {
        self.done = true;
        self.stream.finish().map_err(|_| Broken(Reason::Gone))
    }

    /// Boxed, as it is rare: its state would be part of every request.
    fn refuse(&mut self, (status, reason): Refusal) -> Pin<Box<dyn Future<Output = Result<(), Broken>> + Send + '_>> {
        Box::pin(async move {
            let body = if reason.is_empty() { Bytes::new() } else { Bytes::from(format!("{reason}\n")) };
            let fields = b"content-type\0text/plain; charset=utf-8";
            let template = self.shared().connection.site.heads.template(status.as_u16(), fields);
            // These fields are tokens and plain text, which a template always takes.
            let Ok(template) = template else { return Err(Broken(Reason::Internal)) };
            let head = self.head(&template, Some(body.len() as u64));
            self.send(head, body).await?;
            self.finish()
        })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.counted.0
    }

    fn reset(&mut self, code: Code) {
        self.done = true;
        // Fails when the peer has stopped it already.
        let _ = self.stream.reset(number(code.value()));
    }

    fn poll_stopped(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let stopped = self.stopped.get_or_insert_with(|| {
            let stopped = self.stream.stopped();
            Box::pin(async move {
                // `Ok(None)`: everything has arrived, and nobody waits any more.
                let _ = stopped.await;
            })
        });
        stopped.as_mut().poll(context)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if !self.done {
            self.reset(Code::H3_INTERNAL_ERROR);
        }
    }
}

pub(super) type Incoming = RequestStream<Receiver, Bytes>;

/// What h3 makes of the head of a request.
pub(super) type Resolved = Result<(Request<()>, RequestStream<transport::Stream, Bytes>), StreamError>;

/// Begins a request whose head is not here yet.
pub(super) async fn wait(resolving: Pin<Box<impl Future<Output = Resolved>>>, half: Half, counted: Counted) {
    let patience = Duration::from_millis(counted.0.limits().head_ms.into());
    // Dropping what resolves ends the stream, which a client reads as an incomplete response.
    match tokio::time::timeout(patience, resolving).await {
        Ok(resolved) => begin(resolved, half, counted),
        Err(_) => counted.0.connection.member.count(Limit::HeadMs),
    }
}

/// Has one request answered, by a task of its own.
pub(super) fn begin(resolved: Resolved, half: Half, counted: Counted) {
    let shared = &counted.0;
    let (request, stream) = match resolved {
        Ok(resolved) => resolved,
        // h3 has answered 431, or reset the stream or the connection with the code that fits.
        Err(StreamError::HeaderTooBig { .. }) => {
            return shared.connection.member.count(Limit::H3FieldSectionBytes);
        }
        Err(_) => return shared.count_reset(),
    };
    let (parts, ()) = request.into_parts();
    let (sender, mut incoming) = stream.split();
    let Some(ours) = transport::take(&half) else { return };
    if is_malformed(&parts) {
        incoming.stop_sending(Code::H3_MESSAGE_ERROR);
        return Reply::new(ours, sender, counted).reset(Code::H3_MESSAGE_ERROR);
    }
    let upload = Upload::new(incoming, declared(&parts), shared.limits());
    tokio::spawn(answer(parts, upload, Reply::new(ours, sender, counted)));
}

/// Has the host answer a request, and sends the answer.
async fn answer(parts: request::Parts, upload: Upload, mut reply: Reply) {
    let shared = reply.shared().clone();
    match exchange(&parts, upload, &mut reply, &shared).await {
        Ok(()) => {}
        Err(Broken(Reason::Limit)) => {
            // The body was too large before the host was told of the request.
            shared.connection.count_refusal(TOO_LARGE);
            if reply.refuse(TOO_LARGE).await.is_err() {
                reply.reset(Code::H3_REQUEST_CANCELLED);
            }
        }
        Err(Broken(Reason::Protocol)) => reply.reset(Code::H3_MESSAGE_ERROR),
        Err(Broken(Reason::Gone)) => {
            shared.count_reset();
            reply.reset(Code::H3_REQUEST_CANCELLED);
        }
        Err(Broken(Reason::Timeout)) => {
            shared.connection.member.count(Limit::WriteStallMs);
            reply.reset(Code::H3_REQUEST_CANCELLED);
        }
        Err(Broken(_)) => reply.reset(Code::H3_INTERNAL_ERROR),
    }
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
    mut upload: Upload,
    reply: &mut Reply,
    shared: &Arc<Shared>,
) -> Result<(), Broken> {
    let connection = &shared.connection;
    let site = &connection.site;
    let mut body = Vec::new();
    upload.take_ready(&mut body).await?;
    let head = match Head::read(parts, None, &site.limits) {
        Ok(head) => head,
        Err(refusal) => {
            connection.count_refusal(refusal);
            tokio::spawn(upload.discard());
            return reply.refuse(refusal).await;
        }
    };
    if upload.ended
        && body.is_empty()
        && let Some(route) = site.routes.find(parts.method.as_str(), head.target)
    {
        let length = (!route.template.is_bodiless()).then_some(route.body.len() as u64);
        let body = if parts.method == Method::HEAD { Bytes::new() } else { route.body.clone() };
        reply.send(reply.head(&route.template, length), body).await?;
        return reply.finish();
    }
    let collected = head.length.is_some_and(|length| length <= u64::from(site.limits.inline_body_bytes));
    if collected && !upload.ended {
        match Box::pin(upload.collect(&mut body)).await {
            Ok(()) => {}
            Err(Broken(Reason::Timeout)) => {
                connection.count_refusal(SLOW);
                tokio::spawn(upload.discard());
                return reply.refuse(SLOW).await;
            }
            Err(broken) => return Err(broken),
        }
    }
    poll_fn(|context| site.exchange.poll_ready(context)).await;
    let trailers = if upload.ended {
        match poll_fn(|context| Poll::Ready(upload.poll_trailers(context))).await {
            Poll::Ready(trailers) => trailers?,
            Poll::Pending => Box::pin(upload.trailers()).await?,
        }
    } else {
        Vec::new()
    };
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
        return reply.refuse(TOO_MANY).await;
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
            Command::Inform => match site.heads.template(order.code, &order.head) {
                Ok(template) => reply.send(reply.head(&template, None), Bytes::new()).await?,
                Err(text) => connection.log(&format!("an interim response was left out: {text}")),
            },
            Command::Upgrade => {
                connection.log("the host accepts an upgrade that the client has not offered");
                stream.fail(Reason::Internal);
                return reply.refuse((StatusCode::INTERNAL_SERVER_ERROR, "")).await;
            }
            Command::Reset => {
                let refusal = match Reason::from_number(order.code) {
                    Reason::Limit => TOO_LARGE,
                    Reason::Timeout => SLOW,
                    reason => return Err(Broken(reason)),
                };
                connection.count_refusal(refusal);
                return reply.refuse(refusal).await;
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
        if reply.poll_stopped(context).is_ready() {
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
    let template = connection.site.heads.template(order.code, &order.head);
    let planned = template.and_then(|template| {
        let extent = Extent::of(&order, template.length, parts.method == Method::HEAD)?;
        Ok((template, extent))
    });
    let (template, mut extent) = match planned {
        Ok(planned) => planned,
        Err(text) => {
            connection.log(&format!("a response was refused and the client got 500: {text}"));
            stream.fail(Reason::Internal);
            return reply.refuse((StatusCode::INTERNAL_SERVER_ERROR, "")).await;
        }
    };
    let (mut body, mut end, mut trailers) = (order.body, order.end, Bytes::new());
    let mut head = Some(template);
    loop {
        let size = body.len();
        if extent.silent {
            body = Bytes::new();
        } else if let Err(text) = extent.count(size as u64, end) {
            connection.log(&text);
            stream.fail(Reason::Internal);
            return Err(Broken(Reason::Internal));
        }
        let frames = head.take().map_or(Vec::new(), |template| reply.head(&template, extent.length));
        reply.send(frames, body).await?;
        stream.sent(size);
        if end {
            if !trailers.is_empty() {
                reply.trailers(&trailers).await?;
            }
            return reply.finish();
        }
        let order = next_order(&mut stream, reply).await?;
        match order.command {
            Command::Data | Command::End => (body, end, trailers) = (order.body, order.end, order.head),
            Command::Credit => body = Bytes::new(),
            _ => return Err(Broken(Reason::Internal)),
        }
    }
}
