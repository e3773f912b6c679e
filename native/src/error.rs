//! One error type, one status number per kind the host may want to catch; the text carries the rest.

use std::{fmt, io};

/// What an export answers. 0 ok, 1-9 outcomes, 10-99 the caller's fault, 100-199 the world's, 255 a panic. Append-only.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Nothing happened within the time given.
    Timeout = 1,
    /// The runtime has stopped and every event was taken.
    Closed = 2,
    /// `sn_wake` was called.
    Woken = 3,
    /// A null pointer, an impossible length, text that is not UTF-8, a record of unknown kind.
    InvalidArgument = 10,
    /// No such listener, batch or stream.
    NotFound = 11,
    /// Another thread is inside `sn_next`, or too many commands wait.
    Busy = 12,
    /// The runtime is stopping and takes nothing new.
    Stopping = 13,
    /// A certificate, key or password cannot be used; the text names the file and the cause.
    BadCertificate = 14,
    /// The address is in use.
    AddressInUse = 100,
    /// The system refused for lack of permission.
    PermissionDenied = 101,
    /// The host is not an address of this machine.
    AddressNotAvailable = 102,
    /// Any other failure of the system; the text has its errno.
    Io = 103,
    /// A panic was caught; the text has its message.
    Panic = 255,
}

/// A status with the sentence that explains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The kind.
    pub status: Status,
    /// What was expected, what was found, what to do.
    pub text: String,
}

/// Results of the core.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of this kind.
    pub fn new(status: Status, text: impl Into<String>) -> Error {
        Error { status, text: text.into() }
    }

    /// The caller passed something that cannot be.
    pub fn invalid(text: impl Into<String>) -> Error {
        Error::new(Status::InvalidArgument, text)
    }

    /// A system call failed while doing `what`.
    pub fn io(what: impl fmt::Display, cause: &io::Error) -> Error {
        let status = match cause.kind() {
            io::ErrorKind::AddrInUse => Status::AddressInUse,
            io::ErrorKind::PermissionDenied => Status::PermissionDenied,
            io::ErrorKind::AddrNotAvailable => Status::AddressNotAvailable,
            _ => Status::Io,
        };
        Error::new(status, format!("{what}: {cause}"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl std::error::Error for Error {}
