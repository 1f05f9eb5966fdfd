//! Commands that the lease protocol wants agreed.
//!
//! Decides: one of a kind for a virtual IP at a time; the protocol asks again until the state shows
//! what it asked for.

use std::collections::{BTreeMap, BTreeSet};

use consensus_core::{Command, Epoch, LogIndex, NodeId, VipId};
use tokio::{
    runtime::Handle,
    task::{Id, JoinSet},
};

use super::candidates::heard;
use crate::mesh::proposer::Proposer;

/// What is proposed of one virtual IP.
#[derive(Debug, Clone)]
pub(super) enum Proposal {
    /// This node has let go.
    Release { epoch: Epoch },
    /// Somebody else is next.
    Assign {
        after: Epoch,
        to: Option<NodeId>,
        closed_by: BTreeSet<NodeId>,
        reason: String,
    },
    /// The lease is to rest on another set too.
    Joint {
        epoch: Epoch,
        since: LogIndex,
        new: BTreeSet<NodeId>,
    },
    /// The lease rests on both.
    Stable { epoch: Epoch, since: LogIndex },
}

/// What is being proposed.
pub(super) struct Proposals {
    proposer: Proposer,
    beside: Handle,
    tasks: JoinSet<()>,
    under_way: BTreeMap<Id, (VipId, std::mem::Discriminant<Proposal>)>,
}

impl Proposals {
    pub(super) fn new(proposer: Proposer, beside: Handle) -> Self {
        Self {
            proposer,
            beside,
            tasks: JoinSet::new(),
            under_way: BTreeMap::new(),
        }
    }

    /// Proposes it, unless the same is being proposed.
    pub(super) fn make(&mut self, vip: VipId, proposal: Proposal) {
        let key = (vip, std::mem::discriminant(&proposal));
        if self.under_way.values().any(|other| *other == key) {
            return;
        }
        let (proposer, command) = (self.proposer.clone(), self.command(vip, proposal));
        let name = command.name();
        let task = async move {
            match proposer.agree(command).await {
                Ok((index, _)) => tracing::debug!(name, %vip, index = index.0, "agreed"),
                Err(error) => tracing::info!(name, %vip, code = error.code, %error, "not agreed"),
            }
        };
        let task = self.tasks.spawn_on(task, &self.beside);
        self.under_way.insert(task.id(), key);
    }

    /// Waits until a proposal has come to something, for ever while there is none.
    pub(super) async fn ended(&mut self) -> Id {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => id,
            Some(Err(error)) => error.id(),
            None => std::future::pending().await,
        }
    }

    /// It is under way no more.
    pub(super) fn forget(&mut self, task: Id) {
        self.under_way.remove(&task);
    }

    fn command(&self, vip: VipId, proposal: Proposal) -> Command {
        match proposal {
            Proposal::Release { epoch } => {
                let agreed = self.proposer.views.view().agreed.clone();
                let members = self.proposer.members.borrow().clone();
                let mut heard = heard(&agreed, &members, &self.proposer.me);
                heard.remove(&self.proposer.me);
                let row = agreed.virtual_ips.get(&vip);
                Command::ReleaseVip {
                    vip,
                    epoch,
                    to: row.and_then(|row| agreed.heir(row, &heard)),
                    reason: "its holder let go".into(),
                }
            }
            Proposal::Assign {
                after,
                to,
                closed_by,
                reason,
            } => Command::AssignVip {
                vip,
                after,
                to,
                closed_by,
                reason,
            },
            Proposal::Joint { epoch, since, new } => Command::BeginLeaseVoters {
                vip,
                epoch,
                since,
                new,
            },
            Proposal::Stable { epoch, since } => Command::FinishLeaseVoters { vip, epoch, since },
        }
    }
}
