//! A mesh to make claims about: node 1 is its founder, and signs unless a test says who else.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::{
    Agreed, Applied, Assignment, CertificateProfile, CertificateRecord, Command,
    DEFAULT_IPV4_PREFIX, DockerHost, DockerPhase, Done, Enrolment, Envelope, EventKind,
    FoundingAuthority, Holder, Ipv4Prefix, IssuedCertificate, LeafFingerprint, LifecycleClass,
    LogIndex, Mesh, MeshId, Module, NetworkId, NetworkProfile, NewCertificate, NewIntermediate,
    NewRoot, NodeId, OperatorRole, Peer, Refusal, RequestId, Revocation, Role, RootFingerprint,
    SealedKey, State, Target, TokenId, WallMs, apply, wire::v1,
};

pub(super) use crate::limits::DAY_MS;

pub(super) const NETWORK: NetworkId = NetworkId::from_bytes([3; 16]);
pub(super) const HOUR_MS: u64 = 3_600_000;
pub(super) const YEAR_MS: u64 = 365 * DAY_MS;
/// Some day in 2023.
pub(super) const START: WallMs = WallMs(1_700_000_000_000);

/// One replica, and a clock for the commands given to it.
#[derive(Clone)]
pub(super) struct World {
    pub(super) state: State,
    pub(super) now: WallMs,
    requests: u128,
}

impl World {
    /// No mesh yet.
    pub(super) fn empty() -> Self {
        Self {
            state: State::default(),
            now: START,
            requests: 0,
        }
    }

    /// Node 1 alone.
    pub(super) fn founded() -> Self {
        let mut world = Self::empty();
        world.ok(1, create_mesh(1));
        world
    }

    /// Servers 1 to `servers`, then agents up to `nodes`.
    pub(super) fn of(servers: u32, nodes: u32) -> Self {
        let mut world = Self::founded();
        for n in 2..=nodes {
            let role = if n <= servers {
                Role::Server
            } else {
                Role::Agent
            };
            world.join(n, role);
        }
        world
    }

    /// Lets node `n` join by a token of its own. A server makes itself an intermediate.
    pub(super) fn join(&mut self, n: u32, role: Role) {
        let token = self.token(role, false);
        self.ok(1, admit(n, token));
        if role == Role::Server {
            self.ok(n, Command::RecordIntermediate(intermediate(n, self.now)));
        }
    }

    /// Replaces the root, up to the step where the new one is trusted.
    pub(super) fn begin_rotation(&mut self, k: u8) {
        let command = self.rotation_to(k);
        self.ok(1, command);
    }

    /// The beginning of a rotation to root `k`.
    pub(super) fn rotation_to(&self, k: u8) -> Command {
        Command::BeginRotation {
            root: NewRoot {
                cross: Some(vec![0x30, 0xcc, k]),
                ..root(k)
            },
            key: sealed(self.state.sealing_recipients()),
            reason: "yearly".into(),
        }
    }

    /// Makes a token for a day.
    pub(super) fn token(&mut self, role: Role, reusable: bool) -> TokenId {
        let id = TokenId::from_bytes((self.requests + 1).to_be_bytes());
        let command = create_token(id, role, WallMs(self.now.0 + DAY_MS), reusable);
        self.ok(1, command);
        id
    }

    pub(super) fn envelope(&mut self, actor: u32, command: Command) -> Envelope {
        self.requests += 1;
        Envelope {
            request: RequestId::from_bytes(self.requests.to_be_bytes()),
            actor: id(actor),
            operator: None,
            time: self.now,
            command,
        }
    }

    pub(super) fn apply(&mut self, envelope: &Envelope) -> Applied {
        let index = LogIndex(self.state.applied.0 + 1);
        apply(&mut self.state, index, envelope)
    }

    pub(super) fn give(&mut self, actor: u32, command: Command) -> Applied {
        let envelope = self.envelope(actor, command);
        self.apply(&envelope)
    }

    pub(super) fn ok(&mut self, actor: u32, command: Command) -> Done {
        let name = command.name();
        match self.give(actor, command) {
            Ok(done) => done,
            Err(refusal) => panic!("{name} was refused: {refusal}"),
        }
    }

    /// The refusal, after a look at whether it changed anything.
    pub(super) fn refused(&mut self, actor: u32, command: Command) -> Refusal {
        let name = command.name();
        let before = self.state.clone();
        match self.give(actor, command) {
            Ok(done) => panic!("{name} was not refused: {done:?}"),
            Err(refusal) => {
                assert_only_remembered(&before, &self.state);
                refusal
            }
        }
    }

    /// Gives a command that is accepted and changes nothing.
    pub(super) fn ignored(&mut self, actor: u32, command: Command) {
        let before = self.state.clone();
        self.ok(actor, command);
        assert_only_remembered(&before, &self.state);
    }

    pub(super) fn agreed(&self) -> &Agreed {
        &self.state.agreed
    }

    pub(super) fn peer(&self, n: u32) -> &Peer {
        &self.agreed().peers[&(NETWORK, id(n))]
    }

    pub(super) fn host(&self, n: u32) -> &DockerHost {
        &self.agreed().docker_hosts[&id(n)]
    }

    /// The kinds of the last entry's events.
    pub(super) fn kinds(&self) -> Vec<EventKind> {
        let last = self.state.applied;
        let of_last = self.state.events.iter().filter(|event| event.index == last);
        of_last.map(|event| event.kind).collect()
    }

    /// Node `n` reports a phase and listens on its own address.
    pub(super) fn report(&mut self, n: u32, phase: DockerPhase) {
        let command = self.reporting(n, phase);
        self.ok(n, command);
    }

    pub(super) fn reporting(&self, n: u32, phase: DockerPhase) -> Command {
        let peer = self.agreed().peers.get(&(NETWORK, id(n)));
        Command::ReportDocker {
            phase,
            listen: peer.map(|peer| peer.ipv6),
        }
    }

    /// Brings node `n` to a ready Docker host with a certificate of this serial number.
    pub(super) fn docker_ready(&mut self, n: u32, serial: &str) {
        if !self.agreed().assigned(&id(n), Module::DockerEngine) {
            self.ok(1, Command::AssignModule(docker_on(n)));
        }
        self.report(n, DockerPhase::Installing);
        self.report(n, wants_cert(1));
        self.ok(1, signed(n, 1, serial));
        self.report(n, ready());
    }
}

fn assert_only_remembered(before: &State, after: &State) {
    let same = |before: &State, after: &State| v1::encode(before) == v1::encode(after);
    let mut after = after.clone();
    let (_, last) = after.answers.pop_back().expect("the answer is remembered");
    assert!(after.answers.len() >= before.answers.len().min(1023));
    after.applied = before.applied;
    after.answers = before.answers.clone();
    assert!(
        same(before, &after),
        "something changed, and the answer was {last:?}"
    );
}

/// Node `n`'s id.
pub(super) fn id(n: u32) -> NodeId {
    let digits = format!("{n:A>44}").replace('0', "z");
    format!("12D3KooW{digits}").parse().unwrap()
}

pub(super) fn name(n: u32) -> String {
    format!("n{n}")
}

pub(super) fn secret() -> [u8; 32] {
    [9; 32]
}

pub(super) fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    pairs.iter().map(owned).collect()
}

pub(super) fn enrolment(n: u32) -> Enrolment {
    Enrolment {
        node: id(n),
        name: name(n),
        labels: BTreeMap::new(),
        metadata: labels(&[("kernel", "6.1")]),
        lifecycle_class: LifecycleClass::Persistent,
        tmpfs_store: false,
        network_profile: NetworkProfile::Heavyweight,
        addresses: vec![format!("192.0.2.{}:7440", n % 250 + 1).parse().unwrap()],
        wireguard_public_key: [7; 32],
        sealing_recipient: recipient(n),
    }
}

/// Node `n`'s age recipient, or so it looks.
pub(super) fn recipient(n: u32) -> String {
    let digit = |c: char| BECH32[usize::try_from(c.to_digit(10).unwrap()).unwrap()];
    let digits: String = n.to_string().chars().map(digit).collect();
    format!("age1{digits:q>58}")
}

const BECH32: [char; 10] = ['p', 'z', 'r', 'y', '9', 'x', '8', 'g', 'f', '2'];

/// Whoever keeps the recovery identity.
pub(super) fn recovery() -> String {
    recipient(999)
}

/// A day's certificate of node `n`, signed by node 1.
pub(super) fn certificate(serial: &str, n: u32, from: WallMs) -> NewCertificate {
    certificate_by(1, serial, n, from)
}

/// The same, signed by another server.
pub(super) fn certificate_by(by: u32, serial: &str, n: u32, from: WallMs) -> NewCertificate {
    leaf(
        &ca_serial(by),
        serial,
        Holder::Node(id(n)),
        CertificateProfile::Node,
        from,
    )
}

/// A day's leaf.
pub(super) fn leaf(
    issuer: &str,
    serial: &str,
    holder: Holder,
    profile: CertificateProfile,
    from: WallMs,
) -> NewCertificate {
    NewCertificate {
        serial: serial.to_owned(),
        record: CertificateRecord {
            holder,
            profile,
            issuer: issuer.to_owned(),
            fingerprint: LeafFingerprint::of(serial.as_bytes()),
            not_before: from,
            not_after: WallMs(from.0 + DAY_MS),
        },
    }
}

/// The serial number of server `n`'s first intermediate.
pub(super) fn ca_serial(n: u32) -> String {
    format!("ca{n:02x}")
}

/// A week's intermediate of server `n` under the first root.
pub(super) fn intermediate(n: u32, from: WallMs) -> NewIntermediate {
    intermediate_under(0, &ca_serial(n), from)
}

/// A week's intermediate under root `k`.
pub(super) fn intermediate_under(k: u8, serial: &str, from: WallMs) -> NewIntermediate {
    NewIntermediate {
        serial: serial.to_owned(),
        certificate: serial.as_bytes().to_vec(),
        root: fingerprint(k),
        not_before: from,
        not_after: WallMs(from.0 + 7 * DAY_MS),
    }
}

/// Ten years' root, told apart by `k`; 0 is the mesh's first.
pub(super) fn root(k: u8) -> NewRoot {
    NewRoot {
        certificate: vec![0x30, 0x82, k],
        cross: None,
        not_after: WallMs(START.0 + 10 * YEAR_MS),
    }
}

pub(super) fn fingerprint(k: u8) -> RootFingerprint {
    RootFingerprint::of(&root(k).certificate)
}

pub(super) fn sealed(recipients: BTreeSet<String>) -> SealedKey {
    SealedKey {
        recipients,
        age: b"age-encryption.org/v1".to_vec(),
    }
}

pub(super) fn create_mesh(n: u32) -> Command {
    create_mesh_with(n, DEFAULT_IPV4_PREFIX)
}

pub(super) fn create_mesh_with(n: u32, ipv4: Ipv4Prefix) -> Command {
    Command::CreateMesh {
        mesh: Mesh {
            id: MeshId::from_bytes([2; 16]),
            name: "reef".into(),
            created_at: START,
        },
        authority: Box::new(founding(n)),
        first: enrolment(n),
        certificate: certificate_by(n, "a0", n, START),
        network: NETWORK,
        ipv4,
        wireguard_port: 51820,
    }
}

pub(super) fn founding(n: u32) -> FoundingAuthority {
    FoundingAuthority {
        root: root(0),
        root_key: sealed([recipient(n), recovery()].into()),
        recovery_recipient: recovery(),
        intermediate: intermediate(n, START),
    }
}

pub(super) fn create_token(id: TokenId, role: Role, expires_at: WallMs, reusable: bool) -> Command {
    Command::CreateToken {
        id,
        secret_hash: secret(),
        role,
        expires_at,
        reusable,
    }
}

pub(super) fn admit(n: u32, token: TokenId) -> Command {
    admit_as(enrolment(n), token, &format!("a{n}"))
}

pub(super) fn admit_as(enrolment: Enrolment, token: TokenId, serial: &str) -> Command {
    let holder = Holder::Node(enrolment.node.clone());
    let profile = CertificateProfile::Node;
    Command::AdmitNode {
        token,
        secret_hash: secret(),
        enrolment,
        certificate: leaf(&ca_serial(1), serial, holder, profile, START),
    }
}

/// Everybody that a test can name.
pub(super) fn everybody() -> BTreeSet<NodeId> {
    (1..=20).map(id).collect()
}

pub(super) fn set_role(n: u32, role: Role) -> Command {
    Command::SetRole {
        node: name(n),
        role,
        reachable: everybody(),
        force: false,
    }
}

pub(super) fn remove(n: u32) -> Command {
    remove_as(n, false)
}

pub(super) fn remove_as(n: u32, compromised: bool) -> Command {
    Command::RemoveNode {
        node: name(n),
        reason: "broken".into(),
        compromised,
        reachable: everybody(),
        force: false,
    }
}

pub(super) fn label(n: u32, set: &[(&str, &str)], unset: &[&str]) -> Command {
    labelling(n, set, unset, true)
}

/// The same by somebody who may not know what hangs on the labels.
pub(super) fn label_unasked(n: u32, set: &[(&str, &str)], unset: &[&str]) -> Command {
    labelling(n, set, unset, false)
}

fn labelling(n: u32, set: &[(&str, &str)], unset: &[&str], consent: bool) -> Command {
    Command::LabelNode {
        node: name(n),
        set: labels(set),
        unset: unset.iter().map(|key| (*key).to_owned()).collect(),
        reachable: everybody(),
        consent,
    }
}

pub(super) fn attach(n: u32) -> Command {
    attach_to(n, "default")
}

pub(super) fn attach_to(n: u32, network: &str) -> Command {
    attach_with(n, network, &[])
}

/// As no hub, with networks behind it.
pub(super) fn attach_with(n: u32, network: &str, lan: &[&str]) -> Command {
    Command::AttachPeer {
        node: name(n),
        network: network.into(),
        hub: false,
        lan_subnets: prefixes(lan),
    }
}

pub(super) fn prefixes(texts: &[&str]) -> BTreeSet<crate::IpPrefix> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A network with the first free port and prefix.
pub(super) fn new_network(world: &World, name: &str) -> crate::NewNetwork {
    let number = u8::try_from(world.agreed().networks.len()).unwrap();
    crate::NewNetwork {
        id: NetworkId::from_bytes([0x40 + number; 16]),
        name: name.into(),
        ipv4: world.agreed().free_ipv4_prefixes().next().unwrap(),
        wireguard_port: world.agreed().free_wireguard_port(),
        routing_mode: crate::RoutingMode::Mesh,
        pod_subnet_prefix: None,
        container_subnet_prefix: None,
    }
}

pub(super) fn detach(n: u32) -> Command {
    Command::DetachPeer {
        node: name(n),
        network: "default".into(),
    }
}

pub(super) fn docker_on(n: u32) -> Assignment {
    Assignment::to_node(Module::DockerEngine, id(n))
}

pub(super) fn docker_where(pairs: &[(&str, &str)]) -> Assignment {
    Assignment {
        module: Module::DockerEngine,
        target: Target::Selector(labels(pairs)),
    }
}

pub(super) fn decommission(n: u32) -> Command {
    Command::DecommissionDocker { node: name(n) }
}

pub(super) fn wants_cert(key: u8) -> DockerPhase {
    DockerPhase::WantsCert { csr: vec![key] }
}

pub(super) fn ready() -> DockerPhase {
    DockerPhase::Ready {
        version: "20.10.24".into(),
    }
}

pub(super) fn failed(reason: &str, retry_at: WallMs) -> DockerPhase {
    DockerPhase::Failed {
        reason: reason.into(),
        code: "StartFailed".into(),
        retry_at,
    }
}

/// Node 1's answer to the request made with this key.
pub(super) fn signed(n: u32, key: u8, serial: &str) -> Command {
    Command::DockerCertSigned {
        node: id(n),
        certificate: IssuedCertificate {
            serial: serial.to_owned(),
            issuer: ca_serial(1),
            leaf: vec![0x30],
            csr: vec![key],
            not_before: START,
            not_after: WallMs(START.0 + DAY_MS),
        },
    }
}

pub(super) fn create_operator(name: &str, role: OperatorRole) -> Command {
    Command::CreateOperator {
        name: name.into(),
        role,
    }
}

/// Root `k`'s key, sealed to the servers that there are now.
pub(super) fn reseal(world: &World, k: u8) -> Command {
    Command::SealRootKey {
        root: fingerprint(k),
        key: sealed(world.state.sealing_recipients()),
    }
}

pub(super) fn revoke(which: Revocation) -> Command {
    Command::RevokeCertificates {
        which,
        reason: "lost".into(),
    }
}

pub(super) fn register(name: &str) -> Command {
    Command::RegisterDocker {
        name: name.into(),
        endpoint: "tcp://192.0.2.9:2376".into(),
    }
}

pub(super) const fn ipv4(c: u8, d: u8) -> Ipv4Addr {
    Ipv4Addr::new(100, 96, c, d)
}

pub(super) const ELSEWHERE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
