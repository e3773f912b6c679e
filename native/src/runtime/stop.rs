//! The order in which everything ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::connections::{Connections, Phase};
use crate::exchange::Exchange;
use crate::record::Event;

/// Time between the notice to handlers (DRAIN) and the deadline, at most; a quarter of the grace if that is less.
const NOTICE: Duration = Duration::from_secs(1);
/// After the deadline tasks get this long to write their resets.
const KILL_TIME: Duration = Duration::from_secs(1);

/// Drains, tells, resets, closes.
pub(super) async fn wind_down(
    exchange: Arc<Exchange>,
    connections: Arc<Connections>,
    mut deadline: watch::Receiver<Option<Instant>>,
) {
    let begun = Instant::now();
    let mut told = false;
    loop {
        let until = (*deadline.borrow_and_update()).unwrap_or(begun);
        let notice = NOTICE.min(until.saturating_duration_since(begun) / 4);
        let pause = if told { until } else { until.checked_sub(notice).unwrap_or(until) };
        tokio::select! {
            biased;
            () = connections.wait_empty() => break,
            changed = deadline.changed() => if changed.is_err() { break },
            () = tokio::time::sleep_until(pause.into()) => {
                if told {
                    connections.set_phase(Phase::Kill);
                    // Only a task that cannot be woken is left after this, and dropping the runtime ends that.
                    let _ = tokio::time::timeout(KILL_TIME, connections.wait_empty()).await;
                    break;
                }
                told = true;
                exchange.announce(Event::Drain, 0, 0, 0, notice.as_millis() as u32, &[]);
            }
        }
    }
    exchange.close();
}
