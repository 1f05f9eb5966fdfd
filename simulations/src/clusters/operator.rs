//! An operator who cannot make up his mind.
//!
//! Decides: what is asked for next. Much of it is refused; that is part of it. Repeats nothing: a wish
//! that is lost is lost.

use std::collections::BTreeSet;

use consensus_core::{
    Assignment, BinaryOrigin, ClusterCommand, Cni, Command, IpPrefix, K3sBinary, K3sRole, Module,
    NetworkChange, PrefixChange,
};

use super::{
    mesh::{NETWORK, envelope, name},
    world::{Event, World},
};
use crate::node::node_id;

/// Clusters that are ever aimed at.
const CLUSTERS: [&str; 2] = ["a", "b"];
/// What the first nodes are to be, so that there is something to break soon.
const FIRST: [(usize, K3sRole); 5] = [
    (0, K3sRole::Server),
    (1, K3sRole::Server),
    (2, K3sRole::Server),
    (3, K3sRole::Agent),
    (4, K3sRole::Agent),
];
/// Where K3s puts pods unless it is told otherwise: the one prefix that may come to a cluster later.
const PODS: &str = "10.42.0.0/16";
/// Nodes that stay members of the mesh.
const STAYING: usize = 5;

impl World {
    /// The first wishes, all at once.
    pub(super) fn first_wishes(&mut self) {
        for (node, role) in FIRST {
            let command = aimed(node, role, "a");
            self.ask(command);
        }
    }

    pub(super) fn wish(&mut self) {
        if self.is_calm {
            return;
        }
        let every = self.scenario.wishes_every;
        self.after_some(every, Event::Wish);
        let command = self.wanted();
        self.ask(command);
    }

    fn ask(&mut self, command: Command) {
        let request = self.request();
        let sent = envelope(request, &node_id(0), command);
        self.mail(sent, None);
    }

    fn wanted(&mut self) -> Command {
        // A scenario without it draws nothing for it.
        if self.chance(self.scenario.pod_prefixes) {
            return self.pod_prefix();
        }
        if self.chance(self.scenario.upgrades) {
            return self.upgrade(CLUSTERS[0]);
        }
        let node = self.below(self.nodes.len());
        let cluster = CLUSTERS[self.below(CLUSTERS.len())];
        let role = match self.below(2) {
            0 => K3sRole::Server,
            _ => K3sRole::Agent,
        };
        match self.below(40) {
            0..=19 => aimed(node, role, cluster),
            // What it is now, elsewhere.
            20..=25 if self.serves(node) => aimed(node, K3sRole::Server, cluster),
            20..=25 => aimed(node, K3sRole::Agent, cluster),
            26..=33 => {
                let module = match self.serves(node) {
                    true => Module::K3sServer,
                    false => Module::K3sAgent,
                };
                Command::UnassignModule(Assignment::to_node(module, node_id(node)))
            }
            34 => Command::Cluster(ClusterCommand::Decommission {
                cluster: cluster.to_owned(),
            }),
            35 if node >= STAYING => {
                self.removed.insert(node);
                Command::RemoveNode {
                    node: name(node),
                    reason: "sold".to_owned(),
                    compromised: false,
                    reachable: (0..self.nodes.len()).map(node_id).collect(),
                    force: true,
                }
            }
            _ => self.upgrade(cluster),
        }
    }

    /// The network gets a pod prefix. One that it has is taken back, which a cluster with it does not
    /// allow.
    fn pod_prefix(&self) -> Command {
        let network = self.log.agreed().find_network(NETWORK);
        let has_one = network.is_some_and(|(_, network)| network.pod_subnet_prefix.is_some());
        let prefix: IpPrefix = PODS.parse().expect("a prefix is well-formed");
        Command::SetNetwork {
            network: NETWORK.to_owned(),
            change: NetworkChange {
                pod_subnet_prefix: Some(match has_one {
                    true => PrefixChange::Clear,
                    false => PrefixChange::Set(prefix),
                }),
                ..NetworkChange::default()
            },
        }
    }

    fn upgrade(&mut self, cluster: &str) -> Command {
        Command::Cluster(ClusterCommand::Upgrade {
            cluster: cluster.to_owned(),
            binary: K3sBinary {
                origin: Some(BinaryOrigin::Path("/srv/k3s".to_owned())),
                version: Some(format!("v1.32.{}+k3s1", self.below(3))),
                images: None,
            },
            batch: 2,
        })
    }
}

fn aimed(node: usize, role: K3sRole, cluster: &str) -> Command {
    Command::Cluster(ClusterCommand::Assign {
        assignment: Assignment::to_node(role.module(), node_id(node)),
        cluster: Some(cluster.to_owned()),
        network: None,
        cni: (role == K3sRole::Server).then_some(Cni::Flannel),
        binary: K3sBinary::INSTALLED,
        profile: None,
        reachable: BTreeSet::new(),
        consent: true,
    })
}
