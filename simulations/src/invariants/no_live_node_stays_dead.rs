//! A node that runs and can be talked to does not stay dead.
//!
//! Source: SWIM (Das et al. 2002) section 4.2: an accused process that hears of it refutes with a
//! later incarnation. Whoever holds a reachable node dead tells it so (Lifeguard's buddy), hence
//! the belief must end soon after talking becomes possible.

use std::time::Duration;

use overlay_core::membership::Condition;

use super::Violation;
use crate::World;

/// Looks at everybody's doubts.
///
/// # Errors
/// When somebody has been wrong for longer than `stays_max`.
pub fn check(world: &mut World, stays_max: Duration) -> Result<(), Violation> {
    for observer in 0..world.len() {
        if world.nodes[observer].doubts.is_empty() {
            continue;
        }
        let doubts = &world.nodes[observer].doubts;
        let dead = doubts
            .iter()
            .filter(|(_, doubt)| doubt.condition == Condition::Dead);
        let wrong: Vec<_> = dead.map(|(subject, _)| *subject).collect();
        for subject in wrong {
            let wrong = world.can_talk(observer, subject);
            let now_us = world.now_us;
            let Some(doubt) = world.nodes[observer].doubts.get_mut(&subject) else {
                continue;
            };
            doubt.wrong_since_us = wrong.then(|| doubt.wrong_since_us.unwrap_or(now_us));
            let Some(since_us) = doubt.wrong_since_us else {
                continue;
            };
            if world.age(since_us) > stays_max {
                return Err(Violation {
                    invariant: "no_live_node_stays_dead",
                    at: world.now(),
                    detail: format!(
                        "node {observer} holds node {subject} dead although they can talk since {} ms",
                        since_us / 1000
                    ),
                });
            }
        }
    }
    Ok(())
}
