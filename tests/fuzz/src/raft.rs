//! What servers tell each other and keep: messages, transfers of a snapshot, records, snapshots.
//!
//! Claims: what is decoded becomes what it was again, also by way of the types that Raft itself
//! has; what is given to Raft is what Raft counts on; a transfer holds no more than it was sent,
//! whatever it was promised, and its end is the state that its pieces are; a record with a wrong
//! checksum is none.
//!
//! Nobody guesses a checksum. So the records are made around bodies that are fuzzed, besides those
//! that are fuzzed themselves.

use consensus_raft::fuzzing::{self, Kind, Received, Transfers};

/// Kinds of records, each chosen by a byte.
const KINDS: [Kind; 5] = [
    Kind::Entry,
    Kind::LogId,
    Kind::Vote,
    Kind::Owner,
    Kind::Fence,
];

pub(crate) fn request(data: &[u8]) {
    match fuzzing::request(data) {
        Ok(message) => {
            let bytes = &message.decoded;
            assert!(bytes.len() <= data.len(), "encoding again made it longer");
            assert_eq!(fuzzing::request(bytes).as_ref(), Ok(&message));
            if let Ok(taken) = &message.taken {
                assert_eq!(taken.bytes, *bytes, "Raft has another message");
                let (before, indices) = &taken.indices;
                let mut last = before.map_or(-1, i128::from);
                for index in indices {
                    assert_eq!(i128::from(*index), last + 1, "Raft has a gap");
                    last += 1;
                }
                assert!(last < i128::from(u64::MAX), "Raft counts further");
            }
            let longer = [bytes, &[0][..]].concat();
            assert!(fuzzing::request(&longer).is_err(), "a byte follows");
            assert!(fuzzing::request(&bytes[..bytes.len() - 1]).is_err());
        }
        Err(reason) => hold_refused(data, &reason),
    }
}

pub(crate) fn reply(data: &[u8]) {
    match fuzzing::reply(data) {
        Ok((bytes, fenced)) => {
            assert!(bytes.len() <= data.len(), "encoding again made it longer");
            let again = fuzzing::reply(&bytes).expect("its own bytes are read");
            assert_eq!(again.0, bytes);
            // Only a number that is written longer than it need be is passed over.
            assert!(
                again.1 == fenced || bytes.len() < data.len(),
                "an era is missed"
            );
            let longer = [&bytes, &[0][..]].concat();
            assert!(fuzzing::reply(&longer).is_err(), "a byte follows");
        }
        Err(reason) => hold_refused(data, &reason),
    }
}

fn hold_refused(data: &[u8], reason: &str) {
    let expected = match data.first() {
        None => "empty",
        Some(1) => "body",
        Some(_) => "format",
    };
    assert!(reason.contains(expected), "{reason}");
}

/// Messages of a transfer, each behind two bytes of big-endian length; the end may be cut.
pub(crate) fn transfer(data: &[u8]) {
    let mut transfers = Transfers::default();
    let mut sent_bytes = 0;
    for message in crate::pieces(data) {
        sent_bytes += message.len();
        match transfers.receive(message) {
            Received::Wanted(offset) => {
                let offset = usize::try_from(offset).expect("it was sent in pieces");
                assert!(offset < sent_bytes, "more is held than was sent");
            }
            Received::Whole(state) => {
                assert!(state.len() < sent_bytes, "more is held than was sent");
            }
            Received::Foreign | Received::Refused | Received::Outvoted => {}
        }
    }
}

/// The first byte chooses the kind, and whether the rest is the record or what is in it.
pub(crate) fn record(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    let choice = usize::from(*choice);
    let kind = KINDS[choice % KINDS.len()];
    if choice < KINDS.len() {
        let sealed = fuzzing::record_around(rest);
        hold_record(kind, &sealed);
        let mut changed = sealed;
        let last = changed.len() - 1;
        changed[last] ^= 1;
        assert!(fuzzing::record(kind, &changed).is_err(), "changed");
    } else {
        hold_record(kind, rest);
    }
}

fn hold_record(kind: Kind, data: &[u8]) {
    if let Ok(bytes) = fuzzing::record(kind, data) {
        assert!(bytes.len() <= data.len(), "encoding again made it longer");
        assert_eq!(fuzzing::record(kind, &bytes).as_ref(), Ok(&bytes));
    }
}

/// The first byte says whether the rest is a whole file; if not, it is a head behind two bytes of
/// its length, and a state.
pub(crate) fn snapshot(data: &[u8]) {
    match data {
        [0, file @ ..] => hold_snapshot(file),
        [_, parts @ ..] => {
            if let Some((head, state)) = crate::first_piece(parts) {
                let file = fuzzing::snapshot_around(head, state);
                hold_snapshot(&file);
                let mut changed = file;
                let last = changed.len() - 1;
                changed[last] ^= 1;
                assert!(fuzzing::snapshot(&changed).is_err(), "changed");
            }
        }
        [] => {}
    }
}

fn hold_snapshot(file: &[u8]) {
    if let Ok(bytes) = fuzzing::snapshot(file) {
        assert!(bytes.len() <= file.len(), "encoding again made it longer");
        assert_eq!(fuzzing::snapshot(&bytes).as_ref(), Ok(&bytes));
    }
}
