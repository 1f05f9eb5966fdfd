//! The small duties of a member: what to dial, what to tell of itself, what to keep on disk.
//!
//! Decides which of its addresses a node tells the others: what the operator advertises, else the
//! interfaces' addresses that libp2p listens on, without those that mean nothing elsewhere (the
//! overlay's, containers' bridges') and without loopback where there are better.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use consensus_authority::Trust;
use consensus_core::{Agreed, Command, LogIndex, MeshId, NodeId, NodeState};
use overlay_net::{
    Credentials,
    membership::{LocalAddresses, Roster},
};
use tokio::{sync::watch, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Gossip, Host,
    desired::own_endpoints,
    overlay::OverlayStatus,
    proposer::Proposer,
    trust::{removed, trust},
};
use crate::machine;

/// After a report that was not agreed.
const REPORT_PAUSE: Duration = Duration::from_secs(1);
/// Views closer together than this are written to disk as one.
const VIEW_WRITE_PAUSE: Duration = Duration::from_millis(500);
/// How long a stopping leader waits for another to take over.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(2);

/// What these duties use.
pub(crate) struct Upkeep {
    pub(crate) mesh: MeshId,
    pub(crate) host: Arc<Host>,
    pub(crate) proposer: Proposer,
    pub(crate) overlay: watch::Receiver<OverlayStatus>,
    pub(crate) gossip: Gossip,
    pub(crate) credentials: watch::Sender<Arc<Credentials>>,
    pub(crate) stop: CancellationToken,
}

/// Orders the membership rings, by the newest root: agreed by Raft, chosen by nobody, and another
/// after every rotation, so also after a compromise.
fn ring_salt(agreed: &Agreed) -> u64 {
    let newest = agreed.authority.roots.last();
    let hash = blake3::hash(newest.map_or(&[][..], |root| &root.certificate));
    let first = hash.as_bytes().first_chunk();
    first.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl Upkeep {
    /// Spawns one task a duty.
    pub(crate) fn start(self, tasks: &TaskTracker) {
        let this = Arc::new(self);
        tasks.spawn(this.clone().until_stopped(this.clone().direct()));
        tasks.spawn(this.clone().until_stopped(this.clone().report()));
        tasks.spawn(this.clone().until_stopped(this.clone().remember()));
    }

    async fn until_stopped(self: Arc<Self>, duty: impl Future<Output = ()>) {
        // The duties only move values between watches and write whole files.
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = duty => {}
        }
    }

    /// Tells the network whom to let in and where to dial, and gossip who is admitted and where
    /// this node is.
    async fn direct(self: Arc<Self>) {
        let mut view = self.proposer.views.watch();
        let mut listeners = self.proposer.net.listeners();
        let mut standing = self.proposer.views.watch_standing();
        let mut known: BTreeSet<NodeId> = BTreeSet::new();
        let mut believed: Option<(Arc<Agreed>, BTreeSet<NodeId>)> = None;
        loop {
            let (revision, agreed) = {
                let view = view.borrow_and_update();
                (view.revision, view.agreed.clone())
            };
            let mine = self.own_addresses(&agreed, &listeners.borrow_and_update());
            let voters: BTreeSet<NodeId> = standing
                .borrow_and_update()
                .voters
                .iter()
                .cloned()
                .collect();
            let present = believed.as_ref().is_some_and(|(before, then)| {
                *then == voters && believes_the_same(before, &agreed)
            });
            let trust = (!present).then(|| {
                (
                    trust(self.mesh, &agreed, &voters),
                    removed(&agreed, &voters),
                )
            });
            self.believe(revision, trust);
            believed = Some((agreed.clone(), voters.clone()));
            let nodes: BTreeSet<NodeId> = agreed.nodes.keys().cloned().collect();
            let linked: BTreeSet<NodeId> = nodes.union(&voters).cloned().collect();
            for gone in known.difference(&linked) {
                self.proposer.net.set_addresses(gone.clone(), Vec::new());
                self.proposer.net.disconnect(gone);
            }
            for (id, node) in agreed
                .nodes
                .iter()
                .filter(|(id, _)| **id != self.proposer.me)
            {
                // Gossiped addresses are noted by the membership driver, beside these.
                self.proposer
                    .net
                    .set_addresses(id.clone(), node.addresses.clone());
            }
            known = linked;
            replace_if_new(
                &self.gossip.roster,
                Roster {
                    nodes,
                    salt: ring_salt(&agreed),
                },
            );
            let wireguard = own_endpoints(&agreed, &self.proposer.me, &mine);
            replace_if_new(
                &self.gossip.local,
                LocalAddresses {
                    addresses: mine,
                    wireguard,
                },
            );
            // All arms only wait; everything is read anew above.
            let open = tokio::select! {
                changed = view.changed() => changed.is_ok(),
                changed = standing.changed() => changed.is_ok(),
                changed = listeners.changed() => changed.is_ok(),
            };
            if !open {
                return;
            }
        }
    }

    /// Has the network let in whom the agreed state believes now; none where that is as before.
    fn believe(&self, revision: LogIndex, trust: Option<(Trust, BTreeSet<NodeId>)>) {
        self.credentials.send_if_modified(|credentials| {
            let trust = trust.filter(|(trust, removed)| {
                *credentials.trust != *trust || *credentials.removed != *removed
            });
            let same = trust.is_none() && credentials.revision == revision;
            if !same {
                let credentials = Arc::make_mut(credentials);
                if let Some((trust, removed)) = trust {
                    credentials.trust = Arc::new(trust);
                    credentials.removed = Arc::new(removed);
                }
                credentials.revision = revision;
            }
            !same
        });
    }

    fn own_addresses(&self, agreed: &Agreed, listeners: &BTreeSet<SocketAddr>) -> Vec<SocketAddr> {
        let local = machine::local_addresses();
        own_addresses(&self.host.config.advertise, listeners, |ip| {
            local.contains(&ip) || in_overlay(agreed, ip)
        })
    }

    /// Tells the mesh how far this node is, once it has changed.
    async fn report(self: Arc<Self>) {
        let mut view = self.proposer.views.watch();
        let mut overlay = self.overlay.clone();
        let mut listeners = self.proposer.net.listeners();
        loop {
            let agreed = view.borrow_and_update().agreed.clone();
            let addresses = self.own_addresses(&agreed, &listeners.borrow_and_update());
            let up = overlay.borrow_and_update().clone();
            let due = agreed.nodes.get(&self.proposer.me).and_then(|node| {
                let has_peer = agreed.first_peer(&self.proposer.me).is_some();
                let settled = !has_peer || !up.up.is_empty();
                let state = if settled {
                    NodeState::Running
                } else {
                    NodeState::Bootstrapping
                };
                let moved = !addresses.is_empty() && addresses != node.addresses;
                (state > node.state || moved).then(|| (state, addresses.clone()))
            });
            if let Some((state, addresses)) = due
                && let Err(error) = self
                    .proposer
                    .submit(Command::ReportNode { state, addresses })
                    .await
            {
                tracing::debug!(code = error.code, %error, "not reported yet");
                sleep(REPORT_PAUSE).await;
                continue;
            }
            // All arms only wait; everything is read anew above.
            let open = tokio::select! {
                changed = view.changed() => changed.is_ok(),
                changed = overlay.changed() => changed.is_ok(),
                changed = listeners.changed() => changed.is_ok(),
            };
            if !open {
                return;
            }
        }
    }

    /// Keeps the last view on disk, for a start without any server in reach.
    async fn remember(self: Arc<Self>) {
        let mut view = self.proposer.views.watch();
        loop {
            let now = view.borrow_and_update().clone();
            let data = self.host.data.clone();
            let written = tokio::task::spawn_blocking(move || data.set_view(&now.encode())).await;
            if let Ok(Err(error)) = written {
                tracing::warn!(%error, "the view is not on disk");
            }
            sleep(VIEW_WRITE_PAUSE).await;
            if view.changed().await.is_err() {
                return;
            }
        }
    }
}

fn replace_if_new<T: PartialEq>(watch: &watch::Sender<T>, value: T) {
    watch.send_if_modified(|present| {
        let differs = *present != value;
        if differs {
            *present = value;
        }
        differs
    });
}

/// Whether the same trust follows from two views.
fn believes_the_same(one: &Agreed, other: &Agreed) -> bool {
    one.authority == other.authority
        && one.certificates == other.certificates
        && one.revoked == other.revoked
        && one.removed == other.removed
        && one.nodes.keys().eq(other.nodes.keys())
}

fn in_overlay(agreed: &Agreed, ip: IpAddr) -> bool {
    agreed.networks.values().any(|network| match ip {
        IpAddr::V4(ip) => network.ipv4.contains(ip),
        IpAddr::V6(ip) => network.ipv6.contains(ip),
    })
}

/// What a node tells of where it is.
pub(crate) fn own_addresses(
    advertised: &[SocketAddr],
    listeners: &BTreeSet<SocketAddr>,
    means_nothing_elsewhere: impl Fn(IpAddr) -> bool,
) -> Vec<SocketAddr> {
    if !advertised.is_empty() {
        return advertised.to_vec();
    }
    let link_local = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        // fe80::/10 means nothing without its interface.
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    };
    let usable: Vec<SocketAddr> = listeners
        .iter()
        .filter(|address| {
            !address.ip().is_unspecified()
                && !link_local(address.ip())
                && !means_nothing_elsewhere(address.ip())
        })
        .copied()
        .collect();
    let elsewhere: Vec<SocketAddr> = usable
        .iter()
        .filter(|address| !address.ip().is_loopback())
        .copied()
        .collect();
    if elsewhere.is_empty() {
        usable
    } else {
        elsewhere
    }
}

/// A leader that stops first lets another voter lead, so that nobody has to wait for an election.
pub(crate) async fn hand_over_leadership(proposer: &Proposer) {
    let agreement = proposer.agreement.borrow().clone();
    let Some(agreement) = agreement else { return };
    let status = agreement.status().borrow().clone();
    if status.role != consensus_raft::Role::Leader {
        return;
    }
    let own = status.leader_id;
    let best: BTreeMap<_, _> = status
        .voters
        .keys()
        .filter(|id| Some(**id) != own)
        .map(|id| (status.matched.get(id).copied(), *id))
        .collect();
    let Some((_, to)) = best.into_iter().next_back() else {
        return;
    };
    match tokio::time::timeout(HAND_OVER_DEADLINE, agreement.transfer_leader(to)).await {
        Ok(Ok(())) => tracing::info!(to = to.0, "leadership is handed over"),
        Ok(Err(error)) => tracing::info!(%error, "leadership is not handed over"),
        Err(_) => tracing::info!("leadership is not handed over in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(addresses: &[&str]) -> BTreeSet<SocketAddr> {
        addresses.iter().map(|a| a.parse().unwrap()).collect()
    }

    #[test]
    fn loopback_is_told_only_when_there_is_nothing_else() {
        let both = set(&["127.0.0.1:7440", "192.0.2.1:7440"]);
        assert_eq!(
            own_addresses(&[], &both, |_| false),
            vec!["192.0.2.1:7440".parse().unwrap()]
        );
        let only = set(&["127.0.0.1:7440"]);
        assert_eq!(own_addresses(&[], &only, |_| false).len(), 1);
    }

    #[test]
    fn overlay_and_link_local_addresses_are_never_told() {
        let all = set(&["100.96.0.1:7440", "[fe80::1]:7440", "[2001:db8::1]:7440"]);
        let overlay = |ip: IpAddr| ip.to_string().starts_with("100.96.");
        assert_eq!(
            own_addresses(&[], &all, overlay),
            vec!["[2001:db8::1]:7440".parse().unwrap()]
        );
    }

    #[test]
    fn what_the_operator_advertises_is_all_that_is_told() {
        let advertised = ["203.0.113.5:7440".parse().unwrap()];
        assert_eq!(
            own_addresses(&advertised, &set(&["192.0.2.1:7440"]), |_| false),
            advertised
        );
    }
}
