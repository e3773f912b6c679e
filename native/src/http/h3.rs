//! Serves HTTP/3: QUIC by quinn, frames by h3, each request a stream of the exchange.
//!
//! h3 is young, so it is contained: [`transport`] is all it sees of QUIC, and [`gate`] reads the frame headers first, because
//! h3 holds a frame that is not DATA whole, whatever length it claims. Limits that quinn and h3 leave open are set here.
//!
//! Reading: a chunk is taken from quinn, which returns its window to the peer, only while the host has credit. Writing: a
//! piece counts as sent when quinn has taken it, and quinn takes no more than its own window.

mod encode;
mod gate;
mod reply;
mod request;
mod section;
mod transport;
mod upload;

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h3::error::{Code, ConnectionError};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, TransportConfig, VarInt};

use self::request::{Counted, Shared};
use self::transport::Latest;
use super::{Connection, Site};
use crate::address::Address;
use crate::connections::{Connections, Member, Phase};
use crate::limits::{Limit, Limits};
use crate::tls::{self, Tls};

/// Control and QPACK streams, and a few that clients open to see whether we ignore them (RFC 9114 section 6.2.3).
const UNIDIRECTIONAL: u32 = 8;
/// How long the last packets of a connection may take to leave.
const FAREWELL: Duration = Duration::from_millis(20);
/// How long a GOAWAY may take: a peer that gives its control stream no window hears none.
const GOODBYE: Duration = Duration::from_secs(1);

type Frames = h3::server::Connection<transport::Connection, Bytes>;

/// The UDP side of a listener.
pub fn endpoint(socket: std::net::UdpSocket, tls: &Tls, limits: &Limits) -> io::Result<Endpoint> {
    let config = configuration(tls.quic(), limits);
    Endpoint::new(EndpointConfig::default(), Some(config), socket, Arc::new(TokioRuntime))
}

fn configuration(tls: Arc<QuicServerConfig>, limits: &Limits) -> ServerConfig {
    let mut transport = TransportConfig::default();
    let idle = VarInt::from_u32(limits.quic_idle_ms);
    transport
        .max_concurrent_bidi_streams(limits.h3_streams.into())
        .max_concurrent_uni_streams(UNIDIRECTIONAL.into())
        .receive_window(limits.quic_window.into())
        .stream_receive_window(limits.quic_stream_window.into())
        .send_window(limits.quic_window.into())
        .max_idle_timeout(Some(idle.into()))
        // No extension of ours uses datagrams.
        .datagram_receive_buffer_size(None);
    let mut config = ServerConfig::with_crypto(tls);
    config.transport_config(Arc::new(transport));
    config
}

/// Takes connections for ever.
pub async fn accept(endpoint: Endpoint, site: Arc<Site>, connections: Arc<Connections>) {
    let handshakes = Arc::new(AtomicU32::new(0));
    let mut current: Option<(Arc<QuicServerConfig>, Arc<ServerConfig>)> = None;
    while let Some(incoming) = endpoint.accept().await {
        let Some(tls) = &site.tls else { return };
        let busy = handshakes.load(Ordering::Relaxed) >= site.limits.quic_handshakes;
        if busy && incoming.may_retry() && !incoming.remote_address_validated() {
            connections.meter.count(Limit::QuicHandshakes);
            // Refused only for a client that has proved its address already, which this one has not.
            let _ = incoming.retry();
            continue;
        }
        let peer = Address::from(incoming.remote_address());
        let local = local_address(&incoming, &endpoint);
        match connections.admit(site.exchange.name(), site.listener, peer.ip(), &site.limits) {
            Err(_) => incoming.refuse(),
            Ok(member) => {
                // The certificates of now: the endpoint's are those of its start.
                let fresh = tls.quic();
                let config = match &current {
                    Some((known, config)) if Arc::ptr_eq(known, &fresh) => config.clone(),
                    _ => {
                        let config = Arc::new(configuration(fresh.clone(), &site.limits));
                        current.insert((fresh, config)).1.clone()
                    }
                };
                let connection = Connection::new(member, site.clone(), peer, local);
                tokio::spawn(serve(incoming, config, connection, UnderWay::new(&handshakes)));
            }
        }
    }
}

fn local_address(incoming: &Incoming, endpoint: &Endpoint) -> Address {
    let bound = endpoint.local_addr().unwrap_or_else(|_| ([0, 0, 0, 0], 0).into());
    let address = incoming.local_ip().unwrap_or(bound.ip());
    Address::Ip((address, bound.port()).into())
}

/// One handshake in the count that Retry looks at.
struct UnderWay(Arc<AtomicU32>);

impl UnderWay {
    fn new(count: &Arc<AtomicU32>) -> UnderWay {
        count.fetch_add(1, Ordering::Relaxed);
        UnderWay(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one connection until it ends.
async fn serve(incoming: Incoming, config: Arc<ServerConfig>, mut connection: Connection, under_way: UnderWay) {
    let limits = connection.site.limits;
    connection.member.within(limits.handshake_ms);
    let Ok(connecting) = incoming.accept_with(config) else { return };
    let Some(Ok(quic)) = in_time(&connection.member, connecting).await else { return };
    connection.facts = facts(&quic);
    connection.announce();
    let mut builder = h3::server::builder();
    builder.max_field_section_size(limits.h3_field_section_bytes.into()).send_grease(false);
    let latest = Latest::default();
    let transport = transport::Connection::new(quic.clone(), limits.h3_field_section_bytes, latest.clone());
    // Waits for the peer too: our control stream and its SETTINGS need room that it may not give.
    let Some(Ok(frames)) = in_time(&connection.member, builder.build(transport)).await else { return };
    drop(under_way);
    let shared = Arc::new(Shared::new(connection));
    drive(frames, &quic, &shared, &latest).await;
    // The member is held until the last packets have gone: the runtime ends when nobody is a member any more.
    quic.close(VarInt::from_u32(Code::H3_NO_ERROR.value() as u32), b"");
    if shared.connection.member.watch.phase() != Phase::Run {
        tokio::time::sleep(FAREWELL).await;
    }
}

/// What `step` comes to within the deadline that runs, unless the server stops before.
async fn in_time<T>(member: &Member, step: impl Future<Output = T>) -> Option<T> {
    let mut step = pin!(step);
    let mut registered = false;
    poll_fn(|context| {
        if !std::mem::replace(&mut registered, true) {
            member.watch.register(context.waker());
        }
        if member.watch.fired() {
            member.count(Limit::HandshakeMs);
            return Poll::Ready(None);
        }
        if member.watch.phase() != Phase::Run {
            return Poll::Ready(None);
        }
        step.as_mut().poll(context).map(Some)
    })
    .await
}

/// Sends GOAWAY; whether it has left.
async fn goodbye(frames: &mut Frames, member: &Member, requests: usize) -> bool {
    let mut told = pin!(frames.shutdown(requests));
    let told = poll_fn(|context| {
        member.watch.register(context.waker());
        if member.watch.phase() == Phase::Kill {
            return Poll::Ready(false);
        }
        told.as_mut().poll(context).map(|told| told.is_ok())
    });
    tokio::time::timeout(GOODBYE, told).await.unwrap_or(false)
}

fn facts(quic: &quinn::Connection) -> String {
    let data = quic.handshake_data().and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok());
    let (protocol, name) = data.map_or((None, None), |data| (data.protocol, data.server_name));
    let chain = quic.peer_identity().and_then(|chain| chain.downcast::<Vec<rustls_pki_types::CertificateDer>>().ok());
    // quinn keeps the cipher to itself.
    tls::facts("TLSv1.3", "", protocol.as_deref(), name.as_deref(), chain.as_ref().map(|chain| chain.as_slice()))
}

/// Takes requests until the peer or a deadline ends the connection, or everything is answered after a GOAWAY.
async fn drive(mut frames: Frames, quic: &quinn::Connection, shared: &Arc<Shared>, latest: &Latest) {
    let mut draining = false;
    // A place to resolve requests in, used again and again: the state is 2.6 KiB, and most are resolved by one look.
    let mut place = None;
    loop {
        let next = {
            let mut accepted = pin!(frames.accept());
            poll_fn(|context| shared.look(context, draining, |context| accepted.as_mut().poll(context))).await
        };
        let resolver = match next {
            Next::Request(Ok(Some(resolver))) => resolver,
            // Asked of h3, which closes for every error and so hides quinn's own reason.
            Next::Request(Err(ConnectionError::Timeout { .. })) => {
                return shared.connection.member.count(Limit::QuicIdleMs);
            }
            Next::Request(Ok(None) | Err(_)) | Next::End => return,
            Next::Drain => {
                // Twice (RFC 9114 section 5.2): first so that requests on their way are still taken, and, when the client
                // must have heard and nothing is left, with the last one taken. h3 refuses what comes after.
                draining = true;
                if !goodbye(&mut frames, &shared.connection.member, shared.limits().h3_streams as usize).await {
                    return;
                }
                continue;
            }
            Next::Idle => {
                let on_the_way = tokio::time::timeout(2 * quic.rtt(), frames.accept()).await;
                match on_the_way {
                    Ok(Ok(Some(resolver))) => resolver,
                    Ok(_) => return,
                    Err(_) => {
                        // h3 counts from the last request taken, and GOAWAY names the first that is not. The connection ends
                        // either way.
                        goodbye(&mut frames, &shared.connection.member, 1).await;
                        // Closing drops what has not gone: the client gets the time to hear it, and may close first.
                        let _ = tokio::time::timeout(2 * quic.rtt() + FAREWELL, quic.closed()).await;
                        return;
                    }
                }
            }
            Next::Excessive => {
                quic.close(VarInt::from_u32(Code::H3_EXCESSIVE_LOAD.value() as u32), b"too many resets");
                return;
            }
        };
        let Some(half) = latest.lock().unwrap_or_else(|poison| poison.into_inner()).take() else { continue };
        let mut resolving = match place.take() {
            Some(mut used) => {
                Pin::set(&mut used, resolver.resolve_request());
                used
            }
            None => Box::pin(resolver.resolve_request()),
        };
        let counted = Counted::new(shared.clone());
        let mut taken = Some((half, counted));
        let waits = poll_fn(|context| {
            let resolved = resolving.as_mut().poll(context);
            if let Poll::Ready(resolved) = resolved
                && let Some((half, counted)) = taken.take()
            {
                request::begin(resolved, half, counted, context);
            }
            Poll::Ready(taken.take())
        });
        match waits.await {
            None => place = Some(resolving),
            Some((half, counted)) => drop(tokio::spawn(request::wait(resolving, half, counted))),
        }
    }
}

/// Why [`drive`] goes on.
enum Next<T> {
    Request(T),
    Drain,
    /// Nothing is left to answer after the first GOAWAY.
    Idle,
    Excessive,
    End,
}

impl Shared {
    fn look<T>(
        &self,
        context: &mut Context<'_>,
        draining: bool,
        accept: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<Next<T>> {
        let watch = &self.connection.member.watch;
        watch.register(context.waker());
        if watch.phase() == Phase::Kill {
            return Poll::Ready(Next::End);
        }
        let idle = watch.fired() && self.is_idle();
        if idle && !draining {
            self.connection.member.count(Limit::IdleMs);
        }
        if (idle || watch.phase() == Phase::Drain) && !draining {
            return Poll::Ready(Next::Drain);
        }
        if self.is_excessive() {
            self.connection.member.count(Limit::H3Resets);
            return Poll::Ready(Next::Excessive);
        }
        if draining && self.is_idle() {
            return Poll::Ready(Next::Idle);
        }
        accept(context).map(Next::Request)
    }
}
