//! Bind, then accept: one task per listener that never fails and never waits for a connection.

mod accept;
mod bind;

use std::io;
use std::net::SocketAddr;
#[cfg(unix)]
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use socket2::Socket;
use tokio::task::AbortHandle;

use self::accept::{Acceptor, accept};
use self::bind::{SocketFile, bind};
use crate::address::Address;
use crate::connections::Connections;
use crate::error::{Error, Result};
use crate::exchange::Exchange;
use crate::http;
use crate::http::routes::Routes;
use crate::limits::Limits;
use crate::record::Event;
use crate::tls::Tls;

/// How a listener is bound.
#[derive(Debug)]
pub struct Binding {
    /// Where.
    pub place: Place,
    /// Connections the kernel keeps waiting for `accept`.
    pub backlog: u32,
    /// HTTP/2 is spoken next to HTTP/1.1: with prior knowledge, or negotiated when there is TLS.
    pub http2: bool,
    /// HTTP/3 is spoken on the same UDP port, if there is TLS.
    pub http3: bool,
    /// Certificates; `None` is cleartext.
    pub tls: Option<Arc<Tls>>,
    /// Limits of the listener and its connections.
    pub limits: Limits,
}

/// Where a listener is bound.
#[derive(Debug)]
pub enum Place {
    /// An IP address.
    Ip {
        /// Names are resolved by the host language; port 0 lets the system choose.
        address: SocketAddr,
        /// An IPv6 listener takes no IPv4 connections.
        v6_only: bool,
        /// SO_REUSEPORT: other processes may share the port.
        shared: bool,
    },
    /// A path in the file system.
    #[cfg(unix)]
    Unix {
        /// Made by the bind, removed at the close; a stale one is replaced.
        path: PathBuf,
        /// Permission bits of the socket file; what the umask leaves when `None`.
        mode: Option<u32>,
    },
    /// A socket bound by somebody else: an init system, a parent process.
    #[cfg(unix)]
    Inherited(OwnedFd),
}

/// A bound socket that does not accept yet: routes are added here.
#[derive(Debug)]
pub struct Bound {
    id: u64,
    socket: Socket,
    datagrams: Option<std::net::UdpSocket>,
    file: Option<SocketFile>,
    address: Address,
    binding: Binding,
    /// Requests answered natively.
    pub routes: Routes,
}

/// An accepting listener; dropping it stops accepting.
#[derive(Debug)]
pub struct Listener {
    id: u64,
    tasks: Vec<AbortHandle>,
    endpoint: Option<quinn::Endpoint>,
    _file: Option<SocketFile>,
}

impl Bound {
    /// Binds and listens in the kernel, so that the port is known; connections wait in the backlog.
    pub fn new(exchange: &Exchange, binding: Binding) -> Result<Bound> {
        binding.limits.check().map_err(Error::invalid)?;
        let bound = bind(&binding)?;
        Ok(Bound {
            id: exchange.name(),
            socket: bound.socket,
            datagrams: bound.datagrams,
            file: bound.file,
            address: bound.address,
            binding,
            routes: Routes::default(),
        })
    }

    /// The listener's id, kept when it starts to accept.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Where it is bound, the chosen port included.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Starts to accept. Must be called inside the runtime's context.
    pub fn listen(self, exchange: &Arc<Exchange>, connections: &Arc<Connections>) -> Result<Listener> {
        let failed = |cause: &io::Error| Error::io(format!("cannot accept on {}", self.address), cause);
        let id = self.id;
        connections.heed(&self.binding.limits);
        let acceptor = Acceptor::new(self.socket).map_err(|cause| failed(&cause))?;
        let endpoint = match (self.datagrams, &self.binding.tls) {
            (Some(socket), Some(tls)) => {
                Some(http::h3::endpoint(socket, tls, &self.binding.limits).map_err(|cause| failed(&cause))?)
            }
            _ => None,
        };
        let advertised = endpoint.as_ref().and_then(|endpoint| Some(endpoint.local_addr().ok()?.port()));
        let site = Arc::new(http::Site {
            listener: id,
            exchange: exchange.clone(),
            limits: self.binding.limits,
            http2: self.binding.http2,
            tls: self.binding.tls,
            alt_svc: advertised.map(|port| format!("h3=\":{port}\"; ma=86400").into_bytes()).unwrap_or_default(),
            routes: self.routes,
            heads: http::heads::Heads::default(),
        });
        let mut tasks = vec![tokio::spawn(accept(acceptor, site.clone(), connections.clone())).abort_handle()];
        if let Some(endpoint) = &endpoint {
            let serve = http::h3::accept(endpoint.clone(), site, connections.clone());
            tasks.push(tokio::spawn(serve).abort_handle());
        }
        Ok(Listener { id, tasks, endpoint, _file: self.file })
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
        self.tasks.iter().for_each(AbortHandle::abort);
        if let Some(endpoint) = &self.endpoint {
            // Connections go on; new ones are refused rather than left without an answer.
            endpoint.set_server_config(None);
        }
    }
}

fn warn(site: &http::Site, text: &str) {
    site.exchange.announce(Event::Log, 0, site.listener, 40, 0, text.as_bytes());
}
