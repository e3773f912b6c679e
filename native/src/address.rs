//! Where a connection comes from and where it arrives: an IP address and port, or the path of a Unix socket. A leaf.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A Unix socket; without a path for the client's end, which has none.
    Unix(Option<PathBuf>),
}

impl Address {
    /// The IP address, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            // An IPv4 client of a dual-stack socket is the same client.
            Address::Ip(address) => Some(address.ip().to_canonical()),
            Address::Unix(_) => None,
        }
    }

    /// Host (address or path) and port, as ACCEPT tells them; NUL-joined.
    pub fn parts(&self) -> String {
        match self {
            Address::Ip(SocketAddr::V6(address)) if address.scope_id() != 0 => {
                format!("{}%{}\0{}", address.ip(), address.scope_id(), address.port())
            }
            Address::Ip(address) => format!("{}\0{}", address.ip().to_canonical(), address.port()),
            Address::Unix(path) => format!("{}\0", path.as_deref().unwrap_or("".as_ref()).display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Address::Ip(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(formatter),
            Address::Unix(path) => write!(formatter, "unix:{}", path.as_deref().unwrap_or("".as_ref()).display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_client_of_a_dual_stack_socket_is_an_ipv4_client() {
        let mapped = Address::Ip("[::ffff:10.0.0.1]:80".parse().unwrap());
        assert_eq!(mapped.parts(), "10.0.0.1\x0080");
        assert_eq!(mapped.ip(), Some("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_zone_and_a_path_are_told() {
        let zone = SocketAddr::V6(std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 80, 0, 2));
        assert_eq!(Address::Ip(zone).parts(), "fe80::1%2\x0080");
        assert_eq!(Address::Unix(Some("/run/a.sock".into())).parts(), "/run/a.sock\0");
        assert_eq!(Address::Unix(None).parts(), "\0");
    }
}
