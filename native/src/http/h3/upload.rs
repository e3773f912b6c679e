//! The request body of one HTTP/3 request.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h3::error::Code;
use tokio::time::Instant;

use super::reply::Broken;
use super::request::Incoming;
use crate::exchange::Inlet;
use crate::http::message::{Pace, joined};
use crate::limits::Limits;
use crate::record::Reason;

/// How long and how much is read away after an early answer. More than in HTTP/1.1: the connection is not held up by it.
const DISCARD_TIME: Duration = Duration::from_secs(5);
const DISCARD_BYTES: usize = 4 * 1024 * 1024;

/// The request body on its way in.
pub(super) struct Upload {
    incoming: Incoming,
    pace: Pace,
    declared: Option<u64>,
    received: u64,
    limit: u64,
    /// Everything has come, trailers excepted.
    pub(super) ended: bool,
}

impl Upload {
    pub(super) fn new(incoming: Incoming, declared: Option<u64>, limits: &Limits) -> Upload {
        let (pace, limit) = (Pace::new(limits), limits.body_bytes);
        Upload { incoming, pace, declared, received: 0, limit, ended: false }
    }

    /// Reads a rest nobody wants away, and only of a large one has the peer stop (RFC 9114 section 4.1): Chromium 156 shows no
    /// answer to an upload it was told to stop, whatever the code, but waits for that upload's end.
    pub(super) async fn discard(mut self) {
        let until = Instant::now() + DISCARD_TIME;
        let mut left = DISCARD_BYTES;
        while !self.ended && left > 0 {
            match tokio::time::timeout_at(until, self.incoming.recv_data()).await {
                Ok(Ok(Some(piece))) => left = left.saturating_sub(piece.remaining()),
                Ok(Ok(None) | Err(_)) => return,
                Err(_) => break,
            }
        }
        if !self.ended {
            self.incoming.stop_sending(Code::H3_NO_ERROR);
        }
    }

    /// What is here already: most requests are, with their end.
    pub(super) fn take_ready(&mut self, body: &mut Vec<u8>, context: &mut Context<'_>) -> Result<(), Broken> {
        match self.incoming.poll_recv_data(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(Err(cause)) => Err(cause.into()),
            Poll::Ready(Ok(None)) => self.end(),
            Poll::Ready(Ok(Some(mut data))) => {
                let data = data.copy_to_bytes(data.remaining());
                body.extend_from_slice(&data);
                self.count(data.len())
            }
        }
    }

    /// The next piece, no slower than limit `body_rate`; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        let Upload { incoming, pace, .. } = self;
        let piece = pace.next(incoming.recv_data()).await.ok_or(Broken(Reason::Timeout))??;
        let Some(mut piece) = piece else {
            self.end()?;
            return Ok(None);
        };
        let data = piece.copy_to_bytes(piece.remaining());
        drop(piece);
        self.count(data.len())?;
        self.pace.received(data.len());
        Ok(Some(data))
    }

    /// All that is still to come.
    pub(super) async fn collect(&mut self, body: &mut Vec<u8>) -> Result<(), Broken> {
        while !self.ended {
            if let Some(data) = self.next().await? {
                body.extend_from_slice(&data);
            }
        }
        Ok(())
    }

    /// The body may not be longer than it says (RFC 9114 section 4.1.2).
    fn count(&mut self, size: usize) -> Result<(), Broken> {
        self.received += size as u64;
        if self.declared.is_some_and(|length| self.received > length) {
            return Err(Broken(Reason::Protocol));
        }
        if self.limit > 0 && self.received > self.limit {
            return Err(Broken(Reason::Limit));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Broken> {
        self.ended = true;
        if self.declared.is_some_and(|length| self.received != length) {
            return Err(Broken(Reason::Protocol));
        }
        Ok(())
    }

    /// As [`Upload::trailers`], by one look.
    pub(super) fn poll_trailers(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<u8>, Broken>> {
        let trailers = ready!(self.incoming.poll_recv_trailers(context))?;
        Poll::Ready(Ok(trailers.as_ref().map(joined).unwrap_or_default()))
    }

    pub(super) async fn trailers(&mut self) -> Result<Vec<u8>, Broken> {
        let Upload { incoming, pace, .. } = self;
        let trailers = pace.next(incoming.recv_trailers()).await.ok_or(Broken(Reason::Timeout))??;
        Ok(trailers.as_ref().map(joined).unwrap_or_default())
    }

    /// Feeds the host within its credit, until it wants no more.
    pub(super) async fn feed(mut self, inlet: Inlet) {
        if let Err(Broken(reason)) = self.pour(&inlet).await {
            inlet.fail(reason);
        }
        self.discard().await;
    }

    async fn pour(&mut self, inlet: &Inlet) -> Result<(), Broken> {
        loop {
            let mut credit = pin!(poll_fn(|context| match inlet.exchange().poll_ready(context) {
                Poll::Ready(()) => inlet.poll_credit(context),
                Poll::Pending => Poll::Pending,
            }));
            let begun = Instant::now();
            let Some(_) = credit.as_mut().await else { return Ok(()) };
            self.pace.pause(begun.elapsed());
            let piece = {
                let mut next = pin!(self.next());
                poll_fn(|context| match inlet.poll_over(context) {
                    Poll::Ready(()) => Poll::Ready(None),
                    Poll::Pending => next.as_mut().poll(context).map(Some),
                })
                .await
            };
            let Some(piece) = piece else { return Ok(()) };
            match piece? {
                Some(data) => inlet.push(&data, false),
                None => {
                    let trailers = self.trailers().await?;
                    inlet.push_end(&trailers);
                    return Ok(());
                }
            }
        }
    }
}
