//! Exports about listeners and certificates. The conventions are those of the parent module.

use std::ffi::c_int;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::sync::Arc;

use super::{Bytes, Runtime, borrow, borrow_mut, bytes, duplicate, guard, lock, text};
use crate::error::{Error, Result, Status};
use crate::limits::Limits;
use crate::listen::{Binding, Bound, Place};
use crate::tls::{self, ClientCertificates, Tls};

/// How a listener is bound: to `descriptor`, else to `path`, else to `address` and `port`. Fill with
/// [`sn_listen_options_default`], then change what matters.
#[repr(C)]
pub struct ListenOptions {
    /// An IPv4 or IPv6 address in text; names are resolved by the host language.
    pub address: Bytes,
    /// Path of a Unix socket, in bytes as the file system has them; empty for none.
    pub path: Bytes,
    /// A stream socket somebody else has bound; duplicated. -1 for none.
    pub descriptor: c_int,
    /// Index of the interface that a link-local IPv6 address belongs to (RFC 4007); 0 for none.
    pub scope: u32,
    /// Permission bits of the Unix socket; `SN_MODE_UMASK` leaves it to the umask.
    pub mode: u32,
    /// 0 lets the system choose.
    pub port: u16,
    /// An IPv6 listener takes no IPv4 connections.
    pub v6_only: bool,
    /// SO_REUSEPORT.
    pub shared: bool,
    /// HTTP/2 is spoken next to HTTP/1.1: with prior knowledge, or negotiated when there is TLS.
    pub http2: bool,
    /// HTTP/3 is spoken on the same UDP port, if there is TLS.
    pub http3: bool,
    /// Connections the kernel keeps waiting.
    pub backlog: u32,
    /// Certificates, from [`sn_tls_new`]; 0 is cleartext.
    pub tls: u64,
    /// Limits of the listener and its connections.
    pub limits: Limits,
}

/// `mode` of a Unix socket that the umask decides.
pub const MODE_UMASK: u32 = 0xffff_ffff;

/// One certificate chain with its key.
#[repr(C)]
pub struct Identity {
    /// PEM file: the server's certificate, then those that lead to a root.
    pub certificate_path: Bytes,
    /// PEM file: PKCS#8 (possibly encrypted), PKCS#1 or SEC1.
    pub key_path: Bytes,
    /// UTF-8, for an encrypted key; empty for none.
    pub password: Bytes,
}

/// What a TLS configuration is made of.
#[repr(C)]
pub struct TlsOptions {
    /// The first is used when no other matches the name a client asks for (SNI).
    pub identities: *const Identity,
    /// How many; at least 1.
    pub identity_count: usize,
    /// PEM file of who may sign client certificates; empty for the platform's roots.
    pub client_ca_path: Bytes,
    /// Client certificates: 0 none asked for, 1 optional, 2 required.
    pub clients: u8,
}

/// Reads certificates and keys. The id serves any listener of this runtime, for TCP and QUIC alike, and lasts as long as it.
/// BAD_CERTIFICATE names the file and the cause.
///
/// # Safety
/// Pointers are null or live; `identities` has `identity_count`; each `sn_bytes` has its length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_tls_new(runtime: *const Runtime, options: *const TlsOptions, out_tls: *mut u64) -> Status {
    guard(|| {
        // SAFETY: non-null pointers are what the header says.
        let (runtime, options, out) =
            unsafe { (borrow(runtime, "runtime")?, borrow(options, "options")?, borrow_mut(out_tls, "out_tls")?) };
        if options.identity_count > 1024 {
            let found = options.identity_count;
            return Err(Error::invalid(format!("options.identity_count must be at most 1024, found {found}")));
        }
        let mut identities = Vec::with_capacity(options.identity_count);
        for index in 0..options.identity_count {
            // SAFETY: the caller vouches for `identity_count` of them, so none is null unless all are.
            let identity = unsafe { borrow(options.identities.wrapping_add(index), "options.identities")? };
            // SAFETY: each has its length.
            let (certificate, key, password) = unsafe {
                (
                    path(identity.certificate_path, "certificate_path")?,
                    path(identity.key_path, "key_path")?,
                    text(identity.password, "password")?,
                )
            };
            let (Some(certificate_path), Some(key_path)) = (certificate, key) else {
                return Err(Error::invalid("certificate_path and key_path must both be given"));
            };
            let password = Some(password).filter(|password| !password.is_empty()).map(str::to_owned);
            identities.push(tls::Identity { certificate_path, key_path, password });
        }
        let clients = match options.clients {
            0 => ClientCertificates::Ignored,
            1 => ClientCertificates::Optional,
            2 => ClientCertificates::Required,
            found => return Err(Error::invalid(format!("options.clients must be 0, 1 or 2, found {found}"))),
        };
        // SAFETY: as above.
        let client_ca_path = unsafe { path(options.client_ca_path, "client_ca_path")? };
        let tls = Arc::new(Tls::new(tls::Options { identities, clients, client_ca_path })?);
        let mut known = lock(&runtime.tls);
        known.push(tls);
        *out = known.len() as u64;
        Ok(Status::Ok)
    })
}

/// Reads the files of a TLS configuration again: connections from now on use them, the others go on. When anything is wrong
/// with them the old ones stay.
///
/// # Safety
/// `runtime` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_tls_reload(runtime: *const Runtime, tls: u64) -> Status {
    guard(|| {
        // SAFETY: non-null pointers are what the header says.
        let runtime = unsafe { borrow(runtime, "runtime")? };
        find_tls(runtime, tls)?.reload()?;
        Ok(Status::Ok)
    })
}

/// Fills `out_options` with the defaults.
///
/// # Safety
/// `out_options` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_listen_options_default(out_options: *mut ListenOptions) -> Status {
    guard(|| {
        if out_options.is_null() {
            return Err(Error::invalid("out_options is null"));
        }
        let defaults = ListenOptions {
            address: Bytes { data: c"127.0.0.1".as_ptr().cast(), length: 9 },
            path: Bytes { data: std::ptr::null(), length: 0 },
            descriptor: -1,
            scope: 0,
            mode: MODE_UMASK,
            port: 0,
            v6_only: false,
            shared: false,
            http2: true,
            http3: true,
            backlog: 1024,
            tls: 0,
            limits: Limits::default(),
        };
        // SAFETY: non-null and writable; not read, so it may be uninitialised.
        unsafe { out_options.write(defaults) };
        Ok(Status::Ok)
    })
}

/// Binds a listener. It has its address from now on and accepts after [`sn_listen`].
///
/// # Safety
/// Pointers are null or live; each `sn_bytes` has its length; `options.descriptor` is -1 or open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_bind(
    runtime: *const Runtime,
    options: *const ListenOptions,
    out_listener: *mut u64,
) -> Status {
    guard(|| {
        // SAFETY: non-null pointers are what the header says.
        let (runtime, options, out) = unsafe {
            (borrow(runtime, "runtime")?, borrow(options, "options")?, borrow_mut(out_listener, "out_listener")?)
        };
        let binding = Binding {
            // SAFETY: the bytes have their length, the descriptor is open.
            place: unsafe { place(options)? },
            backlog: options.backlog,
            http2: options.http2,
            http3: options.http3,
            tls: if options.tls == 0 { None } else { Some(find_tls(runtime, options.tls)?) },
            limits: options.limits,
        };
        runtime.core.check_running()?;
        let bound = Bound::new(runtime.core.exchange(), binding)?;
        *out = bound.id();
        lock(&runtime.bound).insert(bound.id(), bound);
        Ok(Status::Ok)
    })
}

/// Copies a bound listener's `address` (text, as `127.0.0.1:8080`, `[::1]:8080` or `unix:/path`) into `buffer`,
/// cut to `capacity`.
///
/// # Safety
/// `buffer` has `capacity` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_listener_address(
    runtime: *const Runtime,
    listener: u64,
    buffer: *mut u8,
    capacity: usize,
    out_length: *mut usize,
) -> Status {
    guard(|| {
        // SAFETY: non-null pointers are what the header says.
        let (runtime, out) = unsafe { (borrow(runtime, "runtime")?, borrow_mut(out_length, "out_length")?) };
        let address = with_bound(runtime, listener, |bound| Ok(bound.address().to_string()))?;
        if buffer.is_null() {
            return Err(Error::invalid("buffer is null"));
        }
        // SAFETY: the caller vouches for `capacity` bytes.
        unsafe { std::ptr::copy_nonoverlapping(address.as_ptr(), buffer, address.len().min(capacity)) };
        *out = address.len();
        Ok(Status::Ok)
    })
}

/// Answers GET and HEAD of `path` natively. `fields` are NUL-joined names and values; copied. Before [`sn_listen`] only.
///
/// # Safety
/// Pointers are null or live; each `sn_bytes` has its length.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_route(
    runtime: *const Runtime,
    listener: u64,
    path: Bytes,
    status: u16,
    fields: Bytes,
    body: Bytes,
) -> Status {
    guard(|| {
        // SAFETY: non-null pointers are what the header says.
        let (runtime, path, fields, body) = unsafe {
            (borrow(runtime, "runtime")?, bytes(path, "path")?, bytes(fields, "fields")?, bytes(body, "body")?)
        };
        if !(200..=999).contains(&status) {
            return Err(Error::invalid(format!("status of a route must be 200 to 999, found {status}")));
        }
        with_bound(runtime, listener, |bound| {
            bound.routes.add(path, status, fields, body).map_err(Error::invalid)?;
            Ok(Status::Ok)
        })
    })
}

/// Starts to accept on a bound listener.
///
/// # Safety
/// `runtime` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_listen(runtime: *const Runtime, listener: u64) -> Status {
    guard(|| {
        // SAFETY: non-null pointers are what the header says.
        let runtime = unsafe { borrow(runtime, "runtime")? };
        let Some(bound) = lock(&runtime.bound).remove(&listener) else {
            return Err(Error::new(Status::NotFound, format!("no bound listener has the id {listener}")));
        };
        runtime.core.listen(bound)?;
        Ok(Status::Ok)
    })
}

/// Closes a listener, accepting or only bound. Its connections go on; CLOSED is told for one that accepted.
///
/// # Safety
/// `runtime` is null or live.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sn_close(runtime: *const Runtime, listener: u64) -> Status {
    guard(|| {
        // SAFETY: non-null pointers are what the header says.
        let runtime = unsafe { borrow(runtime, "runtime")? };
        if lock(&runtime.bound).remove(&listener).is_none() {
            runtime.core.close_listener(listener)?;
        }
        Ok(Status::Ok)
    })
}

fn with_bound<T>(runtime: &Runtime, listener: u64, body: impl FnOnce(&mut Bound) -> Result<T>) -> Result<T> {
    match lock(&runtime.bound).get_mut(&listener) {
        Some(bound) => body(bound),
        None => Err(Error::new(Status::NotFound, format!("no bound listener has the id {listener}"))),
    }
}

unsafe fn place(options: &ListenOptions) -> Result<Place> {
    #[cfg(unix)]
    {
        // SAFETY: as the caller of this.
        if let Some(descriptor) = unsafe { duplicate(options.descriptor)? } {
            return Ok(Place::Inherited(descriptor));
        }
        // SAFETY: as the caller of this.
        if let Some(path) = unsafe { path(options.path, "options.path")? } {
            let mode = Some(options.mode).filter(|mode| *mode != MODE_UMASK);
            return Ok(Place::Unix { path, mode });
        }
    }
    // SAFETY: as the caller of this.
    let address = unsafe { text(options.address, "options.address")? };
    let address: IpAddr = address
        .parse()
        .map_err(|_| Error::invalid(format!("options.address must be an IPv4 or IPv6 address, found {address:?}")))?;
    let address = match address {
        IpAddr::V6(address) => SocketAddrV6::new(address, options.port, 0, options.scope).into(),
        address => SocketAddr::new(address, options.port),
    };
    Ok(Place::Ip { address, v6_only: options.v6_only, shared: options.shared })
}

unsafe fn path(view: Bytes, name: &str) -> Result<Option<PathBuf>> {
    // SAFETY: as the caller of this.
    let bytes = unsafe { bytes(view, name)? };
    if bytes.is_empty() {
        return Ok(None);
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        Ok(Some(std::ffi::OsStr::from_bytes(bytes).into()))
    }
    #[cfg(not(unix))]
    {
        let text =
            std::str::from_utf8(bytes).map_err(|cause| Error::invalid(format!("{name} is not UTF-8: {cause}")))?;
        Ok(Some(text.into()))
    }
}

fn find_tls(runtime: &Runtime, tls: u64) -> Result<Arc<Tls>> {
    let index = usize::try_from(tls).unwrap_or(0).checked_sub(1);
    let found = index.and_then(|index| lock(&runtime.tls).get(index).cloned());
    found.ok_or_else(|| Error::new(Status::NotFound, format!("no TLS configuration has the id {tls}")))
}
