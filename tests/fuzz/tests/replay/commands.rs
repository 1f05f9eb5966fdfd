//! A small mesh in commands, and what it leaves behind in state, view, events and answers.

use std::collections::{BTreeMap, BTreeSet};

use consensus_core::{
    Applied, Command, DEFAULT_IPV4_PREFIX, Enrolment, Envelope, Epoch, LeaseProfile,
    LifecycleClass, LogIndex, Mesh, MeshId, NetworkId, NetworkProfile, NewRule, NodeId, NodeState,
    ReadinessCheck, RequestId, Role, RuleEnd, RuleNumber, RulePlace, RuleProtocol, State, TokenId,
    Verdict, VipId, WallMs, apply, wire::v1 as wire,
};
use consensus_core::{
    Assignment, BinaryOrigin, ClusterCommand, ClusterId, Cni, DrainCommand, DrainState, K3sBinary,
    K3sPhase, K3sRole,
};
use consensus_core::{
    CertificateProfile, CertificateRecord, FoundingAuthority, Holder, LeafFingerprint,
    NewCertificate, NewIntermediate, NewRoot, RootFingerprint, SealedKey,
};

type Seeds = Vec<(String, Vec<u8>)>;

const START: WallMs = WallMs(1_700_000_000_000);
const DAY_MS: u64 = 86_400_000;
const SECRET: [u8; 32] = [9; 32];

/// Seeds of every target of replicated types.
pub(crate) fn seeds() -> BTreeMap<&'static str, Seeds> {
    let mut state = State::default();
    let mut stream = Vec::new();
    let mut envelopes = Vec::new();
    let mut answers = Vec::new();
    for (n, (actor, command)) in commands().into_iter().enumerate() {
        let n = n as u64 + 1;
        let name = command.name().to_owned();
        let envelope = Envelope {
            request: RequestId::from_bytes(u128::from(n).to_be_bytes()),
            actor: id(actor),
            operator: None,
            time: START,
            command,
        };
        let answer = apply(&mut state, LogIndex(n), &envelope);
        let bytes = wire::encode(&envelope);
        stream.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
        stream.extend(&bytes);
        envelopes.push((name.clone(), bytes));
        keep(&mut answers, &name, &answer);
    }
    assert!(state.agreed.mesh.is_some(), "{answers:?}");
    assert_eq!(state.agreed.nodes.len(), 2, "{answers:?}");
    let cluster = state.agreed.find_cluster("prod").expect("it was made").1;
    let is_upgraded = cluster.rollout.is_some() && state.agreed.drains.contains_key(&id(2));
    assert!(is_upgraded, "{answers:?}");
    assert!(state.agreed.k3s_nodes[&id(2)].is_ready(), "{answers:?}");
    let vip = state.agreed.find_vip("web").expect("it was made").1;
    assert_eq!((vip.epoch, vip.moves.len()), (Epoch(2), 1), "{answers:?}");
    let events = state.events.iter().take(3).enumerate();
    let events = events.map(|(n, event)| (format!("{n}"), wire::encode(event)));
    BTreeMap::from([
        ("agreed_commands", vec![("mesh".to_owned(), stream)]),
        ("agreed_envelope", envelopes),
        ("agreed_applied", answers),
        ("agreed_event", events.collect()),
        (
            "agreed_state",
            vec![("mesh".to_owned(), wire::encode(&state))],
        ),
        (
            "agreed_view",
            vec![("mesh".to_owned(), wire::encode(&*state.agreed))],
        ),
    ])
}

/// Answers that are not there yet.
fn keep(answers: &mut Seeds, name: &str, answer: &Applied) {
    let bytes = wire::encode(answer);
    if answers.iter().all(|(_, known)| *known != bytes) {
        answers.push((name.to_owned(), bytes));
    }
}

fn commands() -> Vec<(u32, Command)> {
    let mut commands = commands_of_a_mesh();
    // An id is derived from the entry that makes it, and the first entry has index 1.
    let vip = VipId::made_at(
        MeshId::from_bytes([2; 16]),
        LogIndex(1 + commands.len() as u64),
    );
    commands.extend(commands_of_a_virtual_ip(vip));
    commands.extend(commands_of_a_firewall());
    let next = LogIndex(1 + commands.len() as u64);
    commands.extend(commands_of_a_cluster(next));
    commands
}

/// Node `n` is to be in the cluster `prod`.
fn assign(role: K3sRole, n: u32) -> ClusterCommand {
    ClusterCommand::Assign {
        assignment: Assignment::to_node(role.module(), id(n)),
        cluster: Some("prod".into()),
        network: None,
        cni: Some(Cni::Flannel),
        binary: K3sBinary {
            origin: Some(BinaryOrigin::Url {
                url: "http://files/k3s".into(),
                sha256: [3; 32],
            }),
            ..K3sBinary::INSTALLED
        },
        profile: Some(LeaseProfile::Wan),
        reachable: BTreeSet::from([id(1)]),
        consent: true,
    }
}

/// Of `prod`, two nodes at a time.
fn upgrade() -> ClusterCommand {
    ClusterCommand::Upgrade {
        cluster: "prod".into(),
        binary: K3sBinary {
            origin: Some(BinaryOrigin::Path("/srv/k3s".into())),
            version: Some("v1.32.0+k3s1".into()),
            images: Some("/srv/images".into()),
        },
        batch: 2,
    }
}

/// n2 is emptied, tells what it waits for, is given up too early, and an end that was not asked for.
fn commands_of_a_drain(begun: LogIndex) -> [(u32, Command); 4] {
    let waits = DrainState::Draining {
        waits_for: "pod d/web: its budget".into(),
    };
    let begin = DrainCommand::Begin {
        node: "n2".into(),
        timeout_ms: 600_000,
        cordon_only: false,
        force: false,
        reachable: BTreeSet::from([id(1), id(2)]),
    };
    let told = DrainCommand::Report {
        begun,
        state: waits,
    };
    let given_up = DrainCommand::GiveUp { node: id(2), begun };
    let end = DrainCommand::End { node: "n1".into() };
    let of_drains = [(1, begin), (2, told), (1, given_up), (1, end)];
    of_drains.map(|(by, command)| (by, Command::Drain(command)))
}

/// Founded by n1, joined by n2, which is emptied while an upgrade goes round; and words that are refused.
fn commands_of_a_cluster(first: LogIndex) -> Vec<(u32, Command)> {
    let at = |place: u64| LogIndex(first.0 + place);
    let cluster = ClusterId::made_at(MeshId::from_bytes([2; 16]), at(1));
    let says = |attempt, phase| ClusterCommand::Report {
        attempt,
        phase,
        generation: at(1),
        pods: BTreeSet::from(["10.42.1.0/24".parse().unwrap()]),
    };
    let version = || K3sPhase::Ready {
        version: "v1.31.2+k3s1".into(),
    };
    let failed = K3sPhase::Failed {
        reason: "no etcd".into(),
        code: "K3sStartError".into(),
        retry_at: START,
    };
    let token = SealedKey {
        recipients: BTreeSet::from([recipient(2)]),
        age: b"age-encryption.org/v1".to_vec(),
    };
    let attach = Command::AttachPeer {
        node: "n2".into(),
        network: "default".into(),
        hub: false,
        lan_subnets: BTreeSet::new(),
    };
    let of_clusters = [
        (1, assign(K3sRole::Server, 1)),
        (1, says(at(1), K3sPhase::Bootstrap)),
        (1, says(at(1), version())),
        (1, assign(K3sRole::Agent, 2)),
        (2, says(at(4), K3sPhase::JoinRequest)),
        (
            1,
            ClusterCommand::IssueToken {
                node: id(2),
                attempt: at(4),
                token,
            },
        ),
        (2, says(at(4), failed)),
        (2, says(at(4), version())),
        (1, upgrade()),
        (
            1,
            ClusterCommand::ForgetNodes {
                cluster,
                names: BTreeMap::from([("n3".to_owned(), at(2))]),
            },
        ),
        (
            1,
            ClusterCommand::Decommission {
                cluster: "other".into(),
            },
        ),
    ];
    let of_clusters = of_clusters.map(|(by, command)| (by, Command::Cluster(command)));
    let last = Command::UnassignModule(Assignment::to_node(K3sRole::Server.module(), id(1)));
    let all = [(1, attach)]
        .into_iter()
        .chain(of_clusters)
        .chain(commands_of_a_drain(at(12)));
    let agent = Command::Cluster(ClusterCommand::Unassign {
        assignment: Assignment::to_node(K3sRole::Agent.module(), id(1)),
        reachable: BTreeSet::from([id(1)]),
        consent: true,
    });
    all.chain([(1, agent), (1, last), (2, drift())]).collect()
}

/// n2 found its settings changed.
fn drift() -> Command {
    Command::ReportDrift {
        module: K3sRole::Agent.module(),
        what: "K3s's settings".into(),
    }
}

/// Made and not ready, so that nobody lets go of it; closed, and given to the same node again.
fn commands_of_a_virtual_ip(vip: VipId) -> Vec<(u32, Command)> {
    let (first, all) = (Epoch(1), BTreeSet::from([id(1)]));
    let made = LogIndex(8);
    let check = ReadinessCheck::new("https:6443/readyz".parse().unwrap());
    let create = Command::CreateVip {
        name: "web".into(),
        network: "default".into(),
        candidates: vec!["n1".into()],
        check: Some(check),
        profile: LeaseProfile::Lan,
    };
    let says = Command::ReportReadiness {
        vip,
        ready: false,
        reason: "connection refused".into(),
    };
    let release = Command::ReleaseVip {
        vip,
        epoch: first,
        to: None,
        reason: "its check failed".into(),
    };
    let assign = Command::AssignVip {
        vip,
        after: first,
        to: Some(id(1)),
        closed_by: all.clone(),
        reason: "silent".into(),
    };
    let measured = Command::ReportMove {
        vip,
        epoch: first.next(),
        outage_us: 31_000,
    };
    let wish = Command::RequestFailover {
        vip: "web".into(),
        to: None,
        reachable: all.clone(),
    };
    let begin = Command::BeginLeaseVoters {
        vip,
        epoch: first.next(),
        since: made,
        new: all,
    };
    let finish = Command::FinishLeaseVoters {
        vip,
        epoch: first.next(),
        since: made,
    };
    let candidates = Command::SetVipCandidates {
        vip: "web".into(),
        candidates: vec!["n1".into()],
    };
    let check = Command::SetVipCheck {
        vip: "web".into(),
        check: None,
    };
    let commands = [
        create, says, release, assign, measured, wish, begin, finish, candidates, check,
    ];
    commands.map(|command| (1, command)).into()
}

/// One rule that stays, one that goes, and one that is refused.
fn commands_of_a_firewall() -> Vec<(u32, Command)> {
    let rule = NewRule {
        network: "default".into(),
        from: RuleEnd::Label {
            key: "zone".into(),
            value: "a".into(),
        },
        to: RuleEnd::Node("n1".into()),
        protocol: RuleProtocol::Tcp,
        ports: vec!["80".parse().unwrap(), "8000-8100".parse().unwrap()],
        verdict: Verdict::Deny,
        place: RulePlace::Priority(100),
    };
    let before = NewRule {
        from: RuleEnd::Prefix("10.0.0.0/8".parse().unwrap()),
        place: RulePlace::Before(RuleNumber(1)),
        ..rule.clone()
    };
    let unknown = NewRule {
        to: RuleEnd::Node("n9".into()),
        ..rule.clone()
    };
    let gone = Command::RemoveFirewallRule {
        network: "default".into(),
        rule: RuleNumber(1),
    };
    let added = [rule, before, unknown].map(Command::AddFirewallRule);
    let commands = added.into_iter().chain([gone]);
    commands.map(|command| (1, command)).collect()
}

fn commands_of_a_mesh() -> Vec<(u32, Command)> {
    let token = TokenId::from_bytes([4; 16]);
    vec![
        (1, found()),
        (
            1,
            Command::CreateToken {
                id: token,
                secret_hash: SECRET,
                role: Role::Agent,
                expires_at: WallMs(START.0 + DAY_MS),
                reusable: true,
            },
        ),
        (
            1,
            Command::AdmitNode {
                token,
                secret_hash: SECRET,
                enrolment: enrolment(2),
                certificate: certificate("b2", 2),
            },
        ),
        (
            2,
            Command::ReportNode {
                state: NodeState::Running,
                addresses: vec!["192.0.2.2:7440".parse().unwrap()],
            },
        ),
        (
            1,
            Command::LabelNode {
                node: "n2".into(),
                set: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
                unset: vec!["x".into()],
                reachable: BTreeSet::from([id(1)]),
                consent: true,
            },
        ),
        (
            1,
            Command::DetachPeer {
                node: "n2".into(),
                network: "default".into(),
            },
        ),
        (
            1,
            Command::RegisterDocker {
                name: "other".into(),
                endpoint: "ssh://other".into(),
            },
        ),
    ]
}

fn found() -> Command {
    let root = vec![0x30, 0x82, 0];
    Command::CreateMesh {
        mesh: Mesh {
            id: MeshId::from_bytes([2; 16]),
            name: "reef".into(),
            created_at: START,
        },
        authority: Box::new(FoundingAuthority {
            root_key: SealedKey {
                recipients: BTreeSet::from([recipient(1), recipient(9)]),
                age: b"age-encryption.org/v1".to_vec(),
            },
            recovery_recipient: recipient(9),
            intermediate: NewIntermediate {
                serial: "c1".into(),
                certificate: vec![0x30, 0x81],
                root: RootFingerprint::of(&root),
                not_before: START,
                not_after: WallMs(START.0 + 7 * DAY_MS),
            },
            root: NewRoot {
                certificate: root,
                cross: None,
                not_after: WallMs(START.0 + 3650 * DAY_MS),
            },
        }),
        first: enrolment(1),
        certificate: certificate("b1", 1),
        network: NetworkId::from_bytes([3; 16]),
        ipv4: DEFAULT_IPV4_PREFIX,
        wireguard_port: 51820,
    }
}

fn certificate(serial: &str, n: u32) -> NewCertificate {
    NewCertificate {
        serial: serial.into(),
        record: CertificateRecord {
            holder: Holder::Node(id(n)),
            profile: CertificateProfile::Node,
            issuer: "c1".into(),
            fingerprint: LeafFingerprint::of(serial.as_bytes()),
            not_before: START,
            not_after: WallMs(START.0 + DAY_MS),
        },
    }
}

pub(crate) fn enrolment(n: u32) -> Enrolment {
    Enrolment {
        node: id(n),
        name: format!("n{n}"),
        labels: BTreeMap::new(),
        metadata: BTreeMap::from([("kernel".to_owned(), "6.1".to_owned())]),
        lifecycle_class: LifecycleClass::Persistent,
        tmpfs_store: false,
        network_profile: NetworkProfile::Heavyweight,
        addresses: vec![format!("192.0.2.{n}:7440").parse().unwrap()],
        wireguard_public_key: [7; 32],
        sealing_recipient: recipient(n),
    }
}

fn recipient(n: u32) -> String {
    let digits = ["q", "p", "z", "r", "y", "9", "x", "8", "g", "f"];
    format!("age1{:q>58}", digits[n as usize % 10])
}

pub(crate) fn id(n: u32) -> NodeId {
    let digits = format!("{n:A>44}").replace('0', "z");
    format!("12D3KooW{digits}").parse().unwrap()
}
