//! Bugs that a test of the tests can switch on, in a simulated process.
//!
//! Decides nothing. Only with the feature `planted-bugs`; without a process, no bug is ever on.

use consensus_core::LogIndex;

use crate::{
    agreement::Agreement,
    machine::Machine,
    raft_types::{SnapshotMeta, StoredMembership},
    status::Role,
};

/// A bug that cannot be planted from outside, through a lying disk, machine or network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PlantedBug {
    /// A vote is given before it is on disk, and never gets there.
    VoteNotPersisted,
    /// A snapshot from the leader is installed, the members it names are not.
    SnapshotWithoutMembers,
    /// A snapshot from the leader counts for one entry more than it covers.
    SnapshotCoversOneMore,
    /// Entries are purged from the log, the snapshot that replaces them is never synced.
    PurgeBeforeSnapshot,
    /// A store whose log ends before the last entry known to be agreed is opened all the same.
    ShortLogAccepted,
    /// A read asks no majority whether this server still leads.
    ReadWithoutMajority,
}

/// Whether the process whose task runs has this bug.
pub(crate) fn planted(bug: PlantedBug) -> bool {
    super::Process::current().is_some_and(|process| process.bug == Some(bug))
}

/// What a server with a bug takes a snapshot to cover; `members` are those that it knew before.
pub(crate) fn distorted(meta: &SnapshotMeta, members: &StoredMembership) -> SnapshotMeta {
    let mut meta = meta.clone();
    if planted(PlantedBug::SnapshotWithoutMembers) {
        meta.last_membership = members.clone();
    }
    if planted(PlantedBug::SnapshotCoversOneMore)
        && let Some(last) = &mut meta.last_log_id
    {
        last.index += 1;
    }
    meta
}

impl<M: Machine> Agreement<M> {
    /// On a leader with the bug: what it has applied, asking nobody.
    pub(crate) async fn unconfirmed_index(&self) -> Option<LogIndex> {
        let bug = self
            .on_raft(async { planted(PlantedBug::ReadWithoutMajority) })
            .await?;
        let status = self.status().borrow().clone();
        (bug && status.role == Role::Leader).then(|| status.applied.unwrap_or_default())
    }
}
