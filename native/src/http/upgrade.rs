//! Streams that have left HTTP: bytes both ways as they are, or (in [`websocket`](super::websocket)) messages.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use super::input::Input;
use super::output::Output;
use super::{Site, Transport, websocket};
use crate::connections::{Member, Phase};
use crate::exchange::Stream;
use crate::record::{Command, FLAG_TEXT, Reason};

/// One read takes at most this much.
const READ: usize = 64 * 1024;

/// What a stream carries after UPGRADE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Bytes,
    Messages,
}

impl Mode {
    pub(super) fn of(flags: u8) -> Mode {
        if flags & FLAG_TEXT != 0 { Mode::Messages } else { Mode::Bytes }
    }
}

/// The socket and the stream of an upgraded connection, and what is on its way between them.
pub(super) struct Channel<'c, S> {
    pub(super) socket: S,
    /// Read already and not yet understood.
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) stream: Stream,
    pub(super) member: &'c Member,
    pub(super) site: &'c Site,
    /// Bytes of the host's window that come back when `output` has gone.
    pub(super) unreported: usize,
    /// When the peer has taken nothing for too long.
    pub(super) stall: Option<u64>,
}

/// Carries the stream until both sides have ended.
pub(super) async fn serve<S: Transport>(
    socket: S,
    input: Input,
    output: Output,
    stream: Stream,
    mode: Mode,
    member: &Member,
    site: &Site,
) {
    let channel = Channel { socket, input, output, stream, member, site, unreported: 0, stall: None };
    member.watch.disarm();
    // Registered before anything is looked at, so that no change of phase goes unheard.
    poll_fn(|context| {
        member.watch.register(context.waker());
        Poll::Ready(())
    })
    .await;
    match mode {
        Mode::Messages => websocket::serve(channel).await,
        Mode::Bytes => {
            let mut bytes = Bytes { channel, ending: false, shut: false, eof: false };
            poll_fn(|context| bytes.poll(context)).await;
        }
    }
}

impl<S: Transport> Channel<'_, S> {
    /// Writes what waits; gives the host its window back when all has gone.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut progress = 0;
        let flushed = self.output.poll_flush(&mut self.socket, context, &mut progress);
        match flushed {
            Poll::Pending if progress > 0 || self.stall.is_none() => {
                self.stall = Some(self.member.connections().now() + u64::from(self.site.limits.write_stall_ms));
            }
            Poll::Pending => {}
            Poll::Ready(_) => {
                self.stall = None;
                self.stream.sent(std::mem::take(&mut self.unreported));
            }
        }
        flushed
    }

    /// Ends both sides at once, abruptly for the peer.
    pub(super) fn abort(&mut self, reason: Reason) {
        self.stream.fail(reason);
        self.socket.cut();
    }
}

/// A stream of bytes.
struct Bytes<'c, S> {
    channel: Channel<'c, S>,
    /// The host has ended its direction.
    ending: bool,
    /// And the peer has been told.
    shut: bool,
    /// The peer has ended its direction, and the host has been told.
    eof: bool,
}

impl<S: Transport> Bytes<'_, S> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.channel.member.watch.phase() == Phase::Kill {
                self.channel.abort(Reason::Stopping);
                return Poll::Ready(());
            }
            if self.channel.member.watch.fired() && self.channel.stall.is_some() {
                self.channel.abort(Reason::Timeout);
                return Poll::Ready(());
            }
            while self.channel.output.has_room() {
                match self.channel.stream.poll_order(context) {
                    Poll::Pending => break,
                    Poll::Ready(Some(order)) if order.command != Command::Reset => {
                        if order.command == Command::Data {
                            self.channel.unreported += order.body.len();
                            self.channel.output.push(order.body);
                        }
                        self.ending |= order.end;
                    }
                    Poll::Ready(_) => {
                        self.channel.socket.cut();
                        return Poll::Ready(());
                    }
                }
            }
            // Orders left for want of room have no waker: they are looked at again as soon as there is some.
            let full = !self.channel.output.has_room();
            match self.channel.poll_flush(context) {
                Poll::Ready(Err(_)) => {
                    self.channel.stream.fail(Reason::Gone);
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(())) if full => continue,
                Poll::Ready(Ok(())) if self.ending && !self.shut => {
                    match Pin::new(&mut self.channel.socket).poll_shutdown(context) {
                        Poll::Pending => {}
                        Poll::Ready(_) => self.shut = true,
                    }
                }
                _ => {}
            }
            match self.channel.stall {
                Some(deadline) => self.channel.member.watch.arm(deadline),
                None => self.channel.member.watch.disarm(),
            }
            if self.eof && self.shut {
                return Poll::Ready(());
            }
            match self.poll_input(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    self.channel.stream.fail(Reason::Gone);
                    return Poll::Ready(());
                }
            }
        }
    }

    /// Moves one piece to the host, within its credit.
    fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let channel = &mut self.channel;
        if self.eof || channel.site.exchange.poll_ready(context).is_pending() {
            return Poll::Pending;
        }
        let credit = (channel.stream.credit() as usize).min(READ);
        if credit == 0 {
            return Poll::Pending;
        }
        if !channel.input.is_empty() {
            let count = channel.input.len().min(credit);
            channel.stream.push(&channel.input.bytes()[..count], false);
            channel.input.consume(count);
            return Poll::Ready(Ok(()));
        }
        let mut room = [const { MaybeUninit::uninit() }; READ];
        let mut buffer = ReadBuf::uninit(&mut room[..credit]);
        match Pin::new(&mut channel.socket).poll_read(context, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(read) => read?,
        }
        if buffer.filled().is_empty() {
            self.eof = true;
            channel.stream.push_end(&[]);
        } else {
            channel.stream.push(buffer.filled(), false);
        }
        Poll::Ready(Ok(()))
    }
}
