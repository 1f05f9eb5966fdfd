//! The mesh falls into two halves and is mended.

use std::time::Duration;

use super::{CALM, Scenario};
use crate::Fault;

/// Even and odd nodes cannot reach each other for `apart`.
pub fn split_in_half(nodes: usize, apart: Duration) -> Scenario {
    let side = |parity| {
        (0..nodes)
            .filter(|node| node % 2 == parity)
            .collect::<Vec<_>>()
    };
    let faults = vec![
        (CALM, Fault::CutBothWays(side(0), side(1))),
        (CALM + apart, Fault::MendAll),
    ];
    Scenario::new(
        "split_in_half",
        nodes,
        faults,
        CALM + apart + Duration::from_secs(15),
    )
}
