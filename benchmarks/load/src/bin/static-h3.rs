//! HTTP/3 without Python: quinn and h3 answering GET / with `hello`, on one thread. What our core may be compared to.
//!
//!     static-h3 HOST:PORT CERTIFICATE KEY     prints its port once it listens

use std::cell::RefCell;
use std::error::Error;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use h3::server::RequestResolver;
use http::{HeaderValue, Response};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, Incoming, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let [address, certificate, key] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "HOST:PORT CERTIFICATE KEY")?;
    let mut tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from_pem_file(certificate)?], PrivateKeyDer::from_pem_file(key)?)?;
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    let endpoint = Endpoint::server(config, address.parse()?)?;
    println!("{}", endpoint.local_addr()?.port());
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(serve(incoming));
    }
    Ok(())
}

async fn serve(incoming: Incoming) -> Outcome {
    let mut connection: h3::server::Connection<_, Bytes> =
        h3::server::Connection::new(h3_quinn::Connection::new(incoming.await?)).await?;
    while let Some(request) = connection.accept().await? {
        tokio::spawn(answer(request));
    }
    Ok(())
}

async fn answer(request: RequestResolver<h3_quinn::Connection, Bytes>) -> Outcome {
    let (_, mut stream) = request.resolve_request().await?;
    let response = Response::builder()
        .header("content-type", "text/plain; charset=utf-8")
        .header("content-length", "5")
        .header("date", date())
        .body(())?;
    stream.send_response(response).await?;
    stream.send_data(Bytes::from_static(b"hello")).await?;
    stream.finish().await?;
    Ok(())
}

/// The date header, made once per second as the servers do.
fn date() -> HeaderValue {
    thread_local! { static LAST: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) } }
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.with_borrow_mut(|(made, value)| {
        if *made != second {
            *made = second;
            *value = HeaderValue::try_from(httpdate::fmt_http_date(now)).expect("a date is visible ASCII");
        }
        value.clone()
    })
}
