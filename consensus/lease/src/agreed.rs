//! What a node has learned from the replicated state about virtual IPs.
//!
//! Decides nothing. Invariant: holder, epoch and voters come from one and the same revision.

use std::collections::BTreeMap;

use consensus_core::{Epoch, LeaseProfile, LeaseVoters, LogIndex, NodeId, Time, VipId};

/// One virtual IP as the state has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Assignment {
    /// Who may hold it in this epoch; nobody before the first assignment and after a release.
    pub holder: Option<NodeId>,
    /// How often it has been assigned.
    pub epoch: Epoch,
    /// Who renews and who closes this epoch.
    pub voters: LeaseVoters,
    /// The log index of the command that wrote these voters. A new epoch's command writes its
    /// voters anew; so do the beginning and the end of a joint phase.
    pub voters_since: LogIndex,
    /// Its durations, fixed when the VIP is created.
    pub profile: LeaseProfile,
}

/// All virtual IPs of one revision of the state.
pub type Assignments = BTreeMap<VipId, Assignment>;

/// That much later.
pub(crate) const fn later(time: Time, us: u64) -> Time {
    Time::from_micros(time.as_micros().saturating_add(us))
}

/// That much earlier, not before the beginning.
#[cfg(feature = "model")]
pub(crate) const fn earlier(time: Time, us: u64) -> Time {
    Time::from_micros(time.as_micros().saturating_sub(us))
}
