//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::Outcome;

/// What is asked for, the same for every protocol.
#[derive(Clone, Debug)]
pub struct Options {
    pub protocol: String,
    pub address: SocketAddr,
    pub connections: usize,
    pub streams: usize,
    pub duration: Duration,
    /// Ends the run instead of `duration`.
    pub requests: Option<u64>,
    pub upload: usize,
    pub expect: usize,
    pub certificate: Option<PathBuf>,
}

impl Options {
    pub fn parse(mut arguments: impl Iterator<Item = String>) -> Outcome<Options> {
        let mut next = |what: &str| arguments.next().ok_or(format!("{what} is missing"));
        let mut options = Options {
            protocol: next("the protocol")?,
            address: next("HOST:PORT")?.parse()?,
            connections: 1,
            streams: 1,
            duration: Duration::from_secs(1),
            requests: None,
            upload: 0,
            expect: 5,
            certificate: None,
        };
        while let Ok(name) = next("") {
            let value = next(&name)?;
            match name.as_str() {
                "--connections" => options.connections = value.parse()?,
                "--streams" => options.streams = value.parse()?,
                "--seconds" => options.duration = Duration::from_secs(value.parse()?),
                "--requests" => options.requests = Some(value.parse()?),
                "--upload" => options.upload = value.parse()?,
                "--expect" => options.expect = value.parse()?,
                "--certificate" => options.certificate = Some(value.into()),
                _ => return Err(format!("no option {name}").into()),
            }
        }
        Ok(options)
    }
}
