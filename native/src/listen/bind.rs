//! Sockets made for listening: IP, Unix and inherited ones.

use std::io;
use std::net::{SocketAddr, UdpSocket};
#[cfg(unix)]
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::{fs, os::fd::OwnedFd};

#[cfg(unix)]
use rustix::fs::{FlockOperation, flock};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Binding, Place};
use crate::address::Address;
use crate::error::{Error, Result};
use crate::unsent;

/// Tries to find a port that is free for TCP and for UDP when the system may choose.
const PORT_TRIES: usize = 16;
/// How long another server may take to bind in the same folder, in tries of a millisecond.
#[cfg(unix)]
const FOLDER_TRIES: usize = 100;

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
    /// Absolute: the process may change its directory.
    path: PathBuf,
    identity: (u64, u64),
    /// While it is open no other file gets the number in `identity`, and to others the socket is not stale.
    _socket: Socket,
}

/// Bytes of datagrams the system keeps for us until they are read.
const DATAGRAM_BUFFER: usize = 2 * 1024 * 1024;

pub(super) fn bind(binding: &Binding) -> Result<Made> {
    let backlog = i32::try_from(binding.backlog).unwrap_or(i32::MAX);
    let quic = binding.http3 && binding.tls.is_some();
    match &binding.place {
        Place::Ip { address, v6_only, shared } => {
            let failed = |cause: io::Error| Error::io(format!("cannot listen on {address}"), &cause);
            let (socket, datagrams, address) = if quic && address.port() == 0 {
                both_on_one_port(*address, *v6_only, *shared).map_err(failed)?
            } else {
                let (socket, address) = bind_ip(*address, Type::STREAM, *v6_only, *shared).map_err(failed)?;
                let datagrams = quic.then(|| bind_datagrams(address, *v6_only, *shared)).transpose()?;
                (socket, datagrams, address)
            };
            socket.listen(backlog).map_err(failed)?;
            Ok(Made { socket, datagrams: datagrams.map(Into::into), file: None, address: address.into() })
        }
        #[cfg(unix)]
        Place::Unix { path, mode } => {
            let made = bind_unix(path, *mode, backlog);
            let (socket, file) = made.map_err(|cause| {
                let taken = cause.kind() == io::ErrorKind::AddrInUse;
                let place = path.display();
                let what = match taken && !is_socket(path) {
                    true => format!("cannot listen on {place}, where a file is that is no socket; remove it"),
                    false => format!("cannot listen on {place}"),
                };
                Error::io(what, &cause)
            })?;
            Ok(Made { socket, datagrams: None, file: Some(file), address: Address::Unix(Some(path.clone())) })
        }
        #[cfg(unix)]
        Place::Inherited(descriptor) => {
            let failed = |cause: io::Error| Error::io("cannot listen on the inherited descriptor", &cause);
            take(descriptor.try_clone().map_err(failed)?, backlog, quic)
        }
    }
}

/// The UDP side of an address whose TCP side is bound already.
fn bind_datagrams(address: SocketAddr, v6_only: bool, shared: bool) -> Result<Socket> {
    let failed = |cause: io::Error| {
        let what = format!("cannot listen on UDP {address} for HTTP/3 (http3=False serves without it)");
        Error::io(what, &cause)
    };
    bind_ip(address, Type::DGRAM, v6_only, shared).map(|(socket, _)| socket).map_err(failed)
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
        unsent::limit(&socket, unsent::NARROW);
    } else {
        // All HTTP/3 clients share this one: a burst of some that overflows it costs the others a retransmission, a second or
        // three. The system may allow less (`net.core.rmem_max`), and less is no error.
        let _ = socket.set_recv_buffer_size(DATAGRAM_BUFFER);
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    let bound = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok((socket, bound))
}

#[cfg(unix)]
fn bind_unix(path: &Path, mode: Option<u32>, backlog: i32) -> io::Result<(Socket, SocketFile)> {
    let address = SockAddr::unix(path)?;
    let place = std::path::absolute(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let _alone = alone_in(place.parent().unwrap_or(&place));
    match socket.bind(&address) {
        Err(cause) if cause.kind() == io::ErrorKind::AddrInUse && is_stale(path, &address) => {
            fs::remove_file(path)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    let about = fs::symlink_metadata(&place)?;
    let file = SocketFile { path: place, identity: (about.dev(), about.ino()), _socket: socket.try_clone()? };
    if let Some(mode) = mode {
        // Before `listen`: until then nobody can connect, whatever the umask has left.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    socket.listen(backlog)?;
    Ok((socket, file))
}

/// Keeps servers apart that start at one path at the same time: between `bind` and `listen` a socket looks stale. Without the
/// right to read the folder, or when a stranger has it locked, they are trusted to be alone.
#[cfg(unix)]
fn alone_in(folder: &Path) -> Option<fs::File> {
    let folder = fs::File::open(folder).ok()?;
    for _ in 0..FOLDER_TRIES {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(folder),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(std::time::Duration::from_millis(1)),
            Err(_) => return None,
        }
    }
    None
}

/// Whether the file is a socket that nobody listens on any more, as a crash leaves it.
#[cfg(unix)]
fn is_stale(path: &Path, address: &SockAddr) -> bool {
    let refused = || {
        let probe = Socket::new(Domain::UNIX, Type::STREAM, None).and_then(|probe| {
            probe.set_nonblocking(true)?;
            probe.connect(address)
        });
        probe.is_err_and(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
    };
    is_socket(path) && refused()
}

#[cfg(unix)]
fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|about| about.file_type().is_socket())
}

#[cfg(unix)]
fn take(descriptor: OwnedFd, backlog: i32, quic: bool) -> Result<Made> {
    let socket = Socket::from(descriptor);
    let address = match inspect(&socket) {
        Ok(address) => address,
        Err(found) => {
            let text = format!("the inherited descriptor must be a stream socket, bound or listening, found {found}");
            return Err(Error::invalid(text));
        }
    };
    let failed = |cause: io::Error| Error::io(format!("cannot listen on {address}, inherited"), &cause);
    // A property of the socket, not of our descriptor: everybody who shares it finds it so, now and after our end. Changing it
    // back then would have the others block in `accept`.
    socket.set_nonblocking(true).map_err(failed)?;
    if !is_listening(&socket) {
        socket.listen(backlog).map_err(failed)?;
    }
    let Address::Ip(ip) = address else {
        return Ok(Made { socket, datagrams: None, file: None, address });
    };
    // Inherited by accepted sockets on Linux.
    socket.set_tcp_nodelay(true).map_err(failed)?;
    unsent::limit(&socket, unsent::NARROW);
    let v6_only = ip.is_ipv6() && socket.only_v6().map_err(failed)?;
    let datagrams = quic.then(|| bind_datagrams(ip, v6_only, false)).transpose()?;
    Ok(Made { socket, datagrams: datagrams.map(Into::into), file: None, address })
}

/// The address of a socket that can listen, or what it is instead.
#[cfg(unix)]
fn inspect(socket: &Socket) -> std::result::Result<Address, String> {
    match socket.r#type() {
        Ok(Type::STREAM) => {}
        Ok(Type::DGRAM) => return Err("a datagram socket".to_owned()),
        Ok(other) => return Err(format!("a socket of {other:?}")),
        Err(cause) => return Err(format!("no socket ({cause})")),
    }
    let local = socket.local_addr().map_err(|cause| format!("one without an address ({cause})"))?;
    if socket.peer_addr().is_ok() {
        return Err("a connection".to_owned());
    }
    match (local.as_socket(), local.as_pathname()) {
        // `listen` would bind it, to every address of the machine.
        (Some(address), _) if address.port() == 0 => Err("one that is not bound".to_owned()),
        (Some(address), _) => Ok(address.into()),
        (None, Some(path)) => Ok(Address::Unix(Some(path.to_owned()))),
        (None, None) if local.is_unix() && !local.is_unnamed() => Ok(Address::Unix(None)),
        (None, None) => Err("one that is not bound".to_owned()),
    }
}

/// Whether somebody has called `listen` already; where the system does not tell, calling it again does no harm.
#[cfg(unix)]
fn is_listening(socket: &Socket) -> bool {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    return socket.is_listener().unwrap_or(false);
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd")))]
    {
        let _ = socket;
        false
    }
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

#[cfg(all(test, any(target_os = "linux", target_os = "android")))]
mod tests {
    use super::*;

    #[test]
    fn accepted_sockets_are_held_back_as_their_listener_is() {
        let (listener, address) = bind_ip(SocketAddr::from(([127, 0, 0, 1], 0)), Type::STREAM, false, false).unwrap();
        listener.listen(1).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(accepted.tcp_notsent_lowat().unwrap(), unsent::NARROW);
    }
}
