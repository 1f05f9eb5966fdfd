//! Golden digests: an accidental change of the replicated format fails here.
//!
//! Each digest is the beginning of BLAKE3 over the encoding. A deliberate change is a new wire
//! version, never a new digest of an old one.

use super::world::*;
use crate::{
    Applied, Command, DockerPhase, Done, Envelope, NodeState, Refusal, RequestId, Role, TokenId,
    WallMs, wire::v1,
};

/// What each value was called and the digest of its bytes.
const GOLDEN: &[(&str, &str)] = &[
    ("state empty", "ccea657309e075a1"),
    ("state", "4252a065e352c69e"),
    ("agreed", "9e9d7431a8ed0f4f"),
    ("event", "b3d409198b9ba00f"),
    ("done", "396eab8ebe8b2247"),
    ("done admitted", "2c1b5b6e42a84fdf"),
    ("done servers", "9dda8bec6203e322"),
    ("NoMeshError", "44c659d145ea5700"),
    ("MeshExistsError", "8b3fa04ee7d87e14"),
    ("BootstrapTokenUnknownError", "545b4fcc799f551b"),
    ("BootstrapTokenExpiredError", "b9dd67db37eb2d7e"),
    ("BootstrapTokenUsedError", "841e720543c26559"),
    ("BootstrapTokenInvalidError", "98cac4cbcb381e4f"),
    ("NodeNotFoundError", "d6bd02a90283f945"),
    ("NodeNameTakenError", "6a0bfe6db53609c0"),
    ("NodeEnrolledError", "cd5474c6617156c3"),
    ("InvalidInputError", "36b45bbfa8617ced"),
    ("LastServerError", "d3dc78dc1c8b56c0"),
    ("IssuerNeededError", "f6265ebbfc7ab86b"),
    ("RoleUnchangedError", "308badacefeb339b"),
    ("NetworkNotFoundError", "1e9af9ffc505ac6f"),
    ("SdwanPeerExistsError", "7c59ba2d9a8a7045"),
    ("SdwanPeerNotFoundError", "46d78874849d5cf4"),
    ("AddressCollisionError", "fdb4294cd6e46f98"),
    ("AddressesExhaustedError", "206c16fc8e84decb"),
    ("MissingSdwanPeerError", "51b922cd232b4446"),
    ("ModuleNotFoundError", "a23f49cfec0f7810"),
    ("ModuleAssignedError", "6bb8bf97e858e3cb"),
    ("ModuleNotAssignedError", "9ed4efa44d813a2d"),
    ("ModuleBySelectorError", "210185d950594c88"),
    ("SdwanPeerInUseError", "a9f3eee60b7218dc"),
    ("DockerHostNotFoundError", "5f9cc43653468416"),
    ("DockerHostExistsError", "cd58460c362c925a"),
    ("NotYoursError", "db968d7c83b7c0de"),
    ("NotIssuerError", "cebf17935533b2f2"),
    ("TooLargeError", "99979f92a285bcf5"),
    ("report_docker assigned", "8e495d0da63019a7"),
    ("report_docker installing", "b7344b5673ee1445"),
    ("report_docker wants_cert", "da0d0454d8ba12f1"),
    ("report_docker wants_config", "7b8de85aa52b1c6d"),
    ("report_docker ready", "d3a1a2a2f3f231cf"),
    ("report_docker stopping", "6e1e95c231429578"),
    ("report_docker stopped", "e99f3812e34fc46a"),
    ("report_docker failed", "f4f08a50df1fa95b"),
    ("create_mesh", "934a687b724f4796"),
    ("create_token", "f2f86251237e41b1"),
    ("admit_node", "5779dfcc25dcd010"),
    ("report_node", "969e3904178eb6fe"),
    ("label_node", "4bf84f6963fde20e"),
    ("set_role", "b77f864b8f1fcc6f"),
    ("remove_node", "5e26f5dd3059605e"),
    ("record_silence", "64969a2c654ca18e"),
    ("record_certificate", "2cb482d55cbefc82"),
    ("attach_peer", "72e029e202da1743"),
    ("detach_peer", "c59cfd86e987255f"),
    ("assign_module", "5b7707a6bc1f39ce"),
    ("unassign_module", "ec9788a19eb772f1"),
    ("report_docker", "b2de18086dfd8e24"),
    ("docker_cert_signed", "f8d7fad115869b23"),
    ("decommission_docker", "679ed0b021ae8a8f"),
    ("register_docker", "7dc69d00e12a3129"),
    ("unregister_docker", "87a0122a8f87af6e"),
];

#[test]
fn the_replicated_format_has_not_changed() {
    let actual: Vec<(String, String)> = golden_values()
        .into_iter()
        .map(|(name, bytes)| (name, blake3::hash(&bytes).to_hex()[..16].to_owned()))
        .collect();
    let golden: Vec<(String, String)> = GOLDEN
        .iter()
        .map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned()))
        .collect();
    let table: String = actual
        .iter()
        .map(|(name, digest)| format!("    ({name:?}, {digest:?}),\n"))
        .collect();
    assert_eq!(golden, actual, "the bytes now are\n{table}");
}

#[test]
fn the_table_has_every_command() {
    let mut header = v1::encode(&envelope(attach(2)));
    let body = postcard::to_stdvec(&attach(2)).unwrap();
    header.truncate(header.len() - body.len());
    for (n, command) in commands().into_iter().enumerate() {
        let bytes = v1::encode(&envelope(command));
        assert_eq!(
            usize::from(bytes[header.len()]),
            n,
            "in the order of their numbers"
        );
    }
    let count = u8::try_from(commands().len()).unwrap();
    header.push(count);
    assert_unknown::<Envelope>(&header);
}

#[test]
fn the_table_has_every_refusal() {
    for (n, refusal) in refusals().into_iter().enumerate() {
        let answer: Applied = Err(refusal);
        assert_eq!(
            usize::from(v1::encode(&answer)[2]),
            n,
            "in the order of their numbers"
        );
    }
    let count = u8::try_from(refusals().len()).unwrap();
    assert_unknown::<Applied>(&[1, 1, count]);
}

/// A variant that exists would ask for its fields.
fn assert_unknown<T: serde::de::DeserializeOwned + std::fmt::Debug>(bytes: &[u8]) {
    let error = postcard::from_bytes::<T>(&bytes[1..]).unwrap_err();
    assert_eq!(
        error,
        postcard::Error::SerdeDeCustom,
        "a variant is not in the table"
    );
}

/// A state with something in every field.
pub(super) fn full_state() -> World {
    let mut world = World::of(2, 4);
    world.docker_ready(2, "d1");
    world.ok(1, label(3, &[("zone", "a")], &[]));
    world.ok(1, Command::AssignModule(docker_where(&[("zone", "a")])));
    world.report(3, failed("port taken", WallMs(5)));
    world.ok(1, register("attic"));
    world.ok(1, remove(4));
    let up = Command::ReportNode {
        state: NodeState::Running,
        addresses: vec![],
    };
    world.ok(2, up);
    world.refused(1, attach(9));
    world.token(Role::Agent, true);
    world
}

fn golden_values() -> Vec<(String, Vec<u8>)> {
    let state = full_state().state;
    let mut values = vec![
        ("state empty".to_owned(), v1::encode(&World::empty().state)),
        ("state".to_owned(), v1::encode(&state)),
        ("agreed".to_owned(), v1::encode(&*state.agreed)),
        ("event".to_owned(), v1::encode(&state.events[0])),
    ];
    let named = |name: &str, answer: Applied| (name.to_owned(), v1::encode(&answer));
    values.extend([
        named("done", Ok(Done::Done)),
        named("done admitted", Ok(Done::Admitted { role: Role::Agent })),
        named("done servers", Ok(Done::Servers { count: 2 })),
    ]);
    values.extend(refusals().into_iter().map(|refusal| {
        let name = refusal.code();
        named(name, Err(refusal))
    }));
    values.extend(phases().into_iter().map(|phase| {
        let name = format!("report_docker {}", phase.as_str());
        let listen = Some(ELSEWHERE);
        (
            name,
            v1::encode(&envelope(Command::ReportDocker { phase, listen })),
        )
    }));
    values.extend(commands().into_iter().map(|command| {
        let name = command.name().to_owned();
        (name, v1::encode(&envelope(command)))
    }));
    values
}

fn envelope(command: Command) -> Envelope {
    Envelope {
        request: RequestId::from_bytes([7; 16]),
        actor: id(1),
        time: START,
        command,
    }
}

fn phases() -> Vec<DockerPhase> {
    vec![
        DockerPhase::Assigned,
        DockerPhase::Installing,
        wants_cert(1),
        DockerPhase::WantsConfig,
        ready(),
        DockerPhase::Stopping,
        DockerPhase::Stopped,
        failed("port taken", WallMs(5)),
    ]
}

/// One command of each kind, in the order of their numbers on the wire.
pub(super) fn commands() -> Vec<Command> {
    let token = TokenId::from_bytes([5; 16]);
    vec![
        create_mesh(1),
        create_token(token, Role::Server, WallMs(9), true),
        admit(2, token),
        Command::ReportNode {
            state: NodeState::Bootstrapping,
            addresses: vec!["[2001:db8::1]:7440".parse().unwrap()],
        },
        label(2, &[("zone", "a")], &["rack"]),
        set_role(2, Role::Server),
        remove(2),
        Command::RecordSilence {
            node: id(2),
            silent: true,
        },
        Command::RecordCertificate(certificate("c2", 2, START)),
        attach(2),
        detach(2),
        Command::AssignModule(docker_on(2)),
        Command::UnassignModule(docker_where(&[("zone", "a")])),
        Command::ReportDocker {
            phase: ready(),
            listen: None,
        },
        signed(2, 1, "d1"),
        decommission(2),
        register("attic"),
        Command::UnregisterDocker {
            name: "attic".into(),
        },
    ]
}

/// One refusal of each kind, in the order of their numbers on the wire.
pub(super) fn refusals() -> Vec<Refusal> {
    let text = |text: &str| text.to_owned();
    let node = text("n2");
    let mut refusals = vec![
        Refusal::NoMesh,
        Refusal::MeshExists,
        Refusal::TokenUnknown { id: text("ee") },
        Refusal::TokenExpired { expired_at: START },
        Refusal::TokenUsed { by: node.clone() },
        Refusal::TokenSecretWrong,
        Refusal::NodeUnknown { node: node.clone() },
        Refusal::NodeNameTaken {
            name: node.clone(),
            by: id(2),
        },
        Refusal::NodeEnrolled { node: id(2) },
        Refusal::Invalid {
            what: text("role"),
            text: text("x"),
            rule: text("server or agent"),
        },
        Refusal::LastServer { node: node.clone() },
        Refusal::IssuerNeeded { node: node.clone() },
        Refusal::RoleUnchanged {
            node: node.clone(),
            role: text("agent"),
        },
    ];
    refusals.extend(refusals_of_overlay_and_modules());
    refusals
}

fn refusals_of_overlay_and_modules() -> Vec<Refusal> {
    let text = |text: &str| text.to_owned();
    let (node, network, module) = (text("n2"), text("default"), text("docker-engine"));
    vec![
        Refusal::NetworkUnknown {
            network: network.clone(),
        },
        Refusal::PeerExists {
            node: node.clone(),
            network: network.clone(),
        },
        Refusal::PeerUnknown {
            node: node.clone(),
            network: network.clone(),
        },
        Refusal::AddressCollision {
            address: text("fd00::1"),
            node: node.clone(),
            by: text("n3"),
        },
        Refusal::AddressesExhausted {
            network: network.clone(),
            prefix: text("100.64.0.0/29"),
        },
        Refusal::MissingSdwanPeer { node: node.clone() },
        Refusal::ModuleUnknown {
            module: module.clone(),
        },
        Refusal::ModuleAssigned {
            module: module.clone(),
            target: node.clone(),
        },
        Refusal::ModuleNotAssigned {
            module: module.clone(),
            target: node.clone(),
        },
        Refusal::ModuleBySelector {
            node: node.clone(),
            module,
            selector: text("a=b"),
        },
        Refusal::PeerInUse {
            node: node.clone(),
            network,
        },
        Refusal::DockerHostUnknown { node },
        Refusal::DockerHostExists {
            name: text("attic"),
        },
        Refusal::NotYours {
            actor: id(3),
            node: id(2),
        },
        Refusal::NotIssuer { actor: id(2) },
        Refusal::TooLarge {
            what: text("a reason"),
            limit: 4096,
        },
    ]
}
