//! A node that runs and can be talked to does not stay dead.
//!
//! Source: SWIM (Das et al. 2002) section 4.2: an accused process that hears of it refutes with a
//! later incarnation. Whoever holds a reachable node dead tells it so (Lifeguard's buddy), hence
//! the belief must end soon after talking becomes possible.

use std::{collections::BTreeMap, time::Duration};

use consensus_core::Time;
use overlay_core::membership::Condition;

use super::Violation;
use crate::World;

/// A redial, or a greeting to one of a few dead members, each with room for a lost try.
const STAYS_MAX: Duration = Duration::from_secs(20);

/// Since when which observer wrongly holds which subject dead.
#[derive(Debug, Default)]
pub struct NoLiveNodeStaysDead {
    wrong_since: BTreeMap<(usize, usize), Time>,
}

impl NoLiveNodeStaysDead {
    /// Looks at all pairs.
    ///
    /// # Errors
    /// When a pair has been wrong for too long.
    pub fn check(&mut self, world: &World) -> Result<(), Violation> {
        for observer in 0..world.len() {
            for subject in 0..world.len() {
                let wrong = observer != subject
                    && world.belief(observer, subject) == Condition::Dead
                    && world.can_talk(observer, subject);
                if !wrong {
                    self.wrong_since.remove(&(observer, subject));
                    continue;
                }
                let since = *self
                    .wrong_since
                    .entry((observer, subject))
                    .or_insert(world.now());
                if world.now().since(since) > STAYS_MAX {
                    return Err(Violation {
                        invariant: "no_live_node_stays_dead",
                        at: world.now(),
                        detail: format!("{observer} holds {subject} dead since {since:?}"),
                    });
                }
            }
        }
        Ok(())
    }
}
