//! TCP over the exchange, to show that its vocabulary is general (ADR 0001): OPEN with the protocol of a bare byte stream,
//! DATA, END for a half-close, RESET, CREDIT and WRITABLE, and not a line of it changed.
//!
//! The protocol side is tokio (about what a `tcp.rs` would be), the host a plain loop that takes batches and echoes.

#[path = "support/pair.rs"]
mod pair;

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Wake};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use pair::{Commands, Host, Told, bytes};
use server_native::exchange::{Exchange, Inlet, Opening, Stream};
use server_native::record::{Command, Event, Protocol, Reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket};

const CREDIT: u32 = 64 * 1024;
const WINDOW: u32 = 96 * 1024;
/// Longest read from a socket.
const READ: usize = 16 * 1024;
/// Small, so that a client that reads nothing is felt within kilobytes.
const SOCKET_BUFFER: u32 = 32 * 1024;
const MIB: usize = 1024 * 1024;

// --- the protocol side -------------------------------------------------------------------------------------------

async fn accept(exchange: Arc<Exchange>, listener: TcpListener) -> std::io::Result<()> {
    let name = exchange.name();
    loop {
        let (socket, address) = listener.accept().await?;
        let connection = exchange.name();
        exchange.announce(Event::Accept, connection, name, 0, 0, address.to_string().as_bytes());
        poll_fn(|context| exchange.poll_ready(context)).await;
        let protocol = Protocol::Tcp;
        let opening = Opening { parent: connection, protocol, flags: 0, credit: CREDIT, window: WINDOW, body: &[] };
        let waker = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
        let Some(stream) = exchange.open(opening, &waker, |_| 0) else { return Ok(()) };
        let (reader, writer) = socket.into_split();
        tokio::spawn(carry(feed(stream.inlet(), reader), obey(stream, writer)));
    }
}

/// Both directions of one connection, until the host has said its last.
async fn carry(feeding: impl Future<Output = ()>, obeying: impl Future<Output = ()>) {
    let mut obeying = pin!(obeying);
    tokio::select! {
        () = &mut obeying => {}
        () = feeding => obeying.await,
    }
}

/// Socket to host: reads no more than the host has given credit for.
async fn feed(inlet: Inlet, mut socket: OwnedReadHalf) {
    let mut buffer = [0; READ];
    loop {
        let credit = poll_fn(|context| match inlet.exchange().poll_ready(context) {
            Poll::Ready(()) => inlet.poll_credit(context),
            Poll::Pending => Poll::Pending,
        });
        let Some(credit) = credit.await else { return };
        match socket.read(&mut buffer[..READ.min(credit as usize)]).await {
            Ok(0) => return inlet.push_end(&[]),
            Ok(count) => inlet.push(&buffer[..count], false),
            Err(_) => return inlet.fail(Reason::Gone),
        }
    }
}

/// Host to socket: END is a half-close, RESET an abrupt one.
async fn obey(mut stream: Stream, mut socket: OwnedWriteHalf) {
    while let Some(order) = poll_fn(|context| stream.poll_order(context)).await {
        let written = match order.command {
            Command::Data => socket.write_all(&order.body).await,
            Command::End => socket.shutdown().await,
            Command::Reset => {
                let _ = socket.as_ref().set_zero_linger();
                return socket.forget();
            }
            _ => unreachable!("the host of this test says nothing else"),
        };
        match written {
            Ok(()) => stream.sent(order.body.len()),
            Err(_) => return stream.fail(Reason::Gone),
        }
    }
}

/// Runs the sockets until `over`; commands are applied by a task of the same thread.
fn drive(exchange: Arc<Exchange>, address: Sender<SocketAddr>, over: tokio::sync::oneshot::Receiver<()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async move {
        let socket = TcpSocket::new_v4().unwrap();
        // Accepted sockets inherit them.
        socket.set_recv_buffer_size(SOCKET_BUFFER).unwrap();
        socket.set_send_buffer_size(SOCKET_BUFFER).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(16).unwrap();
        address.send(listener.local_addr().unwrap()).unwrap();
        tokio::spawn(accept(exchange.clone(), listener));
        let applier = poll_fn(|context| {
            exchange.apply(Some(context.waker()));
            Poll::<()>::Pending
        });
        tokio::select! {
            () = applier => {}
            _ = over => {}
        }
        exchange.close();
    });
}

// --- the host ------------------------------------------------------------------------------------------------------

/// What the host knows of one stream: what it has to echo, and how much of it may go.
#[derive(Default)]
struct Echo {
    pending: VecDeque<u8>,
    window: usize,
    ended: bool,
}

/// What the host tells the test.
#[derive(Debug, PartialEq, Eq)]
enum News {
    /// A stream can neither read nor write any more.
    Stalled,
    /// A stream was reset for this reason.
    Reset(u16),
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Takes batches and echoes until the exchange is closed; answers the most bytes that were between the sockets.
fn echo(exchange: &Arc<Exchange>, news: &Sender<News>) -> u64 {
    let mut most = 0;
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut host = Host::new(exchange);
    let mut streams: HashMap<u64, Echo> = HashMap::new();
    loop {
        let mut events = pin!(poll_fn(|context: &mut Context<'_>| exchange.poll_events(context)));
        while events.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            thread::park();
        }
        let Ok(told) = host.take() else { return most };
        let mut says = Commands::default();
        for told in told {
            says = react(&mut streams, told, says, news);
        }
        let between = streams.values().map(|echo| echo.pending.len() + WINDOW as usize - echo.window).sum::<usize>();
        most = most.max(between as u64 + exchange.counters().queued_bytes);
        says.submit(exchange).unwrap();
    }
}

fn react(streams: &mut HashMap<u64, Echo>, told: Told, mut says: Commands, news: &Sender<News>) -> Commands {
    let id = told.record.stream;
    if told.is(Event::Open) {
        assert_eq!(told.record.flags, Protocol::Tcp as u8);
        streams.insert(id, Echo { window: WINDOW as usize, ..Echo::default() });
    }
    let Some(echo) = streams.get_mut(&id) else { return says };
    if told.is(Event::Reset) {
        news.send(News::Reset(told.record.code)).unwrap();
        streams.remove(&id);
        return says;
    }
    if told.is(Event::Writable) {
        echo.window += told.record.aux as usize;
    }
    echo.pending.extend(&told.payload);
    echo.ended |= told.is(Event::End);
    let now = echo.pending.len().min(echo.window);
    if now > 0 {
        let piece: Vec<u8> = echo.pending.drain(..now).collect();
        echo.window -= now;
        // What is echoed makes room for as much more.
        says = says.data(id, &piece, false).credit(id, now as u32);
        if piece.starts_with(b"abort") {
            says = says.reset(id, Reason::Cancelled);
            streams.remove(&id);
            return says;
        }
    }
    if echo.pending.len() == CREDIT as usize && echo.window == 0 {
        news.send(News::Stalled).unwrap();
    }
    if echo.ended && echo.pending.is_empty() {
        says = says.end(id, &[]);
        streams.remove(&id);
    }
    says
}

// --- both, and clients ---------------------------------------------------------------------------------------------

struct Server {
    exchange: Arc<Exchange>,
    address: SocketAddr,
    news: Receiver<News>,
    over: tokio::sync::oneshot::Sender<()>,
    sockets: JoinHandle<()>,
    host: JoinHandle<u64>,
}

impl Server {
    fn start() -> Server {
        let exchange = Arc::new(Exchange::default());
        let (tell, news) = channel();
        let (over, is_over) = tokio::sync::oneshot::channel();
        let (bound, address) = channel();
        let sockets = thread::spawn({
            let exchange = exchange.clone();
            move || drive(exchange, bound, is_over)
        });
        let host = thread::spawn({
            let exchange = exchange.clone();
            move || echo(&exchange, &tell)
        });
        let address = address.recv_timeout(Duration::from_secs(10)).unwrap();
        Server { exchange, address, news, over, sockets, host }
    }

    fn connect(&self) -> TcpStream {
        let kind = socket2::Type::STREAM;
        let socket = socket2::Socket::new(socket2::Domain::IPV4, kind, None).unwrap();
        socket.set_recv_buffer_size(SOCKET_BUFFER as usize).unwrap();
        socket.set_send_buffer_size(SOCKET_BUFFER as usize).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        socket.connect(&self.address.into()).unwrap();
        socket.into()
    }

    fn next(&self) -> News {
        self.news.recv_timeout(Duration::from_secs(30)).expect("news within half a minute")
    }

    /// Stops it; answers how many bytes were between the sockets at most.
    fn stop(self) -> u64 {
        self.over.send(()).unwrap();
        self.sockets.join().unwrap();
        let most = self.host.join().unwrap();
        assert_eq!(self.exchange.counters().overflows, 0);
        assert_eq!(self.exchange.counters().live, 0);
        most
    }
}

/// Sends `data`, closes that half, and reads from `start` on until the other half is closed.
fn exchange_all(socket: TcpStream, data: Vec<u8>, start: impl FnOnce()) {
    let mut writing = socket.try_clone().unwrap();
    let expected = data.clone();
    let writer = thread::spawn(move || {
        writing.write_all(&data).unwrap();
        writing.shutdown(Shutdown::Write).unwrap();
    });
    start();
    let mut received = Vec::new();
    (&socket).read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(received == expected, "{} bytes came back of {}", received.len(), expected.len());
}

#[test]
fn many_connections_get_back_what_they_send_and_a_half_close() {
    let server = Server::start();
    let clients: Vec<_> = (0..5)
        .map(|seed| {
            let socket = server.connect();
            thread::spawn(move || exchange_all(socket, bytes(seed, 8 * MIB), || ()))
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    exchange_all(server.connect(), Vec::new(), || ());
    assert_eq!(server.exchange.counters().opened, 6);
    assert!(!server.news.try_iter().any(|news| matches!(news, News::Reset(_))));
    server.stop();
}

#[test]
fn a_client_that_reads_nothing_stops_the_reading_of_what_it_sends() {
    let server = Server::start();
    exchange_all(server.connect(), bytes(1, 8 * MIB), || {
        assert_eq!(server.next(), News::Stalled);
        // Others go on meanwhile.
        exchange_all(server.connect(), bytes(2, MIB), || ());
    });
    let most = server.stop();
    assert!(most >= u64::from(CREDIT + WINDOW), "the window was never full: {most}");
    assert!(most <= u64::from(3 * (CREDIT + WINDOW)), "{most} bytes were in flight for two streams");
}

#[test]
fn a_reset_by_either_side_is_abrupt() {
    let server = Server::start();
    let mut socket = server.connect();
    socket.write_all(b"abort").unwrap();
    let error = socket.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    let socket = server.connect();
    let mut byte = [0];
    (&socket).write_all(b"x").unwrap();
    (&socket).read_exact(&mut byte).unwrap();
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
    drop(socket);
    assert_eq!(server.next(), News::Reset(Reason::Gone as u16));
    server.stop();
}
