//! What nodes tell each other about virtual IPs: who holds one, how long nobody answered at it.
//!
//! Decides: whose word ends this daemon in a drill (a server's, and only while this node holds what
//! the drill is about), and when a move is over: the new holder says that its address is open.
//! Never: who is to hold what.

use std::{collections::BTreeSet, net::Ipv6Addr, time::Duration};

use consensus_core::{Agreed, Epoch, NodeId, Refusal, Role, Time, VipId, VirtualIp};
use node_api::ApiError;
use overlay_core::membership::Condition;
use overlay_net::Channel;
use rustix::process::{Signal, getpid, kill_process};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use super::{
    drill::Observers,
    lease::HeldLeases,
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
/// The addresses of this machine's interfaces.
const ADDRESSES: &str = "/proc/net/if_inet6";

/// Asks and answers.
#[derive(Clone)]
pub(crate) struct VipDesk {
    pub(crate) proposer: Proposer,
    pub(crate) held: watch::Receiver<HeldLeases>,
    pub(crate) observers: Observers,
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
                let row = find(&agreed, vip)?;
                let every = Duration::from_millis(every_ms.into());
                let at_most = Duration::from_millis(at_most_ms.into());
                let peer = agreed.peers.get(&(row.network, self.proposer.me.clone()));
                let place = peer.ok_or_else(|| self.no_place(&agreed, row))?.ipv6;
                let began = self
                    .observers
                    .begin(drill, (place, row.address), every, at_most);
                began.await.map(VipAnswer::Observing)
            }
            VipQuestion::Seen { drill } => self.observers.end(&drill).await.map(VipAnswer::Seen),
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
        let alive = |id: &NodeId| {
            let member = members.get(id);
            *id == self.proposer.me
                || member.is_some_and(|member| member.condition == Condition::Alive)
        };
        let nodes = agreed.nodes.keys();
        nodes.filter(|id| alive(id)).cloned().collect()
    }

    /// How this node's own lease is.
    pub(crate) fn held_here(&self, vip: VipId) -> Option<HeldHere> {
        let (epoch, until) = self.held.borrow().get(&vip).copied()?;
        let left = until.since(Time::from_micros(overlay_gate::now_us()));
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let agreed = self.proposer.views.view().agreed.clone();
        let address = agreed.virtual_ips.get(&vip)?.address;
        let open = left_ms > 0 && is_here(address);
        Some(HeldHere {
            epoch,
            left_ms,
            open,
        })
    }

    /// The host is left as a dead daemon leaves it: nothing is closed or told to anybody.
    fn die(&self, from: &NodeId, vip: VipId, epoch: Epoch) -> Result<VipAnswer, ApiError> {
        let agreed = self.proposer.views.view().agreed.clone();
        let asker = agreed.nodes.get(from).map(|node| node.role);
        if asker != Some(Role::Server) {
            return Err(not_a_server(&agreed, from));
        }
        let row = find(&agreed, vip)?;
        let holds = self.held.borrow().get(&vip).map(|(epoch, _)| *epoch) == Some(epoch);
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

/// Why no agent's word kills a daemon.
pub(super) fn not_a_server(agreed: &Agreed, node: &NodeId) -> ApiError {
    let message = format!("{} is no server", agreed.name_of(node));
    let hint =
        "give the command to a server's daemon: another node's daemon ends only on a server's word";
    ApiError::new("DrillNeedsServerError", message, hint)
}

/// Whether one of this machine's interfaces has the address.
fn is_here(address: Ipv6Addr) -> bool {
    std::fs::read_to_string(ADDRESSES).is_ok_and(|text| lists(&text, address))
}

fn lists(text: &str, address: Ipv6Addr) -> bool {
    let digits = hex::encode(address.octets());
    text.lines()
        .any(|line| line.split_whitespace().next() == Some(digits.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_found_in_the_kernels_list() {
        let text = "00000000000000000000000000000001 01 80 10 80       lo\n\
                    fd12000000000000000000000000000a 05 80 00 a0 shoal-default\n";
        assert!(lists(text, Ipv6Addr::LOCALHOST));
        assert!(lists(text, "fd12::a".parse().unwrap()));
        assert!(!lists(text, "fd12::b".parse().unwrap()));
    }
}
