//! One of many ends and comes back.

use std::time::Duration;

use super::{CALM, Scenario};
use crate::Fault;

/// Node 0's host loses power and is back after `down`.
pub fn restart(nodes: usize, down: Duration) -> Scenario {
    let faults = vec![(CALM, Fault::Crash(0)), (CALM + down, Fault::Restart(0))];
    Scenario::new(
        "restart",
        nodes,
        faults,
        CALM + down + Duration::from_secs(10),
    )
}
