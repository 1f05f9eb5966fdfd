//! How far back the log reaches.
//!
//! Decides what may be purged, and that a log of few but large entries gets its snapshot too.
//! Snapshots by number of entries are Raft's own policy. Never removes what no snapshot covers.
//!
//! The log reaches back to the snapshot before the last one, so that a server which is briefly
//! absent, or just receives the last snapshot, finds what follows. While a server that answers
//! lags further behind than that, nothing is purged until [`SNAPSHOTS_HELD_MAX`]: otherwise a
//! snapshot that takes longer to travel than the next ones to be made would be followed by
//! another one, for ever.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use consensus_core::LogIndex;
use tokio::sync::{Notify, watch};

use crate::{
    clock::timeout,
    machine::Machine,
    running::Group,
    status::{RaftStatus, Role, since},
    wire::v1::RequestV1,
};

/// Bytes of entries between two snapshots: what a restart reads and applies in a moment.
const SNAPSHOT_EVERY_BYTES: u64 = 8 * 1024 * 1024;
/// Snapshots that the log reaches back to when nobody lags.
const SNAPSHOTS_HELD: usize = 2;
/// The same while somebody lags: 256 MiB at most, a minute of a fast disk's writes.
const SNAPSHOTS_HELD_MAX: usize = 32;
/// A server counts as lagging, and not as gone, if it answered within so many longest election
/// timeouts.
const HEARD_ELECTIONS: u32 = 10;
/// How often a purge that was put off is looked at again.
const PUT_OFF: Duration = Duration::from_secs(1);

/// Counts what was written since the last snapshot.
#[derive(Default)]
pub(crate) struct Written {
    bytes: AtomicU64,
    enough: Notify,
}

impl Written {
    /// Counts a message from the leader.
    pub(crate) fn count(&self, request: &RequestV1, bytes: usize) {
        match request {
            RequestV1::Append { entries, .. } if !entries.is_empty() => self.add(bytes),
            RequestV1::Append { .. }
            | RequestV1::Vote { .. }
            | RequestV1::PreVote { .. }
            | RequestV1::Transfer { .. }
            | RequestV1::Offer { .. }
            | RequestV1::Piece { .. } => {}
        }
    }

    /// Counts bytes. What is sent twice is counted twice: the snapshot only comes sooner.
    pub(crate) fn add(&self, bytes: usize) {
        let bytes = u64::try_from(bytes).expect("a length fits into 64 bits");
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if before < SNAPSHOT_EVERY_BYTES && before + bytes >= SNAPSHOT_EVERY_BYTES {
            self.enough.notify_one();
        }
    }
}

/// The newest snapshots' positions, oldest first.
#[derive(Default)]
struct Compaction {
    snapshots: VecDeque<LogIndex>,
}

impl Compaction {
    /// Takes note of the newest snapshot.
    fn note(&mut self, snapshot: LogIndex) {
        if self.snapshots.back().is_none_or(|last| *last < snapshot) {
            self.snapshots.push_back(snapshot);
        }
    }

    /// Up to where the log may go, given how far the furthest behind of those that answer is.
    fn purge(&mut self, slowest: Option<LogIndex>) -> Option<LogIndex> {
        let recent = self.snapshots.len().checked_sub(SNAPSHOTS_HELD)?;
        let lags = slowest.is_some_and(|slowest| slowest < self.snapshots[recent]);
        let held = if lags {
            SNAPSHOTS_HELD_MAX
        } else {
            SNAPSHOTS_HELD
        };
        while self.snapshots.len() > held {
            self.snapshots.pop_front();
        }
        // A leader with a laggard keeps what it kept so far.
        (self.snapshots.len() == held).then(|| self.snapshots[0])
    }

    fn is_behind(&self) -> bool {
        self.snapshots.len() > SNAPSHOTS_HELD
    }
}

/// How far the furthest behind of those that answer is; nothing if this server does not lead.
fn slowest(status: &RaftStatus, span: Duration) -> Option<LogIndex> {
    if status.role != Role::Leader {
        return None;
    }
    let answering = status.heard.iter().filter(|(_, at)| since(at) <= span);
    // Who has answered and matches nothing yet is at the very beginning.
    let matched = |id| status.matched.get(id).copied().unwrap_or_default();
    answering
        .filter(|(id, _)| Some(**id) != status.leader_id)
        .map(|(id, _)| matched(id))
        .min()
}

/// Keeps the log short until Raft ends.
pub(crate) async fn run<M: Machine>(
    raft: Group<M>,
    mut status: watch::Receiver<RaftStatus>,
    written: Arc<Written>,
    election_max: Duration,
) {
    let span = election_max * HEARD_ELECTIONS;
    let mut compaction = Compaction::default();
    let mut last = None;
    loop {
        let due = if compaction.is_behind() {
            PUT_OFF
        } else {
            Duration::MAX
        };
        let new = |now: &RaftStatus| now.snapshot != last || now.role == Role::Stopped;
        let alive = async { status.wait_for(new).await.is_ok() };
        // Both arms only wait; what they wait for is looked at again below.
        let enough = tokio::select! {
            alive = timeout(due, alive) => {
                if alive == Ok(false) {
                    return;
                }
                false
            }
            () = written.enough.notified() => true,
        };
        if enough && raft.trigger().snapshot().await.is_err() {
            return;
        }
        let now = status.borrow().clone();
        if now.role == Role::Stopped {
            return;
        }
        if now.snapshot != last {
            last = now.snapshot;
            written.bytes.store(0, Ordering::Relaxed);
        }
        if let Some(snapshot) = now.snapshot {
            compaction.note(snapshot);
        }
        if let Some(upto) = compaction.purge(slowest(&now, span))
            && now.purged.is_none_or(|purged| purged < upto)
            && raft.trigger().purge_log(upto.0).await.is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(snapshots: u64, slowest: Option<u64>) -> (Option<LogIndex>, Compaction) {
        let mut compaction = Compaction::default();
        let mut purged = None;
        for snapshot in 1..=snapshots {
            compaction.note(LogIndex(snapshot * 10));
            purged = compaction.purge(slowest.map(LogIndex)).or(purged);
        }
        (purged, compaction)
    }

    #[test]
    fn the_log_reaches_back_to_the_snapshot_before_the_last() {
        assert_eq!(after(1, None).0, None);
        assert_eq!(after(2, None).0, Some(LogIndex(10)));
        assert_eq!(after(9, None).0, Some(LogIndex(80)));
        assert_eq!(after(9, Some(85)).0, Some(LogIndex(80)));
    }

    #[test]
    fn a_laggard_holds_the_log_but_not_for_ever() {
        let (purged, compaction) = after(9, Some(0));
        assert_eq!(purged, None);
        assert!(compaction.is_behind());
        assert_eq!(after(100, Some(0)).0, Some(LogIndex(690)));
    }

    #[test]
    fn what_was_held_goes_when_the_laggard_is_there() {
        let (_, mut compaction) = after(9, Some(0));
        assert_eq!(compaction.purge(Some(LogIndex(80))), Some(LogIndex(80)));
        assert!(!compaction.is_behind());
    }

    #[test]
    fn large_entries_ask_for_a_snapshot_once() {
        let written = Written::default();
        let rounds = SNAPSHOT_EVERY_BYTES / 1024;
        for _ in 0..rounds * 2 {
            written.add(1024);
        }
        let asked = || futures::FutureExt::now_or_never(written.enough.notified()).is_some();
        assert!(asked());
        assert!(!asked());
    }
}
