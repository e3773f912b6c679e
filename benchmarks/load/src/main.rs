//! Load clients of the benchmark, one thread each, closed loop: every connection (or stream) has one request under way.
//!
//!     load http1     HOST:PORT [options]    GET, or POST of --upload BYTES; answers of --expect BYTES
//!     load http3     HOST:PORT [options]    GET on --streams of every connection; needs --certificate
//!     load websocket HOST:PORT [options]    messages of --upload BYTES, echoed
//!
//! Options: --connections N, --streams N, --seconds N or --requests N, --upload BYTES, --expect BYTES, --certificate PEM.
//! Every answer is checked; the first wrong one, or ten seconds without one, ends the run with status 1 and says why.
//! The last line of standard output is JSON: what wrk's report says (../harness/report.lua), and the first answer's head.

mod http1;
mod http3;
mod options;
mod tally;
mod websocket;

use std::process::ExitCode;

use options::Options;
use tally::Tally;

/// What goes wrong ends the run: a server that errs has no figures.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run().await {
        Ok(tally) => {
            println!("{}", tally.json());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Outcome<Tally> {
    let options = Options::parse(std::env::args().skip(1))?;
    match options.protocol.as_str() {
        "http1" => http1::load(&options).await,
        "http3" => http3::load(&options).await,
        "websocket" => websocket::load(&options).await,
        other => Err(format!("no protocol {other:?}; there are http1, http3 and websocket").into()),
    }
}
