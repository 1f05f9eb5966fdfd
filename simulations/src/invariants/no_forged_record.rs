//! Nobody holds of a member what that member never said.
//!
//! Source: DESIGN, Membership: each member signs its own record. A record that anybody could write
//! would let one member send all others' connections wherever it likes.

use super::Violation;
use crate::{World, fault::What};

/// Looks at what is held of those who are lied about. Addresses never change in a simulated mesh.
///
/// # Errors
/// When somebody believes a lie.
pub fn check(world: &World) -> Result<(), Violation> {
    let forged = world.struck().iter();
    let forged = forged.filter(|struck| matches!(struck.fault().what, What::Forge { .. }));
    for subject in forged.flat_map(|struck| struck.others()) {
        let own = world.core(*subject).record();
        for observer in (0..world.len()).filter(|node| world.is_running(*node)) {
            let held = world.core(observer).member(&own.node);
            let addresses = held.map(|member| member.record.record.addresses.clone());
            let foreign = addresses.filter(|held| !held.is_empty() && *held != own.addresses);
            if let Some(addresses) = foreign {
                return Err(Violation {
                    invariant: "no_forged_record",
                    at: world.now(),
                    detail: format!(
                        "node {observer} believes node {subject} to be at {addresses:?}"
                    ),
                });
            }
        }
    }
    Ok(())
}
