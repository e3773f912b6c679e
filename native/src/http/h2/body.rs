//! Response bodies: the host's orders as frames, each counted as sent when h2 lets go of it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::{Abandoned, Counted, Shared};
use crate::exchange::Stream;
use crate::http::message::fields;
use crate::record::Command;

/// A response body: what came with the head, then the host's further orders.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) first: Option<Bytes>,
    pub(super) end: bool,
    pub(super) left: Option<u64>,
    pub(super) silent: bool,
    pub(super) id: u64,
    pub(super) stream: Option<Stream>,
    pub(super) counted: Counted,
}

impl Outgoing {
    pub(super) fn fixed(body: Bytes, counted: Counted) -> Outgoing {
        let first = Some(body).filter(|body| !body.is_empty());
        Outgoing { first, end: true, left: None, silent: false, id: 0, stream: None, counted }
    }

    fn piece(&self, bytes: Bytes) -> Frame<Piece> {
        let shared = self.counted.0.clone();
        shared.held.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Frame::data(Piece { size: bytes.len(), bytes, id: self.id, shared })
    }

    /// Counts against the declared content-length; an error resets the stream rather than lie about the end.
    pub(super) fn count(&mut self, size: u64, end: bool) -> Result<(), Abandoned> {
        let Some(left) = self.left else { return Ok(()) };
        self.left = left.checked_sub(size).filter(|left| *left == 0 || !end);
        if self.left.is_some() {
            return Ok(());
        }
        let text = format!("the response body has not the length its head says ({left} bytes were left, {size} came)");
        self.counted.0.connection.log(&text);
        Err(Abandoned)
    }
}

impl Body for Outgoing {
    type Data = Piece;
    type Error = Abandoned;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Abandoned>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(self.piece(first))));
        }
        loop {
            if self.end {
                return Poll::Ready(None);
            }
            let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
            let order = match stream.poll_order(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Some(Err(Abandoned))),
                Poll::Ready(Some(order)) => order,
            };
            match order.command {
                Command::Data | Command::End => {}
                Command::Credit => continue,
                Command::Head | Command::Reset | Command::Inform | Command::Upgrade | Command::Ping => {
                    return Poll::Ready(Some(Err(Abandoned)));
                }
            }
            if self.silent {
                self.counted.0.connection.site.exchange.sent(self.id, order.body.len());
                self.end = order.end;
                continue;
            }
            if let Err(abandoned) = self.count(order.body.len() as u64, order.end) {
                return Poll::Ready(Some(Err(abandoned)));
            }
            self.end = order.end;
            if order.command == Command::End && !order.head.is_empty() {
                return match fields(&order.head) {
                    Ok(trailers) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                    Err(_) => Poll::Ready(Some(Err(Abandoned))),
                };
            }
            if !order.body.is_empty() {
                return Poll::Ready(Some(Ok(self.piece(order.body))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.end && self.first.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        // The length is in the fields already; an exact hint would make hyper add one where none belongs.
        SizeHint::default()
    }
}

/// Body bytes in h2's hands. Dropped when they are written, or when the stream is reset.
#[derive(Debug)]
pub(super) struct Piece {
    bytes: Bytes,
    size: usize,
    id: u64,
    shared: Arc<Shared>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.shared.held.fetch_sub(self.size as u64, Ordering::Relaxed);
        self.shared.taken.fetch_add(1, Ordering::Relaxed);
        self.shared.connection.site.exchange.sent(self.id, self.size);
    }
}
