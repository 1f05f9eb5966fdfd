//! Claims about format 1. The bytes are a promise: a test that fails here means that old stores
//! and old servers are no longer understood.

use std::fmt::Debug;

use super::*;

fn node() -> NodeId {
    "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm"
        .parse()
        .unwrap()
}

const NODE_HEX: &str = "313244334b6f6f57475255564c4a705138734a7462544e47584a\
                        467642566e454b6447424163516e7a487150564b71474e66636d";

fn at(index: u64) -> LogIdV1 {
    LogIdV1 {
        term: 3,
        leader: 7,
        index,
    }
}

pub(super) fn vote() -> VoteV1 {
    VoteV1 {
        term: 300,
        candidate: 7,
        committed: true,
    }
}

fn membership() -> MembershipV1 {
    let voters = vec![BTreeSet::from([7])];
    MembershipV1 {
        voters,
        nodes: BTreeMap::from([(7, Some(node())), (9, None)]),
    }
}

pub(super) fn empty_meta() -> SnapshotMetaV1 {
    SnapshotMetaV1 {
        last: Some(at(9)),
        membership_at: Some(at(0)),
        membership: MembershipV1 {
            voters: vec![],
            nodes: BTreeMap::new(),
        },
    }
}

/// The record is exactly these bytes, and these bytes are exactly the record.
fn promised_record<T>(value: &T, hexadecimal: &str)
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    assert_eq!(hex::encode(record(value)), hexadecimal);
    let bytes = hex::decode(hexadecimal).unwrap();
    assert_eq!(open_record::<T>("it", &bytes).as_ref(), Ok(value));
}

/// The message is exactly these bytes, and these bytes are exactly the message.
pub(super) fn promised_message<T>(value: &T, hexadecimal: &str)
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    assert_eq!(hex::encode(message(value)), hexadecimal);
    let bytes = hex::decode(hexadecimal).unwrap();
    assert_eq!(open_message::<T>(&bytes).as_ref(), Ok(value));
}

#[test]
fn records_are_the_promised_bytes() {
    promised_record(
        &EntryV1 {
            at: at(200),
            payload: PayloadV1::Blank,
        },
        "01cd43f29a0307c80100",
    );
    let payload = PayloadV1::Normal(b"hello".to_vec());
    promised_record(
        &EntryV1 { at: at(1), payload },
        "01be75fea6030701010568656c6c6f",
    );
    let payload = PayloadV1::Membership(membership());
    promised_record(
        &EntryV1 { at: at(2), payload },
        &["01cca754b60307020201010702070134", NODE_HEX, "0900"].concat(),
    );
    promised_record(&vote(), "019e0b3b1dac020701");
    promised_record(&at(5), "0103052cc2030705");
    promised_record(
        &OwnerV1 {
            raft_id: RaftId(7),
            node: node(),
        },
        &["01f0646da20734", NODE_HEX].concat(),
    );
    let meta = SnapshotMetaV1 {
        last: Some(at(9)),
        membership_at: None,
        membership: membership(),
    };
    let head = SnapshotHeadV1 {
        meta,
        generation: 4,
        bytes: 1000,
        crc: 0xdead_beef,
    };
    promised_record(
        &head,
        &[
            "01f53dd226010307090001010702070134",
            NODE_HEX,
            "090004e807effdb6f50d",
        ]
        .concat(),
    );
}

#[test]
fn requests_are_the_promised_bytes() {
    let to = RaftId(9);
    let entries = vec![EntryV1 {
        at: at(2),
        payload: PayloadV1::Normal(vec![1, 2]),
    }];
    let request = RequestV1::Append {
        vote: vote(),
        prev: Some(at(1)),
        entries,
        commit: None,
    };
    promised_message(
        &EnvelopeV1 { to, request },
        "010900ac02070101030701010307020102010200",
    );
    let request = RequestV1::Vote {
        vote: vote(),
        last: None,
        transfer: true,
    };
    promised_message(&EnvelopeV1 { to, request }, "010901ac0207010001");
    let request = RequestV1::PreVote {
        vote: vote(),
        last: Some(at(1)),
        transfer: false,
    };
    promised_message(&EnvelopeV1 { to, request }, "010902ac0207010103070100");
    let request = RequestV1::Transfer {
        from: vote(),
        to: 9,
        last: None,
    };
    promised_message(&EnvelopeV1 { to, request }, "010903ac0207010900");
    let (meta, name) = (empty_meta(), [7; 32]);
    let offer = OfferV1 {
        meta,
        bytes: 1,
        name,
    };
    let request = RequestV1::Offer {
        vote: vote(),
        offer,
    };
    promised_message(
        &EnvelopeV1 { to, request },
        &["010904ac0207010103070901030700000001", &"07".repeat(32)].concat(),
    );
    let piece = PieceV1 {
        name,
        offset: 0,
        crc: 1,
        bytes: vec![5],
    };
    let request = RequestV1::Piece {
        vote: vote(),
        piece,
    };
    promised_message(
        &EnvelopeV1 { to, request },
        &["010905ac020701", &"07".repeat(32), "00010105"].concat(),
    );
}

#[test]
fn answers_are_the_promised_bytes() {
    promised_message(&ReplyV1::Append(AppendReplyV1::Success), "010000");
    promised_message(
        &ReplyV1::Append(AppendReplyV1::Partial(Some(at(1)))),
        "01000101030701",
    );
    promised_message(&ReplyV1::Append(AppendReplyV1::Conflict), "010002");
    promised_message(
        &ReplyV1::Append(AppendReplyV1::HigherVote(vote())),
        "010003ac020701",
    );
    promised_message(
        &ReplyV1::Vote {
            vote: vote(),
            granted: true,
            last: None,
        },
        "0101ac0207010100",
    );
    promised_message(&ReplyV1::Transfer(TransferReplyV1::Taken), "010200");
    let changed = TransferReplyV1::VoteChanged {
        expected: vote(),
        actual: vote(),
    };
    promised_message(&ReplyV1::Transfer(changed), "010201ac020701ac020701");
    let unflushed = TransferReplyV1::LogNotFlushed {
        expected: Some(at(1)),
        actual: None,
    };
    promised_message(&ReplyV1::Transfer(unflushed), "0102020103070100");
    let wanted = TransferAnswerV1::Wanted { offset: 300 };
    promised_message(&ReplyV1::Snapshot(wanted), "010300ac02");
    promised_message(&ReplyV1::Fenced { era: 300 }, "0104ac02");
    assert_eq!(fencing_era(&[1, 4, 0xac, 2]), Some(300));
    assert_eq!(fencing_era(&[1, 4]), None);
    assert_eq!(fencing_era(&[1, 0, 0]), None);
}

#[test]
fn every_single_changed_bit_of_a_record_is_noticed() {
    let sealed = record(&EntryV1 {
        at: at(1),
        payload: PayloadV1::Normal(vec![7; 40]),
    });
    for bit in 0..sealed.len() * 8 {
        let mut torn = sealed.clone();
        torn[bit / 8] ^= 1 << (bit % 8);
        assert!(open_record::<EntryV1>("it", &torn).is_err(), "bit {bit}");
    }
    for length in 0..sealed.len() {
        assert!(
            open_record::<EntryV1>("it", &sealed[..length]).is_err(),
            "length {length}"
        );
    }
}

#[test]
fn trailing_bytes_are_not_ignored() {
    let mut bytes = message(&ReplyV1::Append(AppendReplyV1::Conflict));
    bytes.push(0);
    assert!(open_message::<ReplyV1>(&bytes).is_err());
}

#[test]
fn what_openraft_makes_comes_back_the_same() {
    let entry = EntryV1 {
        at: at(2),
        payload: PayloadV1::Membership(membership()),
    };
    let raft = entry.clone().into_entry().unwrap();
    assert_eq!(EntryV1::from(&raft), entry);
    assert_eq!(VoteV1::from(&Vote::from(vote())), vote());
    let meta = SnapshotMetaV1 {
        last: Some(at(3)),
        membership_at: Some(at(2)),
        membership: membership(),
    };
    assert_eq!(
        SnapshotMetaV1::from(&SnapshotMeta::try_from(meta.clone()).unwrap()),
        meta
    );
}

#[test]
fn a_voter_without_a_name_makes_no_membership() {
    let voters = vec![BTreeSet::from([1])];
    let nameless = MembershipV1 {
        voters,
        nodes: BTreeMap::new(),
    };
    assert!(Membership::try_from(nameless).is_err());
}

fn append(
    vote: VoteV1,
    prev: Option<LogIdV1>,
    entries: &[LogIdV1],
) -> Result<AppendEntriesRequest<Types>, String> {
    let entries = entries.iter().map(|at| EntryV1 {
        at: *at,
        payload: PayloadV1::Blank,
    });
    append_request(vote, prev, entries.collect(), None)
}

#[test]
fn entries_that_do_not_follow_each_other_are_not_given_to_raft() {
    let (leader, later) = (vote(), LogIdV1 { term: 301, ..at(2) });
    for (prev, entries) in [
        (None, &[][..]),
        (None, &[at(0), at(1)]),
        (Some(at(1)), &[]),
        (Some(at(1)), &[at(2), LogIdV1 { term: 4, ..at(3) }]),
    ] {
        assert!(append(leader, prev, entries).is_ok(), "{entries:?}");
    }
    for (prev, entries) in [
        (None, &[at(1)][..]),
        (Some(at(1)), &[at(1)]),
        (Some(at(1)), &[at(3)]),
        (Some(at(1)), &[at(2), at(4)]),
        (Some(at(1)), &[at(2), at(2)]),
        (Some(at(1)), &[LogIdV1 { term: 2, ..at(2) }]),
        (Some(at(1)), &[later]),
        (Some(later), &[]),
        (Some(at(u64::MAX)), &[]),
        (Some(at(u64::MAX)), &[at(0)]),
        (Some(at(u64::MAX - 1)), &[at(u64::MAX)]),
    ] {
        assert!(
            append(leader, prev, entries).is_err(),
            "{prev:?} {entries:?}"
        );
    }
}

#[test]
fn only_a_leader_speaks_as_one_and_no_candidate_does() {
    let candidate = VoteV1 {
        committed: false,
        ..vote()
    };
    assert!(append(candidate, None, &[]).is_err());
    assert!(transfer_request(candidate, 2, None).is_err());
    assert!(transfer_request(vote(), 2, None).is_ok());
    assert!(vote_request(candidate, None, false).is_ok());
    assert!(vote_request(vote(), None, false).is_err());
}

#[test]
fn the_askers_era_is_at_the_head_of_every_request() {
    let vote = VoteV1 {
        term: Era(2).first_term() + 5,
        ..vote()
    };
    let (meta, name) = (empty_meta(), [7; 32]);
    let requests = [
        RequestV1::Append {
            vote,
            prev: Some(at(1)),
            entries: vec![],
            commit: None,
        },
        RequestV1::Vote {
            vote,
            last: None,
            transfer: true,
        },
        RequestV1::PreVote {
            vote,
            last: None,
            transfer: false,
        },
        RequestV1::Transfer {
            from: vote,
            to: 9,
            last: None,
        },
        RequestV1::Offer {
            vote,
            offer: OfferV1 {
                meta,
                bytes: 1,
                name,
            },
        },
        RequestV1::Piece {
            vote,
            piece: PieceV1 {
                name,
                offset: 0,
                crc: 1,
                bytes: vec![5],
            },
        },
    ];
    for request in requests {
        let to = RaftId(900);
        let message = message(&EnvelopeV1 { to, request });
        assert_eq!(asking_era(&message), Some(Era(2)));
    }
    assert_eq!(asking_era(&[1, 9]), None);
    assert_eq!(asking_era(&[2, 9, 0, 0, 0, 0]), None);
}
