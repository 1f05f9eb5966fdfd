//! Once the last fault is over the group becomes whole within the scenario's time to settle.
//!
//! Decides when it is: somebody leads and a majority confirms it, and every server has applied all
//! that was agreed by then and knows the same voters. Source: Ongaro and Ousterhout 2014, section
//! 5.6: as long as messages come faster than elections time out, a leader is elected and works.

use std::time::Duration;

use crate::random::as_micros;

/// The group took `took` to become whole, or never did.
///
/// # Errors
/// When that was longer than `settle`.
pub fn check(took: Option<Duration>, settle: Duration) -> Result<(), String> {
    match took {
        Some(took) if took <= settle => Ok(()),
        Some(_) | None => Err(format!(
            "nobody leads all, or not all follow, {} ms after the last fault",
            as_micros(settle) / 1000
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_does_not_come_together_in_time_is_found() {
        let settle = Duration::from_secs(2);
        assert_eq!(check(Some(settle), settle), Ok(()));
        assert!(check(Some(settle * 2), settle).is_err());
        assert!(check(None, settle).is_err());
    }
}
