//! What all nodes agree on: one log, carried out by the mesh's real state machine.
//!
//! Decides nothing. Raft is not here: a command is agreed when it arrives, or is lost on its way. What a
//! planted bug leaves out of a rule is put in front of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use consensus_core::{
    Agreed, Applied, ClusterCommand, Command, DEFAULT_IPV4_PREFIX, Envelope, LifecycleClass,
    LogIndex, Mesh, MeshId, NetworkId, NetworkProfile, NewNetwork, Node, NodeId, NodeState, RaftId,
    RequestId, Role, RoutingMode, State, WallMs, apply,
};

use super::bug::PlantedBug;
use crate::node::node_id;

/// When every command is given; nothing here expires.
const NOW: WallMs = WallMs(1_700_000_000_000);
/// The network that clusters are in.
pub(super) const NETWORK: &str = "blue";
/// Of the network; nobody listens there.
const PORT: u16 = 51_820;
/// Servers of the mesh. None of them ever leaves it.
const SERVERS: usize = 3;

/// The log's present state.
pub(super) struct Log {
    state: State,
    bug: Option<PlantedBug>,
}

impl Log {
    /// A mesh of so many nodes, each with a place in one network, and no cluster.
    pub(super) fn founded(nodes: usize, bug: Option<PlantedBug>) -> Self {
        let mut state = State::default();
        let agreed = Arc::make_mut(&mut state.agreed);
        agreed.mesh = Some(Mesh {
            id: MeshId::from_bytes([1; 16]),
            name: "reef".to_owned(),
            created_at: NOW,
        });
        let rows = (0..nodes).map(|index| (node_id(index), node(index)));
        agreed.nodes.extend(rows);
        let mut log = Self { state, bug };
        log.give(Command::CreateNetwork(NewNetwork {
            id: NetworkId::from_bytes([2; 16]),
            name: NETWORK.to_owned(),
            ipv4: DEFAULT_IPV4_PREFIX,
            wireguard_port: PORT,
            routing_mode: RoutingMode::Mesh,
            pod_subnet_prefix: None,
            container_subnet_prefix: None,
        }));
        for index in 0..nodes {
            log.give(Command::AttachPeer {
                node: name(index),
                network: NETWORK.to_owned(),
                hub: false,
                lan_subnets: BTreeSet::new(),
            });
        }
        log
    }

    /// Carries out what was agreed before the simulation began.
    fn give(&mut self, command: Command) {
        let next = u128::from(self.state.applied.0 + 1);
        let request = RequestId::from_bytes((u128::MAX - next).to_be_bytes());
        let done = self.apply(&envelope(request, &node_id(0), command));
        done.expect("what founds a simulated mesh is well-formed");
    }

    /// The next entry.
    pub(super) fn apply(&mut self, envelope: &Envelope) -> Applied {
        let index = LogIndex(self.state.applied.0 + 1);
        match self.misread(envelope) {
            Some(other) => apply(&mut self.state, index, &other),
            None => apply(&mut self.state, index, envelope),
        }
    }

    pub(super) fn agreed(&self) -> &Agreed {
        &self.state.agreed
    }

    /// For those who look at it later.
    pub(super) fn view(&self) -> View {
        View {
            index: self.state.applied,
            agreed: Arc::clone(&self.state.agreed),
        }
    }

    /// The command as a state machine would take it that lacks the rule.
    fn misread(&mut self, envelope: &Envelope) -> Option<Envelope> {
        let Command::Cluster(command) = &envelope.command else {
            return None;
        };
        let mut command = command.clone();
        match (self.bug?, &mut command) {
            (PlantedBug::AttemptIgnored, ClusterCommand::IssueToken { node, attempt, .. }) => {
                *attempt = self.state.agreed.k3s_nodes.get(node)?.attempt;
            }
            (PlantedBug::ReportsOfEarlierStays, ClusterCommand::Report { attempt, .. }) => {
                let row = self.state.agreed.k3s_nodes.get(&envelope.actor)?;
                *attempt = row.attempt;
            }
            (PlantedBug::NamesNotForgotten, ClusterCommand::IssueToken { node, .. }) => {
                let cluster = self.state.agreed.k3s_nodes.get(node)?.cluster;
                let name = self.state.agreed.name_of(node);
                let agreed = Arc::make_mut(&mut self.state.agreed);
                agreed.clusters.get_mut(&cluster)?.departed.remove(&name);
            }
            _ => return None,
        }
        Some(Envelope {
            command: Command::Cluster(command),
            ..envelope.clone()
        })
    }
}

/// The agreed state as somebody sees it.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) index: LogIndex,
    pub(super) agreed: Arc<Agreed>,
}

pub(super) fn name(index: usize) -> String {
    format!("n{index}")
}

/// A command as it is sent.
pub(super) fn envelope(request: RequestId, actor: &NodeId, command: Command) -> Envelope {
    Envelope {
        request,
        actor: actor.clone(),
        operator: None,
        time: NOW,
        command,
    }
}

fn node(index: usize) -> Node {
    let serves = index < SERVERS;
    Node {
        name: name(index),
        role: if serves { Role::Server } else { Role::Agent },
        raft_id: serves.then_some(RaftId(index as u64 + 1)),
        state: NodeState::Running,
        labels: BTreeMap::new(),
        metadata: BTreeMap::new(),
        lifecycle_class: LifecycleClass::Persistent,
        tmpfs_store: false,
        network_profile: NetworkProfile::Lightweight,
        addresses: Vec::new(),
        wireguard_public_key: [0; 32],
        sealing_recipient: recipient(index),
        has_served: serves,
        joined_at: NOW,
    }
}

/// Whom a secret for a node is sealed to.
pub(super) fn recipient(index: usize) -> String {
    format!("age1of{index}")
}
