//! Once nothing changes any more, all running nodes believe the same, and it is true.
//!
//! Source: SWIM (Das et al. 2002) section 3: every crash is eventually detected by all; epidemic
//! repair (Demers et al. 1987): differences die out. Asked for after the last fault.

use overlay_core::membership::Condition;

use super::Violation;
use crate::World;

/// Pairs that are looked at one by one; in a larger mesh so many observers are, spread evenly.
const PAIRS_MAX: usize = 200_000;

/// Whether everybody's doubts are right at this moment. Cheap: it looks at doubts alone.
pub fn is_reached(world: &World) -> bool {
    let ended = (0..world.len())
        .filter(|node| !world.is_running(*node))
        .count();
    (0..world.len())
        .filter(|node| world.is_running(*node))
        .all(|observer| {
            let doubts = &world.nodes[observer].doubts;
            doubts.len() == ended
                && doubts.iter().all(|(subject, doubt)| {
                    doubt.condition == Condition::Dead && !world.is_running(*subject)
                })
        })
}

/// Looks at all running nodes, or at enough of them.
///
/// # Errors
/// When one of them believes something untrue, or holds another record than the subject's own.
pub fn check(world: &World) -> Result<(), Violation> {
    let violation = |detail| Violation {
        invariant: "agreement",
        at: world.now(),
        detail,
    };
    let step = (world.len() * world.len()).div_ceil(PAIRS_MAX);
    let running = (0..world.len()).filter(|node| world.is_running(*node));
    for observer in running.step_by(step.max(1)) {
        for subject in 0..world.len() {
            let truth = if world.is_running(subject) {
                Condition::Alive
            } else {
                Condition::Dead
            };
            let belief = world.belief(observer, subject);
            if belief != truth {
                return Err(violation(format!(
                    "node {observer} holds node {subject} {belief:?}, it is {truth:?}"
                )));
            }
            let own = world.core(subject).signed_record();
            let held = world.core(observer).member(&own.node);
            let held = held.map(|member| member.record);
            if world.is_running(subject) && held.as_ref() != Some(own) {
                return Err(violation(format!(
                    "node {observer} holds {held:?}, node {subject} itself says {own:?}"
                )));
            }
        }
    }
    if !is_reached(world) {
        return Err(violation("somebody still doubts the living".into()));
    }
    Ok(())
}
