//! After a blow to the leader the next write is acknowledged within the scenario's bound.
//!
//! Decides nothing about why: election, first entry and the client's own search are all in it.
//! Source: the scenario's `failover_ms`.

use std::time::Duration;

use crate::{distribution::Distribution, random::as_micros};

/// Looks at all failovers of a run, finished or not.
///
/// # Errors
/// When one took longer than `bound`, or a last one never ended.
pub fn check(times: &Distribution, unfinished: u64, bound: Option<Duration>) -> Result<(), String> {
    let Some(bound_ms) = bound.map(|bound| as_micros(bound) / 1000) else {
        return Ok(());
    };
    if unfinished > 0 {
        return Err("after the last blow to a leader no write was acknowledged".to_owned());
    }
    match times.percentile(100) {
        Some(longest_ms) if longest_ms > bound_ms => Err(format!(
            "{longest_ms} ms passed from a blow to the leader to the next write, and {bound_ms} may"
        )),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_and_an_endless_failover_are_found_if_there_is_a_bound() {
        let mut times = Distribution::default();
        times.add(Duration::from_millis(300));
        let bound = Some(Duration::from_millis(300));
        assert_eq!(check(&times, 0, bound), Ok(()));
        assert!(check(&times, 1, bound).is_err());
        assert_eq!(check(&times, 1, None), Ok(()));
        times.add(Duration::from_millis(301));
        assert!(check(&times, 0, bound).is_err());
    }
}
