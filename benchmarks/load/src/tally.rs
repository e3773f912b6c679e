//! What was measured, by when it must end, and the report.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::Outcome;
use crate::options::Options;

/// Nothing may take longer than this.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is done to get a connection.
pub async fn patient<T>(opening: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    tokio::time::timeout(PATIENCE, opening).await.map_err(|_| "no connection within 10 s")?
}

/// The clock of a run; it starts when every connection is there.
#[derive(Clone)]
pub struct Clock {
    start: Instant,
    end: Instant,
    left: Option<Arc<AtomicU64>>,
}

impl Clock {
    pub fn start(options: &Options) -> Clock {
        let start = Instant::now();
        let duration = if options.requests.is_some() { Duration::from_secs(3600) } else { options.duration };
        Clock { start, end: start + duration, left: options.requests.map(|count| Arc::new(AtomicU64::new(count))) }
    }

    /// Whether one more request is to be made.
    pub fn more(&self) -> bool {
        let take =
            |left: &Arc<AtomicU64>| left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        self.left.as_ref().is_none_or(|left| take(left).is_ok())
    }

    /// Counts what began at `from` and is complete now; false once the time is over, and then it does not count.
    pub fn count(&self, tally: &mut Tally, from: Instant, bytes: usize) -> bool {
        let now = Instant::now();
        if now >= self.end {
            return false;
        }
        tally.micros.push((now - from).as_micros() as u32);
        tally.bytes += bytes as u64;
        true
    }

    /// Waits for the workers, and adds up what they counted.
    pub async fn gather(self, mut workers: JoinSet<Outcome<Tally>>) -> Outcome<Tally> {
        let mut whole = Tally::default();
        let collect = async {
            while let Some(done) = workers.join_next().await {
                let part = done??;
                whole.micros.extend(part.micros);
                whole.bytes += part.bytes;
                whole.head = part.head;
            }
            Outcome::Ok(())
        };
        tokio::time::timeout_at((self.end + PATIENCE).into(), collect).await.map_err(|_| "no answer for 10 s")??;
        whole.duration = self.start.elapsed().min(self.end - self.start);
        Ok(whole)
    }
}

/// What a worker, and in the end the run, has counted.
#[derive(Default)]
pub struct Tally {
    micros: Vec<u32>,
    bytes: u64,
    duration: Duration,
    /// Head of an answer, for people to read.
    pub head: String,
}

impl Tally {
    pub fn of(head: String) -> Tally {
        Tally { head, ..Tally::default() }
    }

    pub fn json(mut self) -> String {
        self.micros.sort_unstable();
        let last = self.micros.len().saturating_sub(1);
        let at = |percent: usize| self.micros.get(last * percent / 100).copied().unwrap_or(0);
        let text = self.head.replace('\\', "\\\\").replace('"', "\\\"").replace('\r', "").replace('\n', "\\n");
        format!(
            "{{\"requests\":{},\"micros\":{},\"bytes\":{},\"p50\":{},\"p95\":{},\"p99\":{},\"max\":{},\"head\":\"{text}\"}}",
            self.micros.len(),
            self.duration.as_micros(),
            self.bytes,
            at(50),
            at(95),
            at(99),
            at(100),
        )
    }
}
