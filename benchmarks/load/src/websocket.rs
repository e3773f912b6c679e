//! WebSocket echo. The frame is made once and sent again and again (one mask: servers unmask all the same), and the
//! echo is compared byte by byte with what it must be: one unmasked frame.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Outcome;
use crate::options::Options;
use crate::tally::{Clock, Tally, patient};

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const BINARY: u8 = 0x82;

pub async fn load(options: &Options) -> Outcome<Tally> {
    let mut connections = Vec::new();
    for _ in 0..options.connections {
        connections.push(patient(open(options)).await?);
    }
    let clock = Clock::start(options);
    let mut workers = JoinSet::new();
    for (stream, head) in connections {
        workers.spawn(work(stream, head, options.upload, clock.clone()));
    }
    clock.gather(workers).await
}

async fn open(options: &Options) -> Outcome<(TcpStream, String)> {
    let mut stream = TcpStream::connect(options.address).await?;
    stream.set_nodelay(true)?;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        options.address
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head)?.trim_end().to_owned();
    // RFC 6455 section 1.3 has the answer to this key.
    if !head.starts_with("HTTP/1.1 101 ") || !head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
        return Err(format!("no WebSocket: {head:?}").into());
    }
    Ok((stream, head))
}

async fn work(mut stream: TcpStream, head: String, size: usize, clock: Clock) -> Outcome<Tally> {
    let payload: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
    let masked: Vec<u8> = payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    let sent = [header(size, 0x80), MASK.to_vec(), masked].concat();
    let wanted = [header(size, 0), payload].concat();
    let mut got = vec![0; wanted.len()];
    let mut tally = Tally::of(head);
    while clock.more() {
        let from = Instant::now();
        stream.write_all(&sent).await?;
        stream.read_exact(&mut got).await?;
        if got != wanted {
            return Err("an echo is not what was sent".into());
        }
        if !clock.count(&mut tally, from, size) {
            break;
        }
    }
    Ok(tally)
}

fn header(size: usize, mask: u8) -> Vec<u8> {
    match u16::try_from(size) {
        Ok(short) if short < 126 => vec![BINARY, mask | short as u8],
        Ok(short) => [&[BINARY, mask | 126], &short.to_be_bytes()[..]].concat(),
        Err(_) => [&[BINARY, mask | 127], &(size as u64).to_be_bytes()[..]].concat(),
    }
}
