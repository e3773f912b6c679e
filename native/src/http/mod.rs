//! HTTP below the exchange: which version a connection speaks, and what all versions share.
//!
//! [`guard`] reads heads and framing and is pure; [`h1`] serves HTTP/1.1 from it; [`h2`] serves HTTP/2 through h2
//! (ADR 0008 says why), [`h3`] HTTP/3 through quinn and h3. [`message`] is what the latter two share, [`upgrade`] and
//! [`websocket`] what streams become that leave HTTP. [`heads`] encodes responses, [`routes`] answers without the host.

mod attend;
mod detect;
pub mod guard;
pub mod h1;
pub mod h2;
pub mod h3;
pub mod heads;
pub mod input;
mod message;
pub mod output;
pub mod routes;
mod secure;
mod upgrade;
mod websocket;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use crate::address::Address;
use crate::connections::{Member, Phase};
use crate::exchange::Exchange;
use crate::limits::{Limit, Limits};
use crate::record::{Event, Reason};
use crate::tls::Tls;
use crate::unsent;

/// What all connections of one listener share.
#[derive(Debug)]
pub struct Site {
    /// The listener's id.
    pub listener: u64,
    /// Where requests go.
    pub exchange: Arc<Exchange>,
    /// Limits of this listener.
    pub limits: Limits,
    /// Whether HTTP/2 is spoken.
    pub http2: bool,
    /// Certificates; `None` is cleartext.
    pub tls: Option<Arc<Tls>>,
    /// Value of `alt-svc` (RFC 7838) on answers of HTTP/1.1 and HTTP/2; empty without HTTP/3.
    pub alt_svc: Vec<u8>,
    /// Requests answered natively.
    pub routes: routes::Routes,
    /// Response heads already encoded.
    pub heads: heads::Heads,
}

impl Site {
    /// What requests of this listener came by.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }
}

/// A byte stream that can also be cut, so that the peer sees an abrupt end.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes the close that follows a reset.
    fn cut(&self);

    /// The peer has shown that it takes much at once: the system may hold more for it.
    fn widen(&self) {}

    /// Ready when the peer has reset the connection, whatever waits to be read. Its FIN is no reset.
    fn reset(&self) -> impl Future<Output = ()> + Send;
}

impl Transport for TcpStream {
    fn cut(&self) {
        // Fails only when the peer has reset already.
        let _ = socket2::SockRef::from(self).set_linger(Some(Duration::ZERO));
    }

    fn widen(&self) {
        // The peer's window may close again later: then this much waits for it, and no more.
        unsent::limit(&socket2::SockRef::from(self), unsent::WIDE);
    }

    async fn reset(&self) {
        // Not READABLE, which it is while anything waits. An error here means that the runtime is no more.
        let _ = self.ready(Interest::ERROR).await;
    }
}

#[cfg(unix)]
impl Transport for UnixStream {
    /// There is no reset: the peer sees an end in the middle, which the framing tells from a clean one.
    fn cut(&self) {}

    /// What is a reset elsewhere is an end of both directions at once. Where only errors are told apart from bytes that
    /// wait, it is found when we read on.
    async fn reset(&self) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if self.ready(Interest::PRIORITY | Interest::ERROR).await.is_ok() && has_hung_up(self) {
            return;
        }
        let _ = self.ready(Interest::ERROR).await;
    }
}

/// Whether the peer has closed, and not only ended what it sends.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn has_hung_up(socket: &UnixStream) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut asked = [PollFd::new(socket, PollFlags::empty())];
    poll(&mut asked, Some(&Timespec::default())).is_ok() && asked[0].revents().contains(PollFlags::HUP)
}

/// One connection's place in the world, told to the host before its first stream.
#[derive(Debug)]
pub struct Connection {
    /// Deadline and phase; membership in the registry.
    pub member: Member,
    /// The listener it came from.
    pub site: Arc<Site>,
    peer: Address,
    local: Address,
    /// Parts of ACCEPT about TLS, each after a NUL.
    facts: String,
    announced: bool,
}

impl Connection {
    fn new(member: Member, site: Arc<Site>, peer: Address, local: Address) -> Connection {
        Connection { member, site, peer, local, facts: String::new(), announced: false }
    }

    /// Tells ACCEPT, once.
    pub fn announce(&mut self) {
        if std::mem::replace(&mut self.announced, true) {
            return;
        }
        let payload = format!("{}\0{}\0{}{}", self.peer.parts(), self.local.parts(), self.site.scheme(), self.facts);
        self.site.exchange.announce(Event::Accept, self.member.id(), self.site.listener, 0, 0, payload.as_bytes());
    }

    /// What is told when a stream of this connection ends because the connection does.
    pub fn reason(&self) -> Reason {
        if self.member.watch.phase() == Phase::Kill { Reason::Stopping } else { Reason::Gone }
    }

    /// The head and the text a client gets for a refusal.
    fn refusal(&self, (status, reason): message::Refusal) -> Result<(Arc<heads::Template>, Bytes), String> {
        let body = if reason.is_empty() { Bytes::new() } else { Bytes::from(format!("{reason}\n")) };
        let fields = b"content-type\0text/plain; charset=utf-8";
        Ok((self.site.heads.template(status.as_u16(), fields)?, body))
    }

    /// Counts the limit behind a refusal, if there is one.
    fn count_refusal(&self, (status, reason): message::Refusal) {
        let limit = match status.as_u16() {
            408 if reason == message::SLOW.1 => Limit::BodyRate,
            408 => Limit::HeadMs,
            413 => Limit::BodyBytes,
            414 => Limit::UriBytes,
            431 if reason == message::TOO_MANY_FIELDS.1 => Limit::HeaderFields,
            431 => Limit::HeadBytes,
            _ => return,
        };
        self.member.count(limit);
    }

    /// Logs an error of the host, which the client is not told.
    fn log(&self, text: &str) {
        self.site.exchange.announce(Event::Log, 0, self.site.listener, 40, 0, text.as_bytes());
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.log("a connection's task panicked; its streams are reset (this is a bug of server_native)");
        }
        if self.announced {
            self.site.exchange.announce(Event::Closed, self.member.id(), self.site.listener, 0, 0, &[]);
        }
    }
}

/// Serves one connection until it ends.
///
/// The rarer or larger ways are boxed: their state would otherwise be part of every idle HTTP/1.1 connection.
pub async fn serve<S: Transport>(socket: S, peer: Address, local: Address, member: Member, site: Arc<Site>) {
    let connection = Connection::new(member, site, peer, local);
    if let Some(tls) = connection.site.tls.clone() {
        return serve_secure(socket, tls, connection).await;
    }
    let mut socket = socket;
    let mut first = Vec::new();
    if connection.site.http2 {
        match detect::is_http2(&mut socket, &connection, &mut first).await {
            Ok(true) => return Box::pin(h2::serve(socket, first, connection)).await,
            Ok(false) => {}
            Err(_) => return,
        }
    }
    h1::serve(socket, first, connection).await;
}

async fn serve_secure<S: Transport>(socket: S, tls: Arc<Tls>, mut connection: Connection) {
    let Some((socket, http2)) = Box::pin(secure::handshake(socket, &tls, &mut connection)).await else { return };
    // Negotiated: a preface that nobody has announced is an error (RFC 9113 section 3.3).
    if http2 {
        Box::pin(h2::serve(socket, Vec::new(), connection)).await;
    } else {
        Box::pin(h1::serve(socket, Vec::new(), connection)).await;
    }
}

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;

    #[test]
    fn a_widened_socket_may_hold_more() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            socket.widen();
            assert_eq!(socket2::SockRef::from(&socket).tcp_notsent_lowat().unwrap(), unsent::WIDE);
        });
    }
}
