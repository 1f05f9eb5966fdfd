//! No queue of a core grows beyond its limit.
//!
//! Source: the core's own promise (`Load::limit`); an unbounded queue turns a long cut into an
//! exhausted memory.

use overlay_core::membership::Load;

use super::Violation;
use crate::World;

/// Looks at every node.
///
/// # Errors
/// When one holds more than the limit of its mesh.
pub fn check(world: &World) -> Result<(), Violation> {
    let limit = Load::limit(world.len());
    for node in 0..world.len() {
        let load = world.core(node).load();
        let within = load.outputs <= limit.outputs
            && load.piggybacked <= limit.piggybacked
            && load.probes <= limit.probes
            && load.relays <= limit.relays
            && load.facts <= limit.facts
            && load.health <= limit.health;
        if !within {
            return Err(Violation {
                invariant: "bounded_queues",
                at: world.now(),
                detail: format!("{node} holds {load:?}, the limit is {limit:?}"),
            });
        }
    }
    Ok(())
}
