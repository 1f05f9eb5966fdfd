//! Claims about version 1 of the membership messages.

use consensus_core::NodeId;
use proptest::prelude::*;

use super::super::super::tests::node;
use super::*;

/// The two halves of [`mark`].
const MARK: [u8; 64] = [0xab; 64];

const fn mark() -> Signature {
    Signature(MARK)
}

#[test]
fn the_bytes_of_a_ping_stay_what_they_are() {
    let ping = Message::Ping {
        sequence: Sequence(300),
        updates: vec![Update::Suspect(Arc::new(Accusation {
            subject: node(1),
            incarnation: Incarnation {
                generation: 2,
                version: 3,
            },
            accuser: node(4),
            pace: Pace::Wan,
            signature: mark(),
        }))],
    };
    let mut golden = vec![1, 0, 0xac, 0x02, 1, 1, 52];
    golden.extend(node(1).as_str().bytes());
    golden.extend([2, 3, 52]);
    golden.extend(node(4).as_str().bytes());
    golden.push(1);
    golden.extend(MARK);
    assert_eq!(encode(&ping), golden);
    assert_eq!(decode(&golden), Ok(ping));
}

#[test]
fn the_bytes_of_a_record_stay_what_they_are() {
    let gossip = Message::Gossip {
        updates: vec![Update::Alive(signed(1, 1))],
    };
    let mut golden = vec![1, 5, 1, 0, 52];
    golden.extend(node(1).as_str().bytes());
    golden.extend([9, 8, 1]);
    golden.extend([0, 10, 1, 2, 3, 0xa1, 0x1f]);
    golden.extend([1, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 1]);
    golden.extend([
        1, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xb3, 0x95, 0x03,
    ]);
    golden.extend([1, 52]);
    golden.extend(node(7).as_str().bytes());
    golden.extend([1, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 1, 52]);
    golden.extend(node(8).as_str().bytes());
    golden.push(1);
    golden.extend(MARK);
    assert_eq!(encode(&gossip), golden);
    assert_eq!(decode(&golden), Ok(gossip));
}

#[test]
fn the_numbers_of_all_kinds_of_message_stay_what_they_are() {
    let kinds: Vec<u8> = every_kind()
        .iter()
        .map(|message| encode(message)[1])
        .collect();
    assert_eq!(kinds, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    let digest = Message::Digest {
        buckets: vec![Bucket {
            index: 7,
            hash: 0x0102,
        }],
    };
    assert_eq!(encode(&digest), [1, 6, 1, 7, 2, 1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn every_kind_of_message_survives_the_wire() {
    for message in every_kind() {
        assert_eq!(decode(&encode(&message)), Ok(message));
    }
}

#[test]
fn the_largest_message_within_the_limits_fits() {
    let mut record = sample(ADDRESSES_MAX, NETWORKS_MAX);
    record.addresses = vec!["[fd00::1]:51820".parse().unwrap(); ADDRESSES_MAX];
    (record.generation, record.version) = (u64::MAX, u64::MAX);
    for (_, endpoints) in &mut record.wireguard {
        *endpoints = vec!["[fd00::1]:51820".parse().unwrap(); ENDPOINTS_MAX];
    }
    let updates = vec![named(record); UPDATES_MAX];
    let repair = Message::Repair {
        updates,
        wanted: (0..=255).collect(),
        more: true,
    };
    let bytes = encode(&repair);
    assert!(bytes.len() <= MESSAGE_BYTES_MAX, "{}", bytes.len());
    assert_eq!(decode(&bytes), Ok(repair));
}

#[test]
fn lists_beyond_their_limits_are_refused() {
    let updates = |count| vec![Update::Alive(signed(0, 0)); count];
    let too_many = Message::Gossip {
        updates: updates(UPDATES_MAX + 1),
    };
    assert!(matches!(
        decode(&encode(&too_many)),
        Err(DecodeError::TooMany {
            what: "updates",
            ..
        })
    ));
    let too_wide = Message::Gossip {
        updates: vec![Update::Alive(signed(ADDRESSES_MAX + 1, 0))],
    };
    assert!(matches!(
        decode(&encode(&too_wide)),
        Err(DecodeError::TooMany {
            what: "addresses",
            ..
        })
    ));
}

#[test]
fn unreachable_nodes_are_counted_over_all_networks_and_an_empty_list_as_one() {
    let network = NetworkId::from_bytes([7; 16]);
    let read = |unreachable| {
        let mut record = sample(0, 0);
        record.unreachable = unreachable;
        let updates = vec![named(record)];
        decode(&encode(&Message::Gossip { updates })).map(drop)
    };
    let refused = DecodeError::TooMany {
        what: "unreachable",
        count: UNREACHABLE_MAX + 1,
        limit: UNREACHABLE_MAX,
    };
    let most = (network, vec![node(8); UNREACHABLE_MAX - 1]);
    let one = (network, vec![node(8)]);
    assert_eq!(read(vec![most.clone(), one.clone()]), Ok(()));
    assert_eq!(read(vec![most, one.clone(), one]), Err(refused.clone()));
    let empty = (network, Vec::new());
    assert_eq!(read(vec![empty.clone(); UNREACHABLE_MAX]), Ok(()));
    assert_eq!(read(vec![empty; UNREACHABLE_MAX + 1]), Err(refused));
}

#[test]
fn what_is_no_message_is_refused_by_name() {
    assert_eq!(decode(&[]), Err(DecodeError::Empty));
    assert_eq!(decode(&[9, 0]), Err(DecodeError::Version { version: 9 }));
    assert!(matches!(decode(&[1, 99]), Err(DecodeError::Malformed(_))));
    let huge = vec![1; MESSAGE_BYTES_MAX + 1];
    assert_eq!(
        decode(&huge),
        Err(DecodeError::TooLong { bytes: huge.len() })
    );
    let mut trailing = encode(&Message::Gossip {
        updates: Vec::new(),
    });
    trailing.push(0);
    assert_eq!(decode(&trailing), Err(DecodeError::Trailing { bytes: 1 }));
}

#[test]
fn a_name_that_is_no_node_id_is_refused() {
    let mut bytes = encode(&Message::Gossip {
        updates: vec![Update::Alive(signed(0, 0))],
    });
    bytes[10] = b'!';
    assert!(matches!(decode(&bytes), Err(DecodeError::Malformed(_))));
}

#[test]
fn what_is_signed_stays_what_it_is_and_names_its_kind() {
    let incarnation = Incarnation {
        generation: 2,
        version: 300,
    };
    let mut golden = b"shoal membership 1: dead\0".to_vec();
    golden.push(52);
    golden.extend(node(1).as_str().bytes());
    golden.extend([2, 0xac, 0x02, 52]);
    golden.extend(node(4).as_str().bytes());
    golden.push(0);
    let text = |verdict| accusation_text(verdict, &node(1), incarnation, &node(4), Pace::Lan);
    assert_eq!(text(Verdict::Dead), golden);
    assert_ne!(text(Verdict::Suspect), golden);
    let mut golden = b"shoal membership 1: goodbye\0".to_vec();
    golden.push(52);
    golden.extend(node(1).as_str().bytes());
    golden.extend([2, 0xac, 0x02]);
    assert_eq!(goodbye_text(&node(1), incarnation), golden);
    let record = sample(1, 1);
    let sent = encode(&Message::Gossip {
        updates: vec![named(record.clone())],
    });
    let mut golden = b"shoal membership 1: record\0".to_vec();
    golden.extend(&sent[4..sent.len() - MARK.len()]);
    assert_eq!(record_text(&record), golden);
}

proptest! {
    #[test]
    fn any_bytes_decode_or_fail_but_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
        bytes.insert(0, VERSION);
        let _ = decode(&bytes);
    }

    #[test]
    fn a_flipped_bit_never_panics(at in 0_usize..60, bit in 0_u8..8) {
        for message in every_kind() {
            let mut bytes = encode(&message);
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(read) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&read)), Ok(read));
            }
        }
    }
}

fn sample(addresses: usize, networks: usize) -> Record {
    Record {
        node: node(1),
        generation: 9,
        version: 8,
        addresses: vec!["10.1.2.3:4001".parse().unwrap(); addresses],
        wireguard: vec![
            (
                NetworkId::from_bytes([7; 16]),
                vec!["[fd00::1]:51891".parse().unwrap()]
            );
            networks
        ],
        relays: vec![node(7); networks.min(RELAYS_MAX)],
        // Nothing is longer than a network for each name.
        unreachable: vec![
            (NetworkId::from_bytes([7; 16]), vec![node(8)]);
            networks.min(UNREACHABLE_MAX)
        ],
        forwards: networks > 0,
    }
}

fn named(record: Record) -> Update {
    let signature = mark();
    Update::Alive(Arc::new(SignedRecord { record, signature }))
}

fn signed(addresses: usize, networks: usize) -> Arc<SignedRecord> {
    Arc::new(SignedRecord {
        record: sample(addresses, networks),
        signature: mark(),
    })
}

fn every_kind() -> Vec<Message> {
    let incarnation = Incarnation {
        generation: 5,
        version: 6,
    };
    let accused = |subject: NodeId| {
        Arc::new(Accusation {
            subject,
            incarnation,
            accuser: node(3),
            pace: Pace::Lan,
            signature: mark(),
        })
    };
    let updates = vec![
        Update::Alive(signed(2, 2)),
        Update::Suspect(accused(node(2))),
        Update::Dead(accused(node(4))),
        Update::Left(Arc::new(Goodbye {
            subject: node(5),
            incarnation,
            signature: mark(),
        })),
    ];
    let sequence = Sequence(u64::MAX);
    vec![
        Message::Ping {
            sequence,
            updates: updates.clone(),
        },
        Message::Ack {
            sequence,
            updates: updates.clone(),
        },
        Message::PingRequest {
            sequence,
            target: node(6),
            timeout: Duration::from_millis(500),
            updates: updates.clone(),
        },
        Message::IndirectAck {
            sequence,
            updates: updates.clone(),
        },
        Message::Nack {
            sequence,
            updates: updates.clone(),
        },
        Message::Gossip {
            updates: updates.clone(),
        },
        Message::Digest {
            buckets: vec![Bucket {
                index: 1,
                hash: u64::MAX,
            }],
        },
        Message::Repair {
            updates,
            wanted: vec![0, 255],
            more: false,
        },
        Message::Have {
            facts: vec![FactId(1), FactId(u64::MAX)],
        },
        Message::Graft {
            facts: vec![FactId(2)],
        },
        Message::Prune,
    ]
}
