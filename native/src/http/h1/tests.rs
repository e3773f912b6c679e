//! What one poll of a connection does and leaves to the next: not to be seen from outside but in other connections' time.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::Waker;

use tokio::io::{AsyncRead, AsyncWrite};

use super::*;
use crate::address::Address;
use crate::batch::Batch;
use crate::connections::Connections;
use crate::exchange::Exchange;
use crate::http::{Site, heads, routes};
use crate::limits::Limits;
use crate::record::Event;

/// A client that has sent all this, and takes so many bytes.
struct Client {
    sent: VecDeque<u8>,
    takes: usize,
    taken: Vec<u8>,
}

impl Transport for Client {
    fn cut(&self) {}

    async fn reset(&self) {
        std::future::pending().await
    }
}

impl AsyncRead for Client {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.sent.is_empty() {
            return Poll::Pending;
        }
        let count = room.remaining().min(self.sent.len());
        let bytes: Vec<u8> = self.sent.drain(..count).collect();
        room.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = bytes.len().min(self.takes);
        if count == 0 {
            return Poll::Pending;
        }
        self.takes -= count;
        self.taken.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A connection of a client that has sent this, to a server with `/small` and `/large`.
fn session(sent: &[u8], takes: usize) -> Session<Client> {
    let limits = Limits::default();
    let mut routes = routes::Routes::default();
    routes.add(b"/small", 200, b"", b"ok").unwrap();
    routes.add(b"/large", 200, b"", &[b'x'; 64 * 1024]).unwrap();
    let site = Site {
        listener: 1,
        exchange: Arc::new(Exchange::default()),
        limits,
        http2: false,
        tls: None,
        alt_svc: Vec::new(),
        routes,
        heads: heads::Heads::default(),
    };
    let member = Arc::new(Connections::default()).admit(2, 1, None, &limits).unwrap();
    let connection = Connection::new(member, Arc::new(site), Address::Unix(None), Address::Unix(None));
    let client = Client { sent: sent.iter().copied().collect(), takes, taken: Vec::new() };
    Session::new(client, Vec::new(), connection)
}

fn poll(session: &mut Session<Client>) -> bool {
    session.poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

fn answers(session: &Session<Client>) -> usize {
    session.socket.taken.windows(12).filter(|window| window == b"HTTP/1.1 200").count()
}

fn requests(path: &str, count: usize) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n").repeat(count).into_bytes()
}

#[test]
fn one_poll_answers_some_of_many_requests_and_the_next_ones_the_others() {
    let mut session = session(&requests("/small", 5_000), usize::MAX);
    let mut most = 0;
    while answers(&session) < 5_000 {
        let before = answers(&session);
        assert!(!poll(&mut session));
        let now = answers(&session) - before;
        assert!(now > 0, "a poll that does nothing, {before} answers in");
        most = most.max(now);
    }
    assert!(most <= 32, "{most} answers at once");
}

#[test]
fn answers_that_nobody_takes_are_not_made() {
    let mut session = session(&requests("/large", 100), 0);
    for _ in 0..100 {
        assert!(!poll(&mut session));
    }
    assert!(session.output.len() < 512 * 1024, "{} bytes wait", session.output.len());
    session.socket.takes = usize::MAX;
    while answers(&session) < 100 {
        let before = answers(&session);
        assert!(!poll(&mut session));
        assert!(answers(&session) > before);
        assert!(session.output.is_empty());
    }
    assert!(session.socket.taken.len() > 100 * 64 * 1024);
}

#[test]
fn a_body_in_tiny_chunks_is_told_bit_by_bit_and_nothing_is_read_ahead() {
    let chunks = 300_000;
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut session = session(&[&head[..], &b"1\r\nx\r\n".repeat(chunks)].concat(), usize::MAX);
    let mut batch = Batch::default();
    let (mut told, mut polls) = (0, 0);
    let window = session.connection.site.limits.receive_window;
    while told < window {
        assert!(!poll(&mut session));
        assert!(session.input.len() <= READ, "{} bytes wait", session.input.len());
        session.connection.site.exchange.take(&mut batch).unwrap();
        // What came with the head is told with it.
        let bytes = batch.records().iter().map(|record| match record.kind {
            kind if kind == Event::Data as u8 => record.length,
            kind if kind == Event::Open as u8 => record.aux,
            _ => 0,
        });
        let bytes: u32 = bytes.sum();
        assert!(polls == 0 || (1..=16 * 1024).contains(&bytes), "{bytes} bytes in poll {polls}");
        (told, polls) = (told + bytes, polls + 1);
    }
    assert!(polls > 16);
    // Without credit the socket is left alone, and watched.
    let left = session.socket.sent.len();
    assert!(!poll(&mut session));
    assert!(session.unread().is_some());
    assert_eq!((session.socket.sent.len(), left > 0), (left, true));
}
