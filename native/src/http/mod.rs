//! HTTP below the exchange: which version a connection speaks, and what all versions share.
//!
//! [`guard`] reads heads and framing and is pure; [`h1`] serves HTTP/1.1 from it; [`h2`] serves HTTP/2 through hyper
//! (ADR 0003 says why). [`heads`] encodes responses, [`routes`] answers without the host.

pub mod guard;
pub mod h1;
pub mod h2;
pub mod heads;
pub mod input;
pub mod output;
pub mod routes;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::connections::{Member, Phase};
use crate::exchange::Exchange;
use crate::limits::Limits;
use crate::record::{Event, Reason};

/// What all connections of one listener share.
#[derive(Debug)]
pub struct Site {
    /// The listener's id.
    pub listener: u64,
    /// Where requests go.
    pub exchange: Arc<Exchange>,
    /// Limits of this listener.
    pub limits: Limits,
    /// Whether HTTP/2 with prior knowledge is spoken.
    pub http2: bool,
    /// Requests answered natively.
    pub routes: routes::Routes,
    /// Response heads already encoded.
    pub heads: heads::Heads,
}

/// A byte stream that can also be cut, so that the peer sees an abrupt end.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes the close that follows a reset.
    fn cut(&self);
}

impl Transport for TcpStream {
    fn cut(&self) {
        // Fails only when the peer has reset already.
        let _ = socket2::SockRef::from(self).set_linger(Some(std::time::Duration::ZERO));
    }
}

/// One connection's place in the world, told to the host before its first stream.
#[derive(Debug)]
pub struct Connection {
    /// Deadline and phase; membership in the registry.
    pub member: Member,
    /// The listener it came from.
    pub site: Arc<Site>,
    peer: SocketAddr,
    local: SocketAddr,
    announced: bool,
}

/// The connection preface of HTTP/2 (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Site {
    /// The shared part of a listener.
    pub fn new(listener: u64, exchange: Arc<Exchange>, limits: Limits, http2: bool, routes: routes::Routes) -> Site {
        Site { listener, exchange, limits, http2, routes, heads: heads::Heads::default() }
    }
}

impl Connection {
    /// Tells ACCEPT, once.
    pub fn announce(&mut self) {
        if std::mem::replace(&mut self.announced, true) {
            return;
        }
        let (peer, local) = (self.peer, self.local);
        let payload = format!("{}\0{}\0{}\0{}\0http", peer.ip(), peer.port(), local.ip(), local.port());
        self.site.exchange.announce(Event::Accept, self.member.id(), self.site.listener, 0, 0, payload.as_bytes());
    }

    /// What is told when a stream of this connection ends because the connection does.
    pub fn reason(&self) -> Reason {
        if self.member.watch.phase() == Phase::Kill { Reason::Stopping } else { Reason::Gone }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let text = "a connection's task panicked; its streams are reset (this is a bug of server_native)";
            self.site.exchange.announce(Event::Log, 0, self.site.listener, 40, 0, text.as_bytes());
        }
        if self.announced {
            self.site.exchange.announce(Event::Closed, self.member.id(), self.site.listener, 0, 0, &[]);
        }
    }
}

/// Serves one connection until it ends.
pub async fn serve(socket: TcpStream, peer: SocketAddr, local: SocketAddr, member: Member, site: Arc<Site>) {
    let connection = Connection { member, site, peer, local, announced: false };
    let mut socket = socket;
    let mut first = Vec::new();
    if connection.site.http2 {
        match detect(&mut socket, &connection, &mut first).await {
            Ok(true) => return h2::serve(socket, first, connection).await,
            Ok(false) => {}
            Err(_) => return,
        }
    }
    h1::serve(socket, first, connection).await;
}

/// Reads until the first bytes are, or cannot become, the HTTP/2 preface. `first` keeps what was read.
async fn detect(socket: &mut TcpStream, connection: &Connection, first: &mut Vec<u8>) -> io::Result<bool> {
    let watch = &connection.member.watch;
    connection.member.within(connection.site.limits.detection_ms);
    poll_fn(|context| {
        if first.is_empty() {
            watch.register(context.waker());
        }
        loop {
            let known = first.len().min(PREFACE.len());
            if first[..known] != PREFACE[..known] {
                return Poll::Ready(Ok(false));
            }
            if known == PREFACE.len() {
                return Poll::Ready(Ok(true));
            }
            if watch.fired() || watch.phase() != Phase::Run {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let mut room = [const { std::mem::MaybeUninit::uninit() }; 16 * 1024];
            let mut buffer = ReadBuf::uninit(&mut room);
            match Pin::new(&mut *socket).poll_read(context, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(cause)) => return Poll::Ready(Err(cause)),
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    // Half-closed after less than a request line, or at once: nobody waits for an answer to nothing.
                    return Poll::Ready(if first.is_empty() {
                        Err(io::ErrorKind::UnexpectedEof.into())
                    } else {
                        Ok(false)
                    });
                }
                Poll::Ready(Ok(())) => first.extend_from_slice(buffer.filled()),
            }
        }
    })
    .await
}
