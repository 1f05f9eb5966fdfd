//! Whoever sees a mass of members fall silent prunes nobody for it, until they are back.
//!
//! Source: DESIGN, Membership: automatic pruning freezes when more than a quarter of the members
//! turn suspect within 30 s; SPEC 1.5: only a long silence prunes. A cut network must not cost
//! nodes their membership.

use super::Violation;
use crate::World;

/// A doubt this much younger than the window certainly counts, whatever the clocks' drift.
const SLACK_US: u64 = 1_000_000;
/// One in this many is a mass.
const MASS_SHARE: usize = 4;

/// Looks at everybody's doubts.
///
/// # Errors
/// When somebody may prune in a mass failure, or may not although few are doubted.
pub fn check(world: &World) -> Result<(), Violation> {
    let window_us = crate::random::as_micros(world.mesh.settings.freeze_window) - SLACK_US;
    let awake = world
        .nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| node.is_awake());
    for (observer, node) in awake {
        let frozen = node.core.frozen_since().is_some();
        let doubts = node.doubts.len();
        let is_mass = |count: usize| count > 1 && count * MASS_SHARE > world.len();
        if frozen == is_mass(doubts) {
            continue;
        }
        let lately = node.doubts.values();
        let lately = lately
            .filter(|doubt| world.now_us - doubt.since_us < window_us)
            .count();
        if frozen || is_mass(lately) {
            return Err(Violation {
                invariant: "pruning_freezes",
                at: world.now(),
                detail: format!(
                    "node {observer} doubts {doubts} of {} members, {lately} lately, and pruning is {}",
                    world.len(),
                    if frozen { "frozen" } else { "allowed" }
                ),
            });
        }
    }
    Ok(())
}
