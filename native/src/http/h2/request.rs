//! One HTTP/2 request, from its head to the last byte of its answer.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use h2::ext::Protocol as Upgrade;
use h2::server::SendResponse;
use h2::{Reason as Code, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE, Entry};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use super::Shared;
use super::flow::{Flow, Piece};
use super::tunnel::Tunnel;
use crate::exchange::{Inlet, Opening, Order, Stream};
use crate::http::guard;
use crate::http::input::Input;
use crate::http::message::{Head, Pace, Plan, Refusal, SLOW, TOO_LARGE, TOO_MANY, fields, joined};
use crate::http::output::Output;
use crate::http::upgrade::{Channel, Mode};
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

pub(super) async fn answer(shared: Arc<Shared>, request: Request<RecvStream>, respond: SendResponse<Piece>) {
    let mut reply = Reply { respond, flow: Flow::new(shared) };
    match exchange(request, &mut reply).await {
        Ok(()) => {}
        Err(Broken::Lost) => reply.flow.shared.count_reset(),
        Err(Broken::Stalled) => reply.respond.send_reset(Code::CANCEL),
        // RFC 9113 section 8.1: what the client has so far is no answer.
        Err(Broken::Abandoned) => reply.respond.send_reset(Code::INTERNAL_ERROR),
    }
}

async fn exchange(request: Request<RecvStream>, reply: &mut Reply) -> Result<(), Broken> {
    let shared = reply.flow.shared.clone();
    let site = &shared.connection.site;
    let upgrade = request.extensions().get::<Upgrade>().cloned();
    let (parts, mut incoming) = request.into_parts();
    let head = match Head::read(&parts, upgrade.as_ref().map(Upgrade::as_str), &site.limits) {
        Ok(head) => head,
        Err(refusal) => return reply.refuse(refusal),
    };
    if incoming.is_end_stream()
        && let Some(route) = site.routes.find(parts.method.as_str(), head.target)
    {
        let (mut plan, body) = Plan::constant(route, &parts.method);
        plan.advertise(site);
        return reply.whole(plan, body);
    }
    poll_fn(|context| match site.exchange.poll_ready(context) {
        Poll::Ready(()) => Poll::Ready(Ok(())),
        Poll::Pending => reply.poll_lost(context),
    })
    .await?;
    let mut body = Vec::new();
    let mut pace = Pace::new(&site.limits);
    if upgrade.is_none() && head.length.is_some_and(|length| length <= u64::from(site.limits.inline_body_bytes)) {
        loop {
            match pace.next(Received::next(&mut incoming)).await {
                None => return reply.refuse(SLOW),
                Some(Received::Data(data)) => {
                    pace.received(data.len());
                    body.extend_from_slice(&data);
                }
                Some(Received::End(_)) => break,
                Some(Received::Lost) => return Err(Broken::Lost),
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
        return reply.refuse(TOO_MANY);
    };
    drop(body);
    reply.flow.report(stream.id());
    let mut incoming = Some(incoming);
    if !whole && let Some(incoming) = incoming.take() {
        tokio::spawn(upload(incoming, stream.inlet(), pace, site.limits.body_bytes));
    }
    loop {
        let order = poll_fn(|context| match stream.poll_order(context) {
            Poll::Ready(order) => Poll::Ready(order.ok_or(Broken::Abandoned)),
            Poll::Pending => reply.poll_lost(context),
        })
        .await?;
        match order.command {
            Command::Head => return respond(order, stream, &parts.method, reply).await,
            Command::Upgrade => match incoming.filter(|_| upgrade.is_some()) {
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

    fn head(&mut self, status: StatusCode, mut fields: HeaderMap, end: bool) -> Result<SendStream<Piece>, Broken> {
        let shared = &self.flow.shared;
        if let Entry::Vacant(entry) = fields.entry(DATE)
            && let Ok(date) = HeaderValue::from_bytes(&shared.connection.member.connections().imf_date())
        {
            entry.insert(date);
        }
        shared.moved.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = fields;
        Ok(self.respond.send_response(response, end)?)
    }

    /// An answer that is here as a whole.
    fn whole(&mut self, plan: Plan, body: Bytes) -> Result<(), Broken> {
        let empty = plan.extent.silent || body.is_empty();
        let mut send = self.head(plan.status, plan.fields, empty)?;
        if !empty {
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
        self.flow.shared.connection.count_refusal(refusal);
        let (plan, body) = Plan::refusal(refusal);
        self.whole(plan, body)
    }

    /// Logs what the client is not told, who gets 500.
    fn fail(&mut self, text: &str) -> Result<(), Broken> {
        self.flow.shared.connection.log(text);
        self.refuse((StatusCode::INTERNAL_SERVER_ERROR, ""))
    }
}

async fn respond(order: Order, mut stream: Stream, method: &Method, reply: &mut Reply) -> Result<(), Broken> {
    let mut plan = match Plan::of(&order, method) {
        Ok(plan) => plan,
        Err(text) => {
            stream.fail(Reason::Internal);
            return reply.fail(&format!("a response was refused and the client got 500: {text}"));
        }
    };
    let flow = reply.flow.clone();
    let connection = &flow.shared.connection;
    plan.advertise(&connection.site);
    if order.end {
        return reply.whole(plan, order.body);
    }
    let mut send = reply.head(plan.status, std::mem::take(&mut plan.fields), false)?;
    let (mut body, mut end, mut trailers) = (order.body, false, Bytes::new());
    loop {
        if plan.extent.silent {
            stream.sent(body.len());
            body = Bytes::new();
        }
        plan.extent.count(body.len() as u64, end).map_err(|text| {
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
    let tunnel = Tunnel::new(reply.head(StatusCode::OK, fields, false)?, incoming, reply.flow.clone());
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
