//! One HTTP/3 request, until the host knows of it or it is refused; `reply.rs` has the rest.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h3::error::{Code, StreamError};
use h3::server::RequestStream;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, request};

use super::reply::{Broken, Reply, answer, constant};
use super::transport::{self, Half, Receiver};
use super::upload::Upload;
use crate::exchange::{Opening, Stream};
use crate::http::Connection;
use crate::http::message::{Head, Refusal, Resets, SLOW, TOO_MANY};
use crate::http::routes::Route;
use crate::limits::{Limit, Limits};
use crate::record::{FLAG_END, Protocol, Reason};

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

    pub(super) fn count_reset(&self) {
        self.resets.count(self.connection.member.connections().now());
        if self.is_excessive() {
            self.connection.member.watch.wake();
        }
    }
}

/// One request in `open`, for as long as it lives.
pub(super) struct Counted(pub(super) Arc<Shared>);

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
            let body = route.body_for(&asked.parts.method);
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
