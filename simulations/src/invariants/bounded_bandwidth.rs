//! What a node sends does not grow with the mesh.
//!
//! Source: SWIM (Das et al. 2002) section 2: the load per member is constant. Looked at over the
//! last half of the calm, when nothing happens: what faults cost is shown in the report.

use super::Violation;
use crate::{World, outcome::wire_bytes};

/// Looks at the seconds from `from` on.
///
/// # Errors
/// When a node sends more than `bytes_max` a second on average.
pub fn check(world: &World, from: usize, bytes_max: u64) -> Result<(), Violation> {
    let seconds = world.history().seconds().get(from..).unwrap_or_default();
    let node_seconds = (seconds.len() * world.len()).max(1) as u64;
    let messages: u64 = seconds.iter().map(|second| second.messages).sum();
    let bytes: u64 = seconds.iter().map(|second| second.bytes).sum();
    let each = wire_bytes(messages, bytes) / node_seconds;
    if each <= bytes_max {
        return Ok(());
    }
    Err(Violation {
        invariant: "bounded_bandwidth",
        at: world.now(),
        detail: format!("a node sends {each} bytes a second, the bound is {bytes_max}"),
    })
}
