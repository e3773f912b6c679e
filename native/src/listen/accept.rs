//! The accept loop, and what becomes of connections that a limit turns away.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::warn;
use crate::address::Address;
use crate::connections::{Connections, Member};
use crate::http::{self, Site, Transport};

/// Pauses after a failed accept: out of descriptors, the next try would fail too.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Refused connections that may be lingering, and for how long.
const REFUSALS: usize = 64;
const REFUSAL_TIME: Duration = Duration::from_secs(1);

/// A listening socket of either kind.
pub(super) enum Acceptor {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

enum Accepted {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Acceptor {
    pub(super) fn new(socket: Socket) -> io::Result<Acceptor> {
        #[cfg(unix)]
        if socket.local_addr()?.is_unix() {
            return UnixListener::from_std(socket.into()).map(Acceptor::Unix);
        }
        TcpListener::from_std(socket.into()).map(Acceptor::Tcp)
    }

    async fn accept(&self) -> io::Result<(Accepted, Address, Address)> {
        match self {
            Acceptor::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                let local = socket.local_addr().unwrap_or(peer);
                Ok((Accepted::Tcp(socket), peer.into(), local.into()))
            }
            #[cfg(unix)]
            Acceptor::Unix(listener) => {
                let (socket, peer) = listener.accept().await?;
                let path = |address: &tokio::net::unix::SocketAddr| address.as_pathname().map(Into::into);
                let local = socket.local_addr().ok().as_ref().and_then(path);
                Ok((Accepted::Unix(socket), Address::Unix(path(&peer)), Address::Unix(local)))
            }
        }
    }
}

pub(super) async fn accept(acceptor: Acceptor, site: Arc<Site>, connections: Arc<Connections>) {
    let mut pause = FIRST_PAUSE;
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    loop {
        match acceptor.accept().await {
            Ok((socket, peer, local)) => {
                pause = FIRST_PAUSE;
                let member = connections.admit(site.exchange.name(), site.listener, peer.ip(), &site.limits);
                match socket {
                    Accepted::Tcp(socket) => begin(socket, peer, local, member.ok(), &site, &refusals),
                    #[cfg(unix)]
                    Accepted::Unix(socket) => begin(socket, peer, local, member.ok(), &site, &refusals),
                }
            }
            // The peer was gone before we took it: nothing is wrong here.
            Err(cause) if cause.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(cause) => {
                let text = format!("cannot accept a connection (next try in {} ms): {cause}", pause.as_millis());
                warn(&site, &text);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn begin<S: Transport>(
    socket: S,
    peer: Address,
    local: Address,
    member: Option<Member>,
    site: &Arc<Site>,
    refusals: &Arc<Semaphore>,
) {
    match member {
        Some(member) => drop(tokio::spawn(http::serve(socket, peer, local, member, site.clone()))),
        // A TLS client would have to be shaken hands with to be told: it is only closed.
        None if site.tls.is_some() => {}
        None => refuse(socket, refusals),
    }
}

/// Turns a connection away: HTTP clients understand 503, all others a close. The peer's request is read away first, because a
/// close with unread input sends RST and may destroy the answer. At most `REFUSALS` wait for that, further ones are only closed.
fn refuse<S: Transport>(mut socket: S, refusals: &Arc<Semaphore>) {
    let Ok(permit) = refusals.clone().try_acquire_owned() else { return };
    tokio::spawn(async move {
        let answer =
            b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";
        let farewell = async {
            // Fits any send buffer; a failure means that the peer has gone, and there is nobody to tell.
            if socket.write_all(answer).await.is_ok() && socket.shutdown().await.is_ok() {
                let mut room = [0; 4096];
                while socket.read(&mut room).await.is_ok_and(|count| count > 0) {}
            }
        };
        let _ = tokio::time::timeout(REFUSAL_TIME, farewell).await;
        drop(permit);
    });
}
