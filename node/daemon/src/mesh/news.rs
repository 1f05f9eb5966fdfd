//! Which changes of the agreed state are news to this node's interfaces and its packet filter.
//!
//! Decides by what these follow from, and never by the revision: most changes are about something else.

use std::net::{Ipv6Addr, SocketAddr};

use consensus_core::{Agreed, DockerHost, NetworkId, Node, NodeId, Role, VirtualIp};

use super::{containers::has_containers, pods};

/// Whether two views want the same interfaces with the same peers. Only servers are hubs.
pub(super) fn says_the_same(one: &Agreed, other: &Agreed) -> bool {
    type Reached<'a> = (&'a NodeId, Role, &'a [u8; 32], &'a [SocketAddr]);
    fn reached<'a>((id, node): (&'a NodeId, &'a Node)) -> Reached<'a> {
        (id, node.role, &node.wireguard_public_key, &node.addresses)
    }
    fn hosting<'a>((id, host): (&'a NodeId, &'a DockerHost)) -> (&'a NodeId, bool) {
        (id, has_containers(host))
    }
    fn held(vip: &VirtualIp) -> (&NetworkId, &Ipv6Addr, &Option<NodeId>) {
        (&vip.network, &vip.address, &vip.holder)
    }
    one.peers == other.peers
        && one.key_rotations == other.key_rotations
        && one.firewalls == other.firewalls
        && (one.nodes.values().map(|node| &node.labels))
            .eq(other.nodes.values().map(|node| &node.labels))
        && (one.docker_hosts.iter().map(hosting)).eq(other.docker_hosts.iter().map(hosting))
        && one.access_grants == other.access_grants
        && (one.virtual_ips.values().map(held)).eq(other.virtual_ips.values().map(held))
        && one.networks == other.networks
        && pods::says_the_same(one, other)
        && (one.nodes.iter().map(reached)).eq(other.nodes.iter().map(reached))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use consensus_core::{DockerPhase, LifecycleClass, NetworkProfile, NodeState, WallMs};

    use super::*;

    fn agreed(role: Role, name: &str) -> Agreed {
        let id: String = std::iter::repeat_n('a', 44).collect();
        let node = Node {
            name: name.to_owned(),
            role,
            raft_id: None,
            state: NodeState::Running,
            labels: BTreeMap::new(),
            metadata: BTreeMap::new(),
            lifecycle_class: LifecycleClass::Persistent,
            tmpfs_store: false,
            network_profile: NetworkProfile::Heavyweight,
            addresses: Vec::new(),
            wireguard_public_key: [1; 32],
            sealing_recipient: String::new(),
            has_served: false,
            joined_at: WallMs(0),
        };
        let mut agreed = Agreed::default();
        let id = format!("12D3KooW{id}").parse().unwrap();
        agreed.nodes.insert(id, node);
        agreed
    }

    #[test]
    fn a_change_of_role_is_not_enforced_before_the_interfaces_were_looked_at() {
        let server = agreed(Role::Server, "n1");
        assert!(says_the_same(&server, &agreed(Role::Server, "n2")));
        assert!(!says_the_same(&server, &agreed(Role::Agent, "n1")));
    }

    #[test]
    fn a_docker_host_that_stops_is_news_to_the_filter_and_its_next_certificate_is_not() {
        let hosting = |phase| {
            let mut agreed = agreed(Role::Server, "n1");
            let host = DockerHost {
                phase,
                since: WallMs(0),
                listen: None,
                version: None,
                certificate: None,
                provisioned: true,
            };
            let id = agreed.nodes.keys().next().unwrap().clone();
            agreed.docker_hosts.insert(id, host);
            agreed
        };
        let before = hosting(DockerPhase::WantsConfig);
        let wants = DockerPhase::WantsCert { csr: Vec::new() };
        assert!(says_the_same(&before, &hosting(wants)));
        assert!(!says_the_same(&before, &hosting(DockerPhase::Stopping)));
    }
}
