//! Who is gone for good is known to be gone by all, and in time.
//!
//! Source: SWIM (Das et al. 2002) section 3.1, time-bounded completeness: every observer probes
//! each of its targets once a period; Lifeguard (2018) section 4 bounds the suspicion that follows.

use std::time::Duration;

use super::Violation;
use crate::{World, outcome::Detections};

/// Looks at every end that lasted.
///
/// # Errors
/// When somebody who could have known did not within `bound`.
pub fn check(world: &World, found: &Detections, bound: Duration) -> Result<(), Violation> {
    let bound_ms = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
    let slowest = found.each.percentile(100).filter(|ms| *ms > bound_ms);
    let detail = match (slowest, found.missed) {
        (None, 0) => return Ok(()),
        (Some(ms), 0) => format!("somebody knew of a death only after {ms} ms"),
        (_, missed) => format!("{missed} times somebody never knew of a death"),
    };
    Err(Violation {
        invariant: "timely_detection",
        at: world.now(),
        detail: format!("{detail}, the bound is {bound_ms} ms"),
    })
}
