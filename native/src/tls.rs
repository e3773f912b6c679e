//! TLS: certificate files to a configuration that connections take and that can be replaced while they run.
//!
//! rustls with ring: TLS 1.2 and 1.3, no renegotiation, no compression, no early data (replays). One [`Tls`] serves TCP and
//! QUIC; [`Tls::reload`] reads the files again, and connections from then on use what it found.

mod identity;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use data_encoding::BASE64;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CommonState, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};

pub use self::identity::Identity;
use self::identity::read_certificates;
use crate::error::{Error, Result, Status};

/// What is asked of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// None is asked for.
    Ignored,
    /// One is asked for; a client without goes on, one whose certificate is not trusted does not.
    Optional,
    /// No handshake without one.
    Required,
}

/// Which files a configuration is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Certificates with their keys; the first one is used when no other matches the name asked for (SNI).
    pub identities: Vec<Identity>,
    /// Whether clients show certificates.
    pub clients: ClientCertificates,
    /// Who may sign those; the platform's roots when `None`.
    pub client_ca_path: Option<PathBuf>,
}

/// A configuration in use.
pub struct Tls {
    options: Options,
    current: RwLock<Configurations>,
}

/// One set of files, for each set of protocols that may be negotiated.
#[derive(Clone)]
struct Configurations {
    http1: Arc<ServerConfig>,
    http2: Arc<ServerConfig>,
    http3: Arc<quinn::crypto::rustls::QuicServerConfig>,
}

// rustls' configurations have nothing to show.
impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(formatter)
    }
}

impl Tls {
    /// Reads the files.
    pub fn new(options: Options) -> Result<Tls> {
        let current = RwLock::new(Configurations::read(&options)?);
        Ok(Tls { options, current })
    }

    /// Reads the files again. What is wrong with them is the error, and the old ones stay in use.
    pub fn reload(&self) -> Result<()> {
        let fresh = Configurations::read(&self.options)?;
        *self.current.write().unwrap_or_else(|poison| poison.into_inner()) = fresh;
        Ok(())
    }

    /// For a TCP or Unix connection that begins now.
    pub fn stream(&self, http2: bool) -> Arc<ServerConfig> {
        let current = self.current.read().unwrap_or_else(|poison| poison.into_inner());
        if http2 { current.http2.clone() } else { current.http1.clone() }
    }

    /// For a QUIC connection that begins now.
    pub fn quic(&self) -> Arc<quinn::crypto::rustls::QuicServerConfig> {
        self.current.read().unwrap_or_else(|poison| poison.into_inner()).http3.clone()
    }
}

impl Configurations {
    fn read(options: &Options) -> Result<Configurations> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let keys = options.identities.iter().map(|identity| identity.read(&provider)).collect::<Result<Vec<_>>>()?;
        if keys.is_empty() {
            return Err(Error::new(Status::BadCertificate, "TLS needs a certificate and a key, found none"));
        }
        let certificates = Arc::new(ByName(keys));
        let verifier = clients(options, &provider)?;
        let make = |protocols: &[&[u8]], quic: bool| -> Result<ServerConfig> {
            let versions: &[&rustls::SupportedProtocolVersion] =
                if quic { &[&rustls::version::TLS13] } else { rustls::DEFAULT_VERSIONS };
            let failed = |cause: rustls::Error| Error::new(Status::Io, format!("TLS cannot be set up: {cause}"));
            let builder = ServerConfig::builder_with_provider(provider.clone())
                .with_protocol_versions(versions)
                .map_err(failed)?;
            let mut config = match verifier.clone() {
                Some(verifier) => builder.with_client_cert_verifier(verifier),
                None => builder.with_no_client_auth(),
            }
            .with_cert_resolver(certificates.clone());
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            // Stateless tickets under keys that change every six hours (RFC 8446 section 4.6.1).
            config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(failed)?;
            Ok(config)
        };
        let http3 = quinn::crypto::rustls::QuicServerConfig::try_from(make(&[b"h3"], true)?)
            .map_err(|cause| Error::new(Status::Io, format!("TLS cannot be set up for QUIC: {cause}")))?;
        Ok(Configurations {
            http1: Arc::new(make(&[b"http/1.1"], false)?),
            http2: Arc::new(make(&[b"h2", b"http/1.1"], false)?),
            http3: Arc::new(http3),
        })
    }
}

type Verifier = Arc<dyn rustls::server::danger::ClientCertVerifier>;

fn clients(options: &Options, provider: &Arc<CryptoProvider>) -> Result<Option<Verifier>> {
    if options.clients == ClientCertificates::Ignored {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    let place = match &options.client_ca_path {
        Some(path) => {
            for certificate in read_certificates(path, "client_ca_path")? {
                roots.add(certificate).map_err(|cause| refused(path, "client_ca_path", &cause))?;
            }
            path.display().to_string()
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            "the platform's store".to_owned()
        }
    };
    if roots.is_empty() {
        let text = format!("client certificates need a trusted authority, found none in {place}: give client_ca_path");
        return Err(Error::new(Status::BadCertificate, text));
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let builder =
        if options.clients == ClientCertificates::Optional { builder.allow_unauthenticated() } else { builder };
    let failed = |cause| Error::new(Status::BadCertificate, format!("client certificates of {place}: {cause}"));
    builder.build().map(Some).map_err(failed)
}

fn refused(path: &Path, option: &str, cause: &dyn std::fmt::Display) -> Error {
    Error::new(Status::BadCertificate, format!("{option} {}: {cause}", path.display()))
}

/// The first certificate made for the name asked for, with a key the client's algorithms fit; else the first at all.
#[derive(Debug)]
struct ByName(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let named = hello.server_name().filter(|_| self.0.len() > 1).and_then(|name| {
            let name = ServerName::try_from(name).ok()?;
            self.0.iter().filter(usable).find(|key| is_for(key, &name))
        });
        named.or_else(|| self.0.iter().find(usable)).or(self.0.first()).cloned()
    }
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = key.end_entity_cert().and_then(rustls::server::ParsedCertificate::try_from);
    parsed.is_ok_and(|certificate| rustls::client::verify_server_name(&certificate, name).is_ok())
}

/// What ACCEPT tells of a TLS connection over a byte stream: see [`facts`].
pub fn describe(connection: &CommonState, server_name: Option<&str>) -> String {
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    };
    // The names of RFC 8446 appendix B.4; rustls calls them TLS13_..., to tell them apart.
    let cipher = connection.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite())).unwrap_or_default();
    facts(
        version,
        &cipher.replacen("TLS13_", "TLS_", 1),
        connection.alpn_protocol(),
        server_name,
        connection.peer_certificates(),
    )
}

/// Version, cipher, ALPN protocol, server name and the peer's chain in base64, each part after a NUL.
pub fn facts(
    version: &str,
    cipher: &str,
    protocol: Option<&[u8]>,
    server_name: Option<&str>,
    chain: Option<&[CertificateDer<'_>]>,
) -> String {
    let protocol = String::from_utf8_lossy(protocol.unwrap_or_default());
    let mut text = format!("\0{version}\0{cipher}\0{protocol}\0{}", server_name.unwrap_or_default());
    for certificate in chain.unwrap_or_default() {
        text.push('\0');
        BASE64.encode_append(certificate, &mut text);
    }
    text
}

#[cfg(test)]
mod testing {
    //! Certificates for the tests of this module.

    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, SystemTime};

    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};

    /// A certificate signed by its own key.
    pub(super) struct Made {
        pub(super) pem: String,
        pub(super) key: KeyPair,
    }

    impl Made {
        pub(super) fn new(names: &[&str], from: SystemTime, until: SystemTime) -> Made {
            Made::with(&rcgen::PKCS_ECDSA_P256_SHA256, names, from, until)
        }

        pub(super) fn with(
            algorithm: &'static SignatureAlgorithm,
            names: &[&str],
            from: SystemTime,
            until: SystemTime,
        ) -> Made {
            let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            (params.not_before, params.not_after) = (from.into(), until.into());
            let key = KeyPair::generate_for(algorithm).unwrap();
            Made { pem: params.self_signed(&key).unwrap().pem(), key }
        }
    }

    /// So many days from now.
    pub(super) fn days(count: i64) -> SystemTime {
        let time = Duration::from_secs(count.unsigned_abs() * 24 * 3600);
        if count < 0 { SystemTime::now() - time } else { SystemTime::now() + time }
    }

    /// A folder that is removed in the end.
    pub(super) struct Folder(PathBuf);

    impl Folder {
        pub(super) fn new() -> Folder {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name = format!("server-native-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir(&path).unwrap();
            Folder(path)
        }

        pub(super) fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
            std::fs::write(self.path(name), text).unwrap();
            self.path(name)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Folder, Made, days};
    use super::*;
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, ServerConnection, SignatureScheme};
    use rustls_pki_types::UnixTime;

    fn identity(folder: &Folder, name: &str, made: &Made) -> Identity {
        Identity {
            certificate_path: folder.write(&format!("{name}.pem"), &made.pem),
            key_path: folder.write(&format!("{name}-key.pem"), &made.key.serialize_pem()),
            password: None,
        }
    }

    fn options(identities: Vec<Identity>) -> Options {
        Options { identities, clients: ClientCertificates::Ignored, client_ca_path: None }
    }

    /// Takes every certificate: the tests look at which one it was.
    #[derive(Debug)]
    struct Anybody(Vec<SignatureScheme>);

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, rustls::Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.clone()
        }
    }

    const EC: [SignatureScheme; 1] = [SignatureScheme::ECDSA_NISTP256_SHA256];
    const ED: [SignatureScheme; 1] = [SignatureScheme::ED25519];

    /// The certificate that a client gets that asks for this name and knows these algorithms.
    fn shown(tls: &Tls, name: &str, schemes: &[SignatureScheme]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(schemes.to_vec())))
            .with_no_client_auth();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut server = ServerConnection::new(tls.stream(false)).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            server.read_tls(&mut &wire[..]).unwrap();
            server.process_new_packets().unwrap();
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            client.read_tls(&mut &wire[..]).unwrap();
            client.process_new_packets().unwrap();
        }
        client.peer_certificates().unwrap()[0].to_vec()
    }

    fn der(made: &Made) -> Vec<u8> {
        use rustls_pki_types::pem::PemObject;
        CertificateDer::from_pem_slice(made.pem.as_bytes()).unwrap().to_vec()
    }

    #[test]
    fn the_certificate_follows_the_name_and_what_the_client_can_verify() {
        let folder = Folder::new();
        let make = |names: &[&str]| Made::new(names, days(-1), days(1));
        let (first, one, wild) = (make(&["first.test"]), make(&["one.test", "uno.test"]), make(&["*.two.test"]));
        let edwards = Made::with(&rcgen::PKCS_ED25519, &["one.test"], days(-1), days(1));
        let named = [("first", &first), ("one", &one), ("wild", &wild), ("edwards", &edwards)];
        let identities = named.iter().map(|(name, made)| identity(&folder, name, made)).collect();
        let tls = Tls::new(options(identities)).unwrap();
        for (name, schemes, expected) in [
            ("first.test", &EC[..], &first),
            ("one.test", &EC, &one),
            ("uno.test", &EC, &one),
            ("ONE.test", &EC, &one),
            ("a.two.test", &EC, &wild),
            // One label and no more (RFC 9525 section 6.3), and none is no label.
            ("a.b.two.test", &EC, &first),
            ("two.test", &EC, &first),
            ("unknown.test", &EC, &first),
            // Two certificates have the name: the one whose algorithm the client knows.
            ("one.test", &ED, &edwards),
            // Nobody has it: the first the client can use.
            ("unknown.test", &ED, &edwards),
            // An address is no name (RFC 6066 section 3).
            ("127.0.0.1", &EC, &first),
        ] {
            assert!(shown(&tls, name, schemes) == der(expected), "{name} {schemes:?}");
        }
    }

    #[test]
    fn a_reload_takes_all_of_the_files_or_none() {
        let folder = Folder::new();
        let (old, new) = (Made::new(&["a.test"], days(-1), days(1)), Made::new(&["a.test"], days(-1), days(1)));
        let tls = Tls::new(options(vec![identity(&folder, "mine", &old)])).unwrap();
        let begun = tls.stream(true);
        identity(&folder, "mine", &new);
        assert!(shown(&tls, "a.test", &EC) == der(&old), "files are read when it is asked for");
        tls.reload().unwrap();
        assert!(shown(&tls, "a.test", &EC) == der(&new));
        assert!(!Arc::ptr_eq(&begun, &tls.stream(true)));
        // The certificate is replaced and its key not yet: a deployment caught in the middle.
        folder.write("mine.pem", &old.pem);
        let error = tls.reload().unwrap_err();
        assert!(error.text.contains("does not belong to"), "{}", error.text);
        assert!(shown(&tls, "a.test", &EC) == der(&new));
        let before = (tls.stream(false), tls.quic());
        assert!(Arc::ptr_eq(&before.0, &tls.stream(false)), "made per reload, not per connection");
        assert!(Arc::ptr_eq(&before.1, &tls.quic()));
    }

    #[test]
    fn authorities_of_clients_are_needed_when_clients_are_asked() {
        let folder = Folder::new();
        let mine = Made::new(&["a.test"], days(-1), days(1));
        let mut asked = options(vec![identity(&folder, "mine", &mine)]);
        asked.clients = ClientCertificates::Required;
        asked.client_ca_path = Some(folder.write("empty.pem", "nothing\n"));
        let error = Tls::new(asked.clone()).unwrap_err();
        assert_eq!(error.status, Status::BadCertificate);
        assert!(
            error.text.starts_with("client_ca_path ") && error.text.contains("has no certificate"),
            "{}",
            error.text
        );
        let garbage = mine.pem.replace("MII", "AAA");
        asked.client_ca_path = Some(folder.write("garbage.pem", &garbage));
        let error = Tls::new(asked.clone()).unwrap_err();
        assert!(error.text.starts_with("client_ca_path "), "{}", error.text);
        asked.client_ca_path = Some(folder.write("authority.pem", &mine.pem));
        assert!(Tls::new(asked).is_ok());
        let error = Tls::new(options(Vec::new())).unwrap_err();
        assert!(error.text.contains("found none"), "{}", error.text);
    }
}
