//! Every virtual IP is held again: in time after each failover, and for good when the faults are over.
//!
//! Decides nothing about why: lease, election, commit and the next holder's gate are all in it. Source:
//! the scenario's `outage_ms` and `settle_s`.

use std::time::Duration;

use crate::{distribution::Distribution, random::as_micros};

/// Looks at all failovers of a run.
///
/// # Errors
/// When in one of them nobody's gate was open for longer than `bound`.
pub fn check(outages: &Distribution, bound: Option<Duration>) -> Result<(), String> {
    let bound_ms = bound.map(|bound| as_micros(bound) / 1000);
    match (outages.percentile(100), bound_ms) {
        (Some(longest_ms), Some(bound_ms)) if longest_ms > bound_ms => Err(format!(
            "nobody's gate was open for {longest_ms} ms, and {bound_ms} may pass"
        )),
        (Some(_) | None, _) => Ok(()),
    }
}

/// Whether all are held once the group is whole again.
///
/// # Errors
/// When one is not.
pub fn at_the_end(are_held: bool, settle: Duration) -> Result<(), String> {
    if are_held {
        return Ok(());
    }
    Err(format!(
        "a virtual IP's gate is open nowhere {} ms after the last fault",
        as_micros(settle) / 1000
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_outage_is_found_if_there_is_a_bound_and_an_endless_one_always() {
        let mut outages = Distribution::default();
        outages.add(Duration::from_millis(500));
        let bound = Duration::from_millis(500);
        assert_eq!(check(&outages, Some(bound)), Ok(()));
        outages.add(Duration::from_millis(501));
        assert!(check(&outages, Some(bound)).is_err());
        assert_eq!(check(&outages, None), Ok(()));
        assert_eq!(at_the_end(true, bound), Ok(()));
        assert!(at_the_end(false, bound).is_err());
    }
}
