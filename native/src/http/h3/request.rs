//! One HTTP/3 request, from its first frame to the last byte of its answer.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h3::error::{Code, StreamError};
use h3::server::{RequestResolver, RequestStream};
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{Method, StatusCode, request};
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
    stream: quinn::SendStream,
    /// h3 counts the request as under way for as long as it has this.
    _sender: RequestStream<Sender, Bytes>,
    /// Ready when the peer wants no answer any more; made when the answer is waited for.
    stopped: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    shared: Arc<Shared>,
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
    /// Hands bytes to QUIC as the peer takes them, as long as it takes something now and then.
    async fn send(&mut self, mut pieces: &mut [Bytes]) -> Result<(), Broken> {
        let stall = Duration::from_millis(self.shared.limits().write_stall_ms.into());
        while !pieces.is_empty() {
            let written = {
                let mut write = pin!(self.stream.write_chunks(pieces));
                // A timer only for who has to wait.
                match poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await {
                    Poll::Ready(written) => written?,
                    Poll::Pending => {
                        tokio::time::timeout(stall, write).await.map_err(|_| Broken(Reason::Timeout))??
                    }
                }
            };
            // A piece taken in part is shortened where it lies.
            pieces = &mut pieces[written.chunks..];
        }
        Ok(())
    }

    /// A response head and what is here of its body, in one go.
    async fn head(&mut self, template: &Template, length: Option<u64>, body: Bytes) -> Result<(), Broken> {
        let section = template.section(|template| {
            let mut section = Vec::new();
            encode::fields(&mut section, template.fields());
            section
        });
        let date = self.shared.connection.member.connections().imf_date();
        // A server with a clock says when (RFC 9110 section 6.6.1).
        let date = Some(&date[..]).filter(|_| !template.is_dated() && template.status >= 200);
        let mut head = Vec::with_capacity(section.len() + 128);
        encode::head(&mut head, template.status, section, length, date);
        self.follow(head, body).await
    }

    /// A piece of the body.
    async fn data(&mut self, body: Bytes) -> Result<(), Broken> {
        self.follow(Vec::new(), body).await
    }

    /// Sends `frames` and the body behind them, if there is one. A small one is copied: two pieces cost more.
    async fn follow(&mut self, mut frames: Vec<u8>, body: Bytes) -> Result<(), Broken> {
        if body.is_empty() {
            return if frames.is_empty() { Ok(()) } else { self.send(&mut [frames.into()]).await };
        }
        encode::data(&mut frames, body.len());
        if body.len() > COPIED {
            return self.send(&mut [frames.into(), body]).await;
        }
        frames.extend_from_slice(&body);
        self.send(&mut [frames.into()]).await
    }

    async fn trailers(&mut self, fields: &[u8]) -> Result<(), Broken> {
        // A template checks fields and leaves out what belongs to one hop; of this one nothing else is looked at.
        let checked = match Template::new(200, fields) {
            Ok(checked) => checked,
            Err(text) => {
                self.shared.connection.log(&format!("trailers were left out: {text}"));
                return Ok(());
            }
        };
        let (mut section, mut frame) = (Vec::new(), Vec::new());
        encode::fields(&mut section, checked.fields());
        encode::trailers(&mut frame, &section);
        self.send(&mut [frame.into()]).await
    }

    fn finish(&mut self) -> Result<(), Broken> {
        self.done = true;
        self.stream.finish().map_err(|_| Broken(Reason::Gone))
    }

    async fn refuse(&mut self, (status, reason): Refusal) -> Result<(), Broken> {
        let body = if reason.is_empty() { Bytes::new() } else { Bytes::from(format!("{reason}\n")) };
        let fields = b"content-type\0text/plain; charset=utf-8";
        let site = self.shared.connection.site.clone();
        // These fields are tokens and plain text, which a template always takes.
        let Ok(template) = site.heads.template(status.as_u16(), fields) else { return Err(Broken(Reason::Internal)) };
        self.head(&template, Some(body.len() as u64), body).await?;
        self.finish()
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

/// Reads one request, has the host answer it, and sends the answer.
pub(super) async fn answer(resolver: RequestResolver<transport::Connection, Bytes>, half: Half, shared: Arc<Shared>) {
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
    let Some(ours) = transport::take(&half) else { return };
    let mut reply = Reply { stream: ours, _sender: sender, stopped: None, shared: shared.clone(), done: false };
    if is_malformed(&parts) {
        incoming.stop_sending(Code::H3_MESSAGE_ERROR);
        return reply.reset(Code::H3_MESSAGE_ERROR);
    }
    match exchange(&parts, &mut reply, incoming, &shared).await {
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
    let declared = declared(parts);
    let mut upload = Upload::new(incoming, declared, &site.limits);
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
        reply.head(&route.template, length, body).await?;
        return reply.finish();
    }
    if head.length.is_some_and(|length| length <= u64::from(site.limits.inline_body_bytes)) {
        while !upload.ended {
            match upload.next().await {
                Ok(Some(data)) => body.extend_from_slice(&data),
                Ok(None) => break,
                Err(Broken(Reason::Timeout)) => {
                    connection.count_refusal(SLOW);
                    tokio::spawn(upload.discard());
                    return reply.refuse(SLOW).await;
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
                Ok(template) => reply.head(&template, None, Bytes::new()).await?,
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
        match head.take() {
            Some(template) => reply.head(&template, extent.length, body).await?,
            None => reply.data(body).await?,
        }
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
