//! One of many says goodbye.

use std::time::Duration;

use super::{CALM, Scenario};
use crate::Fault;

/// Node 0 leaves in good order.
pub fn leave(nodes: usize) -> Scenario {
    let faults = vec![(CALM, Fault::Leave(0))];
    Scenario::new("leave", nodes, faults, CALM + Duration::from_secs(2))
}
