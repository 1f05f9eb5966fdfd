//! Has what a runtime says of itself agreed, in order.
//!
//! Decides: that a report that finds no majority is repeated until it is agreed, so that none
//! overtakes another. Never: keeps a runtime waiting. A mesh without a majority keeps nothing from
//! being started again.

use std::time::Duration;

use consensus_core::{Command, LogIndex};
use tokio::{sync::mpsc, time::sleep};

use super::proposer::Proposer;

/// Reports on their way; a runtime has some ten phases.
pub(super) const REPORTS_MAX: usize = 32;
/// After a report that found no majority.
const REPORT_PAUSE: Duration = Duration::from_secs(1);

/// Runs until nobody reports any more.
pub(super) async fn agree_in_order(proposer: Proposer, mut queue: mpsc::Receiver<Command>) {
    while let Some(command) = queue.recv().await {
        let name = command.name();
        loop {
            match proposer.agree(command.clone()).await {
                Ok((LogIndex(index), _)) => {
                    tracing::debug!(report = name, index, "reported");
                    break;
                }
                Err(error) if error.code == "NoMajorityError" => sleep(REPORT_PAUSE).await,
                Err(error) => {
                    tracing::debug!(report = name, code = error.code, %error, "a report was refused");
                    break;
                }
            }
        }
    }
}
