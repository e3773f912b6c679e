//! WebSocket (RFC 6455) on an upgraded stream. tungstenite reads frames and keeps the closing handshake; it gets no socket
//! but buffers of ours, so that the exchange's credit and windows bound everything.
//!
//! Towards the host: a message is told within its credit, in pieces (MORE) when it is larger. Towards the peer: one DATA is
//! one frame, so a message the host sends in pieces is never held whole. No extension is negotiated.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::ReadBuf;
use tungstenite::error::{Error, ProtocolError};
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, FrameHeader};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};
use tungstenite::{Message, Utf8Bytes};

use super::Transport;
use super::input::Input;
use super::output::Output;
use super::upgrade::Channel;
use crate::connections::Phase;
use crate::exchange::Order;
use crate::record::{Command, FLAG_MORE, FLAG_TEXT, MESSAGE_COST, Reason};

/// What an idle connection keeps for reading.
const READ: usize = 16 * 1024;
/// How long and how much is read away before the close, as in HTTP/1.1.
const LINGER_MS: u32 = 2_000;
const LINGER_BYTES: usize = 1024 * 1024;

/// Close codes (RFC 6455 section 7.4.1 and IANA's registry).
const PROTOCOL_ERROR: u16 = 1002;
const NO_STATUS: u16 = 1005;
const BAD_DATA: u16 = 1007;
const TOO_BIG: u16 = 1009;
const RESTART: u16 = 1012;

pub(super) async fn serve<S: Transport>(channel: Channel<'_, S>) {
    let limits = &channel.site.limits;
    let bytes = usize::try_from(limits.ws_message_bytes).unwrap_or(usize::MAX);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ)
        .write_buffer_size(0)
        .max_message_size(Some(bytes))
        .max_frame_size(Some(bytes));
    let now = channel.member.connections().now();
    let mut socket = WebSocket {
        context: WebSocketContext::new(Role::Server, Some(config)),
        channel,
        stage: Stage::Open,
        arriving: None,
        in_pieces: false,
        pings: 0,
        heard: now,
        asked: None,
    };
    poll_fn(|context| socket.poll(context)).await;
}

struct WebSocket<'c, S> {
    channel: Channel<'c, S>,
    context: WebSocketContext,
    stage: Stage,
    /// A message of which the host has taken a part.
    arriving: Option<(Bytes, usize, u8)>,
    /// The host has sent a piece of a message, and not its last.
    in_pieces: bool,
    /// Pings of the host that the peer has not answered.
    pings: u32,
    /// When the peer was last heard, and since when it owes an answer to a ping of ours.
    heard: u64,
    asked: Option<u64>,
}

/// How far the closing handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// We have sent a close frame; until when the peer's is awaited.
    Closing(u64),
    /// Nothing is said any more: output goes, then FIN, then input is read away until the deadline.
    Over {
        shut: bool,
        left: usize,
        until: u64,
    },
}

type Step = Result<bool, ()>;

impl<S: Transport> WebSocket<'_, S> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let watch = &self.channel.member.watch;
            if watch.phase() == Phase::Kill {
                self.channel.abort(Reason::Stopping);
                return Poll::Ready(());
            }
            if watch.phase() == Phase::Drain && self.stage == Stage::Open {
                let reason = "the server is stopping";
                self.channel.stream.push_close(RESTART, reason.as_bytes());
                self.close(RESTART, reason);
            }
            if watch.fired() && self.overdue() {
                return Poll::Ready(());
            }
            let moved = self.poll_orders(context).and_then(|taken| {
                let full = !self.channel.output.has_room();
                match self.channel.poll_flush(context) {
                    Poll::Ready(Err(_)) => {
                        self.channel.stream.fail(Reason::Gone);
                        Err(())
                    }
                    // Orders left for want of room have no waker: they are looked at again as soon as there is some.
                    Poll::Ready(Ok(())) if full => Ok(true),
                    Poll::Ready(Ok(())) => self.poll_shut(context).map(|()| taken),
                    Poll::Pending => Ok(taken),
                }
            });
            let moved = moved.and_then(|moved| Ok(self.poll_input(context)? || moved));
            self.arm();
            match moved {
                Err(()) => return Poll::Ready(()),
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
            }
        }
    }

    /// Takes the host's orders as far as there is room.
    fn poll_orders(&mut self, context: &mut Context<'_>) -> Step {
        while self.channel.output.has_room() {
            match self.channel.stream.poll_order(context) {
                Poll::Pending => break,
                Poll::Ready(Some(order)) if order.command != Command::Reset => self.obey(order),
                Poll::Ready(_) => {
                    // Given up by the host: the peer sees an abrupt end, which is 1006 to it.
                    self.channel.socket.cut();
                    return Err(());
                }
            }
        }
        Ok(false)
    }

    fn obey(&mut self, order: Order) {
        if self.stage != Stage::Open {
            // Sent before the host could know; the window comes back all the same.
            self.channel.unreported += order.body.len() + MESSAGE_COST as usize;
            return;
        }
        match order.command {
            Command::Data => {
                let kind = match (self.in_pieces, order.flags & FLAG_TEXT != 0) {
                    (true, _) => Data::Continue,
                    (false, true) => Data::Text,
                    (false, false) => Data::Binary,
                };
                self.in_pieces = order.flags & FLAG_MORE != 0;
                let header =
                    FrameHeader { is_final: !self.in_pieces, opcode: OpCode::Data(kind), ..FrameHeader::default() };
                self.channel.unreported += order.body.len() + MESSAGE_COST as usize;
                // Writing to memory does not fail.
                let _ = header.format(order.body.len() as u64, &mut self.channel.output.buffer);
                self.channel.output.push(order.body);
            }
            Command::Ping => {
                self.pings += 1;
                self.speak(Message::Ping(order.head));
            }
            Command::End => {
                let reason = String::from_utf8_lossy(&order.head).into_owned();
                self.close(order.code, &reason);
            }
            _ => {}
        }
    }

    fn speak(&mut self, message: Message) {
        let mut pipe = Written(&mut self.channel.output);
        // Refused only after a close, when nothing more is to be said.
        let _ = self.context.write(&mut pipe, message);
    }

    /// Begins the closing handshake; code 0 sends none.
    fn close(&mut self, code: u16, reason: &str) {
        let frame = (code != 0).then(|| CloseFrame { code: code.into(), reason: Utf8Bytes::from(shortened(reason)) });
        let mut pipe = Written(&mut self.channel.output);
        let _ = self.context.close(&mut pipe, frame);
        let until = self.channel.member.connections().now() + u64::from(self.channel.site.limits.ws_close_ms);
        self.stage = Stage::Closing(until);
    }

    /// Sends what is left, then FIN, then reads away: a close with unread input would destroy the last frames.
    fn end(&mut self) {
        let until = self.channel.member.connections().now() + u64::from(LINGER_MS);
        self.stage = Stage::Over { shut: false, left: LINGER_BYTES, until };
    }

    fn poll_shut(&mut self, context: &mut Context<'_>) -> Result<(), ()> {
        if let Stage::Over { shut, .. } = &mut self.stage
            && !*shut
        {
            match Pin::new(&mut self.channel.socket).poll_shutdown(context) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => *shut = true,
                Poll::Ready(Err(_)) => return Err(()),
            }
        }
        Ok(())
    }

    /// Reads on, as far as the host and our own output let us. True when something moved.
    fn poll_input(&mut self, context: &mut Context<'_>) -> Step {
        if let Stage::Over { shut, left, until } = self.stage {
            return self.poll_linger(shut, left, until, context);
        }
        if !self.channel.output.has_room() {
            // Pongs are waiting to be read by the peer: it may send more when it has.
            return Ok(false);
        }
        if self.stage == Stage::Open && !self.poll_arriving(context) {
            return Ok(false);
        }
        let before = self.channel.output.len();
        let mut pipe = Pipe {
            socket: &mut self.channel.socket,
            input: &mut self.channel.input,
            output: &mut self.channel.output,
            context,
        };
        let read = self.context.read(&mut pipe);
        if !matches!(read, Err(Error::Io(_))) {
            self.heard = self.channel.member.connections().now();
            self.asked = None;
        }
        match read {
            Ok(message) => self.hear(message),
            // A pong or a close that answers what was read before has only now been written.
            Err(Error::Io(cause)) if cause.kind() == io::ErrorKind::WouldBlock => {
                return Ok(self.channel.output.len() > before);
            }
            Err(Error::ConnectionClosed) => self.end(),
            Err(cause) => match verdict(&cause) {
                Some((code, reason)) => {
                    self.channel.stream.push_close(code, reason.as_bytes());
                    self.close(code, reason);
                    self.end();
                }
                None => {
                    self.channel.stream.fail(Reason::Gone);
                    return Err(());
                }
            },
        }
        Ok(true)
    }

    fn hear(&mut self, message: Message) {
        let open = self.stage == Stage::Open;
        match message {
            Message::Text(text) if open => self.arriving = Some((Bytes::from(text), 0, FLAG_TEXT)),
            Message::Binary(data) if open => self.arriving = Some((data, 0, 0)),
            Message::Pong(data) if self.pings > 0 => {
                self.pings -= 1;
                self.channel.stream.push_pong(&data);
            }
            Message::Close(frame) => {
                let (code, reason) =
                    frame.map_or((NO_STATUS, Utf8Bytes::default()), |frame| (frame.code.into(), frame.reason));
                self.channel.stream.push_close(code, reason.as_bytes());
                if open {
                    // The reply is written by the next read, which then says that the connection is closed.
                    self.stage = Stage::Closing(self.channel.member.connections().now() + u64::from(LINGER_MS));
                }
            }
            _ => {}
        }
    }

    /// Tells the host what it has credit for. True when nothing is left and more may be read.
    fn poll_arriving(&mut self, context: &Context<'_>) -> bool {
        loop {
            if self.channel.site.exchange.poll_ready(context).is_pending() {
                return false;
            }
            let credit = self.channel.stream.credit();
            if credit == 0 {
                return false;
            }
            let Some((data, at, kind)) = &mut self.arriving else { return true };
            // A piece may pass the credit by its own cost: less than one message's would never be told.
            let size = (data.len() - *at).min(credit.saturating_sub(MESSAGE_COST).max(1) as usize);
            let last = *at + size == data.len();
            self.channel.stream.push_message(&data[*at..*at + size], *kind | if last { 0 } else { FLAG_MORE });
            *at += size;
            if last {
                self.arriving = None;
            }
        }
    }

    fn poll_linger(&mut self, shut: bool, left: usize, until: u64, context: &mut Context<'_>) -> Step {
        let mut room = [const { MaybeUninit::uninit() }; READ];
        let mut buffer = ReadBuf::uninit(&mut room);
        match Pin::new(&mut self.channel.socket).poll_read(context, &mut buffer) {
            Poll::Pending => Ok(false),
            Poll::Ready(Err(_)) => Err(()),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                // With the peer gone there is only what still waits to be written.
                if self.channel.output.is_empty() || shut { Err(()) } else { Ok(false) }
            }
            Poll::Ready(Ok(())) => {
                let left = left.checked_sub(buffer.filled().len()).ok_or(())?;
                self.stage = Stage::Over { shut, left, until };
                Ok(true)
            }
        }
    }

    /// Looks at the deadlines; true when the connection is over.
    fn overdue(&mut self) -> bool {
        let now = self.channel.member.connections().now();
        if self.channel.stall.is_some_and(|deadline| deadline <= now) {
            self.channel.abort(Reason::Timeout);
            return true;
        }
        match self.stage {
            Stage::Over { until, .. } | Stage::Closing(until) => {
                if until <= now {
                    self.channel.abort(Reason::Timeout);
                    return true;
                }
            }
            Stage::Open => {
                let interval = u64::from(self.channel.site.limits.ws_ping_ms);
                match self.asked {
                    // While the host takes nothing we do not read, and cannot say that the peer is silent.
                    _ if self.arriving.is_some() || self.channel.stream.credit() == 0 => self.heard = now,
                    Some(asked) if asked + interval <= now => {
                        self.channel.abort(Reason::Timeout);
                        return true;
                    }
                    None if self.heard + interval <= now => {
                        self.asked = Some(now);
                        self.speak(Message::Ping(Bytes::new()));
                    }
                    _ => {}
                }
            }
        }
        false
    }

    fn arm(&self) {
        let interval = u64::from(self.channel.site.limits.ws_ping_ms);
        let next = match self.stage {
            Stage::Open => (interval > 0).then(|| self.asked.unwrap_or(self.heard) + interval),
            Stage::Closing(until) | Stage::Over { until, .. } => Some(until),
        };
        match [next, self.channel.stall].into_iter().flatten().min() {
            Some(deadline) => self.channel.member.watch.arm(deadline),
            None => self.channel.member.watch.disarm(),
        }
    }
}

/// What the peer is told of an error in what it sent; `None` when it is gone.
fn verdict(cause: &Error) -> Option<(u16, &'static str)> {
    match cause {
        Error::Capacity(_) => Some((TOO_BIG, "the message is larger than limit ws_message_bytes")),
        Error::Utf8(_) => Some((BAD_DATA, "text must be UTF-8")),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) | Error::Io(_) => None,
        Error::Protocol(_) => Some((PROTOCOL_ERROR, "the frame breaks RFC 6455")),
        _ => None,
    }
}

/// A reason that fits a control frame (RFC 6455 section 5.5).
fn shortened(reason: &str) -> &str {
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

/// The connection as tungstenite sees it.
struct Pipe<'p, 'c, S> {
    socket: &'p mut S,
    input: &'p mut Input,
    output: &'p mut Output,
    context: &'p mut Context<'c>,
}

impl<S: Transport> Read for Pipe<'_, '_, S> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if !self.input.is_empty() {
            let count = self.input.len().min(room.len());
            room[..count].copy_from_slice(&self.input.bytes()[..count]);
            self.input.consume(count);
            return Ok(count);
        }
        let mut buffer = ReadBuf::new(room);
        match Pin::new(&mut *self.socket).poll_read(self.context, &mut buffer) {
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            Poll::Ready(Err(cause)) => Err(cause),
            Poll::Ready(Ok(())) => Ok(buffer.filled().len()),
        }
    }
}

impl<S> Write for Pipe<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Written(self.output).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Frames of tungstenite's on their way: they follow what is in the output already.
struct Written<'o>(&'o mut Output);

impl Read for Written<'_> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Written<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.tail().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_at_a_character() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"é".repeat(100)), "é".repeat(61));
    }

    #[test]
    fn every_error_has_its_close_code() {
        let code = |cause| verdict(&cause).map(|(code, _)| code);
        assert_eq!(code(Error::Protocol(ProtocolError::NonZeroReservedBits)), Some(1002));
        assert_eq!(code(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)), None);
        assert_eq!(code(Error::Io(io::ErrorKind::BrokenPipe.into())), None);
    }
}
