//! The answer to one HTTP/3 request: what the host says, and how it goes on the stream.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h3::error::{Code, StreamError};
use h3::server::RequestStream;
use http::StatusCode;
use quinn::WriteError;

use super::encode;
use super::request::{Counted, Shared};
use super::transport::{Sender, number};
use crate::exchange::{Order, Stream};
use crate::http::heads::Template;
use crate::http::message::{Extent, Refusal, SLOW, TOO_LARGE};
use crate::http::routes::Route;
use crate::limits::Limit;
use crate::record::{Command, Reason};

/// A body up to this size is copied behind its head.
const COPIED: usize = 1024;

/// The answer's half of the stream. Dropped before it is done, it resets the stream: the client sees no clean end.
pub(super) struct Reply {
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
    pub(super) fn new(stream: quinn::SendStream, sender: RequestStream<Sender, Bytes>, counted: Counted) -> Reply {
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
    pub(super) fn refuse(&mut self, refusal: Refusal) -> Pin<Box<dyn Future<Output = Result<(), Broken>> + Send + '_>> {
        Box::pin(async move {
            let refused = self.shared().connection.refusal(refusal);
            let (template, body) = refused.map_err(|_| Broken(Reason::Internal))?;
            let head = self.head(&template, Some(body.len() as u64));
            self.send(head, body).await?;
            self.finish()
        })
    }

    /// The end of the request, in peace or not.
    pub(super) async fn end(mut self: Box<Self>, done: Result<(), Broken>) {
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

    pub(super) fn give_up(&mut self, reason: Reason) {
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

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.counted.0
    }

    pub(super) fn reset(&mut self, code: Code) {
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

pub(super) async fn constant(route: Arc<Route>, body: Bytes, mut reply: Box<Reply>) {
    let head = reply.head(&route.template, route.length());
    let done = reply.send(head, body).await.and_then(|()| reply.finish());
    reply.end(done).await;
}

/// Waits for what the host says to a request, and does it.
pub(super) async fn answer(stream: Stream, is_head: bool, mut reply: Box<Reply>) {
    let done = obey(stream, is_head, &mut reply).await;
    reply.end(done).await;
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
