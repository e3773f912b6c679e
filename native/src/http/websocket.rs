//! WebSocket (RFC 6455) on an upgraded stream, without extensions.
//!
//! Towards the host: a message is told as it comes, in pieces (MORE) when it is larger than what is here or than the credit,
//! so that neither its size nor its declared length costs memory here. Towards the peer: one DATA is one frame, so a message
//! the host sends in pieces is never held whole. ADR 0007 says why the frames are read here and not by a library.

mod frame;
mod reader;
mod text;

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use data_encoding::BASE64;
use sha1::{Digest, Sha1};
use tokio::io::ReadBuf;

use self::frame::{Header, NO_STATUS, Opcode};
use self::reader::{Look, Piece, Reader, Refusal};
use super::Transport;
use super::attend::{Attended, Share, attend};
use super::upgrade::{Channel, LINGER_MS};
use crate::connections::Phase;
use crate::exchange::Order;
use crate::limits::Limit;
use crate::record::{Command, FLAG_MORE, FLAG_TEXT, MESSAGE_COST, Reason};

/// One read takes at most this much; the room is on the stack, so an idle connection holds no buffer.
const READ: usize = 64 * 1024;

/// Close codes (RFC 6455 section 7.4.1 and IANA's registry).
const PROTOCOL_ERROR: u16 = 1002;
const BAD_DATA: u16 = 1007;
const TOO_BIG: u16 = 1009;
const RESTART: u16 = 1012;

/// The answer to a client's key (RFC 6455 section 4.2.2).
pub(super) fn accept_key(key: &[u8]) -> String {
    BASE64.encode(&Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize())
}

pub(super) async fn serve<S: Transport>(channel: Channel<'_, S>) {
    let now = channel.now();
    let mut socket = WebSocket {
        reader: Reader::new(channel.site.limits.ws_message_bytes),
        channel,
        stage: Stage::Open,
        in_pieces: false,
        pings: VecDeque::new(),
        heard: now,
        asked: None,
        deaf: false,
        share: Share::new(),
    };
    attend(&mut socket).await;
}

struct WebSocket<'c, S> {
    channel: Channel<'c, S>,
    reader: Reader,
    stage: Stage,
    /// The host has sent a piece of a message, and not its last.
    in_pieces: bool,
    /// Pings of the host that the peer has not answered, the oldest first.
    pings: VecDeque<Bytes>,
    /// When the peer was last heard, and since when it owes an answer to a ping of ours.
    heard: u64,
    asked: Option<u64>,
    /// We do not read, because the host or the peer takes nothing: the peer's silence says nothing.
    deaf: bool,
    share: Share,
}

/// How far the closing handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// We have sent a close frame; until when the peer's is awaited.
    Closing(u64),
    /// Nothing is said any more: output goes, then FIN, then input is read away until the deadline. A close with unread
    /// input would destroy the last frames.
    Over {
        shut: bool,
        until: u64,
    },
}

/// Whether something moved, so that another round may find more to do; `Err` when the connection is over.
type Step = Result<bool, ()>;

impl<S: Transport> Attended for WebSocket<'_, S> {
    type Socket = S;

    fn unread(&self) -> Option<&S> {
        self.deaf.then_some(&self.channel.socket)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.share.renew();
        loop {
            let watch = &self.channel.member.watch;
            if watch.phase() == Phase::Kill {
                self.channel.abort(Reason::Stopping);
                return Poll::Ready(());
            }
            if watch.phase() == Phase::Drain && self.stage == Stage::Open {
                let reason = "the server is stopping";
                self.channel.stream.push_close(RESTART, reason.as_bytes());
                self.close(RESTART, reason.as_bytes());
            }
            if watch.fired() && self.overdue() {
                return Poll::Ready(());
            }
            let moved = self.poll_orders(context).and_then(|()| self.poll_output(context));
            let moved = moved.and_then(|moved| Ok(self.poll_input(context)? || moved));
            self.arm();
            match moved {
                Err(()) => return Poll::Ready(()),
                Ok(true) if self.share.is_over() => {
                    Share::pass_to(&self.channel.site.exchange, context);
                    return Poll::Pending;
                }
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
            }
        }
    }
}

impl<S: Transport> WebSocket<'_, S> {
    /// Takes the host's orders as far as there is room.
    fn poll_orders(&mut self, context: &mut Context<'_>) -> Result<(), ()> {
        while self.channel.output.has_room() {
            match self.channel.stream.poll_order(context) {
                Poll::Pending => break,
                Poll::Ready(Some(order)) if order.command != Command::Reset => self.obey(order)?,
                Poll::Ready(_) => {
                    // Given up by the host: the peer sees an abrupt end, which is 1006 to it.
                    self.channel.socket.cut();
                    return Err(());
                }
            }
        }
        Ok(())
    }

    fn obey(&mut self, order: Order) -> Result<(), ()> {
        match order.command {
            // Sent before the host could know that nothing is said any more; its window comes back all the same.
            Command::Data if self.stage != Stage::Open => self.channel.unreported += order.body.len() + COST,
            Command::Data => {
                let opcode = match (self.in_pieces, order.flags & FLAG_TEXT != 0) {
                    (true, _) => Opcode::Continuation,
                    (false, true) => Opcode::Text,
                    (false, false) => Opcode::Binary,
                };
                self.in_pieces = order.flags & FLAG_MORE != 0;
                Header::write(self.channel.output.tail(), !self.in_pieces, opcode, order.body.len());
                self.channel.unreported += order.body.len() + COST;
                self.channel.output.push(order.body);
            }
            Command::Ping | Command::End if self.stage != Stage::Open => {}
            Command::Ping => {
                self.control(Opcode::Ping, &order.head);
                self.pings.push_back(order.head);
            }
            Command::End => self.close(order.code, &order.head),
            _ => return self.channel.misused(order.command),
        }
        Ok(())
    }

    /// A control frame; it follows what is in the output already.
    fn control(&mut self, opcode: Opcode, payload: &[u8]) {
        let out = self.channel.output.tail();
        Header::write(out, true, opcode, payload.len());
        out.extend_from_slice(payload);
    }

    fn close_frame(&mut self, code: u16, reason: &[u8]) {
        let mut payload = Vec::with_capacity(frame::CONTROL as usize);
        if code != 0 {
            payload.extend_from_slice(&code.to_be_bytes());
            payload.extend_from_slice(shortened(reason));
        }
        self.control(Opcode::Close, &payload);
    }

    /// Begins the closing handshake; code 0 sends none.
    fn close(&mut self, code: u16, reason: &[u8]) {
        self.close_frame(code, reason);
        self.stage = Stage::Closing(self.channel.now() + u64::from(self.channel.site.limits.ws_close_ms));
    }

    fn end(&mut self, milliseconds: u32) {
        self.stage = Stage::Over { shut: false, until: self.channel.now() + u64::from(milliseconds) };
    }

    fn poll_output(&mut self, context: &mut Context<'_>) -> Step {
        let full = !self.channel.output.has_room();
        match self.channel.poll_flush(context) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => {
                self.channel.stream.fail(Reason::Gone);
                return Err(());
            }
        }
        if let Stage::Over { shut, .. } = &mut self.stage
            && !*shut
        {
            match Pin::new(&mut self.channel.socket).poll_shutdown(context) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => *shut = true,
                Poll::Ready(Err(_)) => return Err(()),
            }
        }
        // Orders left for want of room have no waker: they are looked at again as soon as there is some.
        Ok(full)
    }

    /// Reads on, as far as the host and our own output let us.
    fn poll_input(&mut self, context: &mut Context<'_>) -> Step {
        let mut room = [const { MaybeUninit::uninit() }; READ];
        let mut buffer = ReadBuf::uninit(&mut room);
        if let Stage::Over { shut, .. } = self.stage {
            self.channel.input.clear();
            return match Pin::new(&mut self.channel.socket).poll_read(context, &mut buffer) {
                Poll::Pending => Ok(false),
                Poll::Ready(Err(_)) => Err(()),
                // With the peer gone there is only what still waits to be written.
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    if shut {
                        Err(())
                    } else {
                        Ok(false)
                    }
                }
                Poll::Ready(Ok(())) => {
                    self.share.bytes(buffer.filled().len());
                    Ok(true)
                }
            };
        }
        // An empty message may wait for credit with no byte behind it.
        if self.deaf || !self.channel.input.is_empty() {
            let mut input = std::mem::take(&mut self.channel.input);
            let used = self.digest(input.bytes_mut(), context);
            input.consume(used);
            self.channel.input = input;
            // What was said meanwhile has to go before anything is waited for.
            if used > 0 || matches!(self.stage, Stage::Over { .. }) {
                return Ok(true);
            }
        }
        if self.deaf {
            return Ok(false);
        }
        match Pin::new(&mut self.channel.socket).poll_read(context, &mut buffer) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
            // No close frame came: 1006 for the host.
            Poll::Ready(_) => {
                self.channel.stream.fail(Reason::Gone);
                return Err(());
            }
        }
        self.heard = self.channel.now();
        self.asked = None;
        let read = buffer.filled_mut();
        self.share.bytes(read.len());
        // What is whole is never copied: only the rest of a frame is kept.
        let used = if self.channel.input.is_empty() { self.digest(read, context) } else { 0 };
        self.channel.input.extend(&read[used..]);
        Ok(true)
    }

    /// Tells what is at the front of `bytes`; answers how many of them are done with.
    fn digest(&mut self, bytes: &mut [u8], context: &Context<'_>) -> usize {
        let mut used = 0;
        self.deaf = false;
        while !matches!(self.stage, Stage::Over { .. }) && !self.share.is_over() {
            let open = self.stage == Stage::Open;
            // Pongs wait to be taken by the peer: it may send more when it has. The host's queue bounds what it is told.
            if open
                && (!self.channel.output.has_room()
                    || self.share.poll_room(&self.channel.site.exchange, context).is_pending())
            {
                self.deaf = true;
                break;
            }
            let credit = if open { self.channel.stream.credit() } else { u32::MAX };
            let room = credit.checked_sub(MESSAGE_COST + 1).map(|left| left as usize + 1);
            match self.reader.look(&mut bytes[used..], room) {
                Ok((count, look)) => {
                    used += count;
                    match look {
                        Look::Piece(piece) => {
                            self.share.piece();
                            self.hear(piece, open);
                        }
                        Look::Hungry => break,
                        Look::Blocked => {
                            self.deaf = true;
                            break;
                        }
                    }
                }
                Err(refusal) => self.refuse(refusal),
            }
        }
        used
    }

    fn hear(&mut self, piece: Piece<'_>, open: bool) {
        match piece {
            Piece::Data { bytes, text, last } if open => {
                let kind = if text { FLAG_TEXT } else { 0 };
                self.channel.stream.push_message(bytes, kind | if last { 0 } else { FLAG_MORE });
            }
            Piece::Ping(data) if open => self.control(Opcode::Pong, data),
            // It answers all pings up to the one it names (RFC 6455 section 5.5.3); ours and the unasked name none.
            Piece::Pong(data) => {
                if let Some(at) = self.pings.iter().position(|ping| *ping == data) {
                    self.pings.drain(..=at);
                    self.channel.stream.push_pong(data);
                }
            }
            Piece::Close { code, reason } => {
                self.channel.stream.push_close(code, reason);
                if open {
                    self.close_frame(if code == NO_STATUS { 0 } else { code }, reason);
                }
                self.end(LINGER_MS);
            }
            Piece::Data { .. } | Piece::Ping(_) => {}
        }
    }

    /// Fails the connection (RFC 6455 section 7.1.7): what the peer still sends is read away for as long as it may take to
    /// notice.
    fn refuse(&mut self, refusal: Refusal) {
        let (code, reason) = match refusal {
            Refusal::Protocol(reason) => (PROTOCOL_ERROR, reason),
            Refusal::NotText => (BAD_DATA, "text must be UTF-8"),
            Refusal::TooBig => (TOO_BIG, "the message is larger than limit ws_message_bytes"),
        };
        if refusal == Refusal::TooBig {
            self.channel.member.count(Limit::WsMessageBytes);
        }
        self.channel.stream.push_close(code, reason.as_bytes());
        if self.stage == Stage::Open {
            self.close_frame(code, reason.as_bytes());
        }
        self.end(self.channel.site.limits.ws_close_ms);
    }

    /// Looks at the deadlines; true when the connection is over.
    fn overdue(&mut self) -> bool {
        let now = self.channel.now();
        if self.channel.stalled() {
            return true;
        }
        let interval = u64::from(self.channel.site.limits.ws_ping_ms);
        match self.stage {
            Stage::Closing(until) if until <= now => {
                self.channel.member.count(Limit::WsCloseMs);
                self.channel.abort(Reason::Timeout);
                true
            }
            Stage::Over { until, .. } if until <= now => {
                self.channel.abort(Reason::Timeout);
                true
            }
            Stage::Open if interval > 0 => {
                match self.asked {
                    // We would not hear an answer. A peer that takes nothing has the deadline of `stalled`.
                    _ if self.deaf || self.channel.stall.is_some() => (self.heard, self.asked) = (now, None),
                    Some(asked) if asked + interval <= now => {
                        self.channel.member.count(Limit::WsPingMs);
                        self.channel.abort(Reason::Timeout);
                        return true;
                    }
                    None if self.heard + interval <= now => {
                        self.asked = Some(now);
                        self.control(Opcode::Ping, &[]);
                    }
                    _ => {}
                }
                false
            }
            _ => false,
        }
    }

    fn arm(&self) {
        let interval = u64::from(self.channel.site.limits.ws_ping_ms);
        let next = match self.stage {
            Stage::Open => (interval > 0).then(|| self.asked.unwrap_or(self.heard) + interval),
            Stage::Closing(until) | Stage::Over { until, .. } => Some(until),
        };
        self.channel.arm(next);
    }
}

const COST: usize = MESSAGE_COST as usize;

/// As much of a reason as fits a close frame (RFC 6455 section 5.5), cut before a character.
fn shortened(reason: &[u8]) -> &[u8] {
    let mut end = reason.len().min(frame::CONTROL as usize - 2);
    while end < reason.len() && end > 0 && reason[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    &reason[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_the_key_of_the_standard() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_reason_is_cut_at_a_character() {
        assert_eq!(shortened(b"short"), b"short");
        assert_eq!(shortened("é".repeat(100).as_bytes()), "é".repeat(61).as_bytes());
        assert_eq!(shortened(&[b'x'; 200]).len(), 123);
    }
}
