//! A process that stood still holds nobody dead for what it missed meanwhile.
//!
//! Source: Lifeguard (Dadgar et al. 2018), from whose motivation this follows: a member that does not get to handle its
//! messages takes its own slowness for the death of others. Timers that are long overdue when it
//! goes on say nothing of those who were awake; they are to have the shortest suspicion to be heard.

use super::Violation;
use crate::World;

/// Looks at everything that was believed.
///
/// # Errors
/// When nodes that had just gone on held more than `allowed` others dead that they could talk to.
pub fn check(world: &World, allowed: u64) -> Result<(), Violation> {
    let hasty = world.history().hasty_deaths();
    let Some(first) = hasty.first().filter(|_| hasty.len() as u64 > allowed) else {
        return Ok(());
    };
    Err(Violation {
        invariant: "standstill_judges_nobody",
        at: first.at,
        detail: format!(
            "{} times a node that had just gone on held one dead that it could talk to, the bound \
             is {allowed}: first node {} of node {}",
            hasty.len(),
            first.observer,
            first.subject
        ),
    })
}
