//! Nobody is held dead who runs and can be talked to all the time.
//!
//! Source: Lifeguard (Dadgar et al. 2018) section 5 counts these as false positives; the goal here
//! is none. A node that is cut off, stands still or restarts may be held dead meanwhile: see
//! [`Worth`](crate::Worth).

use overlay_core::membership::Condition;

use super::Violation;
use crate::{World, history::Worth};

/// Looks at everything that was believed.
///
/// # Errors
/// When there were more false deaths than `allowed`, or suspicions of the living where there may be
/// none.
pub fn check(world: &World, allowed: u64, no_suspicion: bool) -> Result<(), Violation> {
    let history = world.history();
    let deaths = history.false_deaths();
    let least = if no_suspicion {
        Condition::Suspect
    } else {
        Condition::Dead
    };
    let suspicions = history.false_suspicions();
    if deaths <= allowed && (!no_suspicion || suspicions == 0) {
        return Ok(());
    }
    let wrong = history.changes().iter().find(|change| {
        change.condition >= least
            && change.worth != Worth::True
            && (no_suspicion || change.worth == Worth::False)
    });
    let first = wrong.map_or_else(String::new, |change| {
        format!(
            ": first node {} of node {}, {:?}",
            change.observer, change.subject, change.condition
        )
    });
    Err(Violation {
        invariant: "no_false_death",
        at: wrong.map_or(world.now(), |change| change.at),
        detail: format!(
            "{deaths} times a node was held dead, {suspicions} times one was doubted that ran{first}"
        ),
    })
}
