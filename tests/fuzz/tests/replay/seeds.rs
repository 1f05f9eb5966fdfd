//! The first inputs of every corpus: real values, encoded.
//!
//! `SHOAL_FUZZ_WRITE_SEEDS=1 cargo test -p shoal-fuzz --test replay seeds` writes them anew, which is
//! wanted when a format has changed; names of targets in place of the 1, with commas between, write
//! those alone. Fuzzing adds to them what it finds.

use std::{collections::BTreeMap, fs};

use consensus_core::NodeId;
use overlay_core::membership::{
    Accusation, Bucket, FactId, Goodbye, Incarnation, Keys, Message, Pace, Record, Sequence,
    SignedRecord, SimulatedKeys, Update, Verdict, wire::v1 as gossip,
};
use serde_json::json;

use crate::{certificates, commands, root, servers};

type Seeds = Vec<(String, Vec<u8>)>;

#[test]
fn seeds_are_written_when_asked_for() {
    let Ok(asked) = std::env::var("SHOAL_FUZZ_WRITE_SEEDS") else {
        return;
    };
    let asked_for = |target: &str| asked == "1" || asked.split(',').any(|one| one == target);
    let certificates = CERTIFICATE_TARGETS.iter().any(|target| asked_for(target));
    let mut all = all(certificates);
    let goes_with = |target| target == "backup" || CERTIFICATE_TARGETS.contains(&target);
    all.retain(|target, _| asked_for(target) || (certificates && goes_with(*target)));
    assert!(!all.is_empty(), "there is no such target");
    for (target, seeds) in all {
        let folder = root().join("corpus").join(target);
        fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in seeds {
            fs::write(folder.join(format!("seed-{name}")), bytes).unwrap();
        }
    }
}

/// Targets whose seeds need keys that are made for all of them together, and thrown away. A backup
/// is sealed to one of them.
const CERTIFICATE_TARGETS: [&str; 5] = [
    "certificate_chain",
    "certificate_pem",
    "certificate_request",
    "private_key",
    "sealed",
];

/// The seeds of every target; those that need certificates only if they are wanted.
fn all(certificates: bool) -> BTreeMap<&'static str, Seeds> {
    let mut all = commands::seeds();
    if certificates {
        all.extend(certificate_seeds());
    }
    all.extend([
        ("membership_message", gossip_seeds()),
        ("identifiers", identifier_seeds()),
    ]);
    all.extend(connection_seeds());
    all.extend(reach_seeds());
    all.extend(wireguard_seeds());
    all.extend(docker_seeds());
    all.extend(api_seeds());
    // After the certificates, because a backup is sealed to the key that is made with them.
    all.extend(servers::seeds());
    all
}

fn certificate_seeds() -> Vec<(&'static str, Seeds)> {
    let fixtures = root().join("fixtures");
    fs::create_dir_all(&fixtures).unwrap();
    let made = certificates::make(&fixtures);
    let owned = |seeds: Vec<(&str, Vec<u8>)>| -> Seeds {
        let seeds = seeds.into_iter();
        seeds
            .map(|(name, bytes)| (name.to_owned(), bytes))
            .collect()
    };
    vec![
        ("certificate_chain", owned(made.chains)),
        ("certificate_request", owned(made.requests)),
        ("private_key", owned(made.keys)),
        ("certificate_pem", owned(made.pems)),
        ("sealed", owned(made.sealed)),
    ]
}

fn texts(texts: &[(&str, &str)]) -> Seeds {
    let texts = texts.iter();
    texts
        .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()))
        .collect()
}

/// A byte that chooses, then the text.
fn chosen(choice: u8, name: &str, text: impl ToString) -> (String, Vec<u8>) {
    let text = text.to_string();
    (name.to_owned(), [&[choice], text.as_bytes()].concat())
}

fn id(n: u32) -> NodeId {
    let digits = format!("{n:A>44}").replace('0', "z");
    format!("12D3KooW{digits}").parse().unwrap()
}

fn gossip_seeds() -> Seeds {
    let incarnation = Incarnation {
        generation: 5,
        version: 6,
    };
    let keys = |n| SimulatedKeys(id(n));
    let accused = |verdict, n| {
        let by = (id(3), &keys(3) as &dyn Keys);
        Accusation::sign(verdict, id(n), incarnation, by, Pace::Lan)
    };
    let network = consensus_core::NetworkId::from_bytes([7; 16]);
    let record = Record {
        node: id(1),
        generation: 9,
        version: 8,
        addresses: vec!["10.1.2.3:4001".parse().unwrap()],
        wireguard: vec![(network, vec!["[fd00::1]:51891".parse().unwrap()])],
        relays: vec![id(6)],
        unreachable: vec![(network, vec![id(7)])],
        forwards: true,
    };
    let updates = vec![
        Update::Alive(SignedRecord::sign(record, &keys(1))),
        Update::Suspect(accused(Verdict::Suspect, 2)),
        Update::Suspect(accused(Verdict::Suspect, 0)),
        Update::Dead(accused(Verdict::Dead, 4)),
        Update::Left(Goodbye::sign(id(5), incarnation, &keys(5))),
    ];
    let sequence = Sequence(1);
    let ping = Message::Ping {
        sequence,
        updates: updates.clone(),
    };
    let relayed = Message::PingRequest {
        sequence,
        target: id(6),
        timeout: std::time::Duration::from_millis(500),
        updates: Vec::new(),
    };
    let digest = Message::Digest {
        buckets: vec![Bucket {
            index: 1,
            hash: u64::MAX,
        }],
    };
    let repair = Message::Repair {
        updates,
        wanted: vec![0, 255],
        more: true,
    };
    let have = Message::Have {
        facts: vec![FactId(7), FactId(u64::MAX)],
    };
    let all = [
        ("ping", ping),
        ("ping-request", relayed),
        ("digest", digest),
        ("repair", repair),
        ("have", have),
        ("prune", Message::Prune),
    ];
    all.map(|(name, message)| (name.to_owned(), gossip::encode(&message)))
        .into()
}

fn identifier_seeds() -> Seeds {
    texts(&[
        ("node", id(1).as_str()),
        ("mesh", "30313233343536373839616263646566"),
        ("key", "4EyXk9bXhV2FYNYpyUWNS3FPuEF1mw/T9jhaFhPBGkQ="),
        ("prefix", "100.96.0.0/16"),
        ("cidr", "fd00:5::/64"),
    ])
}

fn connection_seeds() -> Vec<(&'static str, Seeds)> {
    let mesh = [5; 16];
    let hello = |rest: &[u8]| [&[1], &mesh[..], rest].concat();
    let named = |name: &str, bytes: Vec<u8>| (name.to_owned(), bytes);
    let refused = b"\x01C\x01m\x01h";
    let frames = b"\x00\x00\x00\x05hello\x00\x00\x00\x00\x00\x00\x00\x02ab";
    vec![
        (
            "gate_hello",
            vec![
                named("member", hello(&[0xac, 2, 0, 2, 2, 1, 2, 1, 3])),
                named("enrol", hello(&[0, 1])),
            ],
        ),
        (
            "gate_answer",
            vec![
                named("welcome", vec![1, 0, 7, 1, 1, 9, 1, 2, 8, 8]),
                named("refused", [&[1, 1], &refused[..]].concat()),
            ],
        ),
        (
            "gate_enrol_answer",
            vec![
                named("accepted", vec![1, 0, 1, 5]),
                named("refused", [&[1, 1], &refused[..]].concat()),
            ],
        ),
        ("gate_renewed", vec![named("chain", vec![1, 1, 1, 4])]),
        (
            "frame_stream",
            vec![
                named("in-pieces", [&[10, 3], &frames[..]].concat()),
                named("too-long", [&[2, 200], &frames[..]].concat()),
                named("cut", [&[10, 3], &frames[..7]].concat()),
            ],
        ),
        (
            "call_frame",
            vec![
                named(
                    "answer",
                    [&[0, 0, 0, 0, 0, 0, 1, 2, 0], &b"body"[..]].concat(),
                ),
                named(
                    "refused",
                    [&[0, 0, 0, 0, 0, 0, 1, 2, 1], &refused[..]].concat(),
                ),
            ],
        ),
        (
            "multiaddress",
            vec![
                named("quic", vec![4, 127, 0, 0, 1, 0x91, 2, 0x1b, 0x58, 0xcd, 3]),
                named("tcp", [&[41], &[0xfd; 16][..], &[6, 0x1b, 0x58]].concat()),
            ],
        ),
    ]
}

fn reach_seeds() -> Vec<(&'static str, Seeds)> {
    let named = |name: &str, bytes: Vec<u8>| (name.to_owned(), bytes);
    // 192.0.2.7 at ports 4000 and 7440, and [fd00::7]:7440.
    let seen = [0, 192, 0, 2, 7, 0xa0, 0x1f];
    let listens = [0, 192, 0, 2, 7, 0x90, 0x3a];
    let v6 = [
        1, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0x90, 0x3a,
    ];
    vec![
        (
            "reach_question",
            vec![
                named("ports", vec![1, 2, 0x90, 0x3a, 0x92, 0x3a]),
                named("none", vec![1, 0]),
            ],
        ),
        (
            "reach_answer",
            vec![
                named("reached", [&[1], &seen[..], &[1], &listens[..]].concat()),
                named("not-reached", [&[1], &seen[..], &[0]].concat()),
                named(
                    "elsewhere",
                    [&[1], &seen[..], &[2], &v6[..], &listens[..]].concat(),
                ),
            ],
        ),
    ]
}

fn wireguard_seeds() -> Vec<(&'static str, Seeds)> {
    let key = "b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33";
    let base64 = "4EyXk9bXhV2FYNYpyUWNS3FPuEF1mw/T9jhaFhPBGkQ=";
    let reply = format!(
        "private_key={key}\nlisten_port=12912\npublic_key={key}\ntx_bytes=38333\nrx_bytes=2224\n\
         allowed_ip=192.168.4.6/32\nallowed_ip=fd00::6/128\npersistent_keepalive_interval=111\n\
         endpoint=182.122.22.19:3233\nlast_handshake_time_sec=1700000000\n\
         last_handshake_time_nsec=500000000\n"
    );
    let request = format!(
        "set=1\nprivate_key={key}\nlisten_port=51820\nreplace_peers=true\npublic_key={key}\n\
         update_only=true\nendpoint=192.0.2.1:7\nreplace_allowed_ips=true\nallowed_ip=fd00::1/128\n\
         persistent_keepalive_interval=25\npreshared_key={key}\npublic_key={key}\nremove=true\n\n"
    );
    let endpoints = format!("{base64} 192.0.2.1:51820\n{base64} [fd00::1]:51820\n");
    vec![
        ("wireguard_reply", texts(&[("peer", &reply)])),
        ("wireguard_request", texts(&[("set", &request)])),
        (
            "wireguard_files",
            texts(&[("key", &format!("{key}\n")), ("endpoints", &endpoints)]),
        ),
    ]
}

fn docker_seeds() -> Vec<(&'static str, Seeds)> {
    let container = json!([{"Id": "ab", "Names": ["/web", "/other/web"], "Image": "web:1",
        "State": "running", "Status": "Up", "Ports": [{"IP": "fd00::1", "PrivatePort": 80,
        "PublicPort": 8080, "Type": "tcp"}]}]);
    let image = json!([{"Id": "sha256:ab", "ParentId": "", "RepoTags": ["<none>:<none>", "web:1"],
        "RepoDigests": [], "Created": 1_700_000_000, "Size": 1234, "SharedSize": -1, "Labels": {},
        "Containers": -1}]);
    let pull = json!({"id": "ab", "status": "Downloading",
        "progressDetail": {"current": 1, "total": 2}});
    let engine = json!({"Version": "20.10.24", "ApiVersion": "1.41"});
    let record = json!({"pid": 7, "start_ticks": 8, "boot_id": "ab", "started_with": null});
    let manifest =
        json!({"files": ["/etc/shoal/docker/daemon.json"], "directories": ["/etc/shoal"]});
    vec![
        (
            "docker_answers",
            vec![
                chosen(0, "containers", container),
                chosen(1, "images", image),
                chosen(2, "pull", pull),
                chosen(3, "engine", engine),
            ],
        ),
        (
            "host_files",
            texts(&[
                ("record", &record.to_string()),
                ("manifest", &manifest.to_string()),
            ]),
        ),
        (
            "engine_version",
            texts(&[
                ("debian", "Docker version 20.10.24+dfsg1, build 5d6db84\n"),
                ("candidate", "Docker version 26.1.5-rc.1, build a72d7cd"),
                ("old", "Docker version 19.03.15, build 99e3ed8"),
            ]),
        ),
        (
            "daemon_json",
            texts(&[
                ("debug", r#"{"debug": true, "log-driver": "local"}"#),
                ("protected", r#"{"Hosts": ["tcp://0.0.0.0:2375"]}"#),
                (
                    "nested",
                    r#"{"log-opts": {"max-size": "1m"}, "labels": ["a=b"]}"#,
                ),
            ]),
        ),
        (
            "dockerd_words",
            texts(&[
                (
                    "in-use",
                    "time=\"x\" level=info msg=\"Starting up\"\nfailed to load listeners: listen \
                     tcp [fd00:5::1]:2376: bind: address already in use\n",
                ),
                (
                    "cursor",
                    "Started docker.service.\n-- cursor: s=9f;i=2a;b=11\n",
                ),
                ("image", "registry:5000/web@sha256:00"),
                ("pid", "4242\n"),
                (
                    "candidate",
                    "with file /x.candidate: don't match any option: foo",
                ),
            ]),
        ),
    ]
}

fn vip_shapes() -> Seeds {
    let vip_request = json!({"name": "web", "network": "default", "candidates": ["n1", "n2"],
        "check": {"probe": "tcp:80", "interval_ms": 250, "timeout_ms": null}, "profile": "lan"});
    let vip = json!({"name": "web", "network": "default", "address": "fd00::a", "holder": "n2",
        "epoch": 2, "state": "held", "candidates": ["n1", "n2"], "id": "00", "profile": "lan",
        "check": null, "check_interval_ms": null, "check_timeout_ms": null, "lease_left_ms": 371,
        "open": true,
        "lease_voters": ["n1"], "lease_voters_next": null, "wanted_on": "*",
        "readiness": [{"node": "n1", "fit": true, "reason": null, "since_ms": 9}],
        "moves": [{"from": null, "to": "n2", "epoch": 2, "reason": "asked for", "at_ms": 9,
            "outage_us": 31000}]});
    let failover = json!({"raft_index": 7, "moved": true, "from": "n1", "to": "n2", "epoch": 4,
        "took_us": 31_480, "warnings": ["w"]});
    let drill = json!({"vip": "web", "address": "fd00::a", "killed": true, "moved": true,
        "from": "n1", "to": "n2", "epoch": 4, "took_us": 431_480, "outage_us": 24_210,
        "every_us": 5_000, "peers": [{"node": "n3", "outage_us": 24_210, "sent": 312,
            "answers": 301, "pause_us": null, "answering": true, "reason": "why"}],
        "warnings": []});
    vec![
        chosen(21, "vip-request", vip_request),
        chosen(24, "vip", vip),
        chosen(25, "failover", failover),
        chosen(27, "drill", drill),
    ]
}

fn firewall_shapes() -> Seeds {
    let request = json!({"from": "label:zone=a", "to": "node:n1", "protocol": "tcp",
        "ports": ["80", "8000-8100"], "verdict": "deny", "priority": null, "before": 1});
    let view = json!({"network": "default", "default": "deny", "rules": [{"number": 1,
        "priority": 100, "from": "any", "to": "node:n1", "protocol": "any", "ports": [],
        "verdict": "allow"}]});
    vec![
        chosen(28, "firewall-rule-request", request),
        chosen(29, "firewall", view),
    ]
}

fn api_seeds() -> Vec<(&'static str, Seeds)> {
    let event = json!({"index": 9, "time": "2026-01-01T00:00:00.123Z", "kind": "node.joined",
        "node": "n2", "payload": {"role": "agent"}});
    let error = json!({"code": "NodeNotFoundError", "message": "m", "hint": "h",
        "caused_by": ["x"]});
    let run = json!({"image": "web", "name": "w", "ports": ["80:80"], "command": ["a"],
        "env": ["A=b"], "restart": "always"});
    let join = json!({"token": "shoal1.x", "labels": {"a": "b"}, "lifecycle_class": "spot",
        "network_profile": null, "tmpfs_store": true});
    let labels = json!({"set": {"a": "b"}, "unset": ["c"]});
    let ok = "HTTP/1.1 200 OK\r\nshoal-freshness: raft, index 3\r\n";
    let (line, refusal) = (event.to_string(), error.to_string());
    let whole = format!("{ok}content-length: 2\r\n\r\n[]");
    let chunked = format!(
        "{ok}transfer-encoding: chunked\r\n\r\n{:x}\r\n{line}\n\r\n0\r\n\r\n",
        line.len() + 1
    );
    let liar = format!("{ok}content-length: 18446744073709551615\r\n\r\n[");
    let refused = format!(
        "HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{refusal}",
        refusal.len()
    );
    let until_closed = format!("HTTP/1.0 200 OK\r\n\r\n{line}\n\n{refusal}\n");
    vec![
        (
            "api_shapes",
            [
                chosen(19, "event", &line),
                chosen(7, "run", run),
                chosen(1, "join", join),
                chosen(3, "labels", labels),
            ]
            .into_iter()
            .chain(vip_shapes())
            .chain(firewall_shapes())
            .collect(),
        ),
        ("api_error", texts(&[("error", &refusal)])),
        (
            "api_exchange",
            vec![
                chosen(0, "document", whole),
                chosen(1, "lines", &chunked),
                chosen(2, "download", chunked),
                chosen(0, "liar", liar),
                chosen(0, "refused", refused),
                chosen(1, "until-closed", until_closed),
            ],
        ),
        (
            "api_endpoint",
            texts(&[
                ("socket", "unix:///run/shoal/shoald.sock"),
                ("path", "/run/a.sock"),
                ("address", "https://[fd00::1]:7443"),
                ("name", "https://node.example/"),
            ]),
        ),
        (
            "access_rule",
            texts(&[("listed", "GET\n/v1/status"), ("not", "DELETE\n/v1/../x")]),
        ),
    ]
}
