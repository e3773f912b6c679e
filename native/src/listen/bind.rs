//! Sockets made for listening: IP, Unix and inherited ones.

use std::io;
use std::net::{SocketAddr, UdpSocket};
#[cfg(unix)]
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::{fs, os::fd::OwnedFd};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Binding, Place};
use crate::address::Address;
use crate::error::{Error, Result};

/// Tries to find a port that is free for TCP and for UDP when the system may choose.
const PORT_TRIES: usize = 16;

/// What a binding comes to.
pub(super) struct Made {
    pub(super) socket: Socket,
    pub(super) datagrams: Option<UdpSocket>,
    pub(super) file: Option<SocketFile>,
    pub(super) address: Address,
}

/// The file of a Unix socket; removed when this is dropped, unless somebody has put another in its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

pub(super) fn bind(binding: &Binding) -> Result<Made> {
    let backlog = i32::try_from(binding.backlog).unwrap_or(i32::MAX);
    let quic = binding.http3 && binding.tls.is_some();
    match &binding.place {
        Place::Ip { address, v6_only, shared } => {
            let bound = if quic && address.port() == 0 {
                both_on_one_port(*address, *v6_only, *shared)
            } else {
                let stream = bind_ip(*address, Type::STREAM, *v6_only, *shared);
                stream.and_then(|(socket, address)| {
                    let datagrams = quic.then(|| bind_ip(address, Type::DGRAM, *v6_only, *shared)).transpose()?;
                    Ok((socket, datagrams.map(|(socket, _)| socket), address))
                })
            };
            let (socket, datagrams, address) = bound
                .and_then(|made| made.0.listen(backlog).map(|()| made))
                .map_err(|cause| Error::io(format!("cannot listen on {address}"), &cause))?;
            Ok(Made { socket, datagrams: datagrams.map(Into::into), file: None, address: address.into() })
        }
        #[cfg(unix)]
        Place::Unix { path, mode } => {
            let made = bind_unix(path, *mode, backlog);
            let (socket, file) =
                made.map_err(|cause| Error::io(format!("cannot listen on {}", path.display()), &cause))?;
            Ok(Made { socket, datagrams: None, file: Some(file), address: Address::Unix(Some(path.clone())) })
        }
        #[cfg(unix)]
        Place::Inherited(descriptor) => {
            let taken = descriptor.try_clone().and_then(|descriptor| take(descriptor, backlog, quic));
            taken.map_err(|cause| Error::io("cannot listen on the inherited descriptor", &cause))
        }
    }
}

fn both_on_one_port(
    address: SocketAddr,
    v6_only: bool,
    shared: bool,
) -> io::Result<(Socket, Option<Socket>, SocketAddr)> {
    let mut last = io::ErrorKind::AddrInUse.into();
    for _ in 0..PORT_TRIES {
        let (socket, bound) = bind_ip(address, Type::STREAM, v6_only, shared)?;
        match bind_ip(bound, Type::DGRAM, v6_only, shared) {
            Ok((datagrams, _)) => return Ok((socket, Some(datagrams), bound)),
            Err(cause) if cause.kind() == io::ErrorKind::AddrInUse => last = cause,
            Err(cause) => return Err(cause),
        }
    }
    Err(last)
}

fn bind_ip(address: SocketAddr, kind: Type, v6_only: bool, shared: bool) -> io::Result<(Socket, SocketAddr)> {
    let stream = kind == Type::STREAM;
    let protocol = if stream { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    #[cfg(unix)]
    {
        // For TCP this allows a restart while old connections are in TIME_WAIT; for UDP, and on Windows, it would let two
        // servers share a port by mistake.
        socket.set_reuse_address(stream)?;
        socket.set_reuse_port(shared)?;
    }
    if stream {
        // Inherited by accepted sockets on Linux, which saves a call per connection.
        socket.set_tcp_nodelay(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, bound))
}

#[cfg(unix)]
fn bind_unix(path: &Path, mode: Option<u32>, backlog: i32) -> io::Result<(Socket, SocketFile)> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.bind(&address) {
        Err(cause) if cause.kind() == io::ErrorKind::AddrInUse && is_stale(path, &address) => {
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    let about = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), identity: (about.dev(), about.ino()) };
    if let Some(mode) = mode {
        // Before `listen`: until then nobody can connect, whatever the umask has left.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    socket.listen(backlog)?;
    Ok((socket, file))
}

/// Whether the file is a socket that nobody listens on any more, as a crash leaves it.
#[cfg(unix)]
fn is_stale(path: &Path, address: &SockAddr) -> bool {
    let socket = fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket());
    let refused = || {
        let probe = Socket::new(Domain::UNIX, Type::STREAM, None).and_then(|probe| {
            probe.set_nonblocking(true)?;
            probe.connect(address)
        });
        probe.is_err_and(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
    };
    socket && refused()
}

#[cfg(unix)]
fn take(descriptor: OwnedFd, backlog: i32, quic: bool) -> io::Result<Made> {
    let socket = Socket::from(descriptor);
    if socket.r#type()? != Type::STREAM {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it must be a stream socket"));
    }
    socket.set_nonblocking(true)?;
    if !socket.is_listener()? {
        socket.listen(backlog)?;
    }
    let local = socket.local_addr()?;
    let Some(address) = local.as_socket() else {
        let path = local.as_pathname().map(Path::to_owned);
        return Ok(Made { socket, datagrams: None, file: None, address: Address::Unix(path) });
    };
    // Inherited by accepted sockets on Linux.
    socket.set_tcp_nodelay(true)?;
    let v6_only = address.is_ipv6() && socket.only_v6()?;
    let datagrams = quic.then(|| bind_ip(address, Type::DGRAM, v6_only, false)).transpose()?;
    let datagrams = datagrams.map(|(socket, _)| socket.into());
    Ok(Made { socket, datagrams, file: None, address: address.into() })
}

#[cfg(unix)]
impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|about| (about.dev(), about.ino()) == self.identity);
        if ours {
            // Somebody may have removed the directory meanwhile; there is nothing left to tidy then.
            let _ = fs::remove_file(&self.path);
        }
    }
}
