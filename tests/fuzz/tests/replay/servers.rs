//! What daemons and servers say to each other and keep, and the files that operators name.

use std::fs;

use consensus_authority::{RecoveryKey, seal};
use consensus_core::{Epoch, LogIndex, State, TokenId, VipId, wire::v1 as wire};
use consensus_raft::fuzzing as raft;
use serde::Serialize;
use serde_json::json;
use shoald::fuzzing as daemon;

use crate::{
    commands::{self, enrolment, id},
    root,
};

type Seeds = Vec<(String, Vec<u8>)>;

/// `12D3KooW...`, in hexadecimal and with its length, as it stands in a membership.
const NODE_HEX: &str = "34313244334b6f6f57475255564c4a705138734a7462544e47584a\
                        467642566e454b6447424163516e7a487150564b71474e66636d";
/// As in `mesh.json`.
const MESH: &str = "05050505050505050505050505050505";

pub(crate) fn seeds() -> Vec<(&'static str, Seeds)> {
    vec![
        ("backup", backups()),
        ("docker_record", docker_records()),
        ("identity_file", identities()),
        ("intermediate_file", intermediates()),
        ("log_segments", logs()),
        ("mesh_file", mesh_files()),
        ("peer_message", peer_messages()),
        ("raft_record", raft_records()),
        ("raft_reply", raft_replies()),
        ("raft_request", raft_requests()),
        ("raft_snapshot", raft_snapshots()),
        ("raft_transfer", raft_transfers()),
        ("token", tokens()),
        ("view_file", views()),
    ]
}

fn named(name: &str, bytes: Vec<u8>) -> (String, Vec<u8>) {
    (name.to_owned(), bytes)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|digit| *digit != b' ').collect();
    let pairs = digits.chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// A piece behind two bytes of big-endian length.
fn piece(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap();
    [&length.to_be_bytes(), bytes].concat()
}

/// The only seed of that name's target.
fn replicated(target: &str) -> Vec<u8> {
    let all = commands::seeds();
    all[target][0].1.clone()
}

fn backups() -> Seeds {
    let state: State = wire::decode(&replicated("agreed_state")).unwrap();
    let backup = daemon::Backup {
        root_keys: [([7; 32], b"key".to_vec())].into(),
        state,
    };
    let plain = daemon::backup_again(&backup).unwrap();
    let identity = fs::read_to_string(root().join("fixtures/sealing-key.txt")).unwrap();
    let recipient = RecoveryKey::from_text(&identity).unwrap().recipient();
    // Short, because all of it but its head looks like noise.
    let file = seal(b"SHOALBK1\0\0\0\x02{}state", &[recipient]).unwrap();
    vec![
        named("plain", [&[1], &plain[..]].concat()),
        named("file", [&[0], &file[..]].concat()),
    ]
}

fn docker_records() -> Seeds {
    let record = json!({"mesh_id": MESH, "issued_ms": 1_749_999_000_000_u64,
        "expires_ms": 1_750_100_000_000_u64});
    vec![named("serves", format!("{MESH}\n{record}").into_bytes())]
}

fn identities() -> Seeds {
    let identity = fs::read_to_string(root().join("fixtures/sealing-key.txt")).unwrap();
    let file = format!("# created: x\n# public key: age1x\n\n{identity}\r\n");
    vec![named("age-keygen", file.into_bytes())]
}

fn intermediates() -> Seeds {
    let key = consensus_authority::IntermediateKey::generate().unwrap();
    let length = u32::try_from(key.pkcs8().len()).unwrap();
    let file = [&length.to_be_bytes()[..], key.pkcs8(), &[0x30, 0x81]].concat();
    vec![named("key", file)]
}

fn mesh_files() -> Seeds {
    let file = |generation: u64| {
        let file = json!({"mesh_id": MESH, "roots": ["308200"], "chain": ["3081", "3082"],
            "generation": generation});
        file.to_string().into_bytes()
    };
    vec![named("member", file(7)), named("last", file(u64::MAX - 1))]
}

/// A message: structs and variants are written like tuples.
fn message(kind: u8, body: &impl Serialize) -> Vec<u8> {
    postcard::to_extend(body, vec![kind, 1]).unwrap()
}

fn peer_messages() -> Seeds {
    let envelope = &replicated("agreed_envelope")[1..];
    let applied = &replicated("agreed_applied")[1..];
    let agreed = &replicated("agreed_view")[1..];
    let event = &replicated("agreed_event")[1..];
    let csr = vec![0x30_u8, 0x82];
    let chain = vec![csr.clone(); 2];
    let token = TokenId::from_bytes([4; 16]);
    let join = (0_u8, token, [9_u8; 32], &csr, enrolment(2));
    let admitted = [&message(3, &(&chain, LogIndex(9)))[..], agreed].concat();
    let since = (3_u32, 7_u64, LogIndex(9));
    let standing = (since, Some(id(1)), vec![id(1), id(2)]);
    let push = [
        &message(5, &(LogIndex(9), 1_u8))[..],
        agreed,
        &[1],
        event,
        &postcard::to_stdvec(&standing).unwrap(),
    ]
    .concat();
    let failed = (8_u8, "NoMajorityError", "m", "h", vec!["cause"]);
    let (vip, drill) = (VipId::from_bytes([6; 16]), [7_u8; 16]);
    vec![
        named("propose", [&[0, 1, 0], envelope].concat()),
        named("gate", message(0, &(1_u8, id(2), join.clone()))),
        named("return", message(0, &(1_u8, id(2), 1_u8, &csr))),
        named("renew", message(0, &(2_u8, &csr))),
        named("operator", message(0, &(4_u8, "ada", &csr, 86_400_u64))),
        named("enforced", message(0, &(5_u8, LogIndex(300)))),
        named("rotate", message(0, &(7_u8, "why", Some("ada")))),
        named("vip-held", message(0, &(9_u8, 0_u8, vip))),
        named(
            "vip-observe",
            message(0, &(9_u8, 1_u8, drill, vip, 5_u32, 60_000_u32)),
        ),
        named("vip-seen", message(0, &(9_u8, 2_u8, drill))),
        named("vip-die", message(0, &(9_u8, 3_u8, vip, Epoch(4)))),
        named(
            "vip-is-held",
            message(
                1,
                &(10_u8, 0_u8, Some((Epoch(4), 371_u64, true, Some(2_u8)))),
            ),
        ),
        named("vip-observing", message(1, &(10_u8, 1_u8, true))),
        named(
            "vip-was-seen",
            message(
                1,
                &(10_u8, 2_u8, (312_u64, 301_u64, 24_210_u64, 6_120_u64, true)),
            ),
        ),
        named("applied", [&[1, 1, 0, 9], applied].concat()),
        named("not-leader", message(1, &(1_u8, Some(id(3))))),
        named("certificate", message(1, &(4_u8, &chain, 7_u64))),
        named("facts", message(1, &(5_u8, LogIndex(3), Some("ab")))),
        named("failed", message(1, &failed)),
        named("join", message(2, &join)),
        named("admitted", admitted),
        named(
            "subscribe",
            message(4, &(LogIndex(9), Some((LogIndex(8), 1_u32)))),
        ),
        named("push", push),
        named(
            "nothing-new",
            message(5, &(LogIndex(9), 0_u8, 0_u8, standing)),
        ),
    ]
}

fn raft_records() -> Seeds {
    let membership = format!("0307020201010702070134{}0900", &NODE_HEX[2..]);
    let owner = format!("07{NODE_HEX}");
    vec![
        named("blank", hex("00 0307c80100")),
        named("entry", hex("00 030701010568656c6c6f")),
        named("membership", hex(&format!("00{membership}"))),
        named("log-id", hex("01 030705")),
        named("vote", hex("02 ac020701")),
        named("owner", hex(&format!("03{owner}"))),
        named("fence", hex("04 ac02")),
        named("sealed-vote", hex("07 019e0b3b1dac020701")),
    ]
}

fn raft_replies() -> Seeds {
    let replies = [
        ("success", "010000"),
        ("partial", "01000101030701"),
        ("higher-vote", "010003ac020701"),
        ("vote", "0101ac0207010100"),
        ("vote-changed", "010201ac020701ac020701"),
        ("not-flushed", "0102020103070100"),
        ("wanted", "010300ac02"),
        ("too-large", "01030300ac0202"),
        ("fenced", "0104ac02"),
    ];
    replies.map(|(name, text)| named(name, hex(text))).into()
}

fn raft_requests() -> Seeds {
    let mut requests = vec![
        named("append", hex("010900ac02070101030701010307020102010200")),
        named("vote", hex("010901ac0207000001")),
        named("pre-vote", hex("010902ac0207000103070100")),
        named("transfer", hex("010903ac0207010900")),
    ];
    let parts = raft::transfer(3, b"state", 5).into_iter();
    requests.extend(
        parts
            .zip(["offer", "piece"])
            .map(|(m, name)| named(name, m)),
    );
    requests
}

fn raft_snapshots() -> Seeds {
    let head = hex(&format!(
        "010307090001010702070134{}090004e807effdb6f50d",
        &NODE_HEX[2..]
    ));
    let parts = [&[1], &piece(&head)[..], b"state"].concat();
    let whole = hex("00 73686f616c736e701000000001cc4f21e8000000000305fba5cf9c0a7374617465");
    vec![named("parts", parts), named("whole", whole)]
}

fn raft_transfers() -> Seeds {
    let transfer = |term, state: &[u8], messages_max| {
        let messages = raft::transfer(term, state, 7).into_iter();
        let messages = messages.take(messages_max);
        messages.flat_map(|m| piece(&m)).collect::<Vec<u8>>()
    };
    let whole = transfer(3, b"a state in pieces", usize::MAX);
    let begun = transfer(3, b"another state", 2);
    let later = transfer(4, b"state", usize::MAX);
    vec![
        named("whole", whole.clone()),
        named("outvoted", [begun, later, whole].concat()),
    ]
}

fn tokens() -> Seeds {
    let token = (
        consensus_core::MeshId::from_bytes([1; 16]),
        [2_u8; 32],
        TokenId::from_bytes([3; 16]),
        [4_u8; 32],
        vec![std::net::SocketAddr::from(([192, 0, 2, 1], 7440))],
        vec![consensus_core::DEFAULT_IPV4_PREFIX],
    );
    let body = postcard::to_stdvec(&token).unwrap();
    let text = daemon::token_around(&body);
    assert!(daemon::token(&text).is_some());
    vec![
        named("body", body),
        named("text", format!("{text}\n").into()),
    ]
}

fn views() -> Seeds {
    let view = [&9_u64.to_be_bytes()[..], &replicated("agreed_view")].concat();
    vec![named("mesh", view)]
}

/// A segment: zeroes behind each frame, its head, its frames.
fn segment(first_frame: u64, segment: u64, bounds: [u64; 2], frames: &[&[u8]]) -> Vec<u8> {
    let numbers = [segment, first_frame, bounds[0], bounds[1]];
    let mut head: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
    head.extend(b"\x02\0\0\0me\0\0\0");
    let mut bytes = [&[64], &piece(&head)[..]].concat();
    for (records, number) in frames.iter().zip(first_frame..) {
        let durable = number - 1;
        let numbers = [number.to_le_bytes(), durable.to_le_bytes()].concat();
        bytes.extend(piece(&[&numbers, *records].concat()));
    }
    piece(&bytes)
}

fn logs() -> Seeds {
    let entry = |index: u8| [&[1, 13, 0, 0, 0, index][..], &[0; 7], b"hello"].concat();
    let vote = b"\x02\x04\0\0\0vote";
    let committed = b"\x03\x09\0\0\0\x01\0\0\0\0\0\0\0c";
    let truncate = b"\x04\x08\0\0\0\x01\0\0\0\0\0\0\0";
    let purge = b"\x05\x09\0\0\0\0\0\0\0\0\0\0\0p";
    let (zero, one) = (entry(0), entry(1));
    let two = segment(1, 1, [0, 0], &[&zero, &one]);
    vec![
        named("entries", segment(1, 1, [0, 0], &[&zero, vote, &one])),
        named(
            "all",
            segment(
                1,
                1,
                [0, 0],
                &[&zero, &one, truncate, &one, committed, purge],
            ),
        ),
        named("two", [two, segment(3, 2, [0, 2], &[&entry(2)])].concat()),
        named("begins-anywhere", segment(9, 1, [5, 5], &[&entry(5)])),
        named("raw", piece(&[255, b's', b'h'])),
    ]
}

/// Seeds that are to be refused.
const REFUSED: [(&str, &str); 1] = [("backup", "file")];

#[test]
fn the_decoders_take_the_seeds() {
    for (target, seeds) in seeds() {
        for (name, bytes) in seeds {
            let expected = !REFUSED.contains(&(target, &name));
            assert_eq!(is_taken(target, &bytes), expected, "{target}: {name}");
        }
    }
}

fn is_taken(target: &str, data: &[u8]) -> bool {
    let (choice, rest) = (data[0], &data[1..]);
    match target {
        "backup" => choice == 1 && daemon::backup(rest).is_ok(),
        "docker_record" => {
            let text = std::str::from_utf8(data).unwrap();
            let (mesh, record) = text.split_once('\n').unwrap();
            shoal::fuzzing::docker_record(record.as_bytes(), mesh, 1_750_000_000_000)
                .is_some_and(|(serves, _)| serves)
        }
        "identity_file" => shoal::fuzzing::identity_file(data).is_some(),
        "intermediate_file" => matches!(daemon::intermediate(data), Ok(Some(_))),
        // A test beside the target looks into these.
        "log_segments" => true,
        "mesh_file" => daemon::membership(data).is_ok(),
        "peer_message" => match choice {
            0 => daemon::request(rest).is_ok(),
            1 => daemon::answer(rest).is_ok(),
            2 => daemon::gate_request(rest).is_ok(),
            3 => daemon::admission(rest).is_ok(),
            4 => daemon::subscribe(rest).is_ok(),
            _ => daemon::push(rest).is_ok(),
        },
        "raft_record" => {
            use raft::Kind::{Entry, Fence, LogId, Owner, Vote};
            let kinds = [Entry, LogId, Vote, Owner, Fence];
            match kinds.get(usize::from(choice)) {
                Some(kind) => raft::record(*kind, &raft::record_around(rest)).is_ok(),
                None => raft::record(kinds[usize::from(choice) % 5], rest).is_ok(),
            }
        }
        "raft_reply" => raft::reply(data).is_ok(),
        "raft_request" => raft::request(data).is_ok_and(|message| message.taken.is_ok()),
        "raft_snapshot" if choice == 0 => raft::snapshot(rest).is_ok(),
        "raft_snapshot" => {
            let (head, state) = rest[2..].split_at(usize::from(rest[1]));
            raft::snapshot(&raft::snapshot_around(head, state)).is_ok()
        }
        "raft_transfer" => {
            let mut transfers = raft::Transfers::default();
            let mut rest = data;
            let mut whole = false;
            while let Some((length, more)) = rest.split_first_chunk() {
                let (message, more) = more.split_at(usize::from(u16::from_be_bytes(*length)));
                whole |= matches!(transfers.receive(message), raft::Received::Whole(_));
                rest = more;
            }
            whole
        }
        "token" => match std::str::from_utf8(data) {
            Ok(text) if text.starts_with("shoal1.") => daemon::token(text).is_some(),
            Ok(_) | Err(_) => daemon::token(&daemon::token_around(data)).is_some(),
        },
        "view_file" => daemon::view(data).is_some(),
        other => panic!("{other} is not looked at"),
    }
}
