//! What only a cluster's own servers can tell: its kubeconfig, a snapshot of its etcd.
//!
//! Decides: who is asked: this node if it is a ready server of the cluster, else those others that
//! are and are heard, in turn; whoever is about to leave comes last, or not at all. Answers a member
//! on its daemon's word; roles are checked where an operator asked. Never: keeps what it tells.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use consensus_core::{Agreed, Cluster, ClusterId, K3sRole, NodeId};
use node_api::{ApiError, types::ClusterSnapshot};
use overlay_core::membership::Condition;
use overlay_net::Channel;
use runtimes_k3s::{Paths, kubeconfig::for_elsewhere, snapshots};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::{
    overlay::with_sources,
    peer_wire::{PeerAnswer, PeerRequest, decode, encode, misunderstood},
    proposer::Proposer,
};

/// A kubeconfig is a file. A server that takes longer for it is not one to wait for.
const FILE_WITHIN: Duration = Duration::from_secs(5);
/// A snapshot takes as long as its server's disk; whoever asked for it waits two minutes at most.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(100);
/// One that something else waits for: a node that is to be emptied or removed. On a healthy disk it
/// takes seconds.
const SNAPSHOT_BEFORE_WITHIN: Duration = Duration::from_secs(30);

/// What a snapshot is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Occasion {
    /// Somebody asked for one.
    Asked,
    /// A server is about to be emptied.
    BeforeDrain,
    /// A server is about to leave, with its disk.
    BeforeRemoval,
}

/// A question about a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ClusterQuestion {
    /// Its administrator's kubeconfig.
    Kubeconfig {
        /// Which.
        cluster: ClusterId,
    },
    /// Take a snapshot of its state.
    Snapshot {
        /// Which.
        cluster: ClusterId,
        /// What for.
        occasion: Occasion,
    },
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ClusterAnswer {
    /// A secret.
    Kubeconfig(String),
    /// Where it is.
    Snapshot(ClusterSnapshot),
}

/// Asks and answers.
#[derive(Clone)]
pub(crate) struct ClusterDesk {
    pub(crate) proposer: Proposer,
    pub(crate) paths: Paths,
}

impl Occasion {
    /// How the snapshot's name begins. None is the beginning of another, so that the last few of each
    /// stay.
    const fn name(self) -> &'static str {
        match self {
            Self::Asked => "shoal-on-demand",
            Self::BeforeDrain => "shoal-before-drain",
            Self::BeforeRemoval => "shoal-before-removal",
        }
    }

    const fn within(self) -> Duration {
        match self {
            Self::Asked => SNAPSHOT_WITHIN,
            Self::BeforeDrain | Self::BeforeRemoval => SNAPSHOT_BEFORE_WITHIN,
        }
    }
}

impl ClusterQuestion {
    const fn cluster(self) -> ClusterId {
        match self {
            Self::Kubeconfig { cluster } | Self::Snapshot { cluster, .. } => cluster,
        }
    }

    const fn within(self) -> Duration {
        match self {
            Self::Kubeconfig { .. } => FILE_WITHIN,
            Self::Snapshot { occasion, .. } => occasion.within(),
        }
    }

    /// Whether a server that is about to leave may answer all the same.
    const fn may_ask_leaving(self) -> bool {
        !matches!(
            self,
            Self::Snapshot {
                occasion: Occasion::BeforeRemoval,
                ..
            }
        )
    }
}

impl ClusterDesk {
    /// The administrator's kubeconfig of a cluster.
    pub(crate) async fn kubeconfig(&self, cluster: ClusterId) -> Result<String, ApiError> {
        let question = ClusterQuestion::Kubeconfig { cluster };
        match self.ask(question, &BTreeSet::new()).await? {
            ClusterAnswer::Kubeconfig(text) => Ok(text),
            ClusterAnswer::Snapshot(_) => Err(misunderstood()),
        }
    }

    /// Has a server of a cluster take a snapshot; one of those that leave only if no other can.
    pub(crate) async fn snapshot(
        &self,
        cluster: ClusterId,
        occasion: Occasion,
        leaving: &BTreeSet<NodeId>,
    ) -> Result<ClusterSnapshot, ApiError> {
        let question = ClusterQuestion::Snapshot { cluster, occasion };
        match self.ask(question, leaving).await? {
            ClusterAnswer::Snapshot(snapshot) => Ok(snapshot),
            ClusterAnswer::Kubeconfig(_) => Err(misunderstood()),
        }
    }

    async fn ask(
        &self,
        question: ClusterQuestion,
        leaving: &BTreeSet<NodeId>,
    ) -> Result<ClusterAnswer, ApiError> {
        let agreed = self.proposer.views.view().agreed.clone();
        let by = Instant::now() + question.within();
        let mut last = unreachable(&agreed, question.cluster());
        for server in self.servers(&agreed, question, leaving) {
            let left = by.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let answer = if server == self.proposer.me {
                let answered = timeout_at(by, self.answer(question)).await;
                answered.unwrap_or_else(|_| Err(too_slow(&agreed, &server)))
            } else {
                self.ask_other(&agreed, &server, question, left).await
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// A cluster's ready servers that are heard, this node first and whoever leaves last.
    fn servers(
        &self,
        agreed: &Agreed,
        question: ClusterQuestion,
        leaving: &BTreeSet<NodeId>,
    ) -> VecDeque<NodeId> {
        let me = &self.proposer.me;
        let members = self.proposer.members.borrow().clone();
        let alive = |id: &NodeId| {
            let member = members.get(id);
            id == me || member.is_some_and(|member| member.condition == Condition::Alive)
        };
        let servers = agreed.k3s_servers_of(question.cluster());
        let mut servers: Vec<NodeId> = servers
            .filter(|(id, row)| row.is_ready() && alive(id))
            .filter(|(id, _)| question.may_ask_leaving() || !leaving.contains(*id))
            .map(|(id, _)| id.clone())
            .collect();
        servers.sort_by_key(|id| (leaving.contains(id), id != me));
        servers.into()
    }

    async fn ask_other(
        &self,
        agreed: &Agreed,
        server: &NodeId,
        question: ClusterQuestion,
        within: Duration,
    ) -> Result<ClusterAnswer, ApiError> {
        let body = encode(&PeerRequest::Cluster(question));
        let net = &self.proposer.net;
        let answer = net.call(server, Channel::Command, body, within).await;
        let answer = answer.map_err(|error| {
            ApiError::new(
                "NodeUnreachableError",
                format!(
                    "{} did not answer: {}",
                    agreed.name_of(server),
                    with_sources(&error)
                ),
                "`shoal node ls` shows who is heard",
            )
        })?;
        let answer = decode::<PeerAnswer>(&answer)?.into_result()?;
        let PeerAnswer::Cluster(answer) = answer else {
            return Err(misunderstood());
        };
        Ok(answer)
    }

    /// Answers another node, or this one.
    pub(crate) async fn answer(
        &self,
        question: ClusterQuestion,
    ) -> Result<ClusterAnswer, ApiError> {
        let agreed = self.proposer.views.view().agreed.clone();
        let (me, id) = (&self.proposer.me, question.cluster());
        let row = agreed.k3s_nodes.get(me);
        let serves = row
            .is_some_and(|row| (row.cluster, row.role) == (id, K3sRole::Server) && row.is_ready());
        let Some(cluster) = agreed.clusters.get(&id).filter(|_| serves) else {
            return Err(unreachable(&agreed, id));
        };
        match question {
            ClusterQuestion::Kubeconfig { .. } => self.read_kubeconfig(&agreed, cluster).await,
            ClusterQuestion::Snapshot { occasion, .. } => {
                let taken = snapshots::take(&self.paths, occasion.name()).await;
                let taken = taken.map_err(|error| {
                    let hint = format!("look at K3s's log on {}", agreed.name_of(me));
                    ApiError::new(error.code(), with_sources(&error), hint)
                })?;
                tracing::info!(name = taken.name, ?occasion, "k3s: a snapshot was taken");
                Ok(ClusterAnswer::Snapshot(ClusterSnapshot {
                    node: agreed.name_of(me),
                    name: taken.name,
                    path: taken.path.display().to_string(),
                }))
            }
        }
    }

    async fn read_kubeconfig(
        &self,
        agreed: &Agreed,
        cluster: &Cluster,
    ) -> Result<ClusterAnswer, ApiError> {
        let path = self.paths.kubeconfig();
        let me = agreed.name_of(&self.proposer.me);
        let failed = |reason: String| {
            let hint = format!("look at {} on {me}", path.display());
            ApiError::new("K3sKubeconfigError", reason, hint)
        };
        let written = tokio::fs::read_to_string(&path).await;
        let written = written.map_err(|e| failed(format!("{}: {e}", path.display())))?;
        let endpoint = agreed.api_endpoint(cluster).unwrap_or_default();
        let text = for_elsewhere(&written, &endpoint, &cluster.name);
        text.map(ClusterAnswer::Kubeconfig)
            .map_err(|error| failed(error.to_string()))
    }
}

/// Nobody who could tell is there.
fn unreachable(agreed: &Agreed, id: ClusterId) -> ApiError {
    let cluster = agreed.clusters.get(&id);
    let named = cluster.map_or_else(|| id.to_string(), |cluster| cluster.name.clone());
    let servers = agreed.k3s_servers_of(id);
    let servers: Vec<String> = servers.map(|(id, _)| agreed.name_of(id)).collect();
    let whose = match servers.is_empty() {
        true => String::new(),
        false => format!(" ({})", servers.join(", ")),
    };
    ApiError::new(
        "ClusterUnreachableError",
        format!("none of the servers of cluster {named} is ready and heard{whose}"),
        format!("`shoal cluster show {named}` shows how they are"),
    )
}

fn too_slow(agreed: &Agreed, server: &NodeId) -> ApiError {
    ApiError::new(
        "K3sSnapshotError",
        format!("{} did not end in time", agreed.name_of(server)),
        "its disk is slow, or its etcd has no majority: `shoal cluster show` shows its servers",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_occasions_name_begins_like_another() {
        let all = [
            Occasion::Asked,
            Occasion::BeforeDrain,
            Occasion::BeforeRemoval,
        ];
        for one in all {
            for other in all.into_iter().filter(|other| *other != one) {
                assert!(!other.name().starts_with(one.name()));
            }
        }
    }

    #[test]
    fn what_something_else_waits_for_does_not_hold_it_up_for_minutes() {
        let cluster = ClusterId::from_bytes([1; 16]);
        let within = |occasion| ClusterQuestion::Snapshot { cluster, occasion }.within();
        assert!(within(Occasion::BeforeDrain) < within(Occasion::Asked));
        assert!(ClusterQuestion::Kubeconfig { cluster }.within() < within(Occasion::BeforeDrain));
    }

    #[test]
    fn a_disk_that_goes_away_keeps_no_snapshot() {
        let cluster = ClusterId::from_bytes([1; 16]);
        let question = |occasion| ClusterQuestion::Snapshot { cluster, occasion };
        assert!(!question(Occasion::BeforeRemoval).may_ask_leaving());
        assert!(question(Occasion::BeforeDrain).may_ask_leaving());
    }
}
