//! How much of the others' memory, and of their lines, it can use up.

use std::{ops::Range, time::Duration};

use consensus_core::NodeId;
use overlay_core::membership::{
    Bucket, FactId, Incarnation, Load, Message, Record, Sequence, UPDATES_MAX, Update, Verdict,
    wire::v1,
};

use crate::mesh::{HOSTILE, Mesh, accuses, node, record, signed};

/// Messages of a flood: many times any limit.
const FLOOD: u64 = 10_000;
/// What one member can have another hold in a mesh of twenty, in bytes: full queues of small
/// messages.
const MEMORY_MAX: i64 = 1024 * 1024;

#[test]
fn no_flood_makes_any_queue_grow_beyond_its_limit() {
    let mut mesh = Mesh::of(20);
    let limit = Load::limit(20);
    for n in 0..FLOOD {
        for message in flood(n) {
            // Nobody drains: the shell is as slow as can be.
            mesh.receives(HOSTILE, &message);
        }
        let load = mesh.core.load();
        assert!(load.outputs <= limit.outputs, "{load:?}");
        assert!(load.piggybacked <= limit.piggybacked, "{load:?}");
        assert!(load.probes <= limit.probes, "{load:?}");
        assert!(load.relays <= limit.relays, "{load:?}");
        assert!(load.facts <= limit.facts, "{load:?}");
    }
    assert_eq!(mesh.core.members().count(), 20);
}

#[test]
fn a_flood_that_goes_on_and_on_takes_no_more_memory() {
    let mut mesh = Mesh::of(20);
    let mut grows = |floods: Range<u64>| {
        let measured = allocation_counter::measure(|| {
            for message in floods.flat_map(flood) {
                mesh.receives(HOSTILE, &message);
            }
        });
        measured.bytes_current
    };
    // Until every queue is full, and then as much again.
    let (first, then) = (grows(0..FLOOD / 2), grows(FLOOD / 2..FLOOD));
    assert!(first > 0 && first <= MEMORY_MAX, "{first} bytes");
    assert!(then <= MEMORY_MAX / 10, "{then} more bytes");
}

#[test]
fn what_exceeds_the_limits_is_refused_before_it_is_held() {
    let updates = |count: usize| Message::Gossip {
        updates: vec![Update::Alive(signed(record(HOSTILE))); count],
    };
    assert!(v1::decode(&v1::encode(&updates(UPDATES_MAX))).is_ok());
    assert!(v1::decode(&v1::encode(&updates(UPDATES_MAX + 1))).is_err());
    // A length of four thousand million, and nothing behind it.
    let promise = [
        &v1::encode(&updates(0))[..2],
        &[0xff, 0xff, 0xff, 0xff, 0xf],
    ]
    .concat();
    let mut refused = false;
    let cost = allocation_counter::measure(|| refused = v1::decode(&promise).is_err());
    assert!(refused && cost.bytes_max < 64 * 1024, "{cost:?}");
}

#[test]
fn one_asker_cannot_use_up_the_helpers_probes() {
    let mut mesh = Mesh::of(20);
    for n in 0..1000 {
        let request = ping_request(n);
        mesh.core.handle_message(&node(HOSTILE), request, mesh.now);
    }
    let taken = mesh.core.load().relays;
    assert!(taken <= 32, "{taken}");
    mesh.core
        .handle_message(&node(3), ping_request(1), mesh.now);
    assert_eq!(
        mesh.core.load().relays,
        taken + 1,
        "another still finds help"
    );
}

#[test]
fn digests_of_nothing_bring_it_facts_only_so_often() {
    let mut mesh = Mesh::of(50);
    mesh.sent.clear();
    let mut asked = 0;
    for _ in 0..1000 {
        let digest = Message::Digest {
            buckets: Vec::new(),
        };
        asked += v1::encode(&digest).len();
        mesh.core.handle_message(&node(HOSTILE), digest, mesh.now);
        mesh.drain();
        mesh.now = mesh.now + Duration::from_millis(1);
    }
    let repairs = mesh.sent.iter().filter(|(to, message)| {
        *to == node(HOSTILE)
            && matches!(message, Message::Repair { wanted, .. } if !wanted.is_empty())
    });
    assert!(repairs.count() <= 6, "one each 200 ms, {asked} bytes asked");
}

#[test]
fn its_own_records_are_passed_on_only_so_often() {
    let mut mesh = Mesh::of(20);
    mesh.sent.clear();
    for version in 1..1000 {
        let mine = Record {
            version,
            ..record(HOSTILE)
        };
        mesh.is_told(Update::Alive(signed(mine)));
        mesh.now = mesh.now + Duration::from_millis(1);
    }
    let gossip = |(to, message): &&(NodeId, Message)| {
        *to == node(5) && matches!(message, Message::Gossip { .. })
    };
    let passed_on = mesh.sent.iter().filter(gossip).count();
    assert!(
        (1..=10).contains(&passed_on),
        "{passed_on} of 1000 in a second"
    );
}

#[test]
fn it_brings_the_honest_one_to_send_no_more_than_its_share() {
    let mut mesh = Mesh::of(20);
    let quiet = bytes_in(&mut mesh, |_| Vec::new());
    let mut mesh = Mesh::of(20);
    let flooded = bytes_in(&mut mesh, flood);
    // A flood of 11 messages a millisecond costs answers to its own pings, which go to itself, and
    // little else.
    let to_others = flooded.1;
    assert!(
        to_others <= 4 * quiet.1 + 64 * 1024,
        "{to_others}, quiet {}",
        quiet.1
    );
}

/// Bytes sent to the hostile one and to all others, in ten seconds.
fn bytes_in(mesh: &mut Mesh, say: impl Fn(u64) -> Vec<Message>) -> (usize, usize) {
    mesh.sent.clear();
    for n in 0..10_000 {
        for message in say(n) {
            mesh.core.handle_message(&node(HOSTILE), message, mesh.now);
        }
        mesh.drain();
        mesh.run(Duration::from_millis(1));
    }
    let mut bytes = (0, 0);
    for (to, message) in &mesh.sent {
        let size = v1::encode(message).len();
        if *to == node(HOSTILE) {
            bytes.0 += size;
        } else {
            bytes.1 += size;
        }
    }
    bytes
}

fn ping_request(n: u64) -> Message {
    Message::PingRequest {
        sequence: Sequence(n),
        target: node(5),
        timeout: Duration::from_secs(3600),
        updates: Vec::new(),
    }
}

/// One of each kind, each time another.
fn flood(n: u64) -> Vec<Message> {
    let at = Incarnation {
        generation: n,
        version: n,
    };
    let mine = Record {
        generation: n,
        ..record(HOSTILE)
    };
    let index = usize::try_from(n % 18).expect("small") + 2;
    let updates = vec![
        Update::Alive(signed(mine)),
        accuses(Verdict::Suspect, index, at, HOSTILE, HOSTILE),
        accuses(Verdict::Dead, 0, at, HOSTILE, HOSTILE),
    ];
    assert!(updates.len() <= UPDATES_MAX);
    let sequence = Sequence(n);
    let facts: Vec<_> = (0..64).map(|fact| FactId(n << 8 | fact)).collect();
    vec![
        Message::Ping {
            sequence,
            updates: updates.clone(),
        },
        Message::Ack {
            sequence,
            updates: Vec::new(),
        },
        ping_request(n),
        Message::IndirectAck {
            sequence,
            updates: Vec::new(),
        },
        Message::Nack {
            sequence,
            updates: Vec::new(),
        },
        Message::Gossip { updates },
        Message::Digest {
            buckets: vec![Bucket { index: 1, hash: n }],
        },
        Message::Repair {
            updates: Vec::new(),
            wanted: (0..=255).collect(),
            more: true,
        },
        Message::Have {
            facts: facts.clone(),
        },
        Message::Graft { facts },
        Message::Prune,
    ]
}
