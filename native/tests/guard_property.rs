//! The gate against hyper: for pipelined requests, well-formed or not, both must read the same messages, or the gate
//! must refuse. hyper may accept less strictly; it may never see another request where the gate went on.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http_body::Body as _;
use hyper::rt::{Read, ReadBufCursor, Write};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use server_native::http::guard::{Body, Rejection, read_head};
use server_native::limits::Limits;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};

type Fields = Vec<(String, Vec<u8>)>;

/// One request as either side read it, with its whole body.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Message {
    method: String,
    target: String,
    fields: Fields,
    body: Vec<u8>,
    trailers: Fields,
}

/// Why the gate read no further.
#[derive(Clone, PartialEq, Eq, Debug)]
enum End {
    Refused(Rejection),
    /// The input ended, in a message or behind one.
    MoreNeeded,
    /// The last message asked to close, so what follows is never read.
    Closed,
}

/// Reads with the gate what arrives up to each of `arrivals`, in order, as a connection would.
fn read_with_gate(input: &[u8], arrivals: &[usize]) -> (Vec<Message>, End) {
    let limits = Limits::default();
    let mut messages = Vec::new();
    let mut start = 0;
    let mut arrived = arrivals.iter().copied();
    let mut end = arrived.next().unwrap_or(0);
    let mut body: Option<(Body, bool)> = None;
    loop {
        let Some((framing, keep_alive)) = &mut body else {
            let mut storage = [MaybeUninit::uninit(); 256];
            match read_head(&input[start..end], &limits, &mut storage) {
                Err(rejection) => return (messages, End::Refused(rejection)),
                Ok(Some(head)) => {
                    let fields = head.headers.iter();
                    messages.push(Message {
                        method: head.method.to_owned(),
                        target: head.target.to_owned(),
                        fields: fields.map(|field| (field.name.to_lowercase(), field.value.to_vec())).collect(),
                        body: Vec::new(),
                        trailers: Vec::new(),
                    });
                    start += head.length;
                    body = Some((Body::new(head.framing, &limits), head.keep_alive));
                }
                Ok(None) => match arrived.next() {
                    Some(next) => end = next,
                    None => return (messages, End::MoreNeeded),
                },
            }
            continue;
        };
        let message = messages.last_mut().expect("a body follows its head");
        match framing.decode(&input[start..end]) {
            Err(rejection) => {
                messages.pop();
                return (messages, End::Refused(rejection));
            }
            Ok(decoded) => {
                start += decoded.consumed;
                message.body.extend_from_slice(decoded.data);
                if decoded.done {
                    message.trailers = trailers(framing.trailers());
                    if !*keep_alive {
                        return (messages, End::Closed);
                    }
                    body = None;
                } else if decoded.consumed == 0 {
                    match arrived.next() {
                        Some(next) => end = next,
                        None => {
                            messages.pop();
                            return (messages, End::MoreNeeded);
                        }
                    }
                }
            }
        }
    }
}

fn trailers(section: &[u8]) -> Fields {
    if section.is_empty() {
        return Vec::new();
    }
    let parts: Vec<&[u8]> = section.split(|byte| *byte == 0).collect();
    parts.chunks(2).map(|pair| (String::from_utf8_lossy(pair[0]).into_owned(), pair[1].to_vec())).collect()
}

/// Serves `input` with hyper and returns the requests whose body it read to the end.
async fn read_with_hyper(input: &[u8]) -> Vec<Message> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| {
        let seen = seen.clone();
        async move {
            let (head, mut body) = request.into_parts();
            let mut message = Message {
                method: head.method.to_string(),
                target: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
                fields: fields(&head.headers),
                body: Vec::new(),
                trailers: Vec::new(),
            };
            loop {
                match poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                    None => break,
                    Some(Err(_)) => return Ok::<_, Infallible>(http::Response::new(String::new())),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => message.body.extend_from_slice(&data),
                        Err(frame) => {
                            let section = frame.into_trailers().unwrap_or_default();
                            message.trailers = fields(&section);
                        }
                    },
                }
            }
            seen.borrow_mut().push(message);
            Ok(http::Response::new(String::new()))
        }
    });
    let serve = hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(Io(server), service);
    let converse = async {
        client.write_all(input).await.expect("the pipe is larger than any input");
        client.shutdown().await.expect("a pipe shuts down");
        let mut answers = Vec::new();
        client.read_to_end(&mut answers).await.expect("a pipe reads to its end");
    };
    // An error is an input that hyper refused; what it had read before counts all the same.
    let (_refused, ()) = tokio::join!(serve, converse);
    seen.take()
}

fn fields(map: &http::HeaderMap) -> Fields {
    map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
}

/// A `HeaderMap` keeps the order of values of one name only, so both sides are compared sorted by name.
fn sorted(mut messages: Vec<Message>) -> Vec<Message> {
    for message in &mut messages {
        message.fields.sort_by(|a, b| a.0.cmp(&b.0));
        message.trailers.sort_by(|a, b| a.0.cmp(&b.0));
    }
    messages
}

fn check(runtime: &tokio::runtime::Runtime, input: &[u8], splits: &[Index]) -> Result<(), TestCaseError> {
    let (ours, end) = read_with_gate(input, &[input.len()]);

    // Incremental = whole, at the given points and byte by byte.
    let mut arrivals: Vec<usize> = splits.iter().map(|split| split.index(input.len() + 1)).collect();
    arrivals.sort_unstable();
    arrivals.push(input.len());
    let whole = (ours, end);
    prop_assert_eq!(&read_with_gate(input, &arrivals), &whole, "in pieces up to {:?}", arrivals);
    let bytes: Vec<usize> = (0..=input.len()).collect();
    prop_assert_eq!(&read_with_gate(input, &bytes), &whole, "byte by byte");

    let (ours, end) = whole;
    let (ours, theirs) = (sorted(ours), sorted(runtime.block_on(read_with_hyper(input))));
    let common = ours.len().min(theirs.len());
    prop_assert_eq!(&ours[..common], &theirs[..common]);
    prop_assert!(ours.len() <= theirs.len(), "only the gate read {:?}", &ours[common..]);
    if !matches!(end, End::Refused(_)) {
        prop_assert!(theirs.len() == ours.len(), "{:?}, but hyper read on: {:?}", end, &theirs[common..]);
    }
    Ok(())
}

// The grammar. Weights let about half of the requests be well-formed, so that sequences get behind the first one.

fn request() -> impl Strategy<Value = Vec<u8>> {
    let lead = prop_oneof![60 => Just(""), 1 => select(vec!["\r\n", "\r\n\r\n", "\r\n\r\n\r\n", "\n", "\r", " "])];
    let method = prop_oneof![
        50 => select(vec!["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"]),
        1 => select(vec!["get", "BREW", "X-!#$", "CONNECT", "PRI", "", "G(T"]),
    ];
    let target = prop_oneof![
        50 => select(vec!["/", "/a/b?c=d", "/?%20", "/x;y=z", "/a//b/../c"]),
        2 => select(vec!["http://a/", "http://b:80/x?y", "HTTPS://[::1]/", "http://a"]),
        1 => select(vec![
            "", "*", "a", "a:80", "http://", "http://u@a/", "http://a?q", "ftp://a/", "/#f", "/\u{e4}", "/\"", "/?`", "/?\"",
            "//a", "?q", "/a b", "/\t", "http://a:99999/", "http://%61/", "http://a:/", "/<", "http://a'(b)/",
        ]),
    ];
    let version = prop_oneof![
        50 => Just("HTTP/1.1"),
        3 => Just("HTTP/1.0"),
        1 => select(vec!["HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", "HTTP/1.10", "", "HTTP/11"]),
    ];
    let host = prop_oneof![
        50 => select(vec!["Host: a\r\n", "host:a:80\r\n", "HOST: [::1]\r\n"]),
        1 => select(vec!["", "Host:\r\n", "Host: a\r\nHost: a\r\n", "Host : a\r\n", "Host: a\n", " Host: a\r\n"]),
    ];
    let line = (lead, method, space(), target, space(), version, line_end(), host).prop_map(
        |(lead, method, space, target, second, version, end, host)| {
            [lead, method, space, target, second, version, end, host].concat().into_bytes()
        },
    );
    (line, vec(field(), 0..4), framed(), vec(field(), 0..2)).prop_map(|(line, before, (framing, body), after)| {
        [line, before.concat(), framing, after.concat(), b"\r\n".to_vec(), body].concat()
    })
}

fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![150 => Just(" "), 1 => select(vec!["", "  ", "\t", " \t", "\x0b"])]
}

fn line_end() -> impl Strategy<Value = &'static str> {
    prop_oneof![150 => Just("\r\n"), 1 => select(vec!["\n", "\r", "\r\r\n", " \r\n", "\r\n ", "\r\n\t", ""])]
}

fn field() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        40 => select(vec![
            "X: y", "x:", "X-Y: \t a b \t", "Accept: */*", "Cookie: a=b; c", "Upgrade: x", "X: \u{e4}",
            "Connection: keep-alive", "Connection: upgrade, x",
        ]),
        1 => select(vec![
            "Connection: close", "Connection: a ,close", "Expect: 100-continue", "Expect: x", "Content-Length: 3",
            "Transfer-Encoding: chunked", "X : y", ": y", "X", "X: a\0b", "X: a\rb", "X\u{e4}: a", "", "Host: b",
        ]),
    ];
    (text, line_end()).prop_map(|(text, end)| [text, end].concat().into_bytes())
}

/// A framing field and a body that goes with it, or nearly.
fn framed() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let length = (
        select(vec![0usize, 1, 3, 10]),
        prop_oneof![40 => Just(None), 1 => Just(Some(()))],
        select(vec!["+", "0x", " ,", "5, ", "-", "00", "1_", "\t", "", "99999999999999999999", "9223372036854775807"]),
    )
        .prop_map(|(length, odd, prefix)| {
            let prefix = odd.map_or("", |()| prefix);
            (format!("Content-Length: {prefix}{length}\r\n").into_bytes(), b"GET / HTTP/1.1\r\n"[..length].to_vec())
        });
    let coding = prop_oneof![
        40 => select(vec!["Transfer-Encoding: chunked\r\n", "transfer-encoding:CHUNKED \r\n"]),
        1 => select(vec![
            "Transfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: xchunked\r\n", "Transfer-Encoding: \"chunked\"\r\n", "Transfer-Encoding : chunked\r\n",
        ]),
    ];
    let last = prop_oneof![
        40 => select(vec!["0\r\n", "0\r\n", "000\r\n", "0;x=y\r\n"]),
        1 => select(vec!["0 \r\n", "0\n", "0x0\r\n", "-0\r\n", "00000000000000000\r\n", ""]),
    ];
    let trailer = prop_oneof![
        20 => select(vec!["X-T: u\r\n", "x-t:\r\n", "Y: \t v w \r\n"]),
        1 => select(vec!["Content-Length: 5\r\n", "X: a\n", " X: a\r\n", "X : a\r\n", "X: a\0\r\n", "X\r\n", ":a\r\n"]),
    ];
    let chunked = (coding, vec(chunk(), 0..3), last, vec(trailer, 0..2), line_end()).prop_map(
        |(coding, chunks, last, trailers, end)| {
            (coding.into(), [chunks.concat(), last.into(), trailers.concat().into(), end.into()].concat())
        },
    );
    prop_oneof![2 => Just((Vec::new(), Vec::new())), 2 => length, 3 => chunked]
}

fn chunk() -> impl Strategy<Value = Vec<u8>> {
    let extension = prop_oneof![
        40 => select(vec!["", "", ";", ";a=b", ";a=\"b;c\"", "; a = b"]),
        1 => select(vec![" ", "\t", ";\n", ";a\nb", ";a\rb", ";\0", "_1", "g", " ;a", "\0"]),
    ];
    let size = prop_oneof![
        40 => select(vec!["3", "003", "0000000000000003"]),
        1 => select(vec!["0x3", "+3", " 3", "", "2", "4", "00000000000000003", "FFFFFFFFFFFFFFFF", "10000000000000003"]),
    ];
    (size, extension, line_end(), select(vec!["abc", "\r\n0", "0\r\n", "\0\u{e4}"]), line_end())
        .prop_map(|(size, extension, end, data, after)| [size, extension, end, data, after].concat().into_bytes())
}

/// Where, what is done there (replace, insert, delete), and with which byte.
fn mutation() -> impl Strategy<Value = (Index, u8, u8)> {
    let byte = select(b"\r\n\0 \t:;,#0159aAfHx/?*\"\x0b\x7f\x80\xff".to_vec());
    (any::<Index>(), 0..3u8, byte)
}

fn mutate(mut input: Vec<u8>, mutations: &[(Index, u8, u8)]) -> Vec<u8> {
    for (at, how, byte) in mutations {
        let at = at.index(input.len().max(1));
        match how {
            0 if at < input.len() => input[at] = *byte,
            2 if at < input.len() => drop(input.remove(at)),
            _ => input.insert(at, *byte),
        }
    }
    input
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers starts")
}

proptest! {
    // PROPTEST_CASES overrides.
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_gate_reads_what_hyper_reads_or_refuses(
        requests in vec(request(), 1..4),
        mutations in prop_oneof![1 => Just(Vec::new()), 1 => vec(mutation(), 1..4)],
        splits in vec(any::<Index>(), 0..4),
    ) {
        thread_local!(static RUNTIME: tokio::runtime::Runtime = runtime());
        let input = mutate(requests.concat(), &mutations);
        RUNTIME
            .with(|runtime| check(runtime, &input, &splits))
            .map_err(|error| TestCaseError::fail(format!("\"{}\": {error}", input.escape_ascii())))?;
    }
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000)
}

/// The comparison is worth nothing when the grammar is refused throughout or hyper answers nothing.
#[test]
fn the_oracle_reads_a_sequence_of_all_framings() {
    let input = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n\
        PUT http://b/c?d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
        PUT /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nX-T: u\r\n\r\n\
        GET /f HTTP/1.0\r\n\r\nGET /never HTTP/1.1\r\n\r\n";
    check(&runtime(), input, &[]).unwrap();
    let (ours, end) = read_with_gate(input, &[input.len()]);
    assert_eq!(ours.len(), 4);
    assert_eq!(ours[2].trailers, [("x-t".to_owned(), b"u".to_vec())]);
    assert_eq!(end, End::Closed);
}

/// hyper's I/O traits over tokio's pipe; `hyper-util` is not a dependency.
struct Io(DuplexStream);

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        let mut bytes = [0; 4096];
        let room = bytes.len().min(cursor.remaining());
        let mut buffer = ReadBuf::new(&mut bytes[..room]);
        let done = Pin::new(&mut self.0).poll_read(context, &mut buffer);
        if let Poll::Ready(Ok(())) = done {
            cursor.put_slice(buffer.filled());
        }
        done
    }
}

impl Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
