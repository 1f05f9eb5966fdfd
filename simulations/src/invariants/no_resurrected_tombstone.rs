//! Who is held dead comes alive again only by a word of its own that is later than its death.
//!
//! Source: SWIM (Das et al. 2002) section 4.2: `Alive` overrides a death only with a higher
//! incarnation, and only the subject itself raises that. A tombstone that is forgotten too early
//! lets an old `Alive`, still under way somewhere, bring the dead back.

use super::Violation;
use crate::World;

/// Looks at what was noted down since the world began.
///
/// # Errors
/// When somebody came alive again without a later incarnation.
pub fn check(world: &World) -> Result<(), Violation> {
    match world.history().resurrections().first() {
        None => Ok(()),
        Some(seen) => Err(Violation {
            invariant: "no_resurrected_tombstone",
            at: seen.at,
            detail: format!(
                "for node {} node {} is alive again at {:?}, at which it was dead",
                seen.observer, seen.subject, seen.incarnation
            ),
        }),
    }
}
