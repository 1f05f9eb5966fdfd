//! Every fault hit something.
//!
//! Decides by counting what a fault did: processes ended, messages lost, tasks that had to wait. A
//! run in which one hit nothing shows nothing by surviving it. Source: the laboratory's own.

use crate::agreement::fault::Fault;

/// Looks at all faults and their hits, in the scenario's order.
///
/// # Errors
/// When one hit nothing.
pub fn check(faults: &[Fault], hits: &[u64]) -> Result<(), String> {
    let missed = faults.iter().zip(hits).find(|(_, hits)| **hits == 0);
    missed.map_or(Ok(()), |(fault, _)| {
        Err(format!("{fault} hit nothing: no {}", fault.what.evidence()))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::agreement::fault::{Target, What};

    #[test]
    fn a_fault_that_hit_nothing_is_named() {
        let what = What::Stall {
            targets: Target::Leader,
        };
        let fault = Fault::once(Duration::from_secs(2), Some(Duration::from_secs(1)), what);
        let faults = [fault];
        assert_eq!(check(&faults, &[3]), Ok(()));
        let told = check(&faults, &[0]).expect_err("it is broken");
        assert!(told.contains("the fault stall at 2 s"), "{told}");
    }
}
