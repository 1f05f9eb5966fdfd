//! Links that carry only one direction.

use std::time::Duration;

use super::{CALM, Scenario};
use crate::Fault;

/// Node 0 cannot send to node 1; everything else works.
pub fn one_way_cut(nodes: usize) -> Scenario {
    let faults = vec![
        (CALM, Fault::CutOneWay(vec![0], vec![1])),
        (CALM + Duration::from_secs(30), Fault::MendAll),
    ];
    Scenario::new("one_way_cut", nodes, faults, CALM + Duration::from_secs(40))
}

/// Node 0 is heard by all and hears nobody, for `deaf`.
pub fn deaf_node(nodes: usize, deaf: Duration) -> Scenario {
    let faults = vec![
        (CALM, Fault::CutOneWay((1..nodes).collect(), vec![0])),
        (CALM + deaf, Fault::MendAll),
    ];
    Scenario::new(
        "deaf_node",
        nodes,
        faults,
        CALM + deaf + Duration::from_secs(20),
    )
}
