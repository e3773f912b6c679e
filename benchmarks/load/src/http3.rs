//! HTTP/3 on quinn and h3; a socket for every connection, as separate clients have.

use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::task::JoinSet;

use crate::Outcome;
use crate::options::Options;
use crate::tally::{Clock, Tally, patient};

type Requests = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;

pub async fn load(options: &Options) -> Outcome<Tally> {
    let config = configuration(options)?;
    let mut connections = Vec::new();
    for _ in 0..options.connections {
        connections.push(patient(open(options, config.clone())).await?);
    }
    let clock = Clock::start(options);
    let mut workers = JoinSet::new();
    for requests in &connections {
        for _ in 0..options.streams {
            workers.spawn(work(requests.clone(), options.clone(), clock.clone()));
        }
    }
    clock.gather(workers).await
}

async fn open(options: &Options, config: ClientConfig) -> Outcome<Requests> {
    let endpoint = Endpoint::client((Ipv4Addr::UNSPECIFIED, 0).into())?;
    let quic = endpoint.connect_with(config, options.address, "localhost")?.await?;
    let (mut driver, requests) = h3::client::new(h3_quinn::Connection::new(quic)).await?;
    tokio::spawn(async move { poll_fn(|context| driver.poll_close(context)).await });
    Ok(requests)
}

fn configuration(options: &Options) -> Outcome<ClientConfig> {
    let path = options.certificate.as_ref().ok_or("http3 needs --certificate")?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(path)?)?;
    let mut tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    Ok(ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?)))
}

async fn work(mut requests: Requests, options: Options, clock: Clock) -> Outcome<Tally> {
    let request = http::Request::get(format!("https://{}/", options.address)).body(())?;
    let mut tally = Tally::default();
    while clock.more() {
        let from = Instant::now();
        let mut stream = requests.send_request(request.clone()).await?;
        stream.finish().await?;
        let response = stream.recv_response().await?;
        let mut length = 0;
        while let Some(data) = stream.recv_data().await? {
            length += data.remaining();
        }
        if response.status() != 200 || length != options.expect {
            return Err(format!("answered {} with {length} bytes", response.status()).into());
        }
        if tally.head.is_empty() {
            let fields =
                response.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")));
            tally.head = std::iter::once("HTTP/3 200".to_owned()).chain(fields).collect::<Vec<_>>().join("\n");
        }
        if !clock.count(&mut tally, from, length) {
            break;
        }
    }
    Ok(tally)
}
