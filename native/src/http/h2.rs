//! Serves HTTP/2 through h2 (ADR 0008): each request is a stream of the exchange, flow control is coupled at both ends.
//!
//! Reading: a frame is taken from h2, which returns its window to the peer, only while the host has credit. Writing: h2 gets
//! what the host sends as it comes and keeps it until the peer's window is open; a piece counts as sent when h2 lets go of it,
//! so `send_window` bounds what h2 holds of a stream.

mod clock;
mod flow;
mod head;
mod prefixed;
mod reply;
mod request;
mod tunnel;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;

use self::clock::{Clock, Verdict};
use self::flow::{Held, Piece};
use self::prefixed::Prefixed;
use super::message::Resets;
use super::{Connection, Transport};
use crate::connections::Phase;
use crate::limits::{Limit, Limits};

type Served<S> = h2::server::Connection<Prefixed<S>, Piece>;

/// What the streams of one connection share with its task.
#[derive(Debug)]
struct Shared {
    connection: Connection,
    /// Streams that live, and those whose answer h2 still holds.
    open: AtomicU64,
    /// Bytes of bodies that have left for the peer, and answers begun.
    moved: AtomicU64,
    /// Streams whose answer waits in h2, not yet seen by the connection's task; `None` when that has ended.
    fresh: Mutex<Option<Vec<Held>>>,
    resets: Resets,
    /// Something has been read since the last look.
    heard: AtomicBool,
    /// The connection ends abruptly.
    cut: AtomicBool,
}

impl Shared {
    fn new(connection: Connection) -> Shared {
        Shared {
            connection,
            open: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            fresh: Mutex::new(Some(Vec::new())),
            resets: Resets::default(),
            heard: AtomicBool::new(false),
            cut: AtomicBool::new(false),
        }
    }

    fn limits(&self) -> &Limits {
        &self.connection.site.limits
    }

    fn is_quiet(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    fn fresh(&self) -> MutexGuard<'_, Option<Vec<Held>>> {
        self.fresh.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// The peer has reset a stream that was being served.
    fn count_reset(&self) {
        let member = &self.connection.member;
        self.resets.count(member.connections().now());
        if self.resets.exceed(self.limits().h2_resets) {
            member.watch.wake();
        }
    }
}

/// Serves until the connection ends. `first` is what detection has read already.
pub async fn serve<S: Transport>(socket: S, first: Vec<u8>, mut connection: Connection) {
    connection.announce();
    let shared = Arc::new(Shared::new(connection));
    let io = Prefixed { first: first.into(), socket, shared: shared.clone() };
    let Some(mut served) = handshake(io, &shared).await else { return };
    let mut clock = Clock::new(&shared, served.ping_pong());
    poll_fn(|context| {
        clock.poll_pong(context);
        match clock.look(&shared) {
            Verdict::Serve => {}
            Verdict::Drain => served.graceful_shutdown(),
            Verdict::Calm => served.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM),
            Verdict::End => return Poll::Ready(()),
        }
        loop {
            if clock.is_leaving() {
                // What has come meanwhile is not begun any more.
                if served.poll_closed(context).is_ready() {
                    return Poll::Ready(());
                }
                break;
            }
            match served.poll_accept(context) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    request::begin(&shared, request, respond, context);
                }
                // An error here is the peer's or the transport's.
                Poll::Ready(Some(Err(cause))) => {
                    if cause.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) && cause.is_library() {
                        shared.connection.member.count(Limit::H2PendingResets);
                    }
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        clock.collect(&shared);
        clock.arm(&shared);
        Poll::Pending
    })
    .await;
    // Each of them holds what is shared.
    let left = shared.fresh().take();
    drop(left);
}

/// Sends our settings and reads the peer's preface: all of what is waited for before there is a connection.
async fn handshake<S: Transport>(io: Prefixed<S>, shared: &Shared) -> Option<Served<S>> {
    let limits = shared.limits();
    let member = &shared.connection.member;
    let mut builder = h2::server::Builder::new();
    builder
        .enable_connect_protocol()
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(limits.h2_header_list_bytes)
        .initial_window_size(limits.h2_window)
        .initial_connection_window_size(limits.h2_window)
        .max_frame_size(limits.h2_frame_bytes)
        .max_pending_accept_reset_streams(limits.h2_pending_resets as usize)
        .max_send_buffer_size(limits.send_window as usize);
    let mut handshake = pin!(builder.handshake(io));
    member.within(limits.detection_ms);
    let mut registered = false;
    poll_fn(|context| {
        if !std::mem::replace(&mut registered, true) {
            member.watch.register(context.waker());
        }
        if let Poll::Ready(done) = handshake.as_mut().poll(context) {
            return Poll::Ready(done.ok());
        }
        if member.watch.fired() {
            member.count(Limit::DetectionMs);
            return Poll::Ready(None);
        }
        // Nobody has asked for anything yet.
        if member.watch.phase() == Phase::Run { Poll::Pending } else { Poll::Ready(None) }
    })
    .await
}
