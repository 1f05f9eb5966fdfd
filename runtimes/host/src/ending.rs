//! Ending a process.
//!
//! Decides: how long one is asked before it is killed. Never: leaves one behind that it reported as
//! ended.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::process::Identity;

/// How often an end is looked for.
const POLL_EVERY: Duration = Duration::from_millis(15);
/// A killed process is gone at once, unless the kernel hangs in a disk.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// It outlived SIGKILL.
#[derive(Debug, thiserror::Error)]
#[error("process {pid} does not end, not even when killed")]
pub struct DoesNotEnd {
    /// The process.
    pub pid: u32,
}

/// Asks a process to end, and kills it when it has not within that time.
///
/// # Errors
/// It lives on.
pub async fn end(identity: Identity, within: Duration) -> Result<(), DoesNotEnd> {
    identity.signal(Signal::TERM);
    if ended(identity, within).await {
        return Ok(());
    }
    tracing::warn!(pid = identity.pid, "does not end when asked; killed");
    identity.signal(Signal::KILL);
    if ended(identity, KILLED_WITHIN).await {
        return Ok(());
    }
    Err(DoesNotEnd { pid: identity.pid })
}

async fn ended(identity: Identity, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while identity.lives() {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(POLL_EVERY).await;
    }
    true
}
