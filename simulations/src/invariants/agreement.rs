//! Once nothing changes any more, all running nodes believe the same, and it is true.
//!
//! Source: SWIM (Das et al. 2002) section 3: every crash is eventually detected by all; epidemic
//! repair (Demers et al. 1987): differences die out. Holds only for a world whose links are open.

use overlay_core::membership::Condition;

use super::Violation;
use crate::World;

/// Looks at all running nodes.
///
/// # Errors
/// When one of them believes something untrue, or holds another record than the subject's own.
pub fn check(world: &World) -> Result<(), Violation> {
    let running: Vec<_> = (0..world.len())
        .filter(|node| world.is_running(*node))
        .collect();
    let violation = |detail| Violation {
        invariant: "agreement",
        at: world.now(),
        detail,
    };
    for observer in &running {
        for subject in 0..world.len() {
            let truth = if world.is_running(subject) {
                Condition::Alive
            } else {
                Condition::Dead
            };
            let belief = world.belief(*observer, subject);
            if belief != truth {
                return Err(violation(format!(
                    "{observer} holds {subject} {belief:?}, it is {truth:?}"
                )));
            }
            let own = world.core(subject).record();
            let held = world
                .core(*observer)
                .member(&own.node)
                .map(|member| &member.record);
            if world.is_running(subject) && held != Some(own) {
                return Err(violation(format!(
                    "{observer} holds {held:?}, {subject} itself says {own:?}"
                )));
            }
        }
    }
    Ok(())
}
