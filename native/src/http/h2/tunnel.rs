//! The stream of an accepted extended CONNECT as a transport (RFC 8441 section 5).
//!
//! An orderly end is END_STREAM; whatever else ends it is RST_STREAM with CANCEL, so the peer can tell one from the other.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason as Code, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::flow::{Flow, Piece};
use crate::http::Transport;

/// One HTTP/2 stream that carries bytes.
pub(super) struct Tunnel {
    /// `None` only while it is dropped.
    send: Option<SendStream<Piece>>,
    receive: RecvStream,
    /// Taken from h2 and not read yet; its window is returned as it is read.
    unread: Bytes,
    flow: Arc<Flow>,
    shut: bool,
    cut: AtomicBool,
    lost: bool,
}

impl Tunnel {
    pub(super) fn new(send: SendStream<Piece>, receive: RecvStream, flow: Arc<Flow>) -> Tunnel {
        let cut = AtomicBool::new(false);
        Tunnel { send: Some(send), receive, unread: Bytes::new(), flow, shut: false, cut, lost: false }
    }

    fn send(&mut self) -> io::Result<&mut SendStream<Piece>> {
        self.send.as_mut().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// The peer has reset the stream, or the connection is gone.
    fn lose(&mut self) -> io::Error {
        if !std::mem::replace(&mut self.lost, true) {
            self.flow.shared.count_reset();
        }
        io::ErrorKind::ConnectionReset.into()
    }
}

impl Transport for Tunnel {
    fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// h2 tells it only to who reads or writes.
    fn reset(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        let Some(mut send) = self.send.take() else { return };
        if self.shut && !self.cut.load(Ordering::Relaxed) {
            self.flow.clone().leave(send);
        } else {
            send.send_reset(Code::CANCEL);
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.receive.poll_data(context)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(data)) => self.unread = data,
                Some(Err(_)) => return Poll::Ready(Err(self.lose())),
            }
        }
        let count = self.unread.len().min(room.remaining());
        room.put_slice(&self.unread[..count]);
        self.unread.advance(count);
        let released = self.receive.flow_control().release_capacity(count);
        Poll::Ready(released.map_err(io::Error::other))
    }
}

impl AsyncWrite for Tunnel {
    /// Takes what the peer's window has room for: what waits beyond that waits with whoever writes.
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let send = self.send()?;
        send.reserve_capacity(bytes.len());
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(context)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(Err(self.lose())),
            }
        }
        let count = send.capacity().min(bytes.len());
        let piece = self.flow.piece(Bytes::copy_from_slice(&bytes[..count]));
        match self.send()?.send_data(piece, false) {
            Ok(()) => Poll::Ready(Ok(count)),
            Err(_) => Poll::Ready(Err(self.lose())),
        }
    }

    /// There is nothing to flush; but whoever does not read learns here that the stream is gone.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.send()?.poll_reset(context) {
            Poll::Ready(_) => Poll::Ready(Err(self.lose())),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::replace(&mut self.shut, true) {
            return Poll::Ready(Ok(()));
        }
        let end = self.flow.piece(Bytes::new());
        match self.send()?.send_data(end, true) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(_) => Poll::Ready(Err(self.lose())),
        }
    }
}
