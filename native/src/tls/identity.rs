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

#[cfg(test)]
mod tests {
    use super::super::testing::{Folder, Made, days};
    use super::*;
    use crate::error::Status;
    use data_encoding::BASE64_MIME;
    use pkcs8::pkcs5::pbes2::Parameters;
    use pkcs8::{ObjectIdentifier, PrivateKeyInfoRef};

    /// Reads what is in these files.
    fn read_files(folder: &Folder, certificate: &str, key: &str, password: Option<&str>) -> Result<(), String> {
        let identity = Identity {
            certificate_path: folder.write("certificate.pem", certificate),
            key_path: folder.write("key.pem", key),
            password: password.map(str::to_owned),
        };
        identity.read(&rustls::crypto::ring::default_provider()).map(|_| ()).map_err(|error| {
            assert_eq!(error.status, Status::BadCertificate);
            // The path of the one that is wrong, in front of the sentence; the test is about the rest.
            let path = folder.path("").display().to_string();
            assert!(error.text.contains(&path), "{}", error.text);
            error.text.replace(&path, "")
        })
    }

    fn pem(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\r\n{}-----END {label}-----\r\n", BASE64_MIME.encode(der))
    }

    /// The key in PKCS#8 under a password, as `openssl pkcs8 -topk8` makes it but for a count that a test can afford.
    fn encrypt(made: &Made, password: &str) -> String {
        let parameters = Parameters::generate_pbkdf2_sha256_aes256cbc(2, &[1; 16], [2; 16]).unwrap();
        let der = made.key.serialize_der();
        let info = PrivateKeyInfoRef::try_from(&*der).unwrap();
        let encrypted = info.encrypt_with_params(parameters, password).unwrap();
        pem("ENCRYPTED PRIVATE KEY", encrypted.as_bytes())
    }

    #[test]
    fn keys_of_every_kind_and_form_are_read() {
        let folder = Folder::new();
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let made = Made::with(algorithm, &["localhost"], days(-1), days(1));
            let plain = made.key.serialize_pem();
            assert_eq!(read_files(&folder, &made.pem, &plain, None), Ok(()));
            // A password for a key that has none is no harm: `openssl` ignores it as well.
            assert_eq!(read_files(&folder, &made.pem, &plain, Some("unused")), Ok(()));
            assert_eq!(read_files(&folder, &made.pem, &encrypt(&made, "pässword"), Some("pässword")), Ok(()));
            // Both in one file, and words around them.
            let together = format!("Bag Attributes\n{}subject=CN\n{plain}", made.pem);
            assert_eq!(read_files(&folder, &together, &together, None), Ok(()));
        }
    }

    #[test]
    fn a_key_in_the_form_of_its_algorithm_is_read() {
        let folder = Folder::new();
        let made = Made::new(&["localhost"], days(-1), days(1));
        let der = made.key.serialize_der();
        // PKCS#8 wraps SEC1 (RFC 5958, RFC 5915). `openssl ecparam -genkey` writes the curve in front.
        let sec1 = pem("EC PRIVATE KEY", PrivateKeyInfoRef::try_from(&*der).unwrap().private_key.as_bytes());
        let parameters = pem("EC PARAMETERS", b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07");
        assert_eq!(read_files(&folder, &made.pem, &sec1, None), Ok(()));
        assert_eq!(read_files(&folder, &made.pem, &format!("{parameters}{sec1}"), None), Ok(()));
    }

    #[test]
    fn what_is_wrong_with_a_password_is_told_and_the_password_is_not() {
        let folder = Folder::new();
        let made = Made::new(&["localhost"], days(-1), days(1));
        let encrypted = encrypt(&made, "right");
        // 1 in 256 wrong passwords leaves a valid padding: they get the same sentence.
        for index in 0..600 {
            let found = read_files(&folder, &made.pem, &encrypted, Some(&format!("wrong{index}")));
            let expected = "key_path key.pem: cannot be decrypted: certificate_password is not its password";
            assert_eq!(found, Err(expected.to_owned()));
        }
        let found = read_files(&folder, &made.pem, &encrypted, None);
        assert_eq!(found, Err("key_path key.pem: is encrypted: give certificate_password".to_owned()));
        let identity = Identity { certificate_path: "c".into(), key_path: "k".into(), password: Some("right".into()) };
        assert!(!format!("{identity:?}").contains("right"));
    }

    #[test]
    fn an_encryption_that_cannot_be_undone_names_the_command_that_changes_it() {
        let folder = Folder::new();
        let made = Made::new(&["localhost"], days(-1), days(1));
        let legacy = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        // pbeWithMD5AndDES-CBC, the default of OpenSSL 1.0 (RFC 8018 appendix C).
        let identifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.5.3");
        let mut der = b"\x30\x26\x30\x1a\x06\x09".to_vec();
        der.extend_from_slice(identifier.as_bytes());
        der.extend_from_slice(b"\x30\x0d\x04\x08saltsalt\x02\x01\x02\x04\x0812345678");
        for text in [legacy, &pem("ENCRYPTED PRIVATE KEY", &der)] {
            let found = read_files(&folder, &made.pem, text, Some("password")).unwrap_err();
            assert!(found.starts_with("key_path key.pem: is encrypted in "), "{found}");
            assert!(found.contains("openssl pkcs8 -topk8"), "{found}");
        }
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let folder = Folder::new();
        let (mine, other) =
            (Made::new(&["localhost"], days(-1), days(1)), Made::new(&["localhost"], days(-1), days(1)));
        let found = read_files(&folder, &mine.pem, &other.key.serialize_pem(), None);
        let expected = "key_path key.pem: does not belong to the certificate that comes first in certificate.pem";
        assert_eq!(found, Err(expected.to_owned()));
        // Of another kind, too.
        let other = Made::with(&rcgen::PKCS_ED25519, &["localhost"], days(-1), days(1));
        assert_eq!(read_files(&folder, &mine.pem, &other.key.serialize_pem(), None), Err(expected.to_owned()));
        // The authority in front of the server's own.
        let reversed = format!("{}{}", other.pem, mine.pem);
        assert_eq!(read_files(&folder, &reversed, &mine.key.serialize_pem(), None), Err(expected.to_owned()));
    }

    #[test]
    fn a_certificate_out_of_its_time_says_which_time() {
        let folder = Folder::new();
        let over = Made::new(&["localhost"], days(-2), days(-1));
        let found = read_files(&folder, &over.pem, &over.key.serialize_pem(), None).unwrap_err();
        assert!(found.starts_with("certificate_path certificate.pem: the certificate expired on 2"), "{found}");
        let early = Made::new(&["localhost"], days(1), days(2));
        let found = read_files(&folder, &early.pem, &early.key.serialize_pem(), None).unwrap_err();
        assert!(
            found.starts_with("certificate_path certificate.pem: the certificate is not valid before 2"),
            "{found}"
        );
    }

    #[test]
    fn files_without_what_they_should_have() {
        let folder = Folder::new();
        let made = Made::new(&["localhost"], days(-1), days(1));
        let key = made.key.serialize_pem();
        let no_certificate =
            "certificate_path certificate.pem: has no certificate in PEM (`-----BEGIN CERTIFICATE-----`)";
        let no_key = "key_path key.pem: has no private key in PEM (`-----BEGIN PRIVATE KEY-----`)";
        for nothing in ["", "nothing here\n", &key] {
            assert_eq!(read_files(&folder, nothing, &key, None), Err(no_certificate.to_owned()));
        }
        for nothing in ["", "nothing here\n", &made.pem] {
            assert_eq!(read_files(&folder, &made.pem, nothing, None), Err(no_key.to_owned()));
        }
    }

    #[test]
    fn garbage_is_told_from_what_is_missing() {
        let folder = Folder::new();
        let made = Made::new(&["localhost"], days(-1), days(1));
        let key = made.key.serialize_pem();
        let (certificate_is, key_is) = ("certificate_path certificate.pem: is no ", "key_path key.pem: is no ");
        for (certificate, key, start) in [
            (&*made.pem.replace("MII", "!!!"), &*key, certificate_is),
            (&made.pem[..300], &key, certificate_is),
            (&pem("CERTIFICATE", b"no DER"), &key, certificate_is),
            (&made.pem, &pem("ENCRYPTED PRIVATE KEY", b"").replace("\r\n", "\n!"), key_is),
            (&made.pem, &key.replace("MI", "!!"), key_is),
        ] {
            let found = read_files(&folder, certificate, key, Some("password")).unwrap_err();
            assert!(found.starts_with(start), "{found}");
        }
        let found = read_files(&folder, &made.pem, &pem("PRIVATE KEY", b"no DER"), None).unwrap_err();
        assert!(found.starts_with("key_path key.pem: cannot be used with its certificate: "), "{found}");
        let found = read_files(&folder, &made.pem, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n", Some("password"));
        assert_eq!(found, Err("key_path key.pem: has no `-----END ENCRYPTED PRIVATE KEY-----`".to_owned()));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_with_the_systems_reason() {
        let folder = Folder::new();
        let made = Made::new(&["localhost"], days(-1), days(1));
        let (good, key) = (folder.write("good.pem", &made.pem), folder.write("key.pem", &made.key.serialize_pem()));
        let provider = rustls::crypto::ring::default_provider();
        let failure = |certificate_path: &Path, key_path: &Path| {
            let identity =
                Identity { certificate_path: certificate_path.into(), key_path: key_path.into(), password: None };
            identity.read(&provider).unwrap_err()
        };
        let nowhere = folder.path("nowhere.pem");
        let error = failure(&nowhere, &key);
        assert_eq!(error.status, Status::BadCertificate);
        assert!(error.text.starts_with(&format!("certificate_path {}: ", nowhere.display())), "{}", error.text);
        assert!(error.text.contains("(os error 2)"), "{}", error.text);
        let error = failure(&good, &folder.path(""));
        assert!(error.text.starts_with("key_path ") && error.text.contains("directory"), "{}", error.text);
    }
}
