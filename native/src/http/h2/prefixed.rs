//! A transport that was read from before it was known to speak HTTP/2.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Shared;
use crate::http::Transport;

/// A transport whose first bytes were read already. It notes that the peer was heard, and is cut where the connection is.
#[derive(Debug)]
pub(super) struct Prefixed<S: Transport> {
    pub(super) first: Bytes,
    pub(super) socket: S,
    pub(super) shared: Arc<Shared>,
}

impl<S: Transport> Drop for Prefixed<S> {
    fn drop(&mut self) {
        if self.shared.cut.load(Ordering::Relaxed) {
            self.socket.cut();
        }
    }
}

impl<S: Transport> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            let before = buffer.filled().len();
            let read = Pin::new(&mut self.socket).poll_read(context, buffer);
            if buffer.filled().len() > before {
                self.shared.heard.store(true, Ordering::Relaxed);
            }
            return read;
        }
        let count = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl<S: Transport> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
