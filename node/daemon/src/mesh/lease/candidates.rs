//! Who is heard of those that may take a virtual IP, as this node sees it.
//!
//! Decides nothing: it puts what is agreed and what gossip says side by side, and the protocol's
//! reasons into words. Who is fit [`consensus_lease::candidates`] says.

use std::collections::BTreeSet;

use consensus_core::{Agreed, Epoch, NodeId, VipId};
use consensus_lease::MoveReason;
use overlay_core::membership::Condition;
use overlay_net::membership::Members;

/// Those members that this node hears, itself included.
pub(crate) fn heard(agreed: &Agreed, members: &Members, me: &NodeId) -> BTreeSet<NodeId> {
    let alive = |id: &NodeId| {
        let member = members.get(id);
        id == me || member.is_some_and(|member| member.condition == Condition::Alive)
    };
    let nodes = agreed.nodes.keys();
    nodes.filter(|id| alive(id)).cloned().collect()
}

/// What this node holds and another one could take, were this one not there.
pub(crate) fn to_hand_over(
    agreed: &Agreed,
    mut heard: BTreeSet<NodeId>,
    me: &NodeId,
) -> Vec<(VipId, Epoch)> {
    heard.remove(me);
    let held = agreed.virtual_ips.iter();
    let held = held.filter(|(_, row)| row.is_holder(me) && agreed.heir(row, &heard).is_some());
    held.map(|(vip, row)| (*vip, row.epoch)).collect()
}

/// For the event of a move.
pub(super) fn in_words(reason: &MoveReason) -> String {
    match reason {
        MoveReason::Unheld => "nobody held it".into(),
        MoveReason::Unheard => "its holder was not heard".into(),
        MoveReason::Unfit(unfit) => {
            let each: Vec<&str> = unfit.iter().map(|one| one.as_str()).collect();
            format!("its holder is {}", each.join(", "))
        }
        MoveReason::Wanted => "an operator asked for it".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use consensus_core::{
        LeaseProfile, LeaseVoters, LifecycleClass, LogIndex, NetworkId, NetworkProfile, Node,
        NodeState, Peer, Readiness, Role, VirtualIp, WallMs,
    };

    use super::*;

    const NETWORK: NetworkId = NetworkId::from_bytes([2; 16]);
    const VIP: VipId = VipId::from_bytes([3; 16]);

    fn id(letter: char) -> NodeId {
        let rest: String = std::iter::repeat_n(letter, 44).collect();
        format!("12D3KooW{rest}").parse().unwrap()
    }

    fn node(letter: char) -> Node {
        Node {
            name: letter.to_string(),
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
            has_served: false,
            joined_at: WallMs(0),
        }
    }

    /// Of a, b and c, all of whom have a place in the network. The first one holds it.
    fn agreed() -> Agreed {
        let mut agreed = Agreed::default();
        for letter in ['a', 'b', 'c'] {
            agreed.nodes.insert(id(letter), node(letter));
            let peer = Peer {
                ipv6: "fd00::1".parse().unwrap(),
                ipv4: "100.96.0.1".parse().unwrap(),
                attached: LogIndex(1),
                hub: false,
                lan_subnets: BTreeSet::new(),
                container_subnet: None,
            };
            agreed.peers.insert((NETWORK, id(letter)), peer);
        }
        let vip = VirtualIp {
            name: "web".into(),
            network: NETWORK,
            address: "fd00::a".parse().unwrap(),
            candidates: vec![id('a'), id('b')],
            check: None,
            profile: LeaseProfile::Safe,
            epoch: Epoch(4),
            holder: Some(id('a')),
            voters: LeaseVoters::Stable(BTreeSet::new()),
            voters_since: LogIndex(1),
            readiness: BTreeMap::new(),
            wish: None,
            moves: VecDeque::new(),
            created_at: WallMs(0),
        };
        agreed.virtual_ips.insert(VIP, vip);
        agreed
    }

    #[test]
    fn who_stops_hands_over_what_another_one_can_take_and_keeps_the_rest() {
        let all = BTreeSet::from(['a', 'b', 'c'].map(id));
        let mut agreed = agreed();
        assert_eq!(
            to_hand_over(&agreed, all.clone(), &id('a')),
            [(VIP, Epoch(4))]
        );
        assert_eq!(to_hand_over(&agreed, all.clone(), &id('b')), []);
        let deaf = BTreeSet::from(['a', 'c'].map(id));
        assert_eq!(to_hand_over(&agreed, deaf, &id('a')), []);
        let unready = Readiness {
            ready: false,
            reason: "refused".into(),
            since: WallMs(0),
        };
        let row = agreed.virtual_ips.get_mut(&VIP).unwrap();
        row.readiness.insert(id('b'), unready);
        assert_eq!(to_hand_over(&agreed, all, &id('a')), []);
    }
}
