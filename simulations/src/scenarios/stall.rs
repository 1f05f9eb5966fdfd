//! A process that stands still for a while.

use std::time::Duration;

use super::{CALM, Scenario};
use crate::Fault;

/// Node 0's process stands still for `span`.
pub fn stall(nodes: usize, span: Duration) -> Scenario {
    let faults = vec![(CALM, Fault::Stall(0, span))];
    Scenario::new(
        "stall",
        nodes,
        faults,
        CALM + span + Duration::from_secs(15),
    )
}
