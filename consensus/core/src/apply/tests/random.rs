//! Random commands: replicas agree, nothing panics, invariants hold after every one.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{golden, world::*};
use crate::{
    Agreed, Command, DockerPhase, EVENTS_KEPT, Enrolment, Envelope, LifecycleClass, NodeState,
    RequestId, Role, State, Target, TokenId, WallMs, apply::ANSWERS_KEPT, wire::v1,
};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replicas_that_apply_the_same_log_have_the_same_bytes(
        log in prop::collection::vec(any::<Draw>(), 1..120),
        snapshot_at in 0_usize..120,
    ) {
        let (mut straight, mut restored) = (World::empty(), World::empty());
        for (at, envelope) in log_of(&log).iter().enumerate() {
            if at == snapshot_at {
                restored.state = v1::decode(&v1::encode(&restored.state)).unwrap();
            }
            let before = straight.state.clone();
            let answer = straight.apply(envelope);
            prop_assert_eq!(&answer, &restored.apply(envelope));
            if answer.is_err() {
                prop_assert_eq!(&before.agreed, &straight.state.agreed);
                prop_assert_eq!(&before.tokens, &straight.state.tokens);
                prop_assert_eq!(&before.events, &straight.state.events);
            }
            check(&straight.state);
        }
        prop_assert_eq!(v1::encode(&straight.state), v1::encode(&restored.state));
    }

    #[test]
    fn a_damaged_command_is_refused_or_applied_and_never_panics(
        pick in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        founded in any::<bool>(),
    ) {
        let mut world = if founded { golden::full_state() } else { World::empty() };
        let commands = golden::commands();
        let envelope = world.envelope(1, commands[pick.index(commands.len())].clone());
        let mut bytes = v1::encode(&envelope);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(damaged) = v1::decode::<Envelope>(&bytes) {
            let _ = world.apply(&damaged);
            check(&world.state);
        }
    }
}

#[test]
fn the_random_logs_reach_deep_states() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let logs = prop::collection::vec(any::<Draw>(), 120);
    let mut kinds = BTreeSet::new();
    let mut refusals = BTreeSet::new();
    for _ in 0..200 {
        let mut world = World::empty();
        for envelope in log_of(&logs.new_tree(&mut runner).unwrap().current()) {
            if let Err(refusal) = world.apply(&envelope) {
                refusals.insert(refusal.code());
            }
        }
        kinds.extend(world.state.events.iter().map(|event| event.kind.as_str()));
    }
    assert!(kinds.contains("system.docker.provisioned"), "{kinds:?}");
    assert!(kinds.contains("system.docker.decommissioned"), "{kinds:?}");
    assert!(kinds.len() >= 18, "{kinds:?}");
    assert!(refusals.len() >= 20, "{refusals:?}");
}

/// Raw material of one command.
type Draw = (u8, u8, u8, u8, u8);

/// Mostly sensible commands of six nodes, with hostile texts and repeated requests among them.
fn log_of(draws: &[Draw]) -> Vec<Envelope> {
    let mut world = World::empty();
    let mut now = START.0;
    let mut log: Vec<Envelope> = vec![world.envelope(1, create_mesh(1))];
    for (at, draw) in draws.iter().enumerate() {
        let (_, a, _, _, e) = *draw;
        now += u64::from(e) * HOUR_MS / 64;
        let (actor, command) = command_of(*draw, WallMs(now), at);
        let mut envelope = world.envelope(actor, command);
        envelope.time = WallMs(now);
        if e % 16 == 0 {
            envelope.request = log[usize::from(a) % log.len()].request;
        }
        if e == 1 {
            envelope.request = RequestId::from_bytes([0; 16]);
        }
        log.push(envelope);
    }
    log
}

fn command_of((kind, a, b, c, e): Draw, now: WallMs, at: usize) -> (u32, Command) {
    let n = u32::from(a % 6) + 1;
    let token = TokenId::from_bytes([b % 4; 16]);
    let role = if c % 2 == 0 {
        Role::Agent
    } else {
        Role::Server
    };
    let serial = if c < 32 {
        format!("{:02x}", c % 4)
    } else {
        format!("{at:04x}")
    };
    let assignment = if b % 3 == 0 {
        docker_where(&[("k", text(c))])
    } else {
        docker_on(n)
    };
    let command = match kind % 24 {
        0 if e < 8 => create_mesh(n),
        0 | 1 => {
            let life = [0, HOUR_MS, DAY_MS, u64::MAX][usize::from(c / 4 % 4)];
            create_token(token, role, WallMs(now.0.saturating_add(life)), c % 3 != 0)
        }
        2..=5 => {
            let actor = if e % 32 == 3 { n } else { 1 };
            return (actor, admit_as(joiner(n, c, e), token, &serial));
        }
        6 => Command::ReportNode {
            state: [
                NodeState::Joining,
                NodeState::Bootstrapping,
                NodeState::Running,
            ][usize::from(b % 3)],
            addresses: vec![],
        },
        7 | 8 => label(n, &[("k", text(c))], if b % 2 == 0 { &[] } else { &["k"] }),
        9 => set_role(n, role),
        10 if b % 2 == 0 => remove(n),
        10 => Command::RemoveNode {
            node: text(c).into(),
            reason: text(b).into(),
        },
        11 => Command::RecordSilence {
            node: id(n),
            silent: c % 2 == 0,
        },
        12 => {
            let command = Command::RecordCertificate(certificate(&serial, n, now));
            return (if e % 8 == 0 { n } else { 1 }, command);
        }
        13 => attach(n),
        14 => detach(n),
        15 | 16 => Command::AssignModule(assignment),
        17 => Command::UnassignModule(assignment),
        18..=20 => return (n, report_of(b, c, n)),
        21 => return (if e % 8 == 0 { n } else { 1 }, signed(n, b % 3, &serial)),
        22 => decommission(n),
        _ if b % 2 == 0 => register(text(c)),
        _ => Command::UnregisterDocker {
            name: text(c).into(),
        },
    };
    (n, command)
}

fn joiner(n: u32, c: u8, e: u8) -> Enrolment {
    let mut joiner = enrolment(n);
    if e % 8 == 1 {
        joiner.name = text(c).into();
    }
    if e % 8 == 2 {
        joiner.lifecycle_class = LifecycleClass::Spot;
    }
    joiner.labels = labels(&[("k", text(c))]);
    joiner
}

fn report_of(b: u8, c: u8, n: u32) -> Command {
    let phase = match b % 8 {
        0 => DockerPhase::Installing,
        1 => wants_cert(c % 3),
        2 => DockerPhase::WantsConfig,
        3 | 4 => ready(),
        5 => DockerPhase::Stopped,
        6 => failed(text(c), WallMs(u64::from(c))),
        _ => DockerPhase::Stopping,
    };
    let agreed = World::founded().state.agreed;
    let own = agreed.networks[&NETWORK].ipv6.host(&id(n));
    let listen = [None, Some(own), Some(own), Some(ELSEWHERE)][usize::from(c % 4)];
    Command::ReportDocker { phase, listen }
}

fn text(c: u8) -> &'static str {
    ["a", "b", "n2", "n5", "", "-", "Ünï", "a,b=c", "\0", "a b"][usize::from(c % 10)]
}

fn check(state: &State) {
    assert!(state.events.len() <= EVENTS_KEPT && state.answers.len() <= ANSWERS_KEPT);
    let agreed = &*state.agreed;
    if let Some(mesh) = &agreed.mesh {
        assert!(
            agreed.nodes.contains_key(&mesh.issuer),
            "the issuer is a member"
        );
        assert!(agreed.servers().next().is_some(), "at least one server");
    }
    check_nodes(agreed);
    check_peers(agreed);
    check_docker(agreed);
    for (serial, record) in &agreed.certificates {
        assert!(
            !agreed.revoked.contains_key(serial),
            "{serial} is live and revoked"
        );
        assert!(
            agreed.nodes.contains_key(&record.node),
            "{serial} has an owner"
        );
    }
    for assignment in &agreed.assignments {
        if let Target::Node(id) = &assignment.target {
            assert!(agreed.nodes.contains_key(id), "an assignment to nobody");
        }
    }
}

fn check_nodes(agreed: &Agreed) {
    let names: BTreeSet<_> = agreed.nodes.values().map(|node| &node.name).collect();
    assert_eq!(names.len(), agreed.nodes.len(), "names are unique");
    assert!(
        agreed
            .external_docker_hosts
            .keys()
            .all(|name| !names.contains(name))
    );
    let raft: BTreeSet<_> = agreed.servers().map(|(_, raft)| raft).collect();
    assert_eq!(raft.len(), agreed.servers().count(), "Raft ids are unique");
    for node in agreed.nodes.values() {
        assert_eq!(
            node.raft_id.is_some(),
            node.role == Role::Server,
            "{}",
            node.name
        );
        let persistent = node.lifecycle_class == LifecycleClass::Persistent;
        assert!(persistent || node.role == Role::Agent, "{}", node.name);
    }
}

fn check_peers(agreed: &Agreed) {
    let (mut v4, mut v6) = (BTreeSet::new(), BTreeSet::new());
    for ((network, node), peer) in &agreed.peers {
        assert!(agreed.nodes.contains_key(node), "a peer without a node");
        let prefixes = &agreed.networks[network];
        assert!(prefixes.ipv4.contains(peer.ipv4) && prefixes.ipv6.contains(peer.ipv6));
        assert!(v4.insert((network, peer.ipv4)), "{} twice", peer.ipv4);
        assert!(v6.insert((network, peer.ipv6)), "{} twice", peer.ipv6);
    }
}

fn check_docker(agreed: &Agreed) {
    for id in agreed.docker_hosts.keys() {
        assert!(
            agreed.nodes.contains_key(id),
            "a Docker host without a node"
        );
    }
    for id in agreed.nodes.keys() {
        let leaving =
            |phase: &DockerPhase| matches!(phase, DockerPhase::Stopping | DockerPhase::Stopped);
        let host = agreed.docker_hosts.get(id);
        let active = host.is_some_and(|host| !leaving(&host.phase));
        assert_eq!(
            active,
            agreed.assigned(id, crate::Module::DockerEngine),
            "a row says what is assigned"
        );
    }
}
