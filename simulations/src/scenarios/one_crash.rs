//! One of many ends without a word.

use std::time::Duration;

use super::{CALM, Scenario};
use crate::Fault;

/// Node 0's host loses power.
pub fn one_crash(nodes: usize) -> Scenario {
    let faults = vec![(CALM, Fault::Crash(0))];
    Scenario::new("one_crash", nodes, faults, CALM + Duration::from_secs(12))
}

/// Node 0's process is killed; its host closes the connections.
pub fn one_kill(nodes: usize) -> Scenario {
    let faults = vec![(CALM, Fault::Kill(0))];
    Scenario::new("one_kill", nodes, faults, CALM + Duration::from_secs(12))
}
