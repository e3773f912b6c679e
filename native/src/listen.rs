//! Bind, then accept: one task per listener that never fails and never waits for a connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::connections::Connections;
use crate::error::{Error, Result};
use crate::exchange::Exchange;
use crate::http;
use crate::http::routes::Routes;
use crate::limits::Limits;
use crate::record::Event;

/// How a listener is bound.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The address; names are resolved by the host language.
    pub address: IpAddr,
    /// 0 lets the system choose.
    pub port: u16,
    /// Connections the kernel keeps waiting for `accept`.
    pub backlog: u32,
    /// An IPv6 listener takes no IPv4 connections.
    pub v6_only: bool,
    /// SO_REUSEPORT: other processes may share the port.
    pub shared: bool,
    /// HTTP/2 with prior knowledge is spoken next to HTTP/1.1.
    pub http2: bool,
    /// Limits of the listener and its connections.
    pub limits: Limits,
}

/// A bound socket that does not accept yet: routes are added here.
#[derive(Debug)]
pub struct Bound {
    id: u64,
    socket: Socket,
    address: SocketAddr,
    binding: Binding,
    /// Requests answered natively.
    pub routes: Routes,
}

/// An accepting listener; dropping it stops accepting.
#[derive(Debug)]
pub struct Listener {
    id: u64,
    task: AbortHandle,
}

/// Pauses after a failed accept: out of descriptors, the next try would fail too.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Refused connections that may be lingering, and for how long.
const REFUSALS: usize = 64;
const REFUSAL_TIME: Duration = Duration::from_secs(1);

impl Bound {
    /// Binds and listens in the kernel, so that the port is known; connections wait in the backlog.
    pub fn new(exchange: &Exchange, binding: Binding) -> Result<Bound> {
        binding.limits.check().map_err(Error::invalid)?;
        let address = SocketAddr::new(binding.address, binding.port);
        let bind = || -> io::Result<(Socket, SocketAddr)> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            if address.is_ipv6() {
                socket.set_only_v6(binding.v6_only)?;
            }
            #[cfg(unix)]
            {
                // On Unix this allows a restart while old connections are in TIME_WAIT; on Windows it would steal ports.
                socket.set_reuse_address(true)?;
                socket.set_reuse_port(binding.shared)?;
            }
            // Inherited by accepted sockets on Linux, which saves a call per connection.
            socket.set_tcp_nodelay(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            socket.listen(i32::try_from(binding.backlog).unwrap_or(i32::MAX))?;
            let bound = socket.local_addr()?.as_socket().unwrap_or(address);
            Ok((socket, bound))
        };
        let (socket, bound) = bind().map_err(|cause| Error::io(format!("cannot listen on {address}"), &cause))?;
        Ok(Bound { id: exchange.name(), socket, address: bound, binding, routes: Routes::default() })
    }

    /// The listener's id, kept when it starts to accept.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it is bound, the chosen port included.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts to accept. Must be called inside the runtime's context.
    pub fn listen(self, exchange: &Arc<Exchange>, connections: &Arc<Connections>) -> Result<Listener> {
        let id = self.id;
        connections.heed(&self.binding.limits);
        let listener = TcpListener::from_std(self.socket.into())
            .map_err(|cause| Error::io(format!("cannot accept on {}", self.address), &cause))?;
        let site =
            Arc::new(http::Site::new(id, exchange.clone(), self.binding.limits, self.binding.http2, self.routes));
        let task = tokio::spawn(accept(listener, site, connections.clone()));
        Ok(Listener { id, task: task.abort_handle() })
    }
}

impl Listener {
    /// The listener's id.
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, site: Arc<http::Site>, connections: Arc<Connections>) {
    let mut pause = FIRST_PAUSE;
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                pause = FIRST_PAUSE;
                let id = site.exchange.name();
                match connections.admit(id, site.listener, Some(peer.ip()), &site.limits) {
                    Ok(member) => {
                        let local = socket.local_addr().unwrap_or(peer);
                        tokio::spawn(http::serve(socket, peer, local, member, site.clone()));
                    }
                    Err(_) => refuse(socket, &refusals),
                }
            }
            // The peer was gone before we took it: nothing is wrong here.
            Err(cause) if cause.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(cause) => {
                let text = format!("cannot accept a connection (next try in {} ms): {cause}", pause.as_millis());
                site.exchange.announce(Event::Log, 0, site.listener, 40, 0, text.as_bytes());
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Turns a connection away: HTTP clients understand 503, all others a close. The peer's request is read away first, because a
/// close with unread input sends RST and may destroy the answer. At most `REFUSALS` wait for that, further ones are only closed.
fn refuse(mut socket: TcpStream, refusals: &Arc<Semaphore>) {
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
