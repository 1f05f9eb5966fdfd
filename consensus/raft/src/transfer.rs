//! Receiving a snapshot in pieces.
//!
//! Decides which piece is wanted next, what is refused, and when a transfer is given up. Never
//! installs anything and never reads a clock: it hands out a whole snapshot once every piece is
//! there and the checksum of the whole is right.
//!
//! Invariants:
//! - At most one transfer is held, and no more of it than was received.
//! - A piece is taken only at the offset that is wanted: what is held is always a prefix.
//! - A newer vote ends the transfer of an older one; an older vote changes nothing.
//! - What is refused changes nothing.

use std::time::Duration;

use crate::{
    clock::Instant,
    raft_types::{LogId, SnapshotMeta, Vote},
    wire::v1::{self, OfferV1, PieceV1, TransferRefusalV1 as Refusal},
};

/// Bytes of a piece: 2 s at 1 Mbit/s, so that a slow link still makes progress within every
/// deadline, and on a fast one the round trips cost less than the bytes.
pub(crate) const PIECE_BYTES: usize = 256 * 1024;
/// The largest state that travels: a hundred times what a mesh of a thousand nodes has. It is
/// held in memory until it is whole.
pub(crate) const STATE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The largest message on the snapshot lane: a piece, and what stands before it. An offer names
/// every member, a hundred bytes each.
pub(crate) const MESSAGE_BYTES_MAX: usize = PIECE_BYTES + 64 * 1024;

/// What has arrived of the one transfer under way.
struct Partial {
    vote: Vote,
    offer: OfferV1,
    meta: SnapshotMeta,
    state: Vec<u8>,
    touched: Instant,
}

/// The receiver's side of transfers.
#[derive(Default)]
pub(crate) struct Incoming {
    partial: Option<Partial>,
    /// Whether somebody looks after a transfer that stands still.
    pub(crate) watched: bool,
}

/// What follows from an offer or a piece.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// The state from this offset on is wanted.
    Wanted(u64),
    /// The snapshot is whole and the transfer over.
    Whole(SnapshotMeta, Vec<u8>),
    /// This vote is newer than the sender's.
    HigherVote(Vote),
}

impl Incoming {
    /// Begins a transfer, or goes on with it if it is the one under way.
    pub(crate) fn offer(
        &mut self,
        vote: Vote,
        offer: OfferV1,
        now: Instant,
    ) -> Result<Next, Refusal> {
        if let Some(higher) = self.newer_than(&vote) {
            return Ok(Next::HigherVote(higher));
        }
        let meta = check(&vote, &offer)?;
        match &mut self.partial {
            Some(partial) if partial.vote == vote && partial.offer == offer => {
                partial.touched = now;
            }
            Some(_) | None => {
                // Grows as pieces come: a promise of many bytes takes no memory.
                self.partial = Some(Partial {
                    vote,
                    offer,
                    meta,
                    state: Vec::new(),
                    touched: now,
                });
            }
        }
        self.next()
    }

    /// Takes a piece.
    pub(crate) fn piece(
        &mut self,
        vote: Vote,
        piece: &PieceV1,
        now: Instant,
    ) -> Result<Next, Refusal> {
        if let Some(higher) = self.newer_than(&vote) {
            return Ok(Next::HigherVote(higher));
        }
        let Some(partial) = &mut self.partial else {
            return Err(Refusal::Unknown);
        };
        if partial.vote != vote || partial.offer.name != piece.name {
            return Err(Refusal::Unknown);
        }
        let held = length(&partial.state);
        if piece.offset != held {
            return Ok(Next::Wanted(held));
        }
        if piece.bytes.is_empty()
            || piece.bytes.len() > PIECE_BYTES
            || held + length(&piece.bytes) > partial.offer.bytes
        {
            return Err(Refusal::Misfit);
        }
        if PieceV1::checksum(&piece.name, piece.offset, &piece.bytes) != piece.crc {
            return Err(Refusal::PieceDamaged);
        }
        partial.state.extend_from_slice(&piece.bytes);
        partial.touched = now;
        self.next()
    }

    /// What is wanted now; the whole snapshot if nothing is.
    fn next(&mut self) -> Result<Next, Refusal> {
        let Some(partial) = self.partial.take() else {
            return Err(Refusal::Unknown);
        };
        let held = length(&partial.state);
        if held < partial.offer.bytes {
            self.partial = Some(partial);
            return Ok(Next::Wanted(held));
        }
        // Damaged or not, the transfer is over: what is wrong in it cannot be told.
        if v1::transfer_name(&partial.offer.meta, &partial.state) == partial.offer.name {
            Ok(Next::Whole(partial.meta, partial.state))
        } else {
            Err(Refusal::WholeDamaged)
        }
    }

    /// Ends the transfer if it belongs to an older vote than this server's own.
    pub(crate) fn voted(&mut self, own: &Vote) {
        if self
            .partial
            .as_ref()
            .is_some_and(|partial| partial.vote < *own)
        {
            self.partial = None;
        }
    }

    /// Ends the transfer if nothing came for `span`; gives when to look again.
    pub(crate) fn expire(&mut self, now: Instant, span: Duration) -> Option<Instant> {
        let end = self.partial.as_ref()?.touched + span;
        if end > now {
            return Some(end);
        }
        self.partial = None;
        None
    }

    /// Whether a transfer is under way.
    pub(crate) fn is_under_way(&self) -> bool {
        self.partial.is_some()
    }

    fn newer_than(&self, vote: &Vote) -> Option<Vote> {
        let held = self.partial.as_ref()?.vote;
        (held > *vote).then_some(held)
    }
}

/// What the offer covers, if it is one that this vote's leader can make.
pub(crate) fn check(vote: &Vote, offer: &OfferV1) -> Result<SnapshotMeta, Refusal> {
    if offer.bytes > STATE_BYTES_MAX {
        return Err(Refusal::TooLarge {
            bytes: offer.bytes,
            bytes_max: STATE_BYTES_MAX,
        });
    }
    let meta = SnapshotMeta::try_from(offer.meta.clone()).map_err(|_| Refusal::Misfit)?;
    // Raft asserts this when it installs, and dies of it.
    let of_leader = |last: &LogId| last.leader_id <= vote.leader_id;
    if vote.committed && meta.last_log_id.as_ref().is_some_and(of_leader) {
        Ok(meta)
    } else {
        Err(Refusal::NotTheLeaders)
    }
}

/// The piece of `state` that begins at `offset`; nothing at or beyond its end.
pub(crate) fn cut(name: [u8; 32], state: &[u8], offset: u64) -> Option<PieceV1> {
    let begin = usize::try_from(offset).ok()?;
    let rest = state.get(begin..).filter(|rest| !rest.is_empty())?;
    let bytes = rest[..rest.len().min(PIECE_BYTES)].to_vec();
    Some(PieceV1 {
        name,
        offset,
        crc: PieceV1::checksum(&name, offset, &bytes),
        bytes,
    })
}

pub(crate) fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).expect("a length fits into 64 bits")
}

#[cfg(test)]
mod tests;
