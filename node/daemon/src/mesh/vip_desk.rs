//! What nodes tell each other about virtual IPs: who holds one, how long nobody answered at it.
//!
//! Decides: whose word ends this daemon in a drill (a server's, and only while this node holds what
//! the drill is about), whose word makes it probe (a server's), when a move is over: the new holder
//! says that its address is open; and how long a daemon that stops waits for others to have taken
//! over what it holds. Never: who is to hold what.

use std::{collections::BTreeSet, time::Duration};

use consensus_core::{Agreed, Epoch, NodeId, Refusal, Role, Time, VipId, VirtualIp};
use node_api::ApiError;
use overlay_net::Channel;
use rustix::process::{Signal, getpid, kill_process};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    drill::Observers,
    lease::{HeldLeases, Obstacles, heard, to_hand_over},
    overlay::OverlayStatus,
    peer_wire::{PeerAnswer, PeerRequest, decode, encode, misunderstood},
    proposer::Proposer,
    vip_wire::{HeldHere, VipAnswer, VipQuestion},
};

/// A holder answers at once, or nobody needs to know.
const HOLDER_WITHIN: Duration = Duration::from_millis(800);
/// Between two questions to a holder that has not opened yet. Opening takes a few milliseconds.
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// The answer to the one who ordered the death has left by then.
const LAST_WORD: Duration = Duration::from_millis(50);
/// A planned move takes some hundredths of a second. A daemon that waits in vain stops all the same.
const HAND_OVER_WITHIN: Duration = Duration::from_secs(1);

/// Asks and answers.
#[derive(Clone)]
pub(crate) struct VipDesk {
    pub(crate) proposer: Proposer,
    pub(crate) held: watch::Receiver<HeldLeases>,
    pub(crate) observers: Observers,
    /// What keeps this node from holding any.
    pub(crate) obstacles: watch::Receiver<Obstacles>,
    /// Given when this daemon is about to stop.
    pub(crate) leaving: CancellationToken,
}

/// Who has a virtual IP after a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) to: NodeId,
    pub(crate) epoch: Epoch,
}

impl VipDesk {
    /// Answers another node, or this one.
    pub(crate) async fn answer(
        &self,
        from: &NodeId,
        question: VipQuestion,
    ) -> Result<VipAnswer, ApiError> {
        match question {
            VipQuestion::Held { vip } => Ok(VipAnswer::Held(self.held_here(vip))),
            VipQuestion::Observe {
                drill,
                vip,
                every_ms,
                at_most_ms,
            } => {
                let agreed = self.proposer.views.view().agreed.clone();
                require_server(&agreed, from)?;
                let row = find(&agreed, vip)?;
                let every = Duration::from_millis(every_ms.into());
                let at_most = Duration::from_millis(at_most_ms.into());
                let peer = agreed.peers.get(&(row.network, self.proposer.me.clone()));
                let place = peer.ok_or_else(|| self.no_place(&agreed, row))?.ipv6;
                let drill = (from.clone(), drill);
                let began = self
                    .observers
                    .begin(drill, (place, row.address), every, at_most);
                began.await.map(VipAnswer::Observing)
            }
            VipQuestion::Seen { drill } => {
                let drill = (from.clone(), drill);
                self.observers.end(&drill).await.map(VipAnswer::Seen)
            }
            VipQuestion::Die { vip, epoch } => self.die(from, vip, epoch),
        }
    }

    fn no_place(&self, agreed: &Agreed, vip: &VirtualIp) -> Refusal {
        let network = agreed.networks.get(&vip.network);
        Refusal::PeerUnknown {
            node: agreed.name_of(&self.proposer.me),
            network: network.map_or_else(String::new, |network| network.name.clone()),
        }
    }

    /// The members that this node hears now, itself included.
    pub(crate) fn heard(&self) -> BTreeSet<NodeId> {
        let agreed = self.proposer.views.view().agreed.clone();
        let members = self.proposer.members.borrow().clone();
        heard(&agreed, &members, &self.proposer.me)
    }

    /// Before this daemon stops: waits until others have what it holds, as far as anybody can take
    /// it, and this machine's own interfaces know.
    pub(crate) async fn leave(&self, mut overlay: watch::Receiver<OverlayStatus>) {
        let mut views = self.proposer.views.watch_at_once();
        let held = |agreed: &Agreed| to_hand_over(agreed, self.heard(), &self.proposer.me);
        let first = views.borrow_and_update().agreed.clone();
        let begun = Instant::now();
        let holds = held(&first).len();
        // From here on nothing is taken any more.
        self.leaving.cancel();
        if holds == 0 {
            return;
        }
        let over = timeout(HAND_OVER_WITHIN, async {
            let revision = loop {
                let view = views.borrow_and_update().clone();
                if held(&view.agreed).is_empty() {
                    break view.revision;
                }
                if views.changed().await.is_err() {
                    return;
                }
            };
            let _ = overlay.wait_for(|it| it.enforced >= revision).await;
        });
        let in_time = over.await.is_ok();
        let took_ms = begun.elapsed().as_millis();
        tracing::info!(holds, in_time, took_ms, "virtual IPs are handed over");
    }

    /// How this node's own lease is.
    pub(crate) fn held_here(&self, vip: VipId) -> Option<HeldHere> {
        let lease = self.held.borrow().get(&vip).copied()?;
        let left = lease.until.since(Time::from_micros(overlay_gate::now_us()));
        Some(HeldHere {
            epoch: lease.epoch,
            left_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
            open: lease.open,
            by: lease.by.map(Into::into),
        })
    }

    /// The host is left as a dead daemon leaves it: nothing is closed or told to anybody.
    fn die(&self, from: &NodeId, vip: VipId, epoch: Epoch) -> Result<VipAnswer, ApiError> {
        let agreed = self.proposer.views.view().agreed.clone();
        require_server(&agreed, from)?;
        let row = find(&agreed, vip)?;
        let holds = self.held.borrow().get(&vip).map(|lease| lease.epoch) == Some(epoch);
        if !holds || !row.is_holder(&self.proposer.me) {
            return Err(Refusal::VipNotHolder {
                vip: row.name.clone(),
                node: agreed.name_of(&self.proposer.me),
            }
            .into());
        }
        tracing::error!(vip = row.name, by = %agreed.name_of(from), "a drill kills this daemon; start it again");
        tokio::spawn(async {
            sleep(LAST_WORD).await;
            let _ = kill_process(getpid(), Signal::KILL);
        });
        Ok(VipAnswer::Dying)
    }

    /// Asks a node; this one too.
    pub(crate) async fn ask(
        &self,
        node: &NodeId,
        question: VipQuestion,
        within: Duration,
    ) -> Result<VipAnswer, ApiError> {
        if *node == self.proposer.me {
            return self.answer(node, question).await;
        }
        let body = encode(&PeerRequest::Vip(question));
        let call = self.proposer.net.call(node, Channel::Command, body, within);
        let answer = call.await.map_err(|error| {
            let name = self.proposer.views.view().agreed.name_of(node);
            let message = format!("{name} does not answer");
            ApiError::new(error.code(), message, error.hint()).caused_by(&error)
        })?;
        match decode::<PeerAnswer>(&answer)? {
            PeerAnswer::Vip(answer) => Ok(answer),
            PeerAnswer::Failed(error) => Err(error),
            PeerAnswer::Applied(..)
            | PeerAnswer::NotLeader(_)
            | PeerAnswer::NoMajority { .. }
            | PeerAnswer::Enrolled(_)
            | PeerAnswer::Certificate { .. }
            | PeerAnswer::Enforced(_)
            | PeerAnswer::Probed(_)
            | PeerAnswer::Cluster(_)
            | PeerAnswer::Departing
            | PeerAnswer::ReadAt(_)
            | PeerAnswer::RotationBegun(_) => Err(misunderstood()),
        }
    }

    /// What the holder says of its present lease; none where it does not say anything.
    pub(crate) async fn held(&self, vip: VipId, row: &VirtualIp) -> Option<HeldHere> {
        let holder = row.holder.as_ref()?;
        let asked = self.ask(holder, VipQuestion::Held { vip }, HOLDER_WITHIN);
        match asked.await {
            Ok(VipAnswer::Held(held)) => held.filter(|held| held.epoch == row.epoch),
            Ok(VipAnswer::Observing(_) | VipAnswer::Seen(_) | VipAnswer::Dying) | Err(_) => None,
        }
    }

    /// Waits until somebody holds a later epoch and says that the address is open there. None when
    /// that has not happened by then, or the virtual IP is gone.
    pub(crate) async fn moved(&self, vip: VipId, after: Epoch, by: Instant) -> Option<Moved> {
        let mut views = self.proposer.views.watch_at_once();
        timeout_at(by, async {
            loop {
                let view = views.borrow_and_update().clone();
                let row = view.agreed.virtual_ips.get(&vip)?;
                if row.epoch > after
                    && let Some(to) = &row.holder
                {
                    if self.held(vip, row).await.is_some_and(|held| held.open) {
                        let (to, epoch) = (to.clone(), row.epoch);
                        return Some(Moved { to, epoch });
                    }
                    sleep(ASK_AGAIN).await;
                } else {
                    views.changed().await.ok()?;
                }
            }
        })
        .await
        .ok()
        .flatten()
    }
}

pub(super) fn find(agreed: &Agreed, vip: VipId) -> Result<&VirtualIp, Refusal> {
    let row = agreed.virtual_ips.get(&vip);
    row.ok_or_else(|| Refusal::VipUnknown {
        vip: vip.to_string(),
    })
}

/// No agent's word makes other nodes probe, or kills a daemon.
pub(super) fn require_server(agreed: &Agreed, node: &NodeId) -> Result<(), ApiError> {
    if agreed.nodes.get(node).map(|node| node.role) == Some(Role::Server) {
        return Ok(());
    }
    let message = format!("{} is no server", agreed.name_of(node));
    let hint = "give the command to a server's daemon: other nodes take part in a drill only on a \
                server's word";
    Err(ApiError::new("DrillNeedsServerError", message, hint))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use consensus_core::{LifecycleClass, NetworkProfile, Node, NodeState, WallMs};

    use super::*;

    #[test]
    fn only_a_servers_word_makes_a_node_probe_or_die() {
        let rest: String = std::iter::repeat_n('a', 44).collect();
        let id: NodeId = format!("12D3KooW{rest}").parse().unwrap();
        let mut agreed = Agreed::default();
        let stranger = require_server(&agreed, &id).unwrap_err();
        assert_eq!(stranger.code, "DrillNeedsServerError");
        let node = Node {
            name: "n1".into(),
            role: Role::Agent,
            raft_id: None,
            state: NodeState::Running,
            labels: BTreeMap::new(),
            metadata: BTreeMap::new(),
            lifecycle_class: LifecycleClass::Persistent,
            tmpfs_store: false,
            network_profile: NetworkProfile::Heavyweight,
            addresses: Vec::new(),
            wireguard_public_key: [0; 32],
            sealing_recipient: String::new(),
            has_served: true,
            joined_at: WallMs(0),
        };
        agreed.nodes.insert(id.clone(), node);
        let agent = require_server(&agreed, &id).unwrap_err();
        assert_eq!(agent.message, "n1 is no server");
        agreed.nodes.get_mut(&id).unwrap().role = Role::Server;
        assert!(require_server(&agreed, &id).is_ok());
    }
}
