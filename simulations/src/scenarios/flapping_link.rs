//! A link that comes and goes.

use std::time::Duration;

use super::{CALM, Scenario};
use crate::Fault;

/// Between two changes of the link.
const FLAP_PERIOD: Duration = Duration::from_secs(2);
/// Changes; an even number, so that the link ends up whole.
const FLAPS: u32 = 20;

/// The link between nodes 0 and 1 is cut and mended every two seconds.
pub fn flapping_link(nodes: usize) -> Scenario {
    let flap = |turn: u32| {
        let fault = if turn.is_multiple_of(2) {
            Fault::CutBothWays(vec![0], vec![1])
        } else {
            Fault::Mend(vec![0], vec![1])
        };
        (CALM + FLAP_PERIOD * turn, fault)
    };
    let faults = (0..FLAPS).map(flap).collect();
    let end = CALM + FLAP_PERIOD * FLAPS + Duration::from_secs(10);
    Scenario::new("flapping_link", nodes, faults, end)
}
