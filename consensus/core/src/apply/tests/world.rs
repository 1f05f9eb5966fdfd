//! A mesh to make claims about: node 1 is its founder and issuer.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use crate::{
    Agreed, Applied, Assignment, CertificateProfile, Command, DEFAULT_IPV4_PREFIX, DockerHost,
    DockerPhase, Done, Enrolment, Envelope, EventKind, Ipv4Prefix, IssuedCertificate,
    LifecycleClass, LogIndex, Mesh, MeshId, Module, NetworkId, NetworkProfile, NewCertificate,
    NodeId, Peer, Refusal, RequestId, Role, State, Target, TokenId, WallMs, apply, wire::v1,
};

pub(super) const NETWORK: NetworkId = NetworkId::from_bytes([3; 16]);
pub(super) const HOUR_MS: u64 = 3_600_000;
pub(super) const DAY_MS: u64 = 24 * HOUR_MS;
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

    /// Lets node `n` join by a token of its own.
    pub(super) fn join(&mut self, n: u32, role: Role) {
        let token = self.token(role, false);
        self.ok(1, admit(n, token));
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
    }
}

/// A day's certificate of node `n`.
pub(super) fn certificate(serial: &str, n: u32, from: WallMs) -> NewCertificate {
    NewCertificate::new(
        serial.to_owned(),
        id(n),
        CertificateProfile::Node,
        WallMs(from.0 + DAY_MS),
    )
}

pub(super) fn create_mesh(n: u32) -> Command {
    create_mesh_with(n, n, DEFAULT_IPV4_PREFIX)
}

pub(super) fn create_mesh_with(n: u32, issuer: u32, ipv4: Ipv4Prefix) -> Command {
    Command::CreateMesh {
        mesh: Mesh {
            id: MeshId::from_bytes([2; 16]),
            name: "reef".into(),
            root_certificate: vec![0x30, 0x82],
            issuer: id(issuer),
            created_at: START,
        },
        first: enrolment(n),
        certificate: certificate("a0", n, START),
        network: NETWORK,
        ipv4,
        wireguard_port: 51820,
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
    let certificate = NewCertificate::new(
        serial.to_owned(),
        enrolment.node.clone(),
        CertificateProfile::Node,
        WallMs(START.0 + DAY_MS),
    );
    Command::AdmitNode {
        token,
        secret_hash: secret(),
        enrolment,
        certificate,
    }
}

pub(super) fn set_role(n: u32, role: Role) -> Command {
    Command::SetRole {
        node: name(n),
        role,
    }
}

pub(super) fn remove(n: u32) -> Command {
    Command::RemoveNode {
        node: name(n),
        reason: "broken".into(),
    }
}

pub(super) fn label(n: u32, set: &[(&str, &str)], unset: &[&str]) -> Command {
    Command::LabelNode {
        node: name(n),
        set: labels(set),
        unset: unset.iter().map(|key| (*key).to_owned()).collect(),
    }
}

pub(super) fn attach(n: u32) -> Command {
    Command::AttachPeer {
        node: name(n),
        network: "default".into(),
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

/// The issuer's answer to the request made with this key.
pub(super) fn signed(n: u32, key: u8, serial: &str) -> Command {
    Command::DockerCertSigned {
        node: id(n),
        certificate: IssuedCertificate {
            serial: serial.to_owned(),
            leaf: vec![0x30],
            csr: vec![key],
            not_after: WallMs(START.0 + DAY_MS),
        },
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
