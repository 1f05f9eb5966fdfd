//! Claims about receiving a snapshot in pieces.

use openraft::vote::RaftLeaderId as _;

use super::*;
use crate::raft_types::{LeaderId, LogId, StoredMembership};

const SPAN: Duration = Duration::from_secs(20);

fn vote(term: u64, candidate: u64) -> Vote {
    Vote {
        leader_id: LeaderId::new(term, candidate),
        committed: true,
    }
}

fn state(bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect()
}

fn offer_at(index: u64, state: &[u8]) -> OfferV1 {
    let last = LogId {
        leader_id: LeaderId::new(1, 1),
        index,
    };
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        last_membership: StoredMembership::default(),
    };
    let meta = (&meta).into();
    OfferV1 {
        bytes: length(state),
        name: v1::transfer_name(&meta, state),
        meta,
    }
}

fn wanted(offset: usize) -> Result<Next, Refusal> {
    Ok(Next::Wanted(u64::try_from(offset).unwrap()))
}

/// Sends pieces as they are wanted, at most `pieces`, and gives how many it took and the end.
fn send(
    incoming: &mut Incoming,
    vote: Vote,
    (offer, state): (&OfferV1, &[u8]),
    pieces: usize,
) -> (usize, Result<Next, Refusal>) {
    let now = Instant::now();
    let mut next = incoming.offer(vote, offer.clone(), now);
    for sent in 0..pieces {
        let Ok(Next::Wanted(offset)) = next else {
            return (sent, next);
        };
        let piece = cut(offer.name, state, offset).unwrap();
        next = incoming.piece(vote, &piece, now);
    }
    (pieces, next)
}

#[tokio::test]
async fn a_snapshot_of_any_length_arrives_whole() {
    for bytes in [
        0,
        1,
        PIECE_BYTES - 1,
        PIECE_BYTES,
        PIECE_BYTES + 1,
        4 * PIECE_BYTES + 7,
    ] {
        let state = state(bytes);
        let offer = offer_at(9, &state);
        let mut incoming = Incoming::default();
        let (pieces, end) = send(&mut incoming, vote(1, 1), (&offer, &state), 100);
        assert_eq!(pieces, bytes.div_ceil(PIECE_BYTES));
        let meta = SnapshotMeta::try_from(offer.meta.clone()).unwrap();
        assert_eq!(end, Ok(Next::Whole(meta, state)));
        assert!(incoming.partial.is_none());
    }
}

#[tokio::test]
async fn the_same_snapshot_goes_on_where_it_was_and_another_one_begins_anew() {
    let state = state(5 * PIECE_BYTES);
    let offer = offer_at(9, &state);
    let mut incoming = Incoming::default();
    let (_, next) = send(&mut incoming, vote(1, 1), (&offer, &state), 3);
    assert_eq!(next, wanted(3 * PIECE_BYTES));
    let (pieces, end) = send(&mut incoming, vote(1, 1), (&offer, &state), 100);
    assert_eq!(pieces, 2);
    assert!(matches!(end, Ok(Next::Whole(..))));

    let _ = send(&mut incoming, vote(1, 1), (&offer, &state), 3);
    let newer = offer_at(10, &state);
    let next = incoming.offer(vote(1, 1), newer, Instant::now());
    assert_eq!(next, wanted(0));
}

#[tokio::test]
async fn a_newer_vote_ends_the_transfer_and_an_older_one_changes_nothing() {
    let state = state(3 * PIECE_BYTES);
    let offer = offer_at(9, &state);
    let mut incoming = Incoming::default();
    let _ = send(&mut incoming, vote(2, 2), (&offer, &state), 2);

    let old = incoming.offer(vote(1, 3), offer.clone(), Instant::now());
    assert_eq!(old, Ok(Next::HigherVote(vote(2, 2))));
    let piece = cut(offer.name, &state, 0).unwrap();
    let old = incoming.piece(vote(1, 3), &piece, Instant::now());
    assert_eq!(old, Ok(Next::HigherVote(vote(2, 2))));
    let same = incoming.offer(vote(2, 2), offer.clone(), Instant::now());
    assert_eq!(same, wanted(2 * PIECE_BYTES));

    let newer = incoming.offer(vote(3, 1), offer.clone(), Instant::now());
    assert_eq!(newer, wanted(0));
    incoming.voted(&vote(3, 1));
    assert!(incoming.partial.is_some());
    incoming.voted(&vote(4, 1));
    assert!(incoming.partial.is_none());
}

#[tokio::test]
async fn what_is_refused_changes_nothing() {
    let state = state(3 * PIECE_BYTES);
    let offer = offer_at(9, &state);
    let now = Instant::now();
    let mut incoming = Incoming::default();
    let stray = cut(offer.name, &state, 0).unwrap();
    assert_eq!(
        incoming.piece(vote(1, 1), &stray, now),
        Err(Refusal::Unknown)
    );
    let _ = send(&mut incoming, vote(1, 1), (&offer, &state), 1);

    let good = cut(offer.name, &state, u64::try_from(PIECE_BYTES).unwrap()).unwrap();
    let mut cases = Vec::new();
    let mut piece = good.clone();
    piece.name = [0; 32];
    cases.push((piece, Err(Refusal::Unknown)));
    for offset in [0, 1, length(&state), u64::MAX] {
        let mut piece = good.clone();
        piece.offset = offset;
        cases.push((piece, wanted(PIECE_BYTES)));
    }
    let mut piece = good.clone();
    piece.bytes[7] ^= 1;
    cases.push((piece, Err(Refusal::PieceDamaged)));
    // One that was right in another place.
    let mut piece = cut(offer.name, &state, 0).unwrap();
    piece.offset = good.offset;
    cases.push((piece, Err(Refusal::PieceDamaged)));
    for bytes in [0, PIECE_BYTES + 1, 3 * PIECE_BYTES] {
        let mut piece = good.clone();
        piece.bytes = vec![0; bytes];
        piece.crc = PieceV1::checksum(&piece.name, piece.offset, &piece.bytes);
        cases.push((piece, Err(Refusal::Misfit)));
    }
    for (piece, expected) in cases {
        assert_eq!(incoming.piece(vote(1, 1), &piece, now), expected);
    }

    let mut offers = Vec::new();
    let mut huge = offer_at(10, &state);
    huge.bytes = STATE_BYTES_MAX + 1;
    offers.push((
        vote(1, 1),
        huge,
        Refusal::TooLarge {
            bytes: STATE_BYTES_MAX + 1,
            bytes_max: STATE_BYTES_MAX,
        },
    ));
    let mut candidate = vote(2, 1);
    candidate.committed = false;
    offers.push((candidate, offer_at(10, &state), Refusal::NotTheLeaders));
    let mut empty = offer_at(10, &state);
    empty.meta = (&SnapshotMeta::default()).into();
    offers.push((vote(1, 1), empty, Refusal::NotTheLeaders));
    for (vote, offer, refusal) in offers {
        assert_eq!(incoming.offer(vote, offer, now), Err(refusal));
    }
    let (pieces, end) = send(&mut incoming, vote(1, 1), (&offer, &state), 100);
    assert_eq!(pieces, 2);
    assert!(matches!(end, Ok(Next::Whole(..))));
}

#[tokio::test]
async fn a_log_position_beyond_the_leaders_own_term_is_refused() {
    let mut incoming = Incoming::default();
    let offer = offer_at(9, &[1]);
    let refused = incoming.offer(vote(0, 9), offer, Instant::now());
    assert_eq!(refused, Err(Refusal::NotTheLeaders));
}

#[tokio::test]
async fn pieces_that_are_right_one_by_one_but_not_together_are_dropped() {
    let state = state(2 * PIECE_BYTES);
    let mut offer = offer_at(9, &state);
    offer.name = [1; 32];
    let mut incoming = Incoming::default();
    let (_, end) = send(&mut incoming, vote(1, 1), (&offer, &state), 100);
    assert_eq!(end, Err(Refusal::WholeDamaged));
    assert!(incoming.partial.is_none());
}

#[tokio::test]
async fn a_transfer_that_stands_still_is_given_up() {
    let state = state(3 * PIECE_BYTES);
    let offer = offer_at(9, &state);
    let mut incoming = Incoming::default();
    let begin = Instant::now();
    incoming.offer(vote(1, 1), offer.clone(), begin).unwrap();
    let later = begin + SPAN / 2;
    let piece = cut(offer.name, &state, 0).unwrap();
    incoming.piece(vote(1, 1), &piece, later).unwrap();
    assert_eq!(incoming.expire(begin + SPAN, SPAN), Some(later + SPAN));
    assert_eq!(incoming.expire(later + SPAN, SPAN), None);
    assert!(incoming.partial.is_none());
}
