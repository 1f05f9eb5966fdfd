//! The bugs that the harness can plant, and where each lies.
//!
//! Decides nothing. Wherever possible a bug is outside of the product: a disk, a machine, a reader
//! or an operator that lies. Those inside need the feature `planted-bugs`.

use std::{fmt, str::FromStr};

use consensus_raft::simulation::PlantedBug;

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Bug {
    /// The disk says that it synced and did not: acknowledged before `fdatasync`.
    SyncLies,
    /// The disk forgets one sync in a while.
    SyncLiesRarely,
    /// The machine carries a request out twice.
    AppliedTwice,
    /// The machine remembers no request, so a repetition is carried out again.
    RequestForgotten,
    /// A server answers a linearizable read from what it has.
    StaleRead,
    /// A follower fetches the read index and does not wait until it has got there.
    ReadDoesNotWait,
    /// A server answers a write when it is in its own log.
    UncommittedAnswer,
    /// A voter whose disk was replaced comes back under its old id.
    OldVoterReturns,
    /// One inside the product.
    Inside(PlantedBug),
}

impl Bug {
    /// All of them.
    pub(crate) const ALL: [Self; 14] = [
        Self::SyncLies,
        Self::SyncLiesRarely,
        Self::AppliedTwice,
        Self::RequestForgotten,
        Self::StaleRead,
        Self::ReadDoesNotWait,
        Self::UncommittedAnswer,
        Self::OldVoterReturns,
        Self::Inside(PlantedBug::VoteNotPersisted),
        Self::Inside(PlantedBug::SnapshotWithoutMembers),
        Self::Inside(PlantedBug::SnapshotCoversOneMore),
        Self::Inside(PlantedBug::PurgeBeforeSnapshot),
        Self::Inside(PlantedBug::ShortLogAccepted),
        Self::Inside(PlantedBug::ReadWithoutMajority),
    ];

    /// The bug inside the product, if this is one.
    pub(crate) fn inside(self) -> Option<PlantedBug> {
        match self {
            Self::Inside(bug) => Some(bug),
            Self::SyncLies
            | Self::SyncLiesRarely
            | Self::AppliedTwice
            | Self::RequestForgotten
            | Self::StaleRead
            | Self::ReadDoesNotWait
            | Self::UncommittedAnswer
            | Self::OldVoterReturns => None,
        }
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.inside() {
            Some(bug) => fmt::Debug::fmt(&bug, f),
            None => fmt::Debug::fmt(self, f),
        }
    }
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|bug| bug.to_string() == name);
        let names: Vec<_> = Self::ALL.iter().map(ToString::to_string).collect();
        named.ok_or_else(|| format!("no such bug: {name}; there are {}", names.join(", ")))
    }
}
