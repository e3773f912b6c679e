//! The TLS handshake of one connection, in its own task and within its own deadline.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Connection, Transport};
use crate::connections::Phase;
use crate::limits::Limit;
use crate::tls::{self, Tls};

impl<S: Transport> Transport for TlsStream<S> {
    fn cut(&self) {
        self.get_ref().0.cut();
    }

    fn reset(&self) -> impl Future<Output = ()> + Send {
        self.get_ref().0.reset()
    }
}

/// The connection with TLS on it, and whether HTTP/2 was negotiated. `None` when the client was too slow, went away or could
/// not agree with us; rustls has told it why.
pub(super) async fn handshake<S: Transport>(
    socket: S,
    tls: &Tls,
    connection: &mut Connection,
) -> Option<(TlsStream<S>, bool)> {
    let member = &connection.member;
    member.within(connection.site.limits.handshake_ms);
    let mut accepted = pin!(TlsAcceptor::from(tls.stream(connection.site.http2)).accept(socket));
    let mut registered = false;
    let stream = poll_fn(|context| {
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
        accepted.as_mut().poll(context).map(Result::ok)
    })
    .await?;
    let state = stream.get_ref().1;
    connection.facts = tls::describe(state, state.server_name());
    let http2 = state.alpn_protocol() == Some(b"h2");
    Some((stream, http2))
}
