//! One certificate chain and its key, from PEM files; every way they can be wrong has its sentence.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use std::{fs, io};

use data_encoding::BASE64;
use pkcs8::EncryptedPrivateKeyInfoRef;
use pkcs8::pkcs5;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_cert::der::Decode;

use super::refused;
use crate::error::{Error, Result};

const ENCRYPTED: (&str, &str) = ("-----BEGIN ENCRYPTED PRIVATE KEY-----", "-----END ENCRYPTED PRIVATE KEY-----");
const CONVERT: &str = "convert it with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in OLD -out NEW`";

/// Which files, and how to open the key.
#[derive(Clone)]
pub struct Identity {
    /// PEM: the server's certificate, then those that lead to a root.
    pub certificate_path: PathBuf,
    /// PEM: PKCS#8 (possibly encrypted), PKCS#1 or SEC1.
    pub key_path: PathBuf,
    /// For an encrypted key.
    pub password: Option<String>,
}

// Not derived: the password must not reach a log.
impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Identity({}, {})", self.certificate_path.display(), self.key_path.display())
    }
}

impl Identity {
    /// Reads both files and checks that they belong together and are in date.
    pub(super) fn read(&self, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>> {
        let chain = read_certificates(&self.certificate_path, "certificate_path")?;
        check_dates(&chain[0], &self.certificate_path)?;
        let key = self.read_key()?;
        match CertifiedKey::from_der(chain, key, provider) {
            Ok(certified) => Ok(Arc::new(certified)),
            Err(rustls::Error::InconsistentKeys(_)) => {
                let path = self.certificate_path.display();
                Err(self.bad_key(&format!("does not belong to the certificate that comes first in {path}")))
            }
            Err(cause) => Err(self.bad_key(&format!("cannot be used with its certificate: {cause}"))),
        }
    }

    fn read_key(&self) -> Result<PrivateKeyDer<'static>> {
        let bytes = read(&self.key_path, "key_path")?;
        let text = String::from_utf8_lossy(&bytes);
        if text.contains(ENCRYPTED.0) {
            return self.decrypt(&text);
        }
        if text.contains("Proc-Type: 4,ENCRYPTED") {
            return Err(self.bad_key(&format!("is encrypted in OpenSSL's old format: {CONVERT}")));
        }
        PrivateKeyDer::from_pem_slice(&bytes).map_err(|cause| {
            self.bad_key(&match cause {
                PemError::NoItemsFound => "has no private key in PEM (`-----BEGIN PRIVATE KEY-----`)".to_owned(),
                cause => format!("is no private key in PEM: {cause}"),
            })
        })
    }

    /// Decrypts PKCS#8 with PBES2 (RFC 8018).
    fn decrypt(&self, text: &str) -> Result<PrivateKeyDer<'static>> {
        let Some(password) = &self.password else {
            return Err(self.bad_key("is encrypted: give certificate_password"));
        };
        let block = text.split_once(ENCRYPTED.0).and_then(|(_, rest)| rest.split_once(ENCRYPTED.1));
        let (block, _) = block.ok_or_else(|| self.bad_key(&format!("has no `{}`", ENCRYPTED.1)))?;
        // Whatever the width of its lines and their endings, as the other readers of PEM here.
        let block: Vec<u8> = block.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let document =
            BASE64.decode(&block).map_err(|cause| self.bad_key(&format!("is no private key in PEM: {cause}")))?;
        let unsupported =
            |cause| self.bad_key(&format!("is encrypted in a way that is not supported ({cause}): {CONVERT}"));
        let encrypted = EncryptedPrivateKeyInfoRef::try_from(&*document).map_err(unsupported)?;
        let key = encrypted.decrypt(password).map_err(|cause| match cause {
            // What a wrong password leaves is no padding, or by chance some, and no key then.
            pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::DecryptFailed) | pkcs8::Error::Asn1(_) => {
                self.bad_key("cannot be decrypted: certificate_password is not its password")
            }
            cause => unsupported(cause),
        })?;
        Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into())
    }

    fn bad_key(&self, cause: &str) -> Error {
        refused(&self.key_path, "key_path", &cause)
    }
}

/// The certificates of a PEM file, of which there is at least one.
pub(super) fn read_certificates(path: &Path, option: &str) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path, option)?;
    let chain = CertificateDer::pem_slice_iter(&bytes)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|cause| refused(path, option, &format!("is no certificate in PEM: {cause}")))?;
    if chain.is_empty() {
        return Err(refused(path, option, &"has no certificate in PEM (`-----BEGIN CERTIFICATE-----`)"));
    }
    Ok(chain)
}

fn check_dates(certificate: &CertificateDer<'_>, path: &Path) -> Result<()> {
    let parsed = x509_cert::Certificate::from_der(certificate)
        .map_err(|cause| refused(path, "certificate_path", &format!("is no X.509 certificate: {cause}")))?;
    let validity = parsed.tbs_certificate().validity();
    let now = SystemTime::now();
    if validity.not_after.to_system_time() < now {
        let cause = format!("the certificate expired on {}", validity.not_after);
        return Err(refused(path, "certificate_path", &cause));
    }
    if validity.not_before.to_system_time() > now {
        let cause = format!("the certificate is not valid before {}", validity.not_before);
        return Err(refused(path, "certificate_path", &cause));
    }
    Ok(())
}

fn read(path: &Path, option: &str) -> Result<Vec<u8>> {
    // BAD_CERTIFICATE for a file that may not be read, as for one that is not there: the host catches one kind.
    fs::read(path).map_err(|cause| {
        let advice = match cause.kind() {
            io::ErrorKind::PermissionDenied => "; the user this process runs as must be able to read it",
            _ => "",
        };
        refused(path, option, &format!("{cause}{advice}"))
    })
}
