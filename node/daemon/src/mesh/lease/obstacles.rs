//! What keeps this node from holding virtual IPs.
//!
//! Decides: which of several reasons is told. Never: what follows from one.

use std::collections::BTreeMap;

use consensus_core::{LeaseProfile, VipId};

/// The reasons, in words for operators. None of them passes in a moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Obstacles {
    /// What it closed and held before cannot be known: it must not vote either.
    pub(crate) records: Option<String>,
    /// The kernel's gate cannot be had, is gone, or lets everything through.
    pub(crate) gate: Option<String>,
    /// There is a gate, and the leases of these profiles are too short for it.
    pub(crate) profiles: BTreeMap<LeaseProfile, String>,
    /// The gate does not open for these, though their leases run.
    pub(crate) vips: BTreeMap<VipId, String>,
}

impl Obstacles {
    /// Why this node cannot hold that one, which is of that profile, if so.
    pub(crate) fn to(&self, vip: VipId, profile: LeaseProfile) -> Option<&str> {
        let host = self.records.as_ref().or(self.gate.as_ref());
        let leases = || self.profiles.get(&profile);
        let own = || self.vips.get(&vip);
        host.or_else(leases).or_else(own).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_way_of_all_is_told_before_what_stands_in_the_way_of_one() {
        let (one, other) = (VipId::from_bytes([1; 16]), VipId::from_bytes([2; 16]));
        let safe = LeaseProfile::Safe;
        let mut obstacles = Obstacles::default();
        assert_eq!(obstacles.to(one, safe), None);
        obstacles.vips.insert(one, "refused".into());
        assert_eq!(
            (obstacles.to(one, safe), obstacles.to(other, safe)),
            (Some("refused"), None)
        );
        obstacles.gate = Some("ended".into());
        assert_eq!(
            (obstacles.to(one, safe), obstacles.to(other, safe)),
            (Some("ended"), Some("ended"))
        );
        obstacles.records = Some("unreadable".into());
        assert_eq!(obstacles.to(other, safe), Some("unreadable"));
    }

    #[test]
    fn a_gate_that_wants_long_leases_stands_in_the_way_of_short_ones_only() {
        let (one, other) = (VipId::from_bytes([1; 16]), VipId::from_bytes([2; 16]));
        let mut obstacles = Obstacles::default();
        obstacles.vips.insert(one, "refused".into());
        obstacles
            .profiles
            .insert(LeaseProfile::Lan, "too short".into());
        for vip in [one, other] {
            assert_eq!(obstacles.to(vip, LeaseProfile::Lan), Some("too short"));
        }
        assert_eq!(obstacles.to(one, LeaseProfile::Slow), Some("refused"));
        assert_eq!(obstacles.to(other, LeaseProfile::Slow), None);
    }
}
