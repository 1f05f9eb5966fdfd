//! Decoders of what other servers and the disk say, for the fuzz targets alone.
//!
//! Decides nothing and is no part of the interface. What was decoded is given back as the bytes
//! that it is encoded to, so that its type stays private.

use consensus_core::RaftId;
use openraft::vote::RaftLeaderId as _;

use crate::{
    clock::Instant,
    errors::StoreDamage,
    raft_types::{LeaderId, LogEntry, LogId, SnapshotMeta, StoredMembership, Vote},
    store,
    transfer::{self, Incoming, Next},
    wire::v1::{
        self, EntryV1, EnvelopeV1, LogIdV1, OfferV1, OwnerV1, PieceV1, ReplyV1, RequestV1,
        SnapshotHeadV1, VoteV1,
    },
};

/// A message, as it is encoded and as Raft takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Encoded again as it was decoded.
    pub decoded: Vec<u8>,
    /// As openraft has it, or why it is not given to openraft.
    pub taken: Result<Taken, String>,
}

/// A message that is given to openraft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Encoded again.
    pub bytes: Vec<u8>,
    /// Indices of the entry before those of an append, and of those.
    pub indices: (Option<u64>, Vec<u64>),
}

/// A request of another server.
pub fn request(bytes: &[u8]) -> Result<Message, String> {
    let EnvelopeV1 { to, request } = v1::open_message(bytes)?;
    let _era = request.era();
    let envelope = |request| v1::message(&EnvelopeV1 { to, request });
    Ok(Message {
        decoded: envelope(request.clone()),
        taken: taken(request).map(|request| Taken {
            indices: indices(&request),
            bytes: envelope(request),
        }),
    })
}

fn indices(request: &RequestV1) -> (Option<u64>, Vec<u64>) {
    match request {
        RequestV1::Append { prev, entries, .. } => {
            let index = |id: LogIdV1| LogId::from(id).index;
            let entries = entries.iter().cloned().map(EntryV1::into_entry);
            let entries = entries.flatten().map(|entry| entry.log_id.index);
            (prev.map(index), entries.collect())
        }
        RequestV1::Vote { .. }
        | RequestV1::PreVote { .. }
        | RequestV1::Transfer { .. }
        | RequestV1::Offer { .. }
        | RequestV1::Piece { .. } => (None, Vec::new()),
    }
}

fn taken(request: RequestV1) -> Result<RequestV1, String> {
    Ok(match request {
        RequestV1::Append {
            vote,
            prev,
            entries,
            commit,
        } => (&v1::append_request(vote, prev, entries, commit)?).into(),
        RequestV1::Vote {
            vote,
            last,
            transfer,
        } => RequestV1::vote(&v1::vote_request(vote, last, transfer)?),
        RequestV1::PreVote {
            vote,
            last,
            transfer,
        } => RequestV1::pre_vote(&v1::vote_request(vote, last, transfer)?),
        RequestV1::Transfer { from, to, last } => {
            RequestV1::transfer(&v1::transfer_request(from, to, last)?)
        }
        RequestV1::Offer { vote, mut offer } => {
            let meta = transfer::check(&vote.into(), &offer).map_err(|no| no.to_string())?;
            offer.meta = (&meta).into();
            RequestV1::Offer { vote, offer }
        }
        RequestV1::Piece { .. } => request,
    })
}

/// Another server's answer, and the era that it fences this one out of.
pub fn reply(bytes: &[u8]) -> Result<(Vec<u8>, Option<u32>), String> {
    let fenced = v1::fencing_era(bytes);
    let reply: ReplyV1 = v1::open_message(bytes)?;
    Ok((v1::message(&reply), fenced))
}

/// What a record of the store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An entry of the log.
    Entry,
    /// Where something was agreed or purged.
    LogId,
    /// A vote.
    Vote,
    /// Whose store it is.
    Owner,
    /// The era that a server was fenced out of.
    Fence,
}

/// A record of the store, and the bytes that it is written as.
pub fn record(kind: Kind, bytes: &[u8]) -> Result<Vec<u8>, StoreDamage> {
    Ok(match kind {
        Kind::Entry => {
            let index = v1::open_record::<EntryV1>("it", bytes)?.into_entry();
            let index = index.map_or(0, |entry: LogEntry| entry.log_id.index);
            v1::record(&EntryV1::from(&store::decode_entry(index, bytes)?))
        }
        Kind::LogId => {
            let id: LogId = v1::open_record::<LogIdV1>("it", bytes)?.into();
            v1::record(&LogIdV1::from(&id))
        }
        Kind::Vote => {
            let vote: Vote = v1::open_record::<VoteV1>("it", bytes)?.into();
            v1::record(&VoteV1::from(&vote))
        }
        Kind::Owner => v1::record(&v1::open_record::<OwnerV1>("it", bytes)?),
        Kind::Fence => v1::record(&v1::open_record::<u32>("it", bytes)?),
    })
}

/// A record around any body, with the checksum that belongs to it.
pub fn record_around(body: &[u8]) -> Vec<u8> {
    v1::seal([&[0; v1::RECORD_HEAD_BYTES], body].concat())
}

/// A snapshot file, and the bytes that it is written as.
pub fn snapshot(file: &[u8]) -> Result<Vec<u8>, StoreDamage> {
    let stored = store::snapshot::decode(file)?;
    let head = store::snapshot::encode_head(&stored.meta, &stored.state, stored.generation);
    Ok([head, stored.state].concat())
}

/// A snapshot file around any head and state, with the length and checksums that belong to them.
pub fn snapshot_around(head: &[u8], state: &[u8]) -> Vec<u8> {
    let sealed = record_around(head);
    let head = match v1::open_record::<SnapshotHeadV1>("it", &sealed) {
        Ok(head) => v1::record(&SnapshotHeadV1 {
            bytes: transfer::length(state),
            crc: crc32fast::hash(state),
            ..head
        }),
        // What is no head goes in as it is.
        Err(_) => sealed,
    };
    let length = u32::try_from(head.len()).expect("inputs are short");
    [
        &store::snapshot::MAGIC[..],
        &length.to_le_bytes(),
        &head,
        state,
    ]
    .concat()
}

/// What follows from a message on the snapshot lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// It is none of a transfer.
    Foreign,
    /// It changes nothing.
    Refused,
    /// The sender no longer leads.
    Outvoted,
    /// The state from here on is wanted.
    Wanted(u64),
    /// The state is whole.
    Whole(Vec<u8>),
}

/// The receiver's side of transfers.
pub struct Transfers {
    incoming: Incoming,
    now: Instant,
}

impl std::fmt::Debug for Transfers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transfers").finish_non_exhaustive()
    }
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            incoming: Incoming::default(),
            now: Instant::now(),
        }
    }
}

impl Transfers {
    /// Takes a message.
    pub fn receive(&mut self, bytes: &[u8]) -> Received {
        let next = match v1::open_message(bytes).map(|EnvelopeV1 { request, .. }| request) {
            Ok(RequestV1::Offer { vote, offer }) => {
                self.incoming.offer(vote.into(), offer, self.now)
            }
            Ok(RequestV1::Piece { vote, piece }) => {
                self.incoming.piece(vote.into(), &piece, self.now)
            }
            Ok(
                RequestV1::Append { .. }
                | RequestV1::Vote { .. }
                | RequestV1::PreVote { .. }
                | RequestV1::Transfer { .. },
            )
            | Err(_) => return Received::Foreign,
        };
        match next {
            Ok(Next::Wanted(offset)) => Received::Wanted(offset),
            Ok(Next::Whole(_, state)) => Received::Whole(state),
            Ok(Next::HigherVote(_)) => Received::Outvoted,
            Err(_) => Received::Refused,
        }
    }
}

/// An offer of a state and the pieces of it, as the leader of a term sends them.
pub fn transfer(term: u64, state: &[u8], piece_bytes: usize) -> Vec<Vec<u8>> {
    let leader_id = LeaderId::new(term, 1);
    let vote = VoteV1::from(&Vote {
        leader_id,
        committed: true,
    });
    let meta = SnapshotMeta {
        last_log_id: Some(LogId {
            leader_id,
            index: 9,
        }),
        last_membership: StoredMembership::default(),
    };
    let meta = (&meta).into();
    let name = v1::transfer_name(&meta, state);
    let bytes = transfer::length(state);
    let offer = RequestV1::Offer {
        vote,
        offer: OfferV1 { meta, bytes, name },
    };
    let pieces = state.chunks(piece_bytes).scan(0, |offset, bytes| {
        let piece = PieceV1 {
            name,
            offset: *offset,
            crc: PieceV1::checksum(&name, *offset, bytes),
            bytes: bytes.to_vec(),
        };
        *offset += transfer::length(bytes);
        Some(RequestV1::Piece { vote, piece })
    });
    let to = RaftId(2);
    [offer]
        .into_iter()
        .chain(pieces)
        .map(|request| v1::message(&EnvelopeV1 { to, request }))
        .collect()
}
