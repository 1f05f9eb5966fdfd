//! What the WireGuard devices tell of this node's ways to its peers, and what gossip is told of them.
//!
//! Decides whose counters are looked at: those of peers that live and can be sent to at all. Who is
//! silent and who is asked is `overlay_core::straight`'s decision. Carries out: the questions, the own
//! record.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Instant, SystemTime},
};

use consensus_core::{Agreed, FirewallRule, NetworkId, NodeId, RuleProtocol, Time, Verdict};
use overlay_core::{
    membership::Condition,
    peers::PublicKey,
    straight::{Counters, Straight, probe_address},
};
use overlay_net::membership::LocalPaths;
use overlay_wireguard::PeerStats;

use super::{
    desired::end,
    drill::echo::Echo,
    overlay::{Overlay, OverlayStatus, Up},
};

/// What was seen of the ways since this daemon began.
pub(super) struct Looks {
    ways: Straight,
    began: Instant,
}

impl Default for Looks {
    fn default() -> Self {
        Self {
            ways: Straight::default(),
            began: Instant::now(),
        }
    }
}

impl Overlay {
    /// Looks at all devices, asks who is in doubt, and tells gossip what came of it.
    pub(super) async fn look(
        &self,
        agreed: &Agreed,
        interfaces: &BTreeMap<NetworkId, Up>,
        looks: &mut Looks,
        status: &mut OverlayStatus,
    ) {
        let is_peer =
            |network: NetworkId, node: &NodeId| agreed.peers.contains_key(&(network, node.clone()));
        // An interface that has to begin anew is no reason to forget what was seen.
        looks.ways.keep(|network| is_peer(*network, &self.me));
        for (id, up) in interfaces {
            // One that is late with its answer has said nothing against anybody.
            let Ok(stats) = up.interface.stats().await else {
                continue;
            };
            for (key, peer) in &stats {
                let contact = (peer.endpoint, handshake_s(peer));
                status.peers.insert((*id, *key.as_bytes()), contact);
            }
            let counted = self.counted(agreed, *id, &stats);
            let is_peer = |node: &NodeId| is_peer(*id, node);
            let pings_pass = pings_pass(agreed, *id);
            let now = Time::ZERO + looks.began.elapsed();
            let asked = looks.ways.look(*id, &counted, is_peer, pings_pass, now);
            self.ask(agreed, *id, &asked);
        }
        self.say(agreed, looks.ways.unreachable());
    }

    /// The counters of the peers that must answer. Two nodes that cannot be dialled have no way to be
    /// looked at, and of one that is believed dead nothing is expected.
    fn counted(
        &self,
        agreed: &Agreed,
        network: NetworkId,
        stats: &BTreeMap<PublicKey, PeerStats>,
    ) -> BTreeMap<NodeId, Counters> {
        let members = self.members.borrow().clone();
        let me = end(&members, &self.me, network);
        let others = agreed.peers_of(network).map(|(node, _)| node);
        let counted = others.filter(|node| **node != self.me).filter_map(|node| {
            let lives = match members.get(node)?.condition {
                Condition::Alive | Condition::Suspect => true,
                Condition::Unknown | Condition::Dead => false,
            };
            let key = agreed.nodes.get(node)?.wireguard_public_key;
            let peer = stats.get(&PublicKey::from_bytes(key))?;
            let counters = Counters {
                sent_bytes: peer.tx_bytes,
                received_bytes: peer.rx_bytes,
            };
            let hidden = me.is_hidden_from(&end(&members, node, network));
            (lives && !hidden && peer.endpoint.is_some()).then(|| (node.clone(), counters))
        });
        counted.collect()
    }

    /// Sends a ping to each, by its address and by the one that only its own way has: what comes back,
    /// if only a handshake, is seen at the next look.
    fn ask(&self, agreed: &Agreed, network: NetworkId, asked: &[NodeId]) {
        let place = |node: &NodeId| agreed.peers.get(&(network, node.clone()));
        let Some(own) = place(&self.me) else {
            return;
        };
        for node in asked {
            let Some(peer) = place(node) else {
                continue;
            };
            for to in [peer.ipv6, probe_address(peer.ipv6)] {
                match Echo::open(own.ipv6, to, rand::random()) {
                    Ok(mut echo) => echo.send(),
                    Err(error) => tracing::debug!(%node, %error, "a peer was not asked"),
                }
            }
        }
    }

    /// Gossips what is new.
    fn say(&self, agreed: &Agreed, unreachable: Vec<(NetworkId, Vec<NodeId>)>) {
        let paths = LocalPaths {
            unreachable,
            forwards: self.may_forward(agreed),
        };
        self.paths.send_if_modified(|said| {
            if *said == paths {
                return false;
            }
            let name = |network: &NetworkId| {
                let network = agreed.networks.get(network);
                network.map_or("", |network| network.name.as_str())
            };
            let (before, after) = (named(said), named(&paths));
            for (network, node) in after.difference(&before) {
                let (network, node) = (name(network), agreed.name_of(node));
                tracing::info!(
                    node,
                    network,
                    "it does not answer straight; a hub is used if there is one"
                );
            }
            for (network, node) in before.difference(&after) {
                let (network, node) = (name(network), agreed.name_of(node));
                tracing::info!(node, network, "no hub is needed for it any more");
            }
            *said = paths;
            true
        });
    }
}

/// Whom a node names, and in which network.
fn named(paths: &LocalPaths) -> BTreeSet<(NetworkId, &NodeId)> {
    let lists = paths.unreachable.iter();
    let named = lists.flat_map(|(network, nodes)| nodes.iter().map(move |node| (*network, node)));
    named.collect()
}

/// Seconds since the last handshake, in steps of five, so that a mere passing of time is no news. A
/// handshake in the future means that the wall clock was set back: it is recent.
fn handshake_s(peer: &PeerStats) -> Option<u64> {
    let age = |at| SystemTime::now().duration_since(at).unwrap_or_default();
    peer.last_handshake.map(|at| age(at).as_secs() / 5 * 5)
}

/// Whether no rule of the network's firewall may swallow a ping.
fn pings_pass(agreed: &Agreed, network: NetworkId) -> bool {
    // A rule of any protocol that names ports is about TCP and UDP.
    let swallows = |rule: &FirewallRule| match rule.protocol {
        RuleProtocol::Any => rule.ports.is_empty(),
        RuleProtocol::Icmp => true,
        RuleProtocol::Tcp | RuleProtocol::Udp => false,
    };
    let firewall = agreed.firewall(network);
    let mut rules = firewall.rules.iter();
    !rules.any(|rule| rule.verdict == Verdict::Deny && swallows(rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_is_told_in_steps_and_one_of_the_future_is_recent() {
        let peer = |at| PeerStats {
            endpoint: None,
            last_handshake: at,
            rx_bytes: 0,
            tx_bytes: 0,
        };
        let now = SystemTime::now();
        let ago = |seconds| now - std::time::Duration::from_secs(seconds);
        assert_eq!(handshake_s(&peer(None)), None);
        assert_eq!(handshake_s(&peer(Some(ago(102)))), Some(100));
        let ahead = now + std::time::Duration::from_secs(60);
        assert_eq!(handshake_s(&peer(Some(ahead))), Some(0));
    }
}
