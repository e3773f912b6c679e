//! One HTTP/2 request, until the host knows of it or it is refused, and its body; `reply.rs` has the answer.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use h2::ext::Protocol as Upgrade;
use h2::server::SendResponse;
use http::{HeaderMap, Request, request};

use super::Shared;
use super::flow::{Flow, Piece};
use super::reply::{Broken, Reply, answer};
use crate::exchange::{Inlet, Opening, Stream};
use crate::http::message::{Head, Pace, Refusal, SLOW, TOO_MANY, joined};
use crate::limits::Limits;
use crate::record::{FLAG_END, FLAG_UPGRADE, Protocol, Reason};

/// A request whose head is here.
struct Asked {
    parts: request::Parts,
    incoming: RecvStream,
    /// `:protocol` of an extended CONNECT (RFC 8441): what comes on its stream is the other protocol's.
    upgrade: Option<Upgrade>,
}

/// Has one request answered. What can be done at once is; a task waits for the rest, and holds no more than it needs for it.
pub(super) fn begin(
    shared: &Arc<Shared>,
    request: Request<RecvStream>,
    respond: SendResponse<Piece>,
    context: &Context<'_>,
) {
    let site = &shared.connection.site;
    let mut reply = Reply { respond, flow: Flow::new(shared.clone()) };
    let upgrade = request.extensions().get::<Upgrade>().cloned();
    let (parts, incoming) = request.into_parts();
    let asked = Asked { parts, incoming, upgrade };
    let head = match asked.head(&site.limits) {
        Ok(head) => head,
        Err(refusal) => {
            let done = reply.refuse(refusal);
            return reply.end(done);
        }
    };
    if asked.incoming.is_end_stream()
        && let Some(route) = site.routes.find(asked.parts.method.as_str(), head.target)
    {
        let done = reply.whole(&route.template, route.length(), route.body_for(&asked.parts.method));
        return reply.end(done);
    }
    if asked.collects(&head, &site.limits) || site.exchange.poll_ready(context).is_pending() {
        drop(tokio::spawn(wait(asked, reply)));
        return;
    }
    let stream = asked.open(&head, &[], shared);
    asked.go_on(stream, reply);
}

/// Begins a request that has to wait for its body, or for room in the host's queue.
async fn wait(mut asked: Asked, mut reply: Reply) {
    let shared = reply.flow.shared.clone();
    let mut body = Vec::new();
    if let Err(done) = asked.prepare(&mut body, &mut reply, &shared).await {
        return reply.end(done);
    }
    let stream = match asked.head(shared.limits()) {
        Ok(head) => asked.open(&head, &body, &shared),
        Err(_) => None,
    };
    asked.go_on(stream, reply);
}

impl Asked {
    fn head(&self, limits: &Limits) -> Result<Head<'_>, Refusal> {
        Head::read(&self.parts, self.upgrade.as_ref().map(Upgrade::as_str), limits)
    }

    /// Whether the host is told only when the body is here.
    fn collects(&self, head: &Head<'_>, limits: &Limits) -> bool {
        self.upgrade.is_none()
            && !self.incoming.is_end_stream()
            && head.length.is_some_and(|length| length <= u64::from(limits.inline_body_bytes))
    }

    /// Waits for what `begin` could not; an error is the end of the request.
    async fn prepare(
        &mut self,
        body: &mut Vec<u8>,
        reply: &mut Reply,
        shared: &Shared,
    ) -> Result<(), Result<(), Broken>> {
        let limits = shared.limits();
        poll_fn(|context| match shared.connection.site.exchange.poll_ready(context) {
            Poll::Ready(()) => Poll::Ready(Ok(())),
            Poll::Pending => reply.poll_lost(context),
        })
        .await
        .map_err(Err)?;
        if !self.head(limits).is_ok_and(|head| self.collects(&head, limits)) {
            return Ok(());
        }
        let mut pace = Pace::new(limits);
        loop {
            match pace.next(Received::next(&mut self.incoming)).await {
                None => return Err(reply.refuse(SLOW)),
                Some(Received::Data(data)) => {
                    pace.received(data.len());
                    body.extend_from_slice(&data);
                }
                Some(Received::End(_)) => return Ok(()),
                Some(Received::Lost) => return Err(Err(Broken::Lost)),
            }
        }
    }

    /// Tells the host; `None` when it can have no more streams.
    fn open(&self, head: &Head<'_>, body: &[u8], shared: &Shared) -> Option<Stream> {
        let site = &shared.connection.site;
        let whole = self.is_whole();
        let opening = Opening {
            parent: shared.connection.member.id(),
            protocol: Protocol::Http2,
            flags: if whole { FLAG_END } else { 0 } | if self.upgrade.is_some() { FLAG_UPGRADE } else { 0 },
            credit: site.limits.receive_window,
            window: site.limits.send_window,
            body,
        };
        // The task that will wait is polled once it is there, and says then who is to be woken.
        let fill = |arena: &mut Vec<u8>| head.write(&self.parts, site.scheme(), arena);
        site.exchange.open(opening, Waker::noop(), fill)
    }

    fn is_whole(&self) -> bool {
        self.incoming.is_end_stream() || self.upgrade.is_some()
    }

    fn go_on(self, stream: Option<Stream>, mut reply: Reply) {
        let Some(stream) = stream else {
            let done = reply.refuse(TOO_MANY);
            return reply.end(done);
        };
        reply.flow.report(stream.id());
        let whole = self.is_whole();
        let Asked { parts, incoming, upgrade } = self;
        let tunnel = match upgrade {
            Some(_) => Some(incoming),
            None if whole => None,
            None => {
                let limits = reply.flow.shared.limits();
                tokio::spawn(upload(incoming, stream.inlet(), Pace::new(limits), limits.body_bytes));
                None
            }
        };
        tokio::spawn(answer(stream, parts.method, tunnel, reply));
    }
}

/// What comes of a request body.
enum Received {
    Data(Bytes),
    /// Its end, with trailers or none.
    End(HeaderMap),
    /// The peer has reset the stream, or the connection is gone.
    Lost,
}

impl Received {
    /// The next piece; taking it gives the peer its window back.
    async fn next(incoming: &mut RecvStream) -> Received {
        match poll_fn(|context| incoming.poll_data(context)).await {
            Some(Ok(data)) => match incoming.flow_control().release_capacity(data.len()) {
                Ok(()) => Received::Data(data),
                Err(_) => Received::Lost,
            },
            Some(Err(_)) => Received::Lost,
            None => match poll_fn(|context| incoming.poll_trailers(context)).await {
                Ok(trailers) => Received::End(trailers.unwrap_or_default()),
                Err(_) => Received::Lost,
            },
        }
    }
}

/// Feeds the request body to the host within its credit, and holds the peer to the body rate meanwhile.
async fn upload(mut incoming: RecvStream, inlet: Inlet, mut pace: Pace, limit: u64) {
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
        match pace.next(Received::next(&mut incoming)).await {
            None => return inlet.fail(Reason::Timeout),
            Some(Received::Lost) => return inlet.fail(Reason::Gone),
            Some(Received::End(trailers)) => return inlet.push_end(&joined(&trailers)),
            Some(Received::Data(data)) => {
                pace.received(data.len());
                received += data.len() as u64;
                if limit > 0 && received > limit {
                    return inlet.fail(Reason::Limit);
                }
                inlet.push(&data, false);
            }
        }
    }
}
