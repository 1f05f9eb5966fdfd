//! Golden digests: an accidental change of the replicated format fails here.
//!
//! Each digest is the beginning of BLAKE3 over the encoding. A deliberate change is a new wire
//! version, never a new digest of an old one.

use super::{access_grants, cluster_tables, firewalls, virtual_ips, wireguard_keys, world::*};
use crate::{
    Applied, Command, DockerPhase, Done, Envelope, ExpiringCertificate, NodeState, OperatorRole,
    Refusal, RequestId, Revocation, Role, RotationStep, TokenId, WallMs, wire::v1,
};

/// What each value was called and the digest of its bytes.
const GOLDEN: &[(&str, &str)] = &[
    ("state empty", "f6969e70ac3c297d"),
    ("state", "a690afba99b3f50a"),
    ("agreed", "360671e6dd1e2a3c"),
    ("event", "b3d409198b9ba00f"),
    ("done", "396eab8ebe8b2247"),
    ("done admitted", "2c1b5b6e42a84fdf"),
    ("done servers", "9dda8bec6203e322"),
    ("done revoked", "87e763471ff727c0"),
    ("done rule added", "a85fb6f6a482160d"),
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
    ("MajorityAtRiskError", "d5bf80db64973175"),
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
    ("NotServerError", "cebf17935533b2f2"),
    ("TooLargeError", "99979f92a285bcf5"),
    ("CertificateNotFoundError", "adc7efcc2d30f2aa"),
    ("IntermediateUnusableError", "ad21165aec835824"),
    ("RootNotFoundError", "2eb2c16a90d07b16"),
    ("SealedToOthersError", "60253d52b866f58a"),
    ("RotationUnderWayError", "0559979257b548b0"),
    ("NoRotationError", "0674114981df7a92"),
    ("RotationOutOfStepError", "2c3d752d00b697ee"),
    ("RotationHeldError", "dfa9ac5b75426c89"),
    ("OperatorNotFoundError", "2ad9f5958621f72a"),
    ("OperatorExistsError", "723e8a1c682bff68"),
    ("NodeRemovedError", "5959906c8f1c7d20"),
    ("NetworkExistsError", "e8f5038bf96b904c"),
    ("NetworkInUseError", "8722e06f0b1c456f"),
    ("NetworkHandleTakenError", "b96f797944d41f98"),
    ("WireguardPortTakenError", "3241b953d655e1a6"),
    ("PrefixOverlapError", "cc47c674a0075997"),
    ("VirtualIpNotFoundError", "e972f513ddfb9a2a"),
    ("VirtualIpExistsError", "07e9471c8fc9b58f"),
    ("VirtualIpCollisionError", "8b353c475c387c52"),
    ("VirtualIpNotCandidateError", "c0327657db2bd2be"),
    ("VirtualIpNoCandidateError", "55dceede8afee297"),
    ("VirtualIpHeldError", "1f9194a9e3be7176"),
    ("VirtualIpNotHolderError", "c5c95875529efb1f"),
    ("VirtualIpEpochError", "62e5ce28cc5d81be"),
    ("VirtualIpNotClosedError", "59121d1fe5e47ef4"),
    ("VirtualIpVotersError", "7d546e569bf2f256"),
    ("VirtualIpUsesPeerError", "27d651f8eb615ff4"),
    ("AccessGrantNotFoundError", "19b1a451b6ecefeb"),
    ("AccessGrantExistsError", "4c54e158708d77d0"),
    ("AccessGrantCollisionError", "42df2a454f93a1f9"),
    ("AccessGrantKeyTakenError", "f51d90b148023f80"),
    ("AccessGrantUsesPeerError", "511e980281b4300d"),
    ("KeyRotationUnderWayError", "29df00e2af7e2279"),
    ("KeyInDevicesError", "0095bf7b6bf28bc5"),
    ("KeyNotAnnouncedError", "8e3dc6923c351f66"),
    ("FirewallRuleNotFoundError", "afaa46a21938e997"),
    ("ClusterNotFoundError", "bc246fa142f5b01c"),
    ("NoClusterError", "bdd3aea3ac09745b"),
    ("ClusterAmbiguousError", "45323ae8d366340d"),
    ("ClusterInErrorError", "112c7ab941a55256"),
    ("ClusterFixedError", "319f2a84fc825a46"),
    ("ClusterBusyError", "87e970d8dfa2db2f"),
    ("ClusterLastServerError", "edc58dc5ea7ea383"),
    ("ClusterMajorityAtRiskError", "08f4914bcf5971dc"),
    ("ClusterUsesPeerError", "96a89277588f6a81"),
    ("ClusterUsesVirtualIpError", "65c65490f482573b"),
    ("CniProfileMismatchError", "7a59a60913cd5f19"),
    ("K3sNodeNotFoundError", "e827a60737f01bea"),
    ("K3sRoleTakenError", "42b1b1b6a02ff816"),
    ("K3sRunsError", "bb7272b2dd6d122a"),
    ("NotClusterServerError", "1d6fd9ebd5ff6fea"),
    ("TokenSealedToOthersError", "ae8bd1164ab62249"),
    ("NotDrainedError", "ee8c6b7086455011"),
    ("NodeDrainedError", "bff20a6c2069befa"),
    ("ConsentRequiredError", "c0bac39d0911bcda"),
    ("report_docker assigned", "a68be66f33e88309"),
    ("report_docker installing", "b3ee3c884c8d2fbd"),
    ("report_docker wants_cert", "66ca04e9c0b9f3eb"),
    ("report_docker wants_config", "4c3117356a0088c2"),
    ("report_docker ready", "120e4607ae3cff17"),
    ("report_docker stopping", "65ca86ecc9515c8c"),
    ("report_docker stopped", "5cfb17775c0cfe9e"),
    ("report_docker failed", "2dbaf46cc139151f"),
    ("create_mesh", "57fffc0f0160a300"),
    ("create_token", "d4e89d46415c0277"),
    ("revoke_token", "30f4362913daf59a"),
    ("admit_node", "91792bf0267dda72"),
    ("report_node", "39f9bebb10dc2210"),
    ("label_node", "39c598cb60041680"),
    ("set_role", "47bdca543eaee593"),
    ("remove_node", "be72866e0032e7f1"),
    ("record_silence", "2591915b65f4272c"),
    ("record_certificate", "3b80f2df0aa8e4eb"),
    ("record_intermediate", "df74f04d9946c762"),
    ("revoke_certificates", "c6e2ff00d1880c61"),
    ("seal_root_key", "12e9e0a76f049a0b"),
    ("begin_rotation", "ff58ff7e7f1215f3"),
    ("advance_rotation", "9dcc60fc62ca294f"),
    ("finish_rotation", "32281d6e8b166dca"),
    ("abort_rotation", "07a31ec3347b8a4f"),
    ("record_expiry_warning", "5a77ce797333a8d6"),
    ("create_operator", "b796660e88995486"),
    ("set_operator_role", "233f39169da4319f"),
    ("remove_operator", "4f16d476a3c5ecab"),
    ("attach_peer", "42adb282989459dc"),
    ("detach_peer", "ce43c166510aace9"),
    ("assign_module", "188d8fe52211dad7"),
    ("unassign_module", "eafd3296d4835e22"),
    ("report_docker", "398ea6a1b586a7a9"),
    ("docker_cert_signed", "79983a950675f5ef"),
    ("decommission_docker", "f9fb97b7d80af919"),
    ("register_docker", "ad675acc61783e9b"),
    ("unregister_docker", "d0aad7c89a9081c6"),
    ("create_network", "0b0c6001b4b485cd"),
    ("delete_network", "35bf0698cedcc0d6"),
    ("set_network", "19cb78f13596e542"),
    ("set_peer", "92c2cc549c0db740"),
    ("create_vip", "b1dfec0d95d4e31f"),
    ("delete_vip", "6fcb82e70a397cc2"),
    ("set_vip_candidates", "d7a9d834360451e0"),
    ("set_vip_check", "d468334bcafb17f7"),
    ("assign_vip", "e15873d08f24fb06"),
    ("release_vip", "0589a38494fa75bb"),
    ("begin_lease_voters", "c4120efc3a8632bc"),
    ("finish_lease_voters", "9d828332d18e1e76"),
    ("report_readiness", "ca025b73199965b1"),
    ("request_failover", "952f6eaba291652b"),
    ("report_move", "91c8018fd75f7ae2"),
    ("create_grant", "80cee3b84e517d95"),
    ("move_grant", "abd72bbd83378f76"),
    ("suspend_grant", "0b650a669f6c8cd0"),
    ("resume_grant", "871cf6928484ce4b"),
    ("revoke_grant", "66457ce6a414d046"),
    ("rotate_wireguard_key", "413f65b43bf632bd"),
    ("announce_wireguard_key", "ba14beef40a37785"),
    ("take_wireguard_key", "4152c224f2820b8a"),
    ("add_firewall_rule", "ff83d46de82a3bb5"),
    ("remove_firewall_rule", "18755c7d47bf2319"),
    ("assign_k3s", "e9a929748f3168d8"),
    ("drain_node", "dcaae7e714fc5701"),
    ("report_drift", "28ba78618557c453"),
    ("cluster assign_k3s", "e9a929748f3168d8"),
    ("cluster report_k3s", "a5dc5c0d75fd1416"),
    ("cluster issue_join_token", "68518ed8b5d3dd2f"),
    ("cluster forget_cluster_nodes", "e50fdc9a06cb2939"),
    ("cluster decommission_cluster", "e9b749b84c64f192"),
    ("cluster upgrade_cluster", "cbe4298bcb188410"),
    ("cluster unassign_k3s", "1cdeaf68fa914bb3"),
    ("report_k3s assigned", "a05015bd8698e6cf"),
    ("report_k3s installing", "492ee6d3e2588dab"),
    ("report_k3s bootstrap", "a3b345fa799d9f14"),
    ("report_k3s join_request", "f67c6030a6d60d81"),
    ("report_k3s join_token_issued", "276a0092c9207969"),
    ("report_k3s starting", "8db898b19d2bdd7d"),
    ("report_k3s ready", "a5dc5c0d75fd1416"),
    ("report_k3s leaving", "c0197a3f7ff3d58a"),
    ("report_k3s stopped", "8f25885ee9f5d45d"),
    ("report_k3s failed", "37f06a9c491e3fa8"),
    ("report_k3s drained", "bd1c48fea90b1dba"),
    ("drain drain_node", "dcaae7e714fc5701"),
    ("drain report_drain", "0bddb2ee036df72e"),
    ("drain uncordon_node", "a0e2983cf88c3cdf"),
    ("drain give_up_drain", "60e41165532448ae"),
    ("report_drain draining", "0bddb2ee036df72e"),
    ("report_drain drained", "7bbea38b07990b3b"),
    ("report_drain failed", "a124796a4dd64b26"),
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
    world.ok(1, create_operator("ann", OperatorRole::Operator));
    let warned = Command::RecordExpiryWarning {
        certificate: ExpiringCertificate::Root(fingerprint(0)),
    };
    world.ok(1, warned);
    world.ok(1, reseal(&world, 0));
    for command in commands_of_networks().drain(..1) {
        world.ok(1, command);
    }
    world.ok(1, attach_with(2, "blue", &["192.168.7.0/24"]));
    with_virtual_ip(&mut world);
    world.ok(1, access_grants::grant("ann", 20));
    world.ok(1, access_grants::suspend());
    world.ok(1, wireguard_keys::rotate(2));
    world.ok(2, wireguard_keys::announce(21));
    world.ok(1, firewalls::commands().swap_remove(0));
    cluster_tables::fill(&mut world);
    world.begin_rotation(1);
    world
}

/// One that has moved, is to move again, and whose voters change.
fn with_virtual_ip(world: &mut World) {
    world.ok(1, commands_of_virtual_ips().swap_remove(0));
    world.ok(1, world.says(true));
    world.ok(2, world.releasing(None));
    world.ok(2, world.says(false));
    world.ok(2, world.says(true));
    world.ok(1, world.begin(&[1]));
    world.ok(1, virtual_ips::fail_over(Some(2), &[2]));
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
        named("done revoked", Ok(Done::Revoked { count: 2 })),
        named(
            "done rule added",
            Ok(Done::RuleAdded {
                number: crate::RuleNumber(2),
            }),
        ),
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
    values.extend(cluster_tables::values(envelope));
    values
}

fn envelope(command: Command) -> Envelope {
    Envelope {
        request: RequestId::from_bytes([7; 16]),
        actor: id(1),
        operator: Some("ann".into()),
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
    let mut commands = vec![
        create_mesh(1),
        create_token(token, Role::Server, WallMs(9), true),
        Command::RevokeToken { id: token },
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
    ];
    commands.extend(commands_of_the_authority());
    commands.extend([
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
    ]);
    commands.extend(commands_of_networks());
    commands.extend(commands_of_virtual_ips());
    commands.extend(commands_of_leases());
    commands.extend(commands_of_access_grants());
    commands.extend(wireguard_keys::commands());
    commands.extend(firewalls::commands());
    commands.push(Command::Cluster(
        cluster_tables::cluster_commands().swap_remove(0),
    ));
    commands.push(Command::Drain(
        cluster_tables::drain_commands().swap_remove(0),
    ));
    commands.push(Command::ReportDrift {
        module: crate::Module::DockerEngine,
        what: "daemon.json".into(),
    });
    commands
}

fn commands_of_virtual_ips() -> Vec<Command> {
    let check = Some(crate::ReadinessCheck::new(crate::Probe::Http {
        port: 6443,
        path: "/readyz".into(),
        tls: true,
    }));
    vec![
        Command::CreateVip {
            name: "web".into(),
            network: "default".into(),
            candidates: vec!["n2".into(), "n1".into()],
            check: check.clone(),
            profile: crate::LeaseProfile::Wan,
        },
        Command::DeleteVip { vip: "web".into() },
        virtual_ips::set_candidates(&[2, 1]),
        Command::SetVipCheck {
            vip: "web".into(),
            check,
        },
    ]
}

fn commands_of_leases() -> Vec<Command> {
    let (vip, epoch) = (crate::VipId::from_bytes([4; 16]), crate::Epoch(3));
    vec![
        Command::AssignVip {
            vip,
            after: epoch,
            to: Some(id(2)),
            closed_by: virtual_ips::ids(&[1, 3]),
            reason: "silent".into(),
        },
        Command::ReleaseVip {
            vip,
            epoch,
            to: None,
            reason: "drained".into(),
        },
        Command::BeginLeaseVoters {
            vip,
            epoch,
            since: crate::LogIndex(8),
            new: virtual_ips::ids(&[1]),
        },
        Command::FinishLeaseVoters {
            vip,
            epoch,
            since: crate::LogIndex(9),
        },
        Command::ReportReadiness {
            vip,
            ready: false,
            reason: "refused".into(),
        },
        virtual_ips::fail_over(Some(2), &[1, 2]),
        Command::ReportMove {
            vip,
            epoch,
            outage_us: 31_000,
        },
    ]
}

fn commands_of_access_grants() -> Vec<Command> {
    vec![
        access_grants::grant("ann", 20),
        access_grants::move_to(2),
        access_grants::suspend(),
        access_grants::resume(),
        access_grants::revoke(),
    ]
}

fn commands_of_networks() -> Vec<Command> {
    let prefix = |text: &str| text.parse().ok();
    let new = crate::NewNetwork {
        pod_subnet_prefix: prefix("10.42.0.0/16"),
        container_subnet_prefix: prefix("10.43.0.0/16"),
        ..new_network(&World::founded(), "blue")
    };
    vec![
        Command::CreateNetwork(new),
        Command::DeleteNetwork {
            network: "blue".into(),
        },
        Command::SetNetwork {
            network: "blue".into(),
            change: crate::NetworkChange {
                routing_mode: Some(crate::RoutingMode::Hub),
                pod_subnet_prefix: Some(crate::PrefixChange::Clear),
                container_subnet_prefix: prefix("10.44.0.0/16").map(crate::PrefixChange::Set),
                firewall_default: Some(crate::Verdict::Deny),
            },
        },
        Command::SetPeer {
            node: name(2),
            network: "blue".into(),
            hub: Some(true),
            lan_subnets: Some(prefixes(&["192.168.7.0/24", "fd99:7::/48"])),
        },
    ]
}

fn commands_of_the_authority() -> Vec<Command> {
    vec![
        Command::RecordCertificate(certificate("c2", 2, START)),
        Command::RecordIntermediate(intermediate(2, START)),
        Command::RevokeCertificates {
            which: Revocation::Serial("a2".into()),
            reason: "lost".into(),
        },
        Command::SealRootKey {
            root: fingerprint(0),
            key: sealed([recipient(1), recovery()].into()),
        },
        World::founded().rotation_to(1),
        Command::AdvanceRotation {
            to: RotationStep::Issuing,
        },
        Command::FinishRotation {
            root: fingerprint(0),
            leave_behind: false,
        },
        Command::AbortRotation {
            reason: "later".into(),
        },
        Command::RecordExpiryWarning {
            certificate: ExpiringCertificate::Leaf("a2".into()),
        },
        create_operator("ann", OperatorRole::Admin),
        Command::SetOperatorRole {
            name: "ann".into(),
            role: OperatorRole::Viewer,
        },
        Command::RemoveOperator { name: "ann".into() },
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
        Refusal::MajorityAtRisk {
            node: node.clone(),
            reachable: 1,
            servers: 3,
            needed: 2,
        },
        Refusal::RoleUnchanged {
            node: node.clone(),
            role: text("agent"),
        },
    ];
    refusals.extend(refusals_of_overlay_and_modules());
    refusals.extend(refusals_of_the_authority());
    refusals.extend(refusals_of_networks());
    refusals.extend(refusals_of_virtual_ips());
    refusals.extend(refusals_of_access_grants());
    refusals.extend(wireguard_keys::refusals());
    refusals.extend(firewalls::refusals());
    refusals.extend(cluster_tables::refusals());
    refusals
}

fn refusals_of_virtual_ips() -> Vec<Refusal> {
    let (vip, node) = (String::from("web"), String::from("n2"));
    let (vip, node) = (|| vip.clone(), || node.clone());
    vec![
        Refusal::VipUnknown { vip: vip() },
        Refusal::VipExists { name: vip() },
        Refusal::VipCollision {
            vip: vip(),
            address: "fd00::1".into(),
            by: node(),
        },
        Refusal::VipNotCandidate {
            vip: vip(),
            node: node(),
        },
        Refusal::VipNoCandidate {
            vip: vip(),
            reasons: vec![(node(), "not heard of".into())],
        },
        Refusal::VipHeld {
            vip: vip(),
            node: node(),
        },
        Refusal::VipNotHolder {
            vip: vip(),
            node: node(),
        },
        Refusal::VipEpoch {
            vip: vip(),
            epoch: 3,
            said: 2,
        },
        Refusal::VipNotClosed {
            vip: vip(),
            epoch: 3,
            closed: 1,
        },
        Refusal::VipVoters {
            vip: vip(),
            how: "not changing".into(),
        },
        Refusal::VipUsesPeer {
            node: node(),
            network: "default".into(),
            vip: vip(),
        },
    ]
}

fn refusals_of_access_grants() -> Vec<Refusal> {
    let text = |text: &str| text.to_owned();
    vec![
        Refusal::GrantUnknown { name: text("ann") },
        Refusal::GrantExists { name: text("ann") },
        Refusal::GrantCollision {
            grant: text("ann"),
            address: text("fd00::1"),
            by: text("n2"),
        },
        Refusal::GrantKeyTaken {
            by: text("node n2"),
        },
        Refusal::GrantUsesPeer {
            node: text("n2"),
            network: text("default"),
            grant: text("ann"),
        },
    ]
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
        Refusal::NotServer { actor: id(2) },
        Refusal::TooLarge {
            what: text("a reason"),
            limit: 4096,
        },
    ]
}

fn refusals_of_networks() -> Vec<Refusal> {
    let text = |text: &str| text.to_owned();
    let network = text("blue");
    vec![
        Refusal::NetworkExists {
            network: network.clone(),
        },
        Refusal::NetworkInUse {
            network: network.clone(),
            by: text("n2"),
        },
        Refusal::NetworkHandleTaken {
            network,
            handle: text("blue"),
            by: text("default"),
        },
        Refusal::WireguardPortTaken {
            port: 7441,
            by: text("default"),
        },
        Refusal::PrefixOverlap {
            what: text("the LAN subnet"),
            prefix: text("192.168.7.0/24"),
            with: text("the IPv4 prefix 100.96.0.0/16 of network default"),
        },
    ]
}

fn refusals_of_the_authority() -> Vec<Refusal> {
    let text = |text: &str| text.to_owned();
    let step = text("issuing");
    vec![
        Refusal::CertificateUnknown { serial: text("ee") },
        Refusal::IntermediateUnusable {
            serial: text("ee"),
            reason: text("it is retired"),
        },
        Refusal::RootUnknown {
            root: fingerprint(1).to_string(),
        },
        Refusal::SealedToOthers,
        Refusal::RotationUnderWay { step: step.clone() },
        Refusal::NoRotation,
        Refusal::RotationOutOfStep { step },
        Refusal::RotationHeld {
            remaining: 2,
            first: text("n2"),
        },
        Refusal::OperatorUnknown { name: text("bob") },
        Refusal::OperatorExists { name: text("ann") },
        Refusal::NodeRemoved {
            name: text("n2"),
            at: START,
            reason: text("broken"),
        },
    ]
}
