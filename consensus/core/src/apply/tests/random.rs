//! Random commands: replicas agree, nothing panics, invariants hold after every one.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{cluster_tables, clusters_random, golden, world::*};
use crate::{
    Agreed, CertificateProfile, Command, DockerPhase, EVENTS_KEPT, Enrolment, Envelope,
    ExpiringCertificate, Holder, IssuedCertificate, LifecycleClass, NodeState, OperatorRole,
    RequestId, Revocation, Role, RootState, RotationStep, State, Target, TokenId, WallMs,
    apply::ANSWERS_KEPT, expiry_warnings, limits::SERVERS_MAX, reseal_due, wire::v1,
};

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replicas_that_apply_the_same_log_have_the_same_bytes(
        log in prop::collection::vec(any::<Draw>(), 1..200),
        snapshot_at in 0_usize..200,
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
                prop_assert_eq!(&before.root_keys, &straight.state.root_keys);
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
        let mut commands = golden::commands();
        commands.extend(cluster_tables::cluster_commands().into_iter().map(Command::Cluster));
        commands.extend(cluster_tables::drain_commands().into_iter().map(Command::Drain));
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
    let logs = prop::collection::vec(any::<Draw>(), 300);
    let mut kinds = BTreeSet::new();
    let mut refusals = BTreeSet::new();
    for _ in 0..100 {
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
    let all = [
        "node.returned",
        "ca.revoked",
        "ca.expiry_warning",
        "operator.removed",
        "system.sdwan.access_grant.created",
        "system.sdwan.access_grant.suspended",
        "system.sdwan.access_grant.moved",
        "system.sdwan.access_grant.revoked",
    ];
    assert!(all.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    assert!(kinds.contains("ca.rotation.finished"), "{kinds:?}");
    assert!(kinds.len() >= 30, "{} {kinds:?}", kinds.len());
    assert!(refusals.len() >= 30, "{} {refusals:?}", refusals.len());
}

/// Raw material of one command.
type Draw = (u8, u8, u8, u8, u8);

/// Mostly sensible commands of six nodes, with hostile texts and repeated requests among them. A
/// world that applies them tells what is sensible: who signs with what, and for whom to seal.
fn log_of(draws: &[Draw]) -> Vec<Envelope> {
    let mut world = World::empty();
    let mut log: Vec<Envelope> = vec![world.envelope(1, create_mesh(1))];
    let _ = world.apply(&log[0]);
    for (at, draw) in draws.iter().enumerate() {
        let (_, a, _, _, e) = *draw;
        world.now.0 += u64::from(e) * HOUR_MS / 64;
        let (actor, command) = command_of(*draw, &world, at);
        let mut envelope = world.envelope(actor, command);
        if e % 16 == 0 {
            envelope.request = log[usize::from(a) % log.len()].request;
        }
        if e == 1 {
            envelope.request = RequestId::from_bytes([0; 16]);
        }
        if e % 8 == 5 {
            envelope.operator = Some(text(a).into());
        }
        let _ = world.apply(&envelope);
        log.push(envelope);
    }
    log
}

/// A server, most of the time.
fn signer(world: &World, b: u8, e: u8) -> u32 {
    let servers = (1..=6).filter(|n| world.agreed().nodes.get(&id(*n)).is_some_and(is_server));
    let servers: Vec<u32> = servers.collect();
    if e % 32 == 3 || servers.is_empty() {
        return u32::from(b % 6) + 1;
    }
    servers[usize::from(b) % servers.len()]
}

fn is_server(node: &crate::Node) -> bool {
    node.role == Role::Server
}

/// What a server signs with now; rather something old than nothing.
fn issuer(world: &World, server: u32) -> String {
    let now = world.agreed().signing_intermediate(&id(server), world.now);
    now.map_or_else(|| ca_serial(server), |(serial, _)| serial.clone())
}

fn serial_of(c: u8, at: usize) -> String {
    if c < 32 {
        format!("{:02x}", c % 4)
    } else {
        format!("{at:04x}")
    }
}

fn command_of((kind, a, b, c, e): Draw, world: &World, at: usize) -> (u32, Command) {
    if kind % 40 >= 24 {
        return authority_command((kind, a, b, c, e), world, at);
    }
    let n = u32::from(a % 6) + 1;
    let now = world.now;
    let token = TokenId::from_bytes([b % 4; 16]);
    let role = if c % 2 == 0 {
        Role::Agent
    } else {
        Role::Server
    };
    let assignment = if b % 3 == 0 {
        docker_where(&[("k", text(c))])
    } else {
        docker_on(n)
    };
    let command = match kind % 40 {
        0 if e < 8 => create_mesh(n),
        0 | 1 => {
            let life = [0, HOUR_MS, DAY_MS, u64::MAX][usize::from(c / 4 % 4)];
            create_token(token, role, WallMs(now.0.saturating_add(life)), c % 3 != 0)
        }
        2..=5 | 12 | 21 => return signed_command((kind, a, b, c, e), world, at),
        6 => Command::ReportNode {
            state: [
                NodeState::Joining,
                NodeState::Bootstrapping,
                NodeState::Running,
            ][usize::from(b % 3)],
            addresses: vec![],
        },
        7 | 8 => label(n, &[("k", text(c))], if b % 2 == 0 { &[] } else { &["k"] }),
        9 => Command::SetRole {
            node: name(n),
            role,
            reachable: (1..=6).filter(|n| b & (1 << n) != 0).map(id).collect(),
            force: b % 4 == 0,
        },
        10 => Command::RemoveNode {
            node: if b % 2 == 0 { name(n) } else { text(c).into() },
            reason: text(b).into(),
            compromised: e % 4 == 0,
            reachable: everybody(),
            force: false,
        },
        11 => Command::RecordSilence {
            node: id(n),
            silent: c % 2 == 0,
        },
        13 | 14 if b % 32 == 0 => firewall_command((c, e), n),
        13 | 14 if b % 4 == 3 => grant_command((b, c, e), n, world),
        13 | 14 if b % 4 != 0 => network_command((b, c, e), n, world),
        13 => attach(n),
        14 => detach(n),
        15..=20 if e % 4 == 1 => return clusters_random::command((b, a, c, e), world),
        15 | 16 => Command::AssignModule(assignment),
        17 => Command::UnassignModule(assignment),
        18..=20 => report_of(b, c, n),
        22 => decommission(n),
        _ if b % 2 == 0 => register(text(c)),
        _ => Command::UnregisterDocker {
            name: text(c).into(),
        },
    };
    (n, command)
}

/// Devices without a daemon.
fn grant_command((b, c, e): (u8, u8, u8), n: u32, world: &World) -> Command {
    let grant = String::from(text(c / 2 % 2));
    match b / 4 % 8 {
        0..=2 => Command::CreateGrant(crate::NewGrant {
            name: grant,
            network: ["default", "default", "a"][usize::from(e / 4 % 3)].into(),
            gateway: name(n),
            // 7 is the nodes' own.
            public_key: [[7, 20, 21, 22][usize::from(e % 4)]; 32],
            expires_at: (e % 8 == 7).then_some(WallMs(world.now.0 + u64::from(c) * HOUR_MS)),
        }),
        3 => Command::MoveGrant {
            grant,
            gateway: name(n),
        },
        4 => Command::SuspendGrant { grant },
        5 => Command::ResumeGrant { grant },
        _ => Command::RevokeGrant { grant },
    }
}

/// Rules of whom they are about, in an order that is drawn.
fn firewall_command((c, e): (u8, u8), n: u32) -> Command {
    let network = ["default", "default", "a"][usize::from(c % 3)];
    let number = crate::RuleNumber(u32::from(c / 4));
    if e % 3 == 0 {
        return Command::RemoveFirewallRule {
            network: network.into(),
            rule: number,
        };
    }
    let end = |drawn: u8| match drawn % 4 {
        0 => crate::RuleEnd::Any,
        1 => crate::RuleEnd::Node(name(n)),
        2 => crate::RuleEnd::Label {
            key: "k".into(),
            value: text(drawn).into(),
        },
        _ => crate::RuleEnd::Prefix("10.43.0.0/16".parse().unwrap()),
    };
    let ports = ["80", "1-1024", "1024-2000"][usize::from(e % 3)].parse();
    Command::AddFirewallRule(crate::NewRule {
        network: network.into(),
        from: end(e / 4),
        to: end(c / 4),
        protocol: [
            crate::RuleProtocol::Any,
            crate::RuleProtocol::Tcp,
            crate::RuleProtocol::Icmp,
        ][usize::from(c / 16 % 3)],
        ports: ports.into_iter().collect(),
        verdict: crate::Verdict::Deny,
        place: match e % 2 {
            0 => crate::RulePlace::Priority(u16::from(e)),
            _ => crate::RulePlace::Before(number),
        },
    })
}

/// Networks beside the first, and places in them.
fn network_command((b, c, e): (u8, u8, u8), n: u32, world: &World) -> Command {
    let network = ["a", "b", "default"][usize::from(c % 3)];
    let lan = [
        &[][..],
        &["192.168.7.0/24"],
        &["192.168.0.0/16", "fd99::/48"],
    ][usize::from(e % 3)];
    let pods = [
        "10.42.0.0/16",
        "10.42.0.0/20",
        "192.168.7.0/24",
        "100.96.0.0/16",
    ];
    let pods = pods[usize::from(e % 4)].parse().ok();
    match b / 4 % 8 {
        0 | 1 => Command::CreateNetwork(crate::NewNetwork {
            pod_subnet_prefix: pods.filter(|_| e % 5 == 0),
            ..new_network(world, text(c))
        }),
        2 => Command::DeleteNetwork {
            network: network.into(),
        },
        3 => Command::SetNetwork {
            network: network.into(),
            change: crate::NetworkChange {
                pod_subnet_prefix: pods.map(crate::PrefixChange::Set),
                container_subnet_prefix: match e % 7 {
                    0 => Some(crate::PrefixChange::Clear),
                    1 => "10.43.0.0/22".parse().ok().map(crate::PrefixChange::Set),
                    2 => "10.43.0.0/16".parse().ok().map(crate::PrefixChange::Set),
                    _ => None,
                },
                ..crate::NetworkChange::default()
            },
        },
        4 => Command::SetPeer {
            node: name(n),
            network: network.into(),
            hub: Some(e % 2 == 0),
            lan_subnets: Some(prefixes(lan)),
        },
        5 => Command::DetachPeer {
            node: name(n),
            network: network.into(),
        },
        _ => attach_with(n, network, lan),
    }
}

/// Commands that carry a leaf.
fn signed_command((kind, a, b, c, e): Draw, world: &World, at: usize) -> (u32, Command) {
    let n = u32::from(a % 6) + 1;
    let by = signer(world, b, e);
    let (issuer, serial) = (issuer(world, by), serial_of(c, at));
    let holder = Holder::Node(id(n));
    let command = match kind % 40 {
        2..=5 => {
            let token = TokenId::from_bytes([b % 4; 16]);
            let profile = CertificateProfile::Node;
            Command::AdmitNode {
                token,
                secret_hash: secret(),
                enrolment: joiner(n, c, e),
                certificate: leaf(&issuer, &serial, holder, profile, world.now),
            }
        }
        12 => {
            let profile = CertificateProfile::ALL[usize::from(c % 5)];
            let holder = match profile {
                CertificateProfile::Operator => Holder::Operator(text(a).into()),
                CertificateProfile::Node
                | CertificateProfile::DockerServer
                | CertificateProfile::DockerClient
                | CertificateProfile::Browser => holder,
            };
            Command::RecordCertificate(leaf(&issuer, &serial, holder, profile, world.now))
        }
        _ => Command::DockerCertSigned {
            node: id(n),
            certificate: IssuedCertificate {
                serial,
                issuer,
                leaf: vec![0x30],
                csr: open_request(world, n).unwrap_or(vec![b % 3]),
                not_before: world.now,
                not_after: WallMs(world.now.0 + DAY_MS),
            },
        },
    };
    (by, command)
}

/// What node `n`'s dockerd asks to have signed.
fn open_request(world: &World, n: u32) -> Option<Vec<u8>> {
    match &world.agreed().docker_hosts.get(&id(n))?.phase {
        DockerPhase::WantsCert { csr } => Some(csr.clone()),
        DockerPhase::Assigned
        | DockerPhase::Installing
        | DockerPhase::WantsConfig
        | DockerPhase::Ready { .. }
        | DockerPhase::Stopping
        | DockerPhase::Stopped
        | DockerPhase::Drained
        | DockerPhase::Failed { .. } => None,
    }
}

fn authority_command((kind, a, b, c, e): Draw, world: &World, at: usize) -> (u32, Command) {
    let by = signer(world, b, e);
    let roots = &world.agreed().authority.roots;
    let root = roots.get(usize::from(c) % roots.len().max(1));
    let root = root.map_or(fingerprint(9), crate::Root::fingerprint);
    let role = OperatorRole::ALL[usize::from(c % 3)];
    let operator = text(a);
    let command = match kind % 40 {
        24..=27 => {
            let mut new = intermediate_under(0, &format!("{:x}", 0x1_0000 + at), world.now);
            let active = world.agreed().active_root().map(crate::Root::fingerprint);
            new.root = if e % 8 == 0 {
                root
            } else {
                active.unwrap_or(root)
            };
            Command::RecordIntermediate(new)
        }
        28 | 29 => revoke(revocation_of(a, c, world)),
        30 => Command::SealRootKey {
            root,
            key: sealed(if e % 8 == 0 {
                [recipient(1)].into()
            } else {
                world.state.sealing_recipients()
            }),
        },
        31 => world.rotation_to(c),
        32 => Command::AdvanceRotation {
            to: RotationStep::Issuing,
        },
        33 => Command::FinishRotation {
            root,
            leave_behind: e % 2 == 0,
        },
        34 if e % 4 == 0 => Command::AbortRotation {
            reason: text(a).into(),
        },
        34 | 35 => {
            let warnings = expiry_warnings(world.agreed(), world.now);
            let warning = warnings.get(usize::from(c) % warnings.len().max(1));
            let certificate = warning.map(|warning| warning.certificate.clone());
            Command::RecordExpiryWarning {
                certificate: certificate.unwrap_or(ExpiringCertificate::Leaf(serial_of(c, at))),
            }
        }
        36 | 37 => create_operator(operator, role),
        38 if e % 2 == 0 => Command::SetOperatorRole {
            name: operator.into(),
            role,
        },
        38 => Command::RemoveOperator {
            name: operator.into(),
        },
        _ => Command::RevokeToken {
            id: TokenId::from_bytes([b % 4; 16]),
        },
    };
    (by, command)
}

fn revocation_of(a: u8, c: u8, world: &World) -> Revocation {
    let agreed = world.agreed();
    let pick = |serials: Vec<&String>| {
        let picked = serials.get(usize::from(a) % serials.len().max(1));
        Revocation::Serial(picked.map_or_else(|| "ff".into(), |serial| (*serial).clone()))
    };
    match c % 4 {
        0 => Revocation::Node(name(u32::from(a % 6) + 1)),
        1 => Revocation::Operator(text(a).into()),
        2 => pick(agreed.certificates.keys().collect()),
        _ => pick(agreed.authority.intermediates.keys().collect()),
    }
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
    check_nodes(agreed);
    check_peers(agreed);
    check_networks(agreed);
    check_docker(agreed);
    check_certificates(agreed);
    clusters_random::check(agreed);
    if agreed.mesh.is_some() {
        let servers = agreed.servers().count();
        assert!((1..=SERVERS_MAX).contains(&servers), "{servers} servers");
        check_roots(state);
    }
    for assignment in &agreed.assignments {
        if let Target::Node(id) = &assignment.target {
            assert!(agreed.nodes.contains_key(id), "an assignment to nobody");
        }
    }
}

fn check_certificates(agreed: &Agreed) {
    let intermediates = &agreed.authority.intermediates;
    for (serial, record) in &agreed.certificates {
        assert!(
            !agreed.revoked.contains_key(serial) && !intermediates.contains_key(serial),
            "{serial} is one certificate's"
        );
        assert!(
            intermediates.contains_key(&record.issuer),
            "{serial} was signed by somebody"
        );
        let held = match &record.holder {
            Holder::Node(id) => agreed.nodes.contains_key(id),
            Holder::Operator(name) => agreed.operators.contains_key(name),
        };
        assert!(held, "{serial} has an owner");
    }
    for (serial, row) in intermediates {
        assert!(!agreed.revoked.contains_key(serial), "{serial} is revoked");
        assert!(agreed.root(&row.root).is_some(), "{serial} has a root");
        let servers = agreed.nodes.get(&row.node).is_some_and(is_server);
        assert!(row.retired || servers, "{serial} is no server's");
    }
    for (serial, leaves) in agreed.retired() {
        assert!(!leaves.is_empty(), "{serial} serves nobody");
        assert!(
            leaves
                .iter()
                .all(|leaf| agreed.certificates.contains_key(leaf))
        );
    }
    for about in &agreed.authority.warned {
        let known = match about {
            ExpiringCertificate::Leaf(serial) => agreed.certificates.contains_key(serial),
            ExpiringCertificate::Intermediate(serial) => intermediates.contains_key(serial),
            ExpiringCertificate::Root(root) => agreed.root(root).is_some(),
        };
        assert!(known, "a warning about nothing: {about:?}");
    }
}

fn check_roots(state: &State) {
    let agreed = &*state.agreed;
    let authority = &agreed.authority;
    let states: Vec<_> = authority.roots.iter().map(|root| root.state).collect();
    let step = authority.rotation.as_ref().map(|rotation| rotation.step);
    let expected: &[RootState] = match step {
        None => &[RootState::Active],
        Some(RotationStep::Trusting) => &[RootState::Active, RootState::Incoming],
        Some(RotationStep::Issuing) => &[RootState::Outgoing, RootState::Active],
    };
    assert_eq!(states, expected);
    let roots: BTreeSet<_> = authority
        .roots
        .iter()
        .map(crate::Root::fingerprint)
        .collect();
    assert_eq!(
        state.root_keys.keys().copied().collect::<BTreeSet<_>>(),
        roots
    );
    let servers = agreed.servers().map(|(id, _)| &agreed.nodes[id]);
    let due = reseal_due(state);
    for (server, key) in
        servers.flat_map(|server| state.root_keys.values().map(move |key| (server, key)))
    {
        let opens = key.recipients.contains(&server.sealing_recipient);
        assert!(opens || due.is_some(), "{} is locked out", server.name);
        assert!(key.recipients.contains(&state.recovery_recipient));
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
    assert!(
        agreed
            .removed
            .keys()
            .all(|id| !agreed.nodes.contains_key(id))
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
    let mut subnets = BTreeSet::new();
    for ((network, node), peer) in &agreed.peers {
        assert!(agreed.nodes.contains_key(node), "a peer without a node");
        let prefixes = &agreed.networks[network];
        assert!(prefixes.ipv4.contains(peer.ipv4) && prefixes.ipv6.contains(peer.ipv6));
        assert!(v4.insert((network, peer.ipv4)), "{} twice", peer.ipv4);
        assert!(v6.insert((network, peer.ipv6)), "{} twice", peer.ipv6);
        if let Some(subnet) = peer.container_subnet {
            let prefix = prefixes.container_subnet_prefix;
            assert!(prefix.is_some_and(|prefix| prefix.contains(subnet)));
            assert!(subnets.insert(subnet), "{subnet} twice");
        }
    }
}

/// An address means one place in the whole mesh.
fn check_networks(agreed: &Agreed) {
    let mut claims: Vec<crate::IpPrefix> = Vec::new();
    let (mut handles, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for network in agreed.networks.values() {
        assert!(handles.insert(network.interface()) && network.interface().len() <= 15);
        assert!(ports.insert(network.wireguard_port));
        claims.extend([crate::IpPrefix::from(network.ipv6), network.ipv4.into()]);
        claims.extend(network.pod_subnet_prefix);
        claims.extend(network.container_subnet_prefix);
    }
    claims.extend(agreed.peers.values().flat_map(|peer| &peer.lan_subnets));
    check_grants(agreed);
    for (at, claim) in claims.iter().enumerate() {
        let mut others = claims[at + 1..].iter();
        assert!(!others.any(|other| other.overlaps(*claim)), "{claim} twice");
    }
}

/// An address and a key are one's alone, among peers and devices.
fn check_grants(agreed: &Agreed) {
    let peers = agreed.peers.iter();
    let mut v4: BTreeSet<_> = peers.map(|((of, _), peer)| (*of, peer.ipv4)).collect();
    let peers = agreed.peers.iter();
    let mut v6: BTreeSet<_> = peers.map(|((of, _), peer)| (*of, peer.ipv6)).collect();
    let vips = agreed.virtual_ips.values();
    v6.extend(vips.map(|vip| (vip.network, vip.address)));
    let nodes = agreed.nodes.values();
    let mut keys: BTreeSet<_> = nodes.map(|node| node.wireguard_public_key).collect();
    for (name, grant) in agreed.access_grants.iter() {
        let network = &agreed.networks[&grant.network];
        assert!(network.ipv4.contains(grant.ipv4) && network.ipv6.contains(grant.ipv6));
        assert!(v4.insert((grant.network, grant.ipv4)), "{name}");
        assert!(v6.insert((grant.network, grant.ipv6)), "{name}");
        assert!(keys.insert(grant.public_key), "{name} has another's key");
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
