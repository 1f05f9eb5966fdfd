//! What befalls one node makes it doubt few of the others.
//!
//! Source: Lifeguard (Dadgar et al. 2018) sections IV-A and V: most false positives are raised by
//! members that fare badly themselves, about members that fare well; a node that notices so, by its
//! local health, accuses less often. Lifeguard counts them in a run, as is done here, and not only
//! the deaths that follow.

use std::collections::BTreeSet;

use overlay_core::membership::Condition;

use super::Violation;
use crate::{World, history::Worth};

/// Looks at everything that was believed.
///
/// # Errors
/// When a node came to suspect, on average, more than `allowed` times one that ran and at which no
/// fault was aimed.
pub fn check(world: &World, allowed: u64) -> Result<(), Violation> {
    let struck = world.struck().iter();
    let struck: BTreeSet<usize> = struck.flat_map(|one| one.targets()).copied().collect();
    let wrong = world.history().changes().iter().filter(|change| {
        change.condition == Condition::Suspect
            && change.worth != Worth::True
            && !struck.contains(&change.subject)
    });
    let observers = world.len().saturating_sub(1).max(1) as u64;
    let each = wrong.count() as u64 / observers;
    if each <= allowed {
        return Ok(());
    }
    Err(Violation {
        invariant: "bystanders_are_trusted",
        at: world.now(),
        detail: format!(
            "on average a node suspected {each} times one at which no fault was aimed, the bound is \
             {allowed}"
        ),
    })
}
