//! QUIC as h3 wants it, over quinn. (The crate h3-quinn does the same, but panics when reading is stopped while a read
//! waits, and offers no place for the gate.)

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h3::error::Code;
use h3::quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf};
use quinn::{ReadError, VarInt, WriteError};

use super::gate::{Gate, Refused};

type Opened = Result<(quinn::SendStream, quinn::RecvStream), quinn::ConnectionError>;
type Waiting<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// Our half of a request's stream, until [`take`] has it: h3 answers what it refuses, we answer the rest.
pub(super) type Half = Arc<Mutex<Option<quinn::SendStream>>>;

/// Takes the half from h3, which sends nothing on this stream any more.
pub(super) fn take(half: &Half) -> Option<quinn::SendStream> {
    half.lock().unwrap_or_else(|poison| poison.into_inner()).take()
}

/// The half of the request accepted last, for whoever accepted it.
pub(super) type Latest = Arc<Mutex<Option<Half>>>;

/// One connection.
pub(super) struct Connection {
    quic: quinn::Connection,
    latest: Latest,
    /// Longest field section, encoded or not.
    ceiling: u32,
    bidirectional: Waiting<Opened>,
    unidirectional: Waiting<Result<quinn::RecvStream, quinn::ConnectionError>>,
    opening: Waiting<Result<quinn::SendStream, quinn::ConnectionError>>,
}

impl Connection {
    pub(super) fn new(quic: quinn::Connection, ceiling: u32, latest: Latest) -> Connection {
        Connection { quic, latest, ceiling, bidirectional: None, unidirectional: None, opening: None }
    }
}

fn poll_waiting<T>(waiting: &mut Waiting<T>, context: &mut Context<'_>, make: impl FnOnce() -> Waiting<T>) -> Poll<T> {
    if waiting.is_none() {
        *waiting = make();
    }
    let Some(future) = waiting else { return Poll::Pending };
    let output = ready!(future.as_mut().poll(context));
    *waiting = None;
    Poll::Ready(output)
}

impl quic::Connection<Bytes> for Connection {
    type RecvStream = Receiver;
    type OpenStreams = Connection;

    fn poll_accept_recv(&mut self, context: &mut Context<'_>) -> Poll<Result<Receiver, ConnectionErrorIncoming>> {
        let quic = &self.quic;
        let accepted = poll_waiting(&mut self.unidirectional, context, || {
            let quic = quic.clone();
            Some(Box::pin(async move { quic.accept_uni().await }))
        });
        let stream = ready!(accepted).map_err(lost)?;
        Poll::Ready(Ok(Receiver { stream, gate: Gate::unidirectional(), refused: None }))
    }

    fn poll_accept_bidi(&mut self, context: &mut Context<'_>) -> Poll<Result<Stream, ConnectionErrorIncoming>> {
        let quic = &self.quic;
        let accepted = poll_waiting(&mut self.bidirectional, context, || {
            let quic = quic.clone();
            Some(Box::pin(async move { quic.accept_bi().await }))
        });
        let (sender, receiver) = ready!(accepted).map_err(lost)?;
        let sender = Sender::new(sender);
        *self.latest.lock().unwrap_or_else(|poison| poison.into_inner()) = Some(sender.half.clone());
        let receiver = Receiver { stream: receiver, gate: Gate::request(self.ceiling), refused: None };
        Poll::Ready(Ok(Stream { sender, receiver }))
    }

    fn opener(&self) -> Connection {
        Connection::new(self.quic.clone(), self.ceiling, self.latest.clone())
    }
}

impl quic::OpenStreams<Bytes> for Connection {
    type BidiStream = Stream;
    type SendStream = Sender;

    fn poll_open_bidi(&mut self, _: &mut Context<'_>) -> Poll<Result<Stream, StreamErrorIncoming>> {
        // A server opens none in HTTP/3 (RFC 9114 section 6.1).
        let text = "a server opens no bidirectional streams".to_owned();
        let connection_error = ConnectionErrorIncoming::InternalError(text);
        Poll::Ready(Err(StreamErrorIncoming::ConnectionErrorIncoming { connection_error }))
    }

    fn poll_open_send(&mut self, context: &mut Context<'_>) -> Poll<Result<Sender, StreamErrorIncoming>> {
        let quic = &self.quic;
        let opened = poll_waiting(&mut self.opening, context, || {
            let quic = quic.clone();
            Some(Box::pin(async move { quic.open_uni().await }))
        });
        let stream = ready!(opened)
            .map_err(|cause| StreamErrorIncoming::ConnectionErrorIncoming { connection_error: lost(cause) })?;
        Poll::Ready(Ok(Sender::new(stream)))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.quic.close(number(code.value()), reason);
    }
}

/// A request's stream.
pub(super) struct Stream {
    sender: Sender,
    receiver: Receiver,
}

impl quic::BidiStream<Bytes> for Stream {
    type SendStream = Sender;
    type RecvStream = Receiver;

    fn split(self) -> (Sender, Receiver) {
        (self.sender, self.receiver)
    }
}

impl quic::RecvStream for Stream {
    type Buf = Bytes;

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let read = self.receiver.poll_data(context);
        if let Some(refused) = self.receiver.refused {
            // Nobody has been told of the request: the whole stream goes.
            quic::SendStream::reset(&mut self.sender, told(refused));
        }
        read
    }

    fn stop_sending(&mut self, code: u64) {
        self.receiver.stop_sending(code);
    }

    fn recv_id(&self) -> StreamId {
        self.receiver.recv_id()
    }
}

impl quic::SendStream<Bytes> for Stream {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sender.poll_ready(context)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.sender.send_data(data)
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sender.poll_finish(context)
    }

    fn reset(&mut self, code: u64) {
        self.sender.reset(code);
    }

    fn send_id(&self) -> StreamId {
        self.sender.send_id()
    }
}

/// What the peer sends, read through the gate.
pub(super) struct Receiver {
    stream: quinn::RecvStream,
    gate: Gate,
    refused: Option<Refused>,
}

impl quic::RecvStream for Receiver {
    type Buf = Bytes;

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        // The future only borrows: what it waits for is kept in the stream, so a new one each time loses nothing.
        let chunk = {
            let mut read = std::pin::pin!(self.stream.read_chunk(usize::MAX, true));
            ready!(read.as_mut().poll(context))
        };
        let chunk = chunk.map_err(|cause| match cause {
            ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
            ReadError::ConnectionLost(cause) => {
                StreamErrorIncoming::ConnectionErrorIncoming { connection_error: lost(cause) }
            }
            cause => StreamErrorIncoming::Unknown(Box::new(cause)),
        })?;
        let Some(chunk) = chunk else { return Poll::Ready(Ok(None)) };
        if let Err(refused) = self.gate.pass(&chunk.bytes) {
            self.stop_sending(told(refused));
            self.refused = Some(refused);
            return Poll::Ready(Err(StreamErrorIncoming::Unknown(Box::new(refused))));
        }
        Poll::Ready(Ok(Some(chunk.bytes)))
    }

    fn stop_sending(&mut self, code: u64) {
        // Fails when the peer has ended or reset it already.
        let _ = self.stream.stop(number(code));
    }

    fn recv_id(&self) -> StreamId {
        name(self.stream.id())
    }
}

/// What h3 sends: on its own streams, and of a request's the answers to what it refuses.
pub(super) struct Sender {
    half: Half,
    id: StreamId,
    writing: Option<WriteBuf<Bytes>>,
}

impl Sender {
    fn new(stream: quinn::SendStream) -> Sender {
        Sender { id: name(stream.id()), half: Arc::new(Mutex::new(Some(stream))), writing: None }
    }

    fn lock(&self) -> MutexGuard<'_, Option<quinn::SendStream>> {
        self.half.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

fn internal(text: &str) -> StreamErrorIncoming {
    let connection_error = ConnectionErrorIncoming::InternalError(text.to_owned());
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error }
}

impl quic::SendStream<Bytes> for Sender {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        let half = self.half.clone();
        let mut half = half.lock().unwrap_or_else(|poison| poison.into_inner());
        while let Some(data) = self.writing.as_mut().filter(|data| data.has_remaining()) {
            let Some(stream) = half.as_mut() else {
                return Poll::Ready(Err(internal("the stream is not h3's any more")));
            };
            let written = ready!(Pin::new(stream).poll_write(context, data.chunk()));
            let written = written.map_err(|cause| match cause {
                WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() },
                WriteError::ConnectionLost(cause) => {
                    StreamErrorIncoming::ConnectionErrorIncoming { connection_error: lost(cause) }
                }
                cause => StreamErrorIncoming::Unknown(Box::new(cause)),
            })?;
            data.advance(written);
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            return Err(internal("data was sent before the stream was ready"));
        }
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        let finished = self.lock().as_mut().map_or(Ok(()), quinn::SendStream::finish);
        Poll::Ready(finished.map_err(|cause| StreamErrorIncoming::Unknown(Box::new(cause))))
    }

    fn reset(&mut self, code: u64) {
        if let Some(stream) = self.lock().as_mut() {
            // Fails when it has ended or was reset already.
            let _ = stream.reset(number(code));
        }
    }

    fn send_id(&self) -> StreamId {
        self.id
    }
}

/// What the peer is told of a stream that the gate has refused.
fn told(refused: Refused) -> u64 {
    match refused {
        Refused::Excess { .. } => Code::H3_EXCESSIVE_LOAD.value(),
        Refused::Malformed => Code::H3_MESSAGE_ERROR.value(),
    }
}

pub(super) fn number(code: u64) -> VarInt {
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn name(id: quinn::StreamId) -> StreamId {
    u64::from(id).try_into().expect("both are the 62-bit number of RFC 9000 section 2.1")
}

fn lost(cause: quinn::ConnectionError) -> ConnectionErrorIncoming {
    match cause {
        quinn::ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into() }
        }
        quinn::ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        cause => ConnectionErrorIncoming::Undefined(Arc::new(cause)),
    }
}
