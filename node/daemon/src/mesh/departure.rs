//! This node's way out of the mesh: once it was removed, everything that shoal put on the host goes.
//!
//! Decides: that a node takes itself off its host only when two things are so: a member told it,
//! while both were members, that it is going to be removed; and the others do not let it in any more
//! because it was. (Every member may have any node removed: so the first is no more than the
//! operator's wish that the host be left clean, and nobody's word alone ends a daemon.) A node that
//! could not be told, because it was silent, keeps what it has and says why it is shut out.
//! Never: takes anything off itself. The node's own tasks do, as for a module that was unassigned and
//! a network that it was detached from: they are shown the last agreed state without this node in it.

use std::{path::Path, sync::Arc, time::Duration};

use consensus_core::{Agreed, K3sPhase, LogIndex, NodeId};
use node_api::ApiError;
use overlay_core::membership::Condition;
use overlay_net::Channel;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    docker::DockerStatus,
    k3s::K3sStatus,
    overlay::OverlayStatus,
    peer_wire::{PeerAnswer, PeerRequest, decode, encode},
    proposer::Proposer,
};
use crate::data_dir::DataDir;

/// Below the data directory: this node was told that it is going to be removed.
const MARK: &str = "departing";
/// Where userspace devices of WireGuard have their sockets, by wireguard-tools' convention.
const DEVICES: &str = "/run/wireguard";
/// A member that is heard answers at once, but for the one file that it syncs first: seconds where
/// the disk has much to do. Past this, a host that lives keeps everything of shoal for good.
const TOLD_WITHIN: Duration = Duration::from_secs(10);
/// One attempt: a connection that nobody reads any more is not waited for all of that time.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(4);
/// The removal of a stolen machine, which may not answer on purpose, is not held up for longer.
const STAY_WITHIN: Duration = Duration::from_secs(1);
/// Between two attempts: a lost connection is there again within a few of these.
const TELL_EVERY: Duration = Duration::from_millis(200);
/// Containers and K3s stop, with all the time that they have for it. What is there then stays.
const GONE_WITHIN: Duration = Duration::from_secs(300);

/// Tells nodes, and is told.
#[derive(Clone)]
pub(crate) struct DepartureDesk {
    data: Arc<DataDir>,
    ordered: watch::Sender<bool>,
}

impl DepartureDesk {
    /// What was told before counts.
    pub(crate) fn new(data: Arc<DataDir>) -> Self {
        let ordered = data.root().join(MARK).exists();
        Self {
            data,
            ordered: watch::Sender::new(ordered),
        }
    }

    /// This node is going to be removed.
    pub(crate) fn order(&self) -> Result<PeerAnswer, ApiError> {
        let told_before = *self.ordered.borrow();
        if told_before {
            return Ok(PeerAnswer::Departing);
        }
        self.data.replace(MARK, b"")?;
        self.ordered.send_replace(true);
        tracing::info!("this node is going to be removed");
        Ok(PeerAnswer::Departing)
    }

    /// It is not, or is to be left as it is when it is.
    pub(crate) fn take_back(&self) -> Result<PeerAnswer, ApiError> {
        self.data.remove(MARK)?;
        let told_before = self.ordered.send_replace(false);
        if told_before {
            tracing::info!("this node is to be left as it is");
        }
        Ok(PeerAnswer::Departing)
    }

    /// Whether this node was told.
    pub(crate) fn ordered(&self) -> watch::Receiver<bool> {
        self.ordered.subscribe()
    }

    /// Tells another node, or this one, as long as gossip hears it. Whether it has heard.
    pub(crate) async fn tell(&self, proposer: &Proposer, node: &NodeId) -> bool {
        if *node == proposer.me {
            return self.order().is_ok();
        }
        let by = Instant::now() + TOLD_WITHIN;
        loop {
            if tell_once(proposer, node, false).await {
                return true;
            }
            if !hears(proposer, node) || Instant::now() >= by {
                return false;
            }
            sleep(TELL_EVERY).await;
        }
    }

    /// Tells a node, once, that it is not: an order that stayed with it would be carried out by another
    /// removal, also by one that is to leave the host as it is. Whether it has heard.
    pub(crate) async fn tell_to_stay(&self, proposer: &Proposer, node: &NodeId) -> bool {
        if *node == proposer.me {
            return self.take_back().is_ok();
        }
        let told = timeout(STAY_WITHIN, tell_once(proposer, node, true));
        told.await.unwrap_or(false)
    }
}

/// Being told twice is being told once.
async fn tell_once(proposer: &Proposer, node: &NodeId, taken_back: bool) -> bool {
    let body = encode(&PeerRequest::Depart { taken_back });
    let call = (proposer.net).call(node, Channel::Command, body, ATTEMPT_WITHIN);
    let answer = call.await.ok().and_then(|bytes| decode(&bytes).ok());
    matches!(answer, Some(PeerAnswer::Departing))
}

/// A node that is suspected may be one that has much to do.
fn hears(proposer: &Proposer, node: &NodeId) -> bool {
    let members = proposer.members.borrow();
    let member = members.get(node);
    member.is_some_and(|member| matches!(member.condition, Condition::Alive | Condition::Suspect))
}

/// The task's inputs.
pub(crate) struct Departure {
    pub(crate) proposer: Proposer,
    /// Whether this node was told that it is going to be removed.
    pub(crate) ordered: watch::Receiver<bool>,
    /// Whether the others say that it was.
    pub(crate) removed: watch::Receiver<bool>,
    pub(crate) overlay: watch::Receiver<OverlayStatus>,
    pub(crate) docker: watch::Receiver<DockerStatus>,
    pub(crate) k3s: watch::Receiver<K3sStatus>,
    /// Whether nothing of shoal is left but its daemon.
    pub(crate) departed: watch::Sender<bool>,
    pub(crate) stop: CancellationToken,
}

impl Departure {
    /// Runs until cancelled, or until nothing is left.
    pub(crate) async fn run(mut self) {
        let stop = self.stop.clone();
        let _ = stop.run_until_cancelled(self.depart()).await;
    }

    async fn depart(&mut self) {
        if !self.wait_for_both().await {
            return;
        }
        tracing::info!("this node was removed; everything of shoal goes");
        let revision = self.show_last();
        if timeout(GONE_WITHIN, self.gone(revision)).await.is_err() {
            tracing::warn!("not everything of shoal could be taken off this host in time");
        }
        self.departed.send_replace(true);
    }

    /// Waits until this node was told and is removed; what it was told may be taken back. False when the
    /// daemon ends.
    async fn wait_for_both(&mut self) -> bool {
        loop {
            if self.ordered.wait_for(|ordered| *ordered).await.is_err() {
                return false;
            }
            // A server is let in as long as the others need its vote.
            tokio::select! {
                removed = self.removed.wait_for(|removed| *removed) => return removed.is_ok(),
                taken_back = self.ordered.wait_for(|ordered| !*ordered) => {
                    if taken_back.is_err() {
                        return false;
                    }
                }
            }
        }
    }

    /// Shows this node's tasks what is agreed without it.
    fn show_last(&self) -> LogIndex {
        let view = self.proposer.views.view();
        let last = without(&view.agreed, &self.proposer.me);
        let revision = LogIndex(view.revision.0 + 1);
        self.proposer.views.offer(revision, Arc::new(last));
        revision
    }

    /// Waits until the tasks have followed.
    async fn gone(&mut self, revision: LogIndex) {
        // One after the other: what a watch gives may not be held over a wait.
        let docker = self.docker.wait_for(|docker| docker.gone).await.is_err();
        let k3s = self.k3s.wait_for(|k3s| k3s.gone).await.is_err();
        let down = |overlay: &OverlayStatus| overlay.up.is_empty() && overlay.enforced >= revision;
        let overlay = self.overlay.wait_for(down).await.is_err();
        if docker || k3s || overlay {
            tracing::debug!("a task ended before it had followed");
        }
    }
}

/// What is agreed after a node was removed, as far as its own host is concerned. Its place in a
/// cluster it leaves as if it were unassigned: a server's departure is told to its cluster before it
/// stops.
fn without(agreed: &Agreed, me: &NodeId) -> Agreed {
    let mut last = agreed.clone();
    last.nodes.remove(me);
    last.peers.retain(|(_, node), _| node != me);
    last.docker_hosts.remove(me);
    last.drains.remove(me);
    if let Some(row) = last.k3s_nodes.get_mut(me) {
        row.phase = K3sPhase::Leaving;
    }
    last
}

/// Takes off what no task owns: rules of the kernel, what is in `/run`, and the data directory, with
/// the node's keys. Whatever cannot be taken off is told in the log.
pub(crate) async fn take_off(data: &Path, run: &Path) {
    if let Err(error) = overlay_filter::Filter::uninstall().await {
        tracing::warn!(%error, "the packet filter stays");
    }
    let gate = || overlay_gate::uninstall(&overlay_gate::GateConfig::default());
    if let Ok(Err(error)) = tokio::task::spawn_blocking(gate).await {
        tracing::warn!(%error, "the gate of virtual IPs stays");
    }
    // Other WireGuard devices have their sockets there too: it goes only if it is empty.
    let _ = std::fs::remove_dir(DEVICES);
    for folder in [run, data] {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(folder = %folder.display(), %error, "it stays, or some of it");
            }
            Err(_) | Ok(()) => {}
        }
    }
    tracing::info!("nothing of shoal is left on this host");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_to_leave_outlives_the_daemon_until_it_is_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let told = |with: &dyn Fn(&DepartureDesk)| {
            let data = DataDir::open(dir.path()).unwrap();
            let desk = DepartureDesk::new(Arc::new(data));
            with(&desk);
            *desk.ordered().borrow()
        };
        assert!(!told(&|_| {}));
        assert!(told(&|desk| drop(desk.order().unwrap())));
        assert!(told(&|_| {}));
        for _ in 0..2 {
            assert!(!told(&|desk| drop(desk.take_back().unwrap())));
        }
        assert!(!told(&|_| {}));
    }
}
