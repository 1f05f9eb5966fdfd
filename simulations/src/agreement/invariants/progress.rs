//! Once the last fault is over the group becomes whole within the scenario's time to settle; and
//! whoever is made an agent, or a server again, is that in time, whatever strikes meanwhile.
//!
//! Decides when it is whole: somebody leads and a majority confirms it, and every server has applied
//! all that was agreed by then and knows the same voters. Source: Ongaro and Ousterhout 2014, section
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

/// Servers have become agents, or agents servers: leases and Raft rest on whom they are to, or
/// the time for it is over.
///
/// # Errors
/// When it is over.
pub fn of_change(servers: &[usize], is_done: bool, within: Duration) -> Result<(), String> {
    if is_done {
        return Ok(());
    }
    Err(format!(
        "leases or Raft do not rest on whom they are to, {} ms after that was agreed of servers \
         {servers:?}",
        as_micros(within) / 1000
    ))
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

    #[test]
    fn a_change_of_who_votes_that_does_not_end_is_found() {
        let within = Duration::from_secs(30);
        assert_eq!(of_change(&[3], true, within), Ok(()));
        let told = of_change(&[3], false, within).expect_err("it is broken");
        assert!(told.ends_with("30000 ms after that was agreed of servers [3]"));
    }
}
