//! The answer to one HTTP/2 request: what the host says, and how h2 gets it.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason as Code, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE};
use http::{Method, Response, StatusCode};

use super::flow::{Flow, Piece};
use super::head;
use super::tunnel::Tunnel;
use crate::exchange::{Order, Stream};
use crate::http::guard;
use crate::http::heads::Template;
use crate::http::input::Input;
use crate::http::message::{Extent, Refusal, SLOW, TOO_LARGE, fields};
use crate::http::output::Output;
use crate::http::upgrade::{Channel, Mode};
use crate::record::{Command, Reason};

/// The stream cannot go on; the host learns it when its stream is dropped.
pub(super) enum Broken {
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
pub(super) struct Reply {
    pub(super) respond: SendResponse<Piece>,
    pub(super) flow: Arc<Flow>,
}

/// Waits for what the host says to a request, and does it.
pub(super) async fn answer(stream: Stream, method: Method, tunnel: Option<RecvStream>, mut reply: Reply) {
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
    pub(super) fn poll_lost<T>(&mut self, context: &mut Context<'_>) -> Poll<Result<T, Broken>> {
        self.respond.poll_reset(context).map(|_| Err(Broken::Lost))
    }

    fn head(&mut self, response: Response<()>, end: bool) -> Result<SendStream<Piece>, Broken> {
        self.flow.shared.moved.fetch_add(1, Ordering::Relaxed);
        Ok(self.respond.send_response(response, end)?)
    }

    /// An answer that is here as a whole.
    pub(super) fn whole(&mut self, template: &Template, length: Option<u64>, body: Bytes) -> Result<(), Broken> {
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

    pub(super) fn refuse(&mut self, refusal: Refusal) -> Result<(), Broken> {
        let connection = &self.flow.shared.connection;
        connection.count_refusal(refusal);
        let (template, body) = connection.refusal(refusal).map_err(|_| Broken::Abandoned)?;
        self.whole(&template, Some(body.len() as u64), body)
    }

    /// The end of the request, in peace or not.
    pub(super) fn end(mut self, done: Result<(), Broken>) {
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
