//! Claims about who gives pods their network, how K3s is told so, and whom both are kept off.
//!
//! What a machine gets is derived all the way: the mesh agrees on the cluster and on who is in it, and the
//! node's wish follows from that.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use consensus_core::{
    Agreed, Applied, Assignment, ClusterCommand, Command, DEFAULT_IPV4_PREFIX, Envelope,
    Ipv6Prefix64, K3sPhase, LifecycleClass, Mesh, MeshId, Network, NetworkId, NetworkProfile, Node,
    NodeId, NodeState, Peer, RaftId, RequestId, Role, RoutingMode, State, Target, WallMs, apply,
};
use serde_json::Value;

use super::*;

/// How a machine comes to a cluster.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// It founds it; what was asked for, if anything, decides.
    Founds,
    /// A selector makes it a server of one that another founded.
    Serves,
    /// A selector makes it an agent of one.
    Works,
}

const NETWORK: NetworkId = NetworkId::from_bytes([2; 16]);
/// Founds the cluster that the machine is to come to; heavyweight.
const FOUNDER: u8 = 1;
/// The machine in question.
const MACHINE: u8 = 2;

fn id(n: u8) -> NodeId {
    let digits = n.to_string().repeat(44);
    format!("12D3KooW{digits}").parse().unwrap()
}

fn labels() -> BTreeMap<String, String> {
    [("pool".to_owned(), "one".to_owned())].into()
}

fn node(n: u8, network_profile: NetworkProfile) -> Node {
    let server = n == FOUNDER;
    Node {
        name: format!("n{n}"),
        role: if server { Role::Server } else { Role::Agent },
        raft_id: server.then_some(RaftId(1)),
        state: NodeState::Running,
        labels: if server { BTreeMap::new() } else { labels() },
        metadata: BTreeMap::new(),
        lifecycle_class: LifecycleClass::Persistent,
        tmpfs_store: false,
        network_profile,
        addresses: Vec::new(),
        wireguard_public_key: [n; 32],
        sealing_recipient: format!("age1{n}"),
        has_served: server,
        joined_at: WallMs(1),
    }
}

fn peer(n: u8) -> Peer {
    Peer {
        ipv6: format!("fd00::{n}").parse().unwrap(),
        ipv4: Ipv4Addr::new(100, 96, 0, n),
        attached: LogIndex(0),
        hub: false,
        lan_subnets: BTreeSet::new(),
        container_subnet: None,
    }
}

/// Two nodes in one network, and no cluster yet.
struct World {
    state: State,
}

impl World {
    fn with(profile: NetworkProfile, prefix: Option<&str>) -> Self {
        let mesh = MeshId::from_bytes([1; 16]);
        let network = Network {
            name: "default".into(),
            handle: "default".into(),
            ipv6: Ipv6Prefix64::of(mesh, NETWORK),
            ipv4: DEFAULT_IPV4_PREFIX,
            wireguard_port: 51820,
            routing_mode: RoutingMode::Mesh,
            pod_subnet_prefix: prefix.map(|prefix| prefix.parse().unwrap()),
            container_subnet_prefix: None,
            container_subnets_given: 0,
        };
        let mut agreed = Agreed {
            mesh: Some(Mesh {
                id: mesh,
                name: "reef".into(),
                created_at: WallMs(1),
            }),
            ..Agreed::default()
        };
        agreed.networks.insert(NETWORK, network);
        for (n, profile) in [(FOUNDER, HEAVY), (MACHINE, profile)] {
            agreed.nodes.insert(id(n), node(n, profile));
            agreed.peers.insert((NETWORK, id(n)), peer(n));
        }
        Self {
            state: State {
                agreed: Arc::new(agreed),
                ..State::default()
            },
        }
    }

    fn give(&mut self, command: ClusterCommand) -> Applied {
        let index = LogIndex(self.state.applied.0 + 1);
        let envelope = Envelope {
            request: RequestId::from_bytes(u128::from(index.0).to_be_bytes()),
            actor: id(FOUNDER),
            operator: None,
            time: WallMs(1),
            command: Command::Cluster(command),
        };
        apply(&mut self.state, index, &envelope)
    }

    fn assign(&mut self, role: K3sRole, target: Target, cni: Option<Cni>) -> Applied {
        let module = role.module();
        self.give(ClusterCommand::Assign {
            assignment: Assignment { module, target },
            cluster: Some("prod".into()),
            network: None,
            cni,
            binary: binary(OLD),
            profile: None,
            reachable: [FOUNDER, MACHINE].map(id).into(),
            consent: true,
        })
    }

    /// The machine comes to a cluster for which that CNI was asked.
    fn come(&mut self, way: Way, cni: Option<Cni>) -> Applied {
        let role = match way {
            Way::Founds => return self.assign(K3sRole::Server, Target::Node(id(MACHINE)), cni),
            Way::Serves => K3sRole::Server,
            Way::Works => K3sRole::Agent,
        };
        let founder = Target::Node(id(FOUNDER));
        self.assign(K3sRole::Server, founder, cni).unwrap();
        let attempt = self.state.agreed.k3s_nodes[&id(FOUNDER)].attempt;
        self.give(ClusterCommand::Report {
            attempt,
            phase: K3sPhase::Ready {
                version: OLD.into(),
            },
            generation: attempt,
            pods: BTreeSet::new(),
        })
        .unwrap();
        self.assign(role, Target::Selector(labels()), None)
    }

    /// What the machine's K3s is to be.
    fn stay(&self) -> Stay {
        let desired = wish::desired(&self.state.agreed, &id(MACHINE), &BTreeSet::new());
        desired.stay.unwrap()
    }
}

const TOO_SMALL: &str = "CniProfileMismatchError";

/// What K3s on such a machine is told of pods' network, by way, asked CNI and network's prefix: the
/// values of `flannel-backend`, `flannel-iface`, `cluster-cidr` and `disable-network-policy`. `None` if
/// it is refused. `asked` of a node that joins is what its cluster has.
fn told(
    profile: NetworkProfile,
    asked: Option<Cni>,
    way: Way,
    prefix: Option<&str>,
) -> Option<[Value; 4]> {
    let mut world = World::with(profile, prefix);
    if let Err(refusal) = world.come(way, asked) {
        // The mesh looks at a founder; at those whom a selector covers they look themselves.
        assert!(matches!(way, Way::Founds), "{way:?}: {refusal}");
        assert_eq!(refusal.code(), TOO_SMALL);
        return None;
    }
    let mut host = Host::new(world.stay());
    let phase = host.run();
    if let Phase::Failed { code, reason, .. } = phase {
        assert_eq!(code, TOO_SMALL);
        assert!(reason.contains("n2"), "{reason}");
        assert!(
            host.steps.is_empty(),
            "nothing is installed: {:?}",
            host.steps
        );
        return None;
    }
    assert!(matches!(phase, Phase::Ready { .. }), "{phase:?}");
    let settings: Value = serde_json::from_str(&host.observed.settings.unwrap()).unwrap();
    let keys = [
        "flannel-backend",
        "flannel-iface",
        "cluster-cidr",
        "disable-network-policy",
    ];
    Some(keys.map(|key| settings.get(key).cloned().unwrap_or(Value::Null)))
}

const HEAVY: NetworkProfile = NetworkProfile::Heavyweight;
const LIGHT: NetworkProfile = NetworkProfile::Lightweight;
const FLANNEL: Option<Cni> = Some(Cni::Flannel);
const OVN: Option<Cni> = Some(Cni::OvnKubernetes);
const PREFIX: Option<&str> = Some("10.42.0.0/16");

/// A machine, what was asked for, its way in, the network's prefix, and what its settings say: `-` is a
/// key that is not there, `refused` a whole row that is not.
type Row = (
    NetworkProfile,
    Option<Cni>,
    Way,
    Option<&'static str>,
    &'static str,
);

const ROWS: &[Row] = &[
    (HEAVY, None, Way::Founds, None, "none - - true"),
    (HEAVY, None, Way::Founds, PREFIX, "none - - true"),
    (HEAVY, FLANNEL, Way::Founds, None, "vxlan wg - -"),
    (
        HEAVY,
        FLANNEL,
        Way::Founds,
        PREFIX,
        "host-gw wg 10.42.0.0/16 -",
    ),
    (HEAVY, OVN, Way::Founds, None, "none - - true"),
    (HEAVY, OVN, Way::Founds, PREFIX, "none - - true"),
    (LIGHT, None, Way::Founds, None, "vxlan wg - -"),
    (
        LIGHT,
        None,
        Way::Founds,
        PREFIX,
        "host-gw wg 10.42.0.0/16 -",
    ),
    (LIGHT, FLANNEL, Way::Founds, None, "vxlan wg - -"),
    (
        LIGHT,
        FLANNEL,
        Way::Founds,
        PREFIX,
        "host-gw wg 10.42.0.0/16 -",
    ),
    (LIGHT, OVN, Way::Founds, None, "refused"),
    (LIGHT, OVN, Way::Founds, PREFIX, "refused"),
    (HEAVY, FLANNEL, Way::Serves, None, "vxlan wg - -"),
    (
        HEAVY,
        FLANNEL,
        Way::Serves,
        PREFIX,
        "host-gw wg 10.42.0.0/16 -",
    ),
    (HEAVY, OVN, Way::Serves, None, "none - - true"),
    (HEAVY, OVN, Way::Serves, PREFIX, "none - - true"),
    (LIGHT, FLANNEL, Way::Serves, None, "vxlan wg - -"),
    (
        LIGHT,
        FLANNEL,
        Way::Serves,
        PREFIX,
        "host-gw wg 10.42.0.0/16 -",
    ),
    (LIGHT, OVN, Way::Serves, None, "refused"),
    (LIGHT, OVN, Way::Serves, PREFIX, "refused"),
    (HEAVY, FLANNEL, Way::Works, None, "- wg - -"),
    (HEAVY, FLANNEL, Way::Works, PREFIX, "- wg - -"),
    (HEAVY, OVN, Way::Works, None, "- - - -"),
    (HEAVY, OVN, Way::Works, PREFIX, "- - - -"),
    (LIGHT, FLANNEL, Way::Works, None, "- wg - -"),
    (LIGHT, FLANNEL, Way::Works, PREFIX, "- wg - -"),
    (LIGHT, OVN, Way::Works, None, "refused"),
    (LIGHT, OVN, Way::Works, PREFIX, "refused"),
];

/// SPEC 5.6 and 5.7: every profile, choice, way in, with and without a prefix.
#[test]
fn what_pods_get_follows_from_profile_choice_way_and_prefix() {
    for (profile, asked, way, prefix, expected) in ROWS.iter().copied() {
        let word = |value: &Value| match value {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.replace("shoal-default", "wg"),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                value.to_string()
            }
        };
        let got = told(profile, asked, way, prefix);
        let got = got.map_or("refused".to_owned(), |values| {
            values.each_ref().map(word).join(" ")
        });
        assert_eq!(got, expected, "{profile:?} {asked:?} {way:?} {prefix:?}");
    }
}

/// A selector asks nobody for a place: who has none is kept out on the node, and is in once it has one.
#[test]
fn whom_a_selector_covers_without_a_place_in_the_clusters_network_says_so() {
    for way in [Way::Serves, Way::Works] {
        let mut world = World::with(HEAVY, None);
        let place = (NETWORK, id(MACHINE));
        let agreed = Arc::make_mut(&mut world.state.agreed);
        let had = agreed.peers.remove(&place).unwrap();
        world.come(way, FLANNEL).unwrap();
        let misfit = Misfit::NoPlace {
            node: "n2".into(),
            network: "default".into(),
        };
        assert_eq!(world.stay().membership, Err(misfit), "{way:?}");
        let agreed = Arc::make_mut(&mut world.state.agreed);
        agreed.peers.insert(place, had);
        let membership = world.stay().membership.unwrap();
        assert_eq!(membership.place.ipv4, peer(MACHINE).ipv4);
        assert_eq!(membership.entrance, Entrance::Join);
    }
}
