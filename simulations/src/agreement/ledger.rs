//! The replicated state of the simulation: the mesh's real one, and a digest of all that was applied.
//!
//! Decides nothing: commands are carried out by `consensus_core::apply`, as on every server of a real
//! mesh. Each entry that is applied is told to the world, which compares.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use consensus_core::{
    Command, DEFAULT_IPV4_PREFIX, Envelope, LifecycleClass, LogIndex, Mesh, MeshId, NetworkId,
    NetworkProfile, NewNetwork, Node, NodeState, RaftId, RequestId, Role, RoutingMode, State,
    WallMs, apply, wire::v1,
};
use simulated_raft::Machine;

use super::{scenario::Leases, world::World};
use crate::node::node_id;

/// When every command is given; nothing here expires.
pub(crate) const NOW: WallMs = WallMs(1_700_000_000_000);
/// Names that the writes go round: so few that each is registered and taken back many times.
const NAMES: u64 = 16;
/// Requests with this bit are no client's.
pub(crate) const NO_CLIENTS: u128 = 1 << 127;
/// The network that virtual IPs are in.
const NETWORK: &str = "blue";
/// Of the network; nobody listens there.
const PORT: u16 = 51_820;
/// The digest and the index behind the state in a snapshot.
const TAIL_BYTES: usize = 16;

/// The replicated state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    pub(crate) mesh: State,
    /// The last command applied here.
    pub(crate) applied: u64,
    /// A digest of every command applied, in order.
    pub(crate) digest: u64,
}

impl Ledger {
    /// A mesh that exists and has nothing yet.
    pub(crate) fn founded() -> Self {
        let mut mesh = State::default();
        Arc::make_mut(&mut mesh.agreed).mesh = Some(Mesh {
            id: MeshId::from_bytes([1; 16]),
            name: "reef".to_owned(),
            created_at: NOW,
        });
        Self {
            mesh,
            ..Self::default()
        }
    }

    /// The same with so many servers, each with a place in the default network.
    pub(crate) fn of_servers(count: usize) -> Self {
        let mut ledger = Self::founded();
        let agreed = Arc::make_mut(&mut ledger.mesh.agreed);
        let servers = (0..count).map(|index| (node_id(index), server(index)));
        agreed.nodes.extend(servers);
        ledger.give(Command::CreateNetwork(NewNetwork {
            id: NetworkId::from_bytes([2; 16]),
            name: NETWORK.to_owned(),
            ipv4: DEFAULT_IPV4_PREFIX,
            wireguard_port: PORT,
            routing_mode: RoutingMode::Mesh,
            pod_subnet_prefix: None,
            container_subnet_prefix: None,
        }));
        for index in 0..count {
            ledger.give(Command::AttachPeer {
                node: name(index),
                network: NETWORK.to_owned(),
                hub: false,
                lan_subnets: BTreeSet::new(),
            });
        }
        // The log begins after it.
        ledger.mesh.applied = LogIndex(0);
        ledger
    }

    /// Carries out what was agreed before the simulation began.
    fn give(&mut self, command: Command) {
        let envelope = envelope(RequestId::from_bytes([0; 16]), command);
        let next = LogIndex(self.mesh.applied.0 + 1);
        let done = apply(&mut self.mesh, next, &envelope);
        done.expect("what founds a simulated mesh is well-formed");
        // No answer is remembered: the next command comes under the same name.
        self.mesh.answers = Default::default();
    }
}

fn name(index: usize) -> String {
    format!("s{index}")
}

fn envelope(request: RequestId, command: Command) -> Envelope {
    Envelope {
        request,
        actor: node_id(0),
        operator: None,
        time: NOW,
        command,
    }
}

fn server(index: usize) -> Node {
    Node {
        name: name(index),
        role: Role::Server,
        raft_id: Some(RaftId(index as u64 + 1)),
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
        joined_at: NOW,
    }
}

/// The log entry that makes a virtual IP. Each begins with another candidate.
pub(crate) fn virtual_ip(
    request: RequestId,
    number: usize,
    of: &Leases,
    servers: usize,
) -> Vec<u8> {
    let candidates = (0..servers).map(|place| name((number + place) % servers));
    let command = Command::CreateVip {
        name: format!("vip-{number}"),
        network: NETWORK.to_owned(),
        candidates: candidates.collect(),
        check: None,
        profile: of.profile,
    };
    v1::encode(&envelope(request, command))
}

/// The log entry that makes a server an agent, or an agent a server.
pub(crate) fn role(request: RequestId, server: usize, role: Role, servers: usize) -> Vec<u8> {
    let command = Command::SetRole {
        node: name(server),
        role,
        reachable: (0..servers).map(node_id).collect(),
        force: false,
    };
    v1::encode(&envelope(request, command))
}

/// The log entry of a write. Odd ones take back what the even one before them registered.
pub(crate) fn entry(attempt: u64) -> Vec<u8> {
    let name = format!("dock-{}", attempt / 2 % NAMES);
    let command = if attempt.is_multiple_of(2) {
        let endpoint = format!("tcp://dock:{attempt}");
        Command::RegisterDocker { name, endpoint }
    } else {
        Command::UnregisterDocker { name }
    };
    let request = RequestId::from_bytes(u128::from(attempt).to_be_bytes());
    v1::encode(&envelope(request, command))
}

/// The attempt that an envelope is, if it is a client's.
fn attempt_of(envelope: &Envelope) -> Option<u64> {
    let request = u128::from_be_bytes(*envelope.request.as_bytes());
    u64::try_from(request).ok()
}

/// A digest that changes with every bit and with the order: FNV-1a, 64 bits.
fn digest(seed: u64, index: u64, bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let (seed, index) = (seed.to_le_bytes(), index.to_le_bytes());
    let all = seed.iter().chain(&index).chain(bytes);
    all.fold(0xcbf2_9ce4_8422_2325, mix)
}

impl Machine for Ledger {
    fn apply(&mut self, index: LogIndex, entry: &[u8]) -> Vec<u8> {
        let before = self.applied;
        self.applied = index.0;
        self.digest = digest(self.digest, index.0, entry);
        let attempt = v1::decode::<Envelope>(entry).ok().and_then(|envelope| {
            // Whether it is refused is the state's business and the same everywhere.
            let done = apply(&mut self.mesh, index, &envelope);
            self.digest ^= u64::from(done.is_err());
            attempt_of(&envelope)
        });
        World::current(|world| {
            let (index, digest, now) = (self.applied, self.digest, world.now());
            let evidence = &mut world.lock().evidence;
            evidence.applied(now, before, index, digest, attempt);
            for (vip, row) in &self.mesh.agreed.virtual_ips {
                evidence.assigned(now, *vip, row.epoch, row.holder.as_ref());
            }
        });
        self.digest.to_le_bytes().to_vec()
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = v1::encode(&self.mesh);
        bytes.extend(self.applied.to_le_bytes());
        bytes.extend(self.digest.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let split = bytes.len().checked_sub(TAIL_BYTES);
        let (mesh, tail) = bytes.split_at(split.ok_or("too short")?);
        let (applied, digest) = tail.split_at(TAIL_BYTES / 2);
        let number = |bytes: &[u8]| {
            let bytes = bytes.try_into().expect("half of sixteen bytes are eight");
            u64::from_le_bytes(bytes)
        };
        Ok(Self {
            mesh: v1::decode(mesh).map_err(|error| error.to_string())?,
            applied: number(applied),
            digest: number(digest),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_carries_the_state_and_its_history() {
        let mut ledger = Ledger::founded();
        for attempt in 0..5 {
            ledger.apply(LogIndex(attempt + 3), &entry(attempt));
        }
        let copy = Ledger::decode(&ledger.encode()).unwrap();
        assert_eq!((copy.applied, copy.digest), (7, ledger.digest));
        assert_eq!(copy.mesh, ledger.mesh);
        assert_eq!(ledger.mesh.agreed.external_docker_hosts.len(), 1);
        assert!(Ledger::decode(&[1; 7]).is_err());
    }

    #[test]
    fn another_order_is_another_digest() {
        let digests = [[1, 2], [2, 1]].map(|order| {
            let mut ledger = Ledger::founded();
            for (place, attempt) in order.into_iter().enumerate() {
                ledger.apply(LogIndex(place as u64 + 1), &entry(attempt));
            }
            ledger.digest
        });
        assert_ne!(digests[0], digests[1]);
    }
}
