//! Every fault did what it was meant to do.
//!
//! Source: the laboratory's own rule. A cut of links over which nobody talks is survived by any
//! protocol; a run in which that happened has shown nothing, and must not look as if it had.

use super::Violation;
use crate::World;

/// Looks at all faults, once they are over.
///
/// # Errors
/// When one hit nothing.
pub fn check(world: &World) -> Result<(), Violation> {
    match world.struck().iter().find(|struck| struck.hits() == 0) {
        None => Ok(()),
        Some(struck) => Err(Violation {
            invariant: "faults_hit",
            at: world.now(),
            detail: format!(
                "{} hit nothing: no {}",
                struck.fault(),
                struck.fault().what.evidence()
            ),
        }),
    }
}
