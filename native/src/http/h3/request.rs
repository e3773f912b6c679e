//! One HTTP/3 request, from its first frame to the last byte of its answer.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker, ready};
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
use crate::http::routes::Route;
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
    fn refuse(&mut self, refusal: Refusal) -> Pin<Box<dyn Future<Output = Result<(), Broken>> + Send + '_>> {
        Box::pin(async move {
            let refused = self.shared().connection.refusal(refusal);
            let (template, body) = refused.map_err(|_| Broken(Reason::Internal))?;
            let head = self.head(&template, Some(body.len() as u64));
            self.send(head, body).await?;
            self.finish()
        })
    }

    /// The end of the request, in peace or not.
    async fn end(mut self: Box<Self>, done: Result<(), Broken>) {
        match done {
            Ok(()) => {}
            Err(Broken(Reason::Limit)) => {
                // The body was too large before the host was told of the request.
                self.shared().connection.count_refusal(TOO_LARGE);
                if self.refuse(TOO_LARGE).await.is_err() {
                    self.reset(Code::H3_REQUEST_CANCELLED);
                }
            }
            Err(Broken(reason)) => self.give_up(reason),
        }
    }

    fn give_up(&mut self, reason: Reason) {
        let shared = self.shared().clone();
        self.reset(match reason {
            Reason::Protocol => Code::H3_MESSAGE_ERROR,
            Reason::Gone => {
                shared.count_reset();
                Code::H3_REQUEST_CANCELLED
            }
            Reason::Timeout => {
                shared.connection.member.count(Limit::WriteStallMs);
                Code::H3_REQUEST_CANCELLED
            }
            _ => Code::H3_INTERNAL_ERROR,
        });
    }

    fn template(&self, order: &Order) -> Result<Arc<Template>, String> {
        self.shared().connection.site.heads.template(order.code, &order.head)
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
pub(super) async fn wait(mut resolving: Pin<Box<impl Future<Output = Resolved>>>, half: Half, counted: Counted) {
    let patience = Duration::from_millis(counted.0.limits().head_ms.into());
    let shared = counted.0.clone();
    let mut taken = Some((half, counted));
    let begun = poll_fn(|context| {
        let resolved = ready!(resolving.as_mut().poll(context));
        if let Some((half, counted)) = taken.take() {
            begin(resolved, half, counted, context);
        }
        Poll::Ready(())
    });
    // Dropping what resolves ends the stream, which a client reads as an incomplete response.
    if tokio::time::timeout(patience, begun).await.is_err() {
        shared.connection.member.count(Limit::HeadMs);
    }
}

/// Has one request answered. What can be done at once is; a task waits for the rest, and holds no more than it needs for it.
pub(super) fn begin(resolved: Resolved, half: Half, counted: Counted, context: &mut Context<'_>) {
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
    // Boxed: it goes from hand to hand, and a task that has it as it is keeps a place for it at each.
    let mut reply = Box::new(Reply::new(ours, sender, counted));
    let mut asked = Asked { parts, upload, body: Vec::new() };
    match asked.look(reply.shared(), context) {
        Look::Opened(stream, trailers) => asked.go_on(stream, &trailers, reply),
        Look::Constant(route) => {
            let body = if asked.parts.method == Method::HEAD { Bytes::new() } else { route.body.clone() };
            tokio::spawn(constant(route, body, reply));
        }
        Look::Refused(refusal) => {
            reply.shared().connection.count_refusal(refusal);
            asked.refuse(refusal, reply);
        }
        Look::Broken(Broken(Reason::Limit)) => drop(tokio::spawn(reply.end(Err(Broken(Reason::Limit))))),
        // Now: a client that is told to stop sending first, as what is unread is dropped, would not learn why.
        Look::Broken(Broken(reason)) => reply.give_up(reason),
        Look::Waits => drop(tokio::spawn(asked.wait(reply))),
    }
}

/// A request whose head is here, and what has come of its body.
struct Asked {
    parts: request::Parts,
    upload: Upload,
    body: Vec<u8>,
}

/// What one look at a request has come to.
enum Look {
    /// The host knows of it, or can have no more streams; with the trailers it is to be told.
    Opened(Option<Stream>, Vec<u8>),
    Constant(Arc<Route>),
    Refused(Refusal),
    Broken(Broken),
    /// Its body is to come, or room in the host's queue.
    Waits,
}

impl Asked {
    fn look(&mut self, shared: &Shared, context: &mut Context<'_>) -> Look {
        let site = &shared.connection.site;
        if let Err(broken) = self.upload.take_ready(&mut self.body, context) {
            return Look::Broken(broken);
        }
        let head = match Head::read(&self.parts, None, &site.limits) {
            Ok(head) => head,
            Err(refusal) => return Look::Refused(refusal),
        };
        if self.upload.ended
            && self.body.is_empty()
            && let Some(route) = site.routes.find(self.parts.method.as_str(), head.target)
        {
            return Look::Constant(route.clone());
        }
        if self.collects(&head, &site.limits) || site.exchange.poll_ready(context).is_pending() {
            return Look::Waits;
        }
        let trailers = match self.upload.ended {
            true => match self.upload.poll_trailers(context) {
                Poll::Ready(Ok(trailers)) => trailers,
                Poll::Ready(Err(broken)) => return Look::Broken(broken),
                Poll::Pending => return Look::Waits,
            },
            false => Vec::new(),
        };
        let stream = open(&self.parts, &head, &self.body, self.upload.ended && trailers.is_empty(), shared);
        Look::Opened(stream, trailers)
    }

    /// Whether the host is told only when the body is here.
    fn collects(&self, head: &Head<'_>, limits: &Limits) -> bool {
        !self.upload.ended && head.length.is_some_and(|length| length <= u64::from(limits.inline_body_bytes))
    }

    /// Waits for what the first look did not find.
    async fn wait(mut self, reply: Box<Reply>) {
        let shared = reply.shared().clone();
        let site = &shared.connection.site;
        let collects = Head::read(&self.parts, None, &site.limits).is_ok_and(|head| self.collects(&head, &site.limits));
        if collects {
            match self.upload.collect(&mut self.body).await {
                Ok(()) => {}
                Err(Broken(Reason::Timeout)) => {
                    shared.connection.count_refusal(SLOW);
                    return self.refuse(SLOW, reply);
                }
                Err(broken) => return reply.end(Err(broken)).await,
            }
        }
        poll_fn(|context| site.exchange.poll_ready(context)).await;
        let trailers = match self.upload.ended {
            true => match self.upload.trailers().await {
                Ok(trailers) => trailers,
                Err(broken) => return reply.end(Err(broken)).await,
            },
            false => Vec::new(),
        };
        let whole = self.upload.ended && trailers.is_empty();
        let stream = Head::read(&self.parts, None, &site.limits).ok();
        let stream = stream.and_then(|head| open(&self.parts, &head, &self.body, whole, &shared));
        self.go_on(stream, &trailers, reply);
    }

    fn go_on(self, stream: Option<Stream>, trailers: &[u8], reply: Box<Reply>) {
        let Some(stream) = stream else { return self.refuse(TOO_MANY, reply) };
        if !self.upload.ended {
            tokio::spawn(self.upload.feed(stream.inlet()));
        } else if !trailers.is_empty() {
            stream.push_end(trailers);
        }
        tokio::spawn(answer(stream, self.parts.method == Method::HEAD, reply));
    }

    fn refuse(self, refusal: Refusal, mut reply: Box<Reply>) {
        if !self.upload.ended {
            tokio::spawn(self.upload.discard());
        }
        tokio::spawn(async move {
            let done = reply.refuse(refusal).await;
            reply.end(done).await;
        });
    }
}

/// Tells the host of a request; `None` when it can have no more streams.
fn open(parts: &request::Parts, head: &Head<'_>, body: &[u8], whole: bool, shared: &Shared) -> Option<Stream> {
    let site = &shared.connection.site;
    let opening = Opening {
        parent: shared.connection.member.id(),
        protocol: Protocol::Http3,
        flags: if whole { FLAG_END } else { 0 },
        credit: site.limits.receive_window.saturating_sub(body.len() as u32),
        window: site.limits.send_window,
        body,
    };
    // The task that will wait is polled once it is there, and says then who is to be woken.
    site.exchange.open(opening, Waker::noop(), |arena| head.write(parts, site.scheme(), arena))
}

async fn constant(route: Arc<Route>, body: Bytes, mut reply: Box<Reply>) {
    let length = (!route.template.is_bodiless()).then_some(route.body.len() as u64);
    let head = reply.head(&route.template, length);
    let done = reply.send(head, body).await.and_then(|()| reply.finish());
    reply.end(done).await;
}

/// Waits for what the host says to a request, and does it.
async fn answer(stream: Stream, is_head: bool, mut reply: Box<Reply>) {
    let done = obey(stream, is_head, &mut reply).await;
    reply.end(done).await;
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

async fn obey(mut stream: Stream, is_head: bool, reply: &mut Reply) -> Result<(), Broken> {
    loop {
        let order = next_order(&mut stream, reply).await?;
        match order.command {
            Command::Head => return respond(order, stream, is_head, reply).await,
            Command::Inform => match reply.template(&order) {
                Ok(template) => Box::pin(reply.send(reply.head(&template, None), Bytes::new())).await?,
                Err(text) => reply.shared().connection.log(&format!("an interim response was left out: {text}")),
            },
            Command::Upgrade => {
                reply.shared().connection.log("the host accepts an upgrade that the client has not offered");
                stream.fail(Reason::Internal);
                return reply.refuse((StatusCode::INTERNAL_SERVER_ERROR, "")).await;
            }
            Command::Reset => {
                let refusal = match Reason::from_number(order.code) {
                    Reason::Limit => TOO_LARGE,
                    Reason::Timeout => SLOW,
                    reason => return Err(Broken(reason)),
                };
                reply.shared().connection.count_refusal(refusal);
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

async fn respond(order: Order, mut stream: Stream, is_head: bool, reply: &mut Reply) -> Result<(), Broken> {
    let planned = reply.template(&order).and_then(|template| {
        let extent = Extent::of(&order, template.length, is_head)?;
        Ok((template, extent))
    });
    let (template, extent) = match planned {
        Ok(planned) => planned,
        Err(text) => {
            reply.shared().connection.log(&format!("a response was refused and the client got 500: {text}"));
            stream.fail(Reason::Internal);
            return reply.refuse((StatusCode::INTERNAL_SERVER_ERROR, "")).await;
        }
    };
    let head = reply.head(&template, extent.length);
    drop(template);
    if order.end {
        let body = if extent.silent { Bytes::new() } else { order.body };
        reply.send(head, body).await?;
        return reply.finish();
    }
    // Boxed, so that a request waits for its answer in little room.
    Box::pin(pour(order.body, stream, head, extent, reply)).await
}

/// Sends an answer that comes in pieces.
async fn pour(
    mut body: Bytes,
    mut stream: Stream,
    mut frames: Vec<u8>,
    mut extent: Extent,
    reply: &mut Reply,
) -> Result<(), Broken> {
    let (mut end, mut trailers) = (false, Bytes::new());
    loop {
        let size = body.len();
        if extent.silent {
            body = Bytes::new();
        } else if let Err(text) = extent.count(size as u64, end) {
            reply.shared().connection.log(&text);
            stream.fail(Reason::Internal);
            return Err(Broken(Reason::Internal));
        }
        reply.send(std::mem::take(&mut frames), body).await?;
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
