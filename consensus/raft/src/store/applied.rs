//! The replicated state: applied in memory, published after every batch, stored as snapshots.
//!
//! Decides when readers see a change: before its proposer is answered, so that a proposer
//! always finds its own change published. Never looks into the state.

use std::{io, sync::Arc};

use consensus_core::LogIndex;
use futures::{Stream, StreamExt as _};
use openraft::{
    RaftSnapshotBuilder,
    storage::{EntryResponder, RaftStateMachine},
};
use tokio::sync::watch;

use super::{invalid, log::LogStore, snapshot::StoredSnapshot};
use crate::{
    errors::StoreDamage,
    machine::{Machine, Published},
    raft_types::{Answer, LogId, Payload, Snapshot, SnapshotMeta, StoredMembership, Types},
};

/// The state and how far it got.
pub(crate) struct Applied<M> {
    machine: Arc<M>,
    last: Option<LogId>,
    membership: StoredMembership,
    published: watch::Sender<Published<M>>,
    store: LogStore,
}

impl<M: Machine> Applied<M> {
    /// Begins with the stored snapshot, or with `initial` if there is none.
    pub(crate) fn open(
        initial: M,
        snapshot: Option<StoredSnapshot>,
        store: LogStore,
    ) -> Result<Self, StoreDamage> {
        let (machine, meta) = match snapshot {
            Some(stored) => {
                let machine = M::decode(&stored.state).map_err(StoreDamage::Undecodable)?;
                (machine, stored.meta)
            }
            None => (initial, SnapshotMeta::default()),
        };
        let machine = Arc::new(machine);
        let index = LogIndex(meta.last_log_id.map_or(0, |last| last.index));
        let published = watch::Sender::new(Published {
            index,
            machine: Arc::clone(&machine),
        });
        let (last, membership) = (meta.last_log_id, meta.last_membership);
        Ok(Self {
            machine,
            last,
            membership,
            published,
            store,
        })
    }

    /// Follows the state from now on.
    pub(crate) fn published(&self) -> watch::Receiver<Published<M>> {
        self.published.subscribe()
    }

    fn publish(&self) {
        let index = LogIndex(self.last.map_or(0, |last| last.index));
        let machine = Arc::clone(&self.machine);
        self.published.send_replace(Published { index, machine });
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.last,
            last_membership: self.membership.clone(),
        }
    }
}

impl<M: Machine> RaftStateMachine<Types> for Applied<M> {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Builder<M>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + Send,
    {
        let mut answers = Vec::new();
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            let index = LogIndex(entry.log_id.index);
            let answer = match &entry.payload {
                Payload::Blank => Vec::new(),
                Payload::Normal(bytes) => Arc::make_mut(&mut self.machine).apply(index, &bytes.0),
                Payload::Membership(membership) => {
                    let at = Some(entry.log_id);
                    self.membership = StoredMembership::new(at, membership.clone());
                    Vec::new()
                }
            };
            self.last = Some(entry.log_id);
            answers.extend(responder.map(|responder| (responder, Answer(answer))));
        }
        self.publish();
        for (responder, answer) in answers {
            responder.send(answer);
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder<M> {
        let machine = Arc::clone(&self.machine);
        Builder {
            machine,
            meta: self.meta(),
            store: self.store.clone(),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Vec<u8>,
    ) -> Result<(), io::Error> {
        let machine = M::decode(&snapshot)
            .map_err(StoreDamage::Undecodable)
            .map_err(invalid)?;
        #[cfg(feature = "planted-bugs")]
        let meta = &crate::simulation::distorted(meta, &self.membership);
        self.store.put_snapshot(meta.clone(), snapshot).await?;
        self.machine = Arc::new(machine);
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let stored = self.store.snapshot()?;
        Ok(stored.map(|stored| Snapshot {
            meta: stored.meta,
            snapshot: stored.state,
        }))
    }
}

/// A view of the state at one index, on its way to the disk.
pub(crate) struct Builder<M> {
    machine: Arc<M>,
    meta: SnapshotMeta,
    store: LogStore,
}

impl<M: Machine> RaftSnapshotBuilder<Types> for Builder<M> {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let state = self.machine.encode();
        self.store
            .put_snapshot(self.meta.clone(), state.clone())
            .await?;
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: state,
        })
    }
}
