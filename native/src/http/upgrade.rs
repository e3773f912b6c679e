//! Streams that have left HTTP: bytes both ways as they are, or (in [`websocket`](super::websocket)) messages.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use super::attend::{Attended, GATHERED, Share, attend};
use super::guard::{Body, Decoded};
use super::input::Input;
use super::output::Output;
use super::{Site, Transport, websocket};
use crate::connections::{Member, Phase};
use crate::exchange::Stream;
use crate::limits::Limit;
use crate::record::{Command, Event, FLAG_TEXT, Reason};

/// One read takes at most this much.
const READ: usize = 64 * 1024;
/// How long is read away before the close, as in HTTP/1.1.
pub(super) const LINGER_MS: u32 = 2_000;

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

impl<'c, S: Transport> Channel<'c, S> {
    pub(super) fn new(
        socket: S,
        input: Input,
        output: Output,
        stream: Stream,
        member: &'c Member,
        site: &'c Site,
    ) -> Channel<'c, S> {
        Channel { socket, input, output, stream, member, site, unreported: 0, stall: None }
    }

    /// Carries the stream until both sides have ended. `body` is what is left of the request's.
    pub(super) async fn serve(self, mode: Mode, body: Body) {
        let watch = &self.member.watch;
        watch.disarm();
        // Registered before anything is looked at, so that no change of phase goes unheard.
        poll_fn(|context| {
            watch.register(context.waker());
            Poll::Ready(())
        })
        .await;
        match mode {
            Mode::Messages => websocket::serve(self).await,
            Mode::Bytes => {
                let share = Share::new();
                let mut bytes = Bytes { channel: self, body, end: End::None, eof: false, share, unread: false };
                attend(&mut bytes).await;
            }
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.member.connections().now()
    }

    /// Writes what waits; gives the host its window back as it goes.
    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut progress = 0;
        let flushed = self.output.poll_flush(&mut self.socket, context, &mut progress);
        match flushed {
            Poll::Pending if progress > 0 || self.stall.is_none() => {
                self.stall = Some(self.now() + u64::from(self.site.limits.write_stall_ms));
            }
            Poll::Pending => {}
            Poll::Ready(_) => self.stall = None,
        }
        // Frame headers count as payload here: that much of the window comes back a moment early.
        let taken = if flushed.is_ready() { self.unreported } else { self.unreported.min(progress as usize) };
        self.unreported -= taken;
        self.stream.sent(taken);
        flushed
    }

    /// Ends both sides at once, abruptly for the peer.
    pub(super) fn abort(&mut self, reason: Reason) {
        self.stream.fail(reason);
        self.socket.cut();
    }

    /// Aborts when the peer has taken nothing for too long; whether it has.
    pub(super) fn stalled(&mut self) -> bool {
        let stalled = self.stall.is_some_and(|deadline| deadline <= self.now());
        if stalled {
            self.member.count(Limit::WriteStallMs);
            self.abort(Reason::Timeout);
        }
        stalled
    }

    /// Arms the earlier of this deadline and the write stall's.
    pub(super) fn arm(&self, deadline: Option<u64>) {
        match [deadline, self.stall].into_iter().flatten().min() {
            Some(deadline) => self.member.watch.arm(deadline),
            None => self.member.watch.disarm(),
        }
    }

    /// The host has said what belongs to HTTP, or to another kind of stream: the end of this one.
    pub(super) fn misused(&mut self, command: Command) -> Result<(), ()> {
        let text = format!("the host sent {command:?} on a stream that has left HTTP; the stream is reset");
        self.site.exchange.announce(Event::Log, 0, self.site.listener, 40, 0, text.as_bytes());
        self.abort(Reason::Internal);
        Err(())
    }
}

/// How far the host's direction of a stream of bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    None,
    /// It has ended; the peer is told when what came before has gone.
    Said,
    /// The peer was told.
    Told,
    /// The host reads no more either: input is read away, after FIN until this moment. A close with unread input would
    /// destroy what was sent last.
    Deaf {
        until: Option<u64>,
    },
}

/// A stream of bytes.
struct Bytes<'c, S> {
    channel: Channel<'c, S>,
    /// The request's body, which comes first.
    body: Body,
    end: End,
    /// The peer has ended its direction, and the host has been told.
    eof: bool,
    share: Share,
    /// The socket was left alone.
    unread: bool,
}

impl<S: Transport> Attended for Bytes<'_, S> {
    type Socket = S;

    fn unread(&self) -> Option<&S> {
        self.unread.then_some(&self.channel.socket)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.share.renew();
        loop {
            if self.channel.member.watch.phase() == Phase::Kill {
                self.channel.abort(Reason::Stopping);
                return Poll::Ready(());
            }
            if self.channel.member.watch.fired() && self.overdue() {
                return Poll::Ready(());
            }
            if self.poll_orders(context).is_err() {
                return Poll::Ready(());
            }
            // Orders left for want of room have no waker: they are looked at again as soon as there is some.
            let full = !self.channel.output.has_room();
            match self.channel.poll_flush(context) {
                Poll::Ready(Err(_)) => {
                    self.channel.stream.fail(Reason::Gone);
                    return Poll::Ready(());
                }
                Poll::Ready(Ok(())) if full => continue,
                Poll::Ready(Ok(())) => self.poll_shut(context),
                Poll::Pending => {}
            }
            let lingers = if let End::Deaf { until } = self.end { until } else { None };
            self.channel.arm(lingers);
            if self.eof && (self.end == End::Told || lingers.is_some()) {
                return Poll::Ready(());
            }
            match self.poll_input(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(cause)) if cause.kind() == io::ErrorKind::InvalidData => {
                    self.channel.abort(Reason::Protocol);
                    return Poll::Ready(());
                }
                Poll::Ready(Err(_)) => {
                    self.channel.stream.fail(Reason::Gone);
                    return Poll::Ready(());
                }
            }
        }
    }
}

impl<S: Transport> Bytes<'_, S> {
    fn overdue(&mut self) -> bool {
        let lingered = matches!(self.end, End::Deaf { until: Some(until) } if until <= self.channel.now());
        lingered || self.channel.stalled()
    }

    /// Takes the host's orders as far as there is room.
    fn poll_orders(&mut self, context: &mut Context<'_>) -> Result<(), ()> {
        while self.channel.output.has_room() {
            let order = match self.channel.stream.poll_order(context) {
                Poll::Pending => break,
                Poll::Ready(Some(order)) if order.command != Command::Reset => order,
                Poll::Ready(_) => {
                    self.channel.socket.cut();
                    return Err(());
                }
            };
            if !matches!(order.command, Command::Data | Command::End) {
                return self.channel.misused(order.command);
            }
            if order.end {
                self.end = if order.code == 0 { End::Said } else { End::Deaf { until: None } };
            }
            self.channel.unreported += order.body.len();
            self.channel.output.push(order.body);
        }
        Ok(())
    }

    /// Ends our direction, once all has gone. An error is found again by whoever reads.
    fn poll_shut(&mut self, context: &mut Context<'_>) {
        if matches!(self.end, End::Said | End::Deaf { until: None })
            && Pin::new(&mut self.channel.socket).poll_shutdown(context).is_ready()
        {
            let until = Some(self.channel.now() + u64::from(LINGER_MS));
            self.end = if self.end == End::Said { End::Told } else { End::Deaf { until } };
        }
    }

    /// Moves one piece to the host, within its credit.
    fn poll_input(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let channel = &mut self.channel;
        let deaf = matches!(self.end, End::Deaf { .. });
        self.unread = !self.eof;
        if self.eof || (!deaf && self.share.poll_room(&channel.site.exchange, context).is_pending()) {
            return Poll::Pending;
        }
        let credit = if deaf { READ } else { (channel.stream.credit() as usize).min(READ) };
        if credit == 0 {
            return Poll::Pending;
        }
        if self.share.is_over() {
            Share::pass_to(&channel.site.exchange, context);
            return Poll::Pending;
        }
        self.unread = false;
        if !self.body.is_done() && !deaf {
            return self.poll_body(credit, context);
        }
        if !channel.input.is_empty() {
            let count = channel.input.len().min(credit);
            channel.stream.push(&channel.input.bytes()[..count], false);
            channel.input.consume(count);
            self.share.bytes(count);
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
            self.share.bytes(buffer.filled().len());
            channel.stream.push(buffer.filled(), false);
        }
        Poll::Ready(Ok(()))
    }

    /// Moves one piece of the request's body, which ends before the other protocol begins (RFC 9110 section 7.8).
    ///
    /// A piece may pass the credit by less than one read: a chunk line cut by it could never be understood.
    fn poll_body(&mut self, credit: usize, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let channel = &mut self.channel;
        let size = channel.input.len().min(READ);
        let here = &mut channel.input.bytes_mut()[..size];
        let Decoded { consumed, data, done } =
            self.body.gather(here, credit.min(GATHERED)).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        self.share.framing(consumed - data.len());
        if !data.is_empty() {
            channel.stream.push(data, false);
        }
        if done {
            channel.stream.push_end(self.body.trailers());
        }
        channel.input.consume(consumed);
        if consumed > 0 || done {
            return Poll::Ready(Ok(()));
        }
        let mut room = [const { MaybeUninit::uninit() }; READ];
        let mut buffer = ReadBuf::uninit(&mut room);
        match Pin::new(&mut channel.socket).poll_read(context, &mut buffer) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(read) => read?,
        }
        if buffer.filled().is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.share.bytes(buffer.filled().len());
        channel.input.extend(buffer.filled());
        Poll::Ready(Ok(()))
    }
}
