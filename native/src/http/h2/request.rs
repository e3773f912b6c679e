//! One HTTP/2 request, from its head to the last byte of its answer.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use h2::ext::Protocol as Upgrade;
use h2::server::SendResponse;
use h2::{Reason as Code, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE};
use http::{HeaderMap, Method, Request, Response, StatusCode, request};

use super::flow::{Flow, Piece};
use super::tunnel::Tunnel;
use super::{Shared, head};
use crate::exchange::{Inlet, Opening, Order, Stream};
use crate::http::guard;
use crate::http::heads::Template;
use crate::http::input::Input;
use crate::http::message::{Extent, Head, Pace, Refusal, SLOW, TOO_LARGE, TOO_MANY, fields, joined};
use crate::http::output::Output;
use crate::http::upgrade::{Channel, Mode};
use crate::limits::Limits;
use crate::record::{Command, FLAG_END, FLAG_UPGRADE, Protocol, Reason};

/// The stream cannot go on; the host learns it when its stream is dropped.
enum Broken {
    /// The peer has reset it, or the connection is gone.
    Lost,
    /// The peer has taken nothing for too long; counted already.
    Stalled,
    /// We cannot or the host will not finish it.
    Abandoned,
}

impl From<h2::Error> for Broken {
    fn from(_: h2::Error) -> Self {
        Broken::Lost
    }
}

/// The answer's half of the stream.
struct Reply {
    respond: SendResponse<Piece>,
    flow: Arc<Flow>,
}

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
        let length = (!route.template.is_bodiless()).then_some(route.body.len() as u64);
        let body = if asked.parts.method == Method::HEAD { Bytes::new() } else { route.body.clone() };
        let done = reply.whole(&route.template, length, body);
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

/// Waits for what the host says to a request, and does it.
async fn answer(stream: Stream, method: Method, tunnel: Option<RecvStream>, mut reply: Reply) {
    let done = obey(stream, &method, tunnel, &mut reply).await;
    reply.end(done);
}

async fn obey(
    mut stream: Stream,
    method: &Method,
    tunnel: Option<RecvStream>,
    reply: &mut Reply,
) -> Result<(), Broken> {
    loop {
        let order = poll_fn(|context| match stream.poll_order(context) {
            Poll::Ready(order) => Poll::Ready(order.ok_or(Broken::Abandoned)),
            Poll::Pending => reply.poll_lost(context),
        })
        .await?;
        match order.command {
            Command::Head => return respond(order, stream, method, reply).await,
            Command::Upgrade => match tunnel {
                Some(incoming) => return Box::pin(switch(order, stream, incoming, reply)).await,
                None => {
                    stream.fail(Reason::Internal);
                    return reply.fail("the host accepts an upgrade that the client has not offered");
                }
            },
            Command::Inform => reply.inform(&order)?,
            Command::Reset => match Reason::from_number(order.code) {
                Reason::Limit => return reply.refuse(TOO_LARGE),
                Reason::Timeout => return reply.refuse(SLOW),
                Reason::Gone => return Err(Broken::Lost),
                _ => return Err(Broken::Abandoned),
            },
            Command::Data | Command::End | Command::Ping | Command::Credit => return Err(Broken::Abandoned),
        }
    }
}

impl Reply {
    /// Ready when the peer has reset the stream before it was answered.
    fn poll_lost<T>(&mut self, context: &mut Context<'_>) -> Poll<Result<T, Broken>> {
        self.respond.poll_reset(context).map(|_| Err(Broken::Lost))
    }

    fn head(&mut self, response: Response<()>, end: bool) -> Result<SendStream<Piece>, Broken> {
        self.flow.shared.moved.fetch_add(1, Ordering::Relaxed);
        Ok(self.respond.send_response(response, end)?)
    }

    /// An answer that is here as a whole.
    fn whole(&mut self, template: &Template, length: Option<u64>, body: Bytes) -> Result<(), Broken> {
        let response = head::response(template, length, &self.flow.shared.connection);
        let mut send = self.head(response, body.is_empty())?;
        if !body.is_empty() {
            // What is already complete is no longer the host's to be told about.
            self.flow.report(0);
            send.send_data(self.flow.piece(body), true)?;
            self.flow.clone().leave(send);
        }
        Ok(())
    }

    /// An interim answer (RFC 9110 section 15.2). One that is malformed is left out, as it is optional.
    fn inform(&mut self, order: &Order) -> Result<(), Broken> {
        if let (Ok(status), Ok(fields)) = (StatusCode::from_u16(order.code), fields(&order.head))
            && status.is_informational()
        {
            let mut response = Response::new(());
            *response.status_mut() = status;
            *response.headers_mut() = fields;
            self.respond.send_informational(response)?;
        }
        Ok(())
    }

    fn refuse(&mut self, refusal: Refusal) -> Result<(), Broken> {
        let connection = &self.flow.shared.connection;
        connection.count_refusal(refusal);
        let (template, body) = connection.refusal(refusal).map_err(|_| Broken::Abandoned)?;
        self.whole(&template, Some(body.len() as u64), body)
    }

    /// The end of the request, in peace or not.
    fn end(mut self, done: Result<(), Broken>) {
        match done {
            Ok(()) => {}
            Err(Broken::Lost) => self.flow.shared.count_reset(),
            Err(Broken::Stalled) => self.respond.send_reset(Code::CANCEL),
            // RFC 9113 section 8.1: what the client has so far is no answer.
            Err(Broken::Abandoned) => self.respond.send_reset(Code::INTERNAL_ERROR),
        }
    }

    /// Logs what the client is not told, who gets 500.
    fn fail(&mut self, text: &str) -> Result<(), Broken> {
        self.flow.shared.connection.log(text);
        self.refuse((StatusCode::INTERNAL_SERVER_ERROR, ""))
    }
}

async fn respond(order: Order, mut stream: Stream, method: &Method, reply: &mut Reply) -> Result<(), Broken> {
    let template = reply.flow.shared.connection.site.heads.template(order.code, &order.head);
    let planned = template.and_then(|template| {
        let extent = Extent::of(&order, template.length, method == Method::HEAD)?;
        Ok((template, extent))
    });
    let (template, extent) = match planned {
        Ok(planned) => planned,
        Err(text) => {
            stream.fail(Reason::Internal);
            return reply.fail(&format!("a response was refused and the client got 500: {text}"));
        }
    };
    if order.end {
        let body = if extent.silent { Bytes::new() } else { order.body };
        return reply.whole(&template, extent.length, body);
    }
    // Boxed, so that a request waits for its answer in little room.
    Box::pin(pour(order, stream, &template, extent, reply)).await
}

/// Sends an answer that comes in pieces.
async fn pour(
    order: Order,
    mut stream: Stream,
    template: &Template,
    mut extent: Extent,
    reply: &mut Reply,
) -> Result<(), Broken> {
    let flow = reply.flow.clone();
    let connection = &flow.shared.connection;
    let mut send = reply.head(head::response(template, extent.length, connection), false)?;
    let (mut body, mut end, mut trailers) = (order.body, false, Bytes::new());
    loop {
        if extent.silent {
            stream.sent(body.len());
            body = Bytes::new();
        }
        extent.count(body.len() as u64, end).map_err(|text| {
            connection.log(&text);
            Broken::Abandoned
        })?;
        let last = end && trailers.is_empty();
        if last || !body.is_empty() {
            send.send_data(flow.piece(body), last)?;
        }
        if !trailers.is_empty() {
            send.send_trailers(fields(&trailers).map_err(|_| Broken::Abandoned)?)?;
        }
        if end {
            flow.clone().leave(send);
            return Ok(());
        }
        let order = poll_fn(|context| {
            if let Poll::Ready(order) = stream.poll_order(context) {
                return Poll::Ready(order.ok_or(Broken::Abandoned));
            }
            if send.poll_reset(context).is_ready() {
                return Poll::Ready(Err(Broken::Lost));
            }
            flow.list(&stream);
            Poll::Pending
        })
        .await?;
        match order.command {
            Command::Data | Command::End => (body, end, trailers) = (order.body, order.end, order.head),
            Command::Credit => body = Bytes::new(),
            Command::Reset => {
                return Err(match Reason::from_number(order.code) {
                    Reason::Timeout => Broken::Stalled,
                    Reason::Gone => Broken::Lost,
                    _ => Broken::Abandoned,
                });
            }
            Command::Head | Command::Inform | Command::Upgrade | Command::Ping => return Err(Broken::Abandoned),
        }
    }
}

/// Accepts an extended CONNECT (RFC 8441 section 5): the stream goes on as a tunnel.
async fn switch(order: Order, mut stream: Stream, incoming: RecvStream, reply: &mut Reply) -> Result<(), Broken> {
    let mut fields = match fields(&order.head) {
        Ok(fields) => fields,
        Err(text) => {
            stream.fail(Reason::Internal);
            return reply.fail(&format!("an upgrade was refused and the client got 500: {text}"));
        }
    };
    fields.remove(CONTENT_LENGTH);
    // The channel tells what has gone.
    reply.flow.report(0);
    let mut response = Response::new(());
    fields.entry(DATE).or_insert_with(|| reply.flow.shared.connection.member.connections().date_value());
    *response.headers_mut() = fields;
    let tunnel = Tunnel::new(reply.head(response, false)?, incoming, reply.flow.clone());
    let site = &reply.flow.shared.connection.site;
    let member = reply.flow.shared.connection.member.branch(site.exchange.name());
    let body = guard::Body::new(guard::Framing::None, &site.limits);
    let channel = Channel::new(tunnel, Input::default(), Output::default(), stream, &member, site);
    channel.serve(Mode::of(order.flags), body).await;
    Ok(())
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
