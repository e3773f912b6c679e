//! HTTP/1.1, for bodies too large for wrk, which reads 8 KiB at a time and is then slower than the servers.

use std::time::Instant;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Outcome;
use crate::options::Options;
use crate::tally::{Clock, Tally, patient};

const READ: usize = 256 * 1024;

pub async fn load(options: &Options) -> Outcome<Tally> {
    let mut connections = Vec::new();
    for _ in 0..options.connections {
        connections.push(patient(open(options)).await?);
    }
    let clock = Clock::start(options);
    let mut workers = JoinSet::new();
    for stream in connections {
        workers.spawn(work(stream, options.clone(), clock.clone()));
    }
    clock.gather(workers).await
}

async fn open(options: &Options) -> Outcome<TcpStream> {
    let stream = TcpStream::connect(options.address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn work(mut stream: TcpStream, options: Options, clock: Clock) -> Outcome<Tally> {
    let mut request = match options.upload {
        0 => format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", options.address),
        size => format!("POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: {size}\r\n\r\n", options.address),
    }
    .into_bytes();
    request.resize(request.len() + options.upload, b'x');
    let mut tally = Tally::default();
    let mut input = BytesMut::with_capacity(READ);
    while clock.more() {
        let from = Instant::now();
        stream.write_all(&request).await?;
        let (head, length) = read(&mut stream, &mut input).await?;
        if length != options.expect {
            return Err(format!("a body of {length} bytes, not {}", options.expect).into());
        }
        if tally.head.is_empty() {
            tally.head = head;
        }
        if !clock.count(&mut tally, from, length) {
            break;
        }
    }
    Ok(tally)
}

/// One response: its head, and how long its body was.
async fn read(stream: &mut TcpStream, input: &mut BytesMut) -> Outcome<(String, usize)> {
    let end = loop {
        if let Some(end) = find(input, b"\r\n\r\n") {
            break end;
        }
        more(stream, input).await?;
    };
    let head = String::from_utf8(input.split_to(end).to_vec())?;
    input.advance(4);
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(format!("answered {:?}", head.lines().next()).into());
    }
    let lower = head.to_ascii_lowercase();
    let field = |name: &str| lower.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length = match (field("content-length:"), field("transfer-encoding:")) {
        (Some(length), None) => {
            let length = length.parse()?;
            skip(stream, input, length).await?;
            length
        }
        (None, Some("chunked")) => chunked(stream, input).await?,
        _ => return Err(format!("no length in {head:?}").into()),
    };
    if !input.is_empty() {
        return Err("more was sent than the answer".into());
    }
    Ok((head, length))
}

async fn chunked(stream: &mut TcpStream, input: &mut BytesMut) -> Outcome<usize> {
    let mut whole = 0;
    loop {
        let end = loop {
            if let Some(end) = find(&input[..input.len().min(32)], b"\r\n") {
                break end;
            }
            more(stream, input).await?;
        };
        let size = usize::from_str_radix(std::str::from_utf8(&input[..end])?, 16)?;
        skip(stream, input, end + 2 + size + 2).await?;
        whole += size;
        if size == 0 {
            return Ok(whole);
        }
    }
}

async fn skip(stream: &mut TcpStream, input: &mut BytesMut, mut count: usize) -> Outcome<()> {
    while count > input.len() {
        count -= input.len();
        input.clear();
        more(stream, input).await?;
    }
    input.advance(count);
    Ok(())
}

async fn more(stream: &mut TcpStream, input: &mut BytesMut) -> Outcome<()> {
    input.reserve(READ);
    match stream.read_buf(input).await? {
        0 => Err("the server closed the connection".into()),
        _ => Ok(()),
    }
}

fn find(input: &[u8], what: &[u8]) -> Option<usize> {
    input.windows(what.len()).position(|window| window == what)
}
