//! Where pods of K3s clusters are, as far as packets go.
//!
//! Decides: a node's pods are sent to it by every member of its cluster's network, in mesh and in hub
//! mode, as its containers are. In a cluster itself flannel routes them (`host-gw`, by way of the
//! node's overlay address), and puts its own route in the place of any other: there only WireGuard has
//! to know whose they are. Pods that have a tunnel of their own, or a CNI of their own, are nobody's
//! business here.
//!
//! Never: asks the machine or the cluster anything.

use std::collections::{BTreeMap, BTreeSet};

use consensus_core::{Agreed, NetworkId, NodeId};
use overlay_core::peers::Cidr;
use overlay_filter::Pods as PodBridge;

use super::desired::{cidr, cidrs};

/// The pods of a network's clusters, as one of its members sees them.
pub(super) struct Pods {
    of: BTreeMap<NodeId, BTreeSet<Cidr>>,
    /// Whether this node is in a cluster, and so has flannel.
    flannel_routes: bool,
}

impl Pods {
    pub(super) fn seen_by(agreed: &Agreed, me: &NodeId, network: NetworkId) -> Self {
        let routes = agreed.pod_routes(network).into_iter();
        Self {
            of: routes.map(|(node, pods)| (node, cidrs(&pods))).collect(),
            flannel_routes: agreed.k3s_nodes.contains_key(me),
        }
    }

    /// What the node may send from, and is sent.
    pub(super) fn of(&self, node: &NodeId) -> impl Iterator<Item = Cidr> + use<'_> {
        self.of.get(node).into_iter().flatten().copied()
    }

    /// What this machine has to have a route of ours for.
    pub(super) fn routed_to(&self, node: &NodeId) -> impl Iterator<Item = Cidr> + use<'_> {
        let ours = !self.flannel_routes;
        self.of(node).filter(move |_| ours)
    }
}

/// This node's own pods, if it has any.
pub(super) fn own_pods(agreed: &Agreed, me: &NodeId) -> Option<PodBridge> {
    let row = agreed.k3s_nodes.get(me)?;
    let cluster = agreed.clusters.get(&row.cluster)?;
    Some(PodBridge {
        network: cluster.network,
        prefix: cluster.pod_prefix.map(cidr),
        subnets: cidrs(&row.pods),
    })
}

/// What interfaces and rules follow from, where pods are concerned.
pub(super) fn says_the_same(one: &Agreed, other: &Agreed) -> bool {
    let clusters = |agreed: &Agreed| -> BTreeMap<_, _> {
        let rows = agreed.clusters.iter();
        rows.map(|(id, row)| (*id, (row.network, row.pod_prefix)))
            .collect()
    };
    let nodes = |agreed: &Agreed| -> BTreeMap<_, _> {
        let rows = agreed.k3s_nodes.iter();
        rows.map(|(id, row)| (id.clone(), (row.cluster, row.pods.clone())))
            .collect()
    };
    clusters(one) == clusters(other) && nodes(one) == nodes(other)
}

#[cfg(test)]
mod tests {
    use consensus_core::{
        Cluster, ClusterId, ClusterStatus, Cni, K3sBinary, K3sNode, K3sPhase, K3sRole, LogIndex,
        VipId, WallMs,
    };

    use super::*;

    const NETWORK: NetworkId = NetworkId::from_bytes([1; 16]);
    const ELSEWHERE: NetworkId = NetworkId::from_bytes([2; 16]);
    const PROD: ClusterId = ClusterId::from_bytes([3; 16]);

    fn node(letter: char) -> NodeId {
        let text = format!("12D3KooW{}", letter.to_string().repeat(44));
        text.parse().unwrap()
    }

    fn k3s(pods: &[&str]) -> K3sNode {
        K3sNode {
            cluster: PROD,
            role: K3sRole::Agent,
            attempt: LogIndex(1),
            binary: K3sBinary::INSTALLED,
            phase: K3sPhase::Starting,
            since: WallMs(0),
            token: None,
            version: None,
            generation: LogIndex(1),
            pods: pods.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    /// `a` and `b` are in a cluster, `c` is a member of the network only.
    fn agreed() -> Agreed {
        let mut agreed = Agreed::default();
        let prod = Cluster {
            name: "prod".into(),
            network: NETWORK,
            cni: Cni::Flannel,
            pod_prefix: "10.42.0.0/16".parse().ok(),
            vip: VipId::from_bytes([4; 16]),
            founder: node('a'),
            founded: LogIndex(1),
            status: ClusterStatus::Active,
            version: None,
            generation: LogIndex(1),
            rollout: None,
            departed: Default::default(),
            created_at: WallMs(0),
            lost: Default::default(),
        };
        agreed.clusters.insert(PROD, prod);
        agreed.k3s_nodes.insert(node('a'), k3s(&["10.42.0.0/24"]));
        agreed.k3s_nodes.insert(node('b'), k3s(&["10.42.1.0/24"]));
        agreed
    }

    fn texts(prefixes: impl Iterator<Item = Cidr>) -> Vec<String> {
        prefixes.map(|prefix| prefix.to_string()).collect()
    }

    #[test]
    fn everybody_in_the_network_sends_pods_to_their_node_and_nobody_else_does() {
        let agreed = agreed();
        for me in ['a', 'c'] {
            let pods = Pods::seen_by(&agreed, &node(me), NETWORK);
            assert_eq!(texts(pods.of(&node('b'))), ["10.42.1.0/24"]);
            assert!(texts(pods.of(&node('c'))).is_empty());
        }
        let pods = Pods::seen_by(&agreed, &node('c'), ELSEWHERE);
        assert!(texts(pods.of(&node('b'))).is_empty());
    }

    #[test]
    fn in_the_cluster_flannel_routes_and_outside_of_it_shoal_does() {
        let agreed = agreed();
        let routed = |me| {
            let pods = Pods::seen_by(&agreed, &node(me), NETWORK);
            texts(pods.routed_to(&node('b')))
        };
        assert!(routed('a').is_empty());
        assert_eq!(routed('c'), ["10.42.1.0/24"]);
    }

    #[test]
    fn pods_that_move_are_news_and_a_phase_is_not() {
        let (before, mut after) = (agreed(), agreed());
        after.k3s_nodes.get_mut(&node('b')).unwrap().phase = K3sPhase::Leaving;
        assert!(says_the_same(&before, &after));
        after.k3s_nodes.get_mut(&node('b')).unwrap().pods = BTreeSet::new();
        assert!(!says_the_same(&before, &after));
        let mut without = agreed();
        without.clusters.get_mut(&PROD).unwrap().pod_prefix = None;
        assert!(!says_the_same(&before, &without));
    }

    #[test]
    fn a_nodes_own_pods_are_in_its_clusters_network() {
        let own = own_pods(&agreed(), &node('a')).unwrap();
        assert_eq!(own.network, NETWORK);
        assert_eq!(texts(own.subnets.into_iter()), ["10.42.0.0/24"]);
        assert_eq!(own_pods(&agreed(), &node('c')), None);
    }
}
