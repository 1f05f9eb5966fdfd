//! Claims about format 1. The bytes are a promise: a test that fails here means that old logs are
//! no longer understood.

use super::*;

fn head() -> Head {
    Head {
        segment: 3,
        frame: 200,
        first: 10,
        end: 70,
        owner: b"me".to_vec(),
        marks: Marks {
            vote: Some(b"v".to_vec()),
            committed: Some((60, b"c".to_vec())),
            purged: Some((9, b"p".to_vec())),
        },
    }
}

const HEAD_HEX: &str = "73686f616c6c6f670100000034bb44de48000000\
    0300000000000000c8000000000000000a000000000000004600000000000000\
    020000006d65\
    010100000076\
    013c000000000000000100000063\
    0109000000000000000100000070";

const RECORDS: [Record<'static>; 5] = [
    Record::Entry {
        index: 70,
        bytes: b"hello",
    },
    Record::Vote(b"vote"),
    Record::Committed {
        index: 70,
        bytes: b"c",
    },
    Record::Truncate { from: 69 },
    Record::Purge {
        upto: 12,
        bytes: b"p",
    },
];

const FRAME_HEX: &str = "3196cdea44000000c800000000000000c700000000000000\
    010d000000460000000000000068656c6c6f\
    0204000000766f7465\
    0309000000460000000000000063\
    04080000004500000000000000\
    05090000000c0000000000000070\
    00000000";

fn frame() -> Vec<u8> {
    let mut frame = begin_frame();
    for record in &RECORDS {
        let before = frame.len();
        put_record(&mut frame, record);
        assert_eq!(frame.len() - before, record_bytes(record));
    }
    seal(&mut frame, 3, 16, 200, 199);
    frame
}

#[test]
fn a_head_is_the_promised_bytes() {
    let bytes = head().encode();
    assert_eq!(bytes.len(), HEAD_BYTES);
    let used = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    assert_eq!(hex::encode(&bytes[..used]), HEAD_HEX);
    assert_eq!(Head::decode(3, &bytes), Ok(head()));
}

#[test]
fn a_head_without_marks_comes_back() {
    let head = Head {
        marks: Marks::default(),
        ..head()
    };
    assert_eq!(Head::decode(3, &head.encode()), Ok(head));
}

#[test]
fn a_frame_is_the_promised_bytes() {
    assert_eq!(hex::encode(frame()), FRAME_HEX);
    let mut bytes = vec![0; 16];
    bytes.extend(frame());
    let found = frame_at(3, 16, &bytes).unwrap();
    assert_eq!((found.number, found.durable), (200, 199));
    let mut records = Vec::new();
    each_record(found.records, |at, record| {
        if let Record::Entry { bytes, .. } = record {
            assert_eq!(&found.records[at..at + bytes.len()], bytes);
        }
        records.push(format!("{record:?}"));
    })
    .unwrap();
    assert_eq!(records, RECORDS.map(|record| format!("{record:?}")));
}

#[test]
fn a_frame_counts_only_where_it_was_written() {
    let mut bytes = vec![0; 16];
    bytes.extend(frame());
    assert!(frame_at(2, 16, &bytes).is_none());
    bytes.splice(0..0, [0; 8]);
    assert!(frame_at(3, 24, &bytes).is_none());
}

#[test]
fn no_changed_or_missing_byte_passes() {
    let mut bytes = vec![0; 16];
    bytes.extend(frame());
    let records = frame_at(3, 16, &bytes).unwrap().records.len();
    for at in 16..16 + FRAME_HEAD_BYTES + records {
        bytes[at] ^= 4;
        assert!(frame_at(3, 16, &bytes).is_none(), "byte {at}");
        assert!(frame_at(3, 16, &bytes[..at]).is_none(), "cut at {at}");
        bytes[at] ^= 4;
    }
    let whole = head().encode();
    let body = u32::from_le_bytes(whole[16..20].try_into().unwrap());
    for at in 0..20 + usize::try_from(body).unwrap() {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        let refused = Head::decode(3, &bytes).unwrap_err();
        let version = Damage::Version {
            segment: 3,
            version: 5,
        };
        let expected = if at == 8 {
            version
        } else {
            Damage::Head { segment: 3 }
        };
        assert_eq!(refused, expected, "byte {at}");
    }
}

#[test]
fn a_head_under_another_name_is_refused() {
    let refused = Head::decode(4, &head().encode());
    assert_eq!(refused, Err(Damage::Head { segment: 4 }));
}

#[test]
fn zeroes_are_no_frame() {
    assert!(frame_at(1, 0, &[0; 64]).is_none());
}
