//! Format 1 of records and messages.
//!
//! A record on disk is `[1][CRC32 of the rest, little endian][postcard]`; a message is
//! `[1][postcard]`. Structures here mirror openraft's and are ours, so that a new openraft
//! cannot change what is on disk. Never change one: add a format 2.
//!
//! Specification of the body: <https://postcard.jamesmunns.com/wire-format.html>.

mod answers;
mod bytes;
mod transfer;

use std::collections::{BTreeMap, BTreeSet};

use consensus_core::{NodeId, RaftId};
use openraft::{
    raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest},
    vote::RaftLeaderId as _,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub(crate) use self::answers::{AppendReplyV1, TransferReplyV1};
pub(crate) use self::transfer::{
    OfferV1, PieceV1, TransferAnswerV1, TransferRefusalV1, name as transfer_name,
};
use crate::{
    era::Era,
    errors::StoreDamage,
    raft_types::{
        Entry, LeaderId, LogEntry, LogId, Member, Membership, Payload, SnapshotMeta,
        StoredMembership, Types, Vote,
    },
};

/// This format's number.
const FORMAT: u8 = 1;
/// Format byte and checksum.
pub(crate) const RECORD_HEAD_BYTES: usize = 5;

/// A log position with the leader that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogIdV1 {
    term: u64,
    leader: u64,
    index: u64,
}

/// A vote, or a leader's claim once committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VoteV1 {
    term: u64,
    candidate: u64,
    committed: bool,
}

/// Voter sets (two while a change is under way) and everyone's names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MembershipV1 {
    voters: Vec<BTreeSet<u64>>,
    nodes: BTreeMap<u64, Option<NodeId>>,
}

/// What an entry holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum PayloadV1 {
    Blank,
    Normal(#[serde(with = "bytes")] Vec<u8>),
    Membership(MembershipV1),
}

/// One log entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryV1 {
    at: LogIdV1,
    payload: PayloadV1,
}

/// What a snapshot covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotMetaV1 {
    last: Option<LogIdV1>,
    membership_at: Option<LogIdV1>,
    membership: MembershipV1,
}

/// Where a stored snapshot's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotHeadV1 {
    pub(crate) meta: SnapshotMetaV1,
    pub(crate) generation: u64,
    pub(crate) bytes: u64,
    pub(crate) crc: u32,
}

/// Whose store this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OwnerV1 {
    pub(crate) raft_id: RaftId,
    pub(crate) node: NodeId,
}

/// A message and the Raft id that it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EnvelopeV1 {
    pub(crate) to: RaftId,
    pub(crate) request: RequestV1,
}

/// What one server asks of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum RequestV1 {
    Append {
        vote: VoteV1,
        prev: Option<LogIdV1>,
        entries: Vec<EntryV1>,
        commit: Option<LogIdV1>,
    },
    Vote {
        vote: VoteV1,
        last: Option<LogIdV1>,
        transfer: bool,
    },
    PreVote {
        vote: VoteV1,
        last: Option<LogIdV1>,
        transfer: bool,
    },
    Transfer {
        from: VoteV1,
        to: u64,
        last: Option<LogIdV1>,
    },
    Offer {
        vote: VoteV1,
        offer: OfferV1,
    },
    Piece {
        vote: VoteV1,
        piece: PieceV1,
    },
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ReplyV1 {
    Append(AppendReplyV1),
    Vote {
        vote: VoteV1,
        granted: bool,
        last: Option<LogIdV1>,
    },
    Transfer(TransferReplyV1),
    Snapshot(TransferAnswerV1),
    /// The group was recovered without the asker.
    Fenced {
        era: u32,
    },
}

/// Seals a record for the disk.
pub(crate) fn record<T: Serialize>(body: &T) -> Vec<u8> {
    let room = vec![0; RECORD_HEAD_BYTES];
    seal(postcard::to_extend(body, room).expect("writing to a Vec cannot fail"))
}

/// Writes the head of a record into the room before its body.
pub(crate) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[0] = FORMAT;
    let crc = crc32fast::hash(&bytes[RECORD_HEAD_BYTES..]);
    bytes[1..RECORD_HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Opens a record from the disk; `what` names it in the error.
pub(crate) fn open_record<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, StoreDamage> {
    let Some((head, body)) = bytes.split_at_checked(RECORD_HEAD_BYTES) else {
        return Err(StoreDamage::Undecodable(what.to_owned()));
    };
    if head[0] != FORMAT {
        return Err(StoreDamage::Format {
            what: what.to_owned(),
            format: head[0],
        });
    }
    if head[1..] != crc32fast::hash(body).to_le_bytes() {
        return Err(StoreDamage::Checksum(what.to_owned()));
    }
    exactly(body).ok_or_else(|| StoreDamage::Undecodable(what.to_owned()))
}

/// Writes a message.
pub(crate) fn message<T: Serialize>(body: &T) -> Vec<u8> {
    postcard::to_extend(body, vec![FORMAT]).expect("writing to a Vec cannot fail")
}

/// Reads a message.
pub(crate) fn open_message<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&FORMAT, body)) => {
            exactly(body).ok_or_else(|| "the body cannot be decoded".to_owned())
        }
        Some((format, _)) => Err(format!("format {format} is unknown")),
        None => Err("the message is empty".to_owned()),
    }
}

/// The era that a reply fences its asker out of, if it does.
pub(crate) fn fencing_era(reply: &[u8]) -> Option<u32> {
    /// Format and variant; a test holds them to [`ReplyV1::Fenced`]. Most replies are looked at
    /// no further.
    const HEAD: [u8; 2] = [FORMAT, 4];
    match reply.starts_with(&HEAD).then(|| open_message(reply))? {
        Ok(ReplyV1::Fenced { era }) => Some(era),
        Ok(
            ReplyV1::Append(_) | ReplyV1::Vote { .. } | ReplyV1::Transfer(_) | ReplyV1::Snapshot(_),
        )
        | Err(_) => None,
    }
}

/// The era of the server that asks this, read from the beginning of its message.
pub(crate) fn asking_era(message: &[u8]) -> Option<Era> {
    // To whom, which request, and whose vote: the head of every one. A test holds them to it.
    let body = message.strip_prefix(&[FORMAT])?;
    let head = postcard::take_from_bytes::<(RaftId, u32, VoteV1)>(body);
    head.ok().map(|((_, _, vote), _)| Era::of(vote.term))
}

/// Decodes all of `body`, or nothing: trailing bytes mean that it is something else.
fn exactly<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes(body).ok()?;
    rest.is_empty().then_some(value)
}

impl From<&LogId> for LogIdV1 {
    fn from(id: &LogId) -> Self {
        Self {
            term: id.leader_id.term,
            leader: id.leader_id.node_id,
            index: id.index,
        }
    }
}

impl From<LogIdV1> for LogId {
    fn from(id: LogIdV1) -> Self {
        Self {
            leader_id: LeaderId::new(id.term, id.leader),
            index: id.index,
        }
    }
}

impl LogIdV1 {
    pub(crate) fn of(id: Option<&LogId>) -> Option<Self> {
        id.map(Into::into)
    }

    pub(crate) fn back(id: Option<Self>) -> Option<LogId> {
        id.map(Into::into)
    }
}

impl From<&Vote> for VoteV1 {
    fn from(vote: &Vote) -> Self {
        Self {
            term: vote.leader_id.term,
            candidate: vote.leader_id.node_id,
            committed: vote.committed,
        }
    }
}

impl From<VoteV1> for Vote {
    fn from(vote: VoteV1) -> Self {
        Self {
            leader_id: LeaderId::new(vote.term, vote.candidate),
            committed: vote.committed,
        }
    }
}

impl From<&Membership> for MembershipV1 {
    fn from(membership: &Membership) -> Self {
        Self {
            voters: membership.get_joint_config().clone(),
            nodes: membership
                .nodes()
                .map(|(id, node)| (*id, node.0.clone()))
                .collect(),
        }
    }
}

impl TryFrom<MembershipV1> for Membership {
    type Error = String;

    fn try_from(membership: MembershipV1) -> Result<Self, String> {
        let nodes = membership
            .nodes
            .into_iter()
            .map(|(id, node)| (id, Member(node)));
        let nodes: BTreeMap<_, _> = nodes.collect();
        if membership.voters.is_empty() && nodes.is_empty() {
            return Ok(Self::default());
        }
        Self::new(membership.voters, nodes).map_err(|error| error.to_string())
    }
}

impl From<&LogEntry> for EntryV1 {
    fn from(entry: &LogEntry) -> Self {
        let payload = match &entry.payload {
            Payload::Blank => PayloadV1::Blank,
            Payload::Normal(entry) => PayloadV1::Normal(entry.0.clone()),
            Payload::Membership(membership) => PayloadV1::Membership(membership.into()),
        };
        Self {
            at: (&entry.log_id).into(),
            payload,
        }
    }
}

impl EntryV1 {
    pub(crate) fn into_entry(self) -> Result<LogEntry, String> {
        let payload = match self.payload {
            PayloadV1::Blank => Payload::Blank,
            PayloadV1::Normal(bytes) => Payload::Normal(Entry(bytes)),
            PayloadV1::Membership(membership) => Payload::Membership(membership.try_into()?),
        };
        Ok(LogEntry {
            log_id: self.at.into(),
            payload,
        })
    }
}

impl From<&SnapshotMeta> for SnapshotMetaV1 {
    fn from(meta: &SnapshotMeta) -> Self {
        Self {
            last: LogIdV1::of(meta.last_log_id.as_ref()),
            membership_at: LogIdV1::of(meta.last_membership.log_id().as_ref()),
            membership: meta.last_membership.membership().into(),
        }
    }
}

impl TryFrom<SnapshotMetaV1> for SnapshotMeta {
    type Error = String;

    fn try_from(meta: SnapshotMetaV1) -> Result<Self, String> {
        Ok(Self {
            last_log_id: LogIdV1::back(meta.last),
            last_membership: StoredMembership::new(
                LogIdV1::back(meta.membership_at),
                meta.membership.try_into()?,
            ),
        })
    }
}

impl From<&AppendEntriesRequest<Types>> for RequestV1 {
    fn from(request: &AppendEntriesRequest<Types>) -> Self {
        Self::Append {
            vote: (&request.vote).into(),
            prev: LogIdV1::of(request.prev_log_id.as_ref()),
            entries: request.entries.iter().map(Into::into).collect(),
            commit: LogIdV1::of(request.leader_commit.as_ref()),
        }
    }
}

impl RequestV1 {
    /// The era that the asker lives in.
    pub(crate) fn era(&self) -> Era {
        match self {
            Self::Append { vote, .. }
            | Self::Vote { vote, .. }
            | Self::PreVote { vote, .. }
            | Self::Transfer { from: vote, .. }
            | Self::Offer { vote, .. }
            | Self::Piece { vote, .. } => Era::of(vote.term),
        }
    }

    pub(crate) fn vote(request: &VoteRequest<Types>) -> Self {
        Self::Vote {
            vote: (&request.vote).into(),
            last: LogIdV1::of(request.last_log_id.as_ref()),
            transfer: request.leadership_transfer,
        }
    }

    pub(crate) fn pre_vote(request: &VoteRequest<Types>) -> Self {
        Self::PreVote {
            vote: (&request.vote).into(),
            last: LogIdV1::of(request.last_log_id.as_ref()),
            transfer: request.leadership_transfer,
        }
    }

    pub(crate) fn transfer(request: &TransferLeaderRequest<Types>) -> Self {
        Self::Transfer {
            from: request.from_leader().into(),
            to: *request.to_node_id(),
            last: LogIdV1::of(request.last_log_id()),
        }
    }
}

/// An append's parts as openraft takes them: a leader's, with entries that follow each other.
/// openraft asserts as much or counts on it, so that anything else would stop this server.
pub(crate) fn append_request(
    vote: VoteV1,
    prev: Option<LogIdV1>,
    entries: Vec<EntryV1>,
    commit: Option<LogIdV1>,
) -> Result<AppendEntriesRequest<Types>, String> {
    let vote = leaders(vote)?;
    let mut last = LogIdV1::back(prev);
    let entries = entries.into_iter().map(|entry| {
        let entry = entry.into_entry()?;
        let at = entry.log_id;
        let next = last.map_or(Some(0), |last| last.index.checked_add(1));
        if next != Some(at.index) || last.is_some_and(|last| last.leader_id > at.leader_id) {
            return Err(format!("entry {at} does not follow the one before it"));
        }
        last = Some(at);
        Ok(entry)
    });
    let entries = entries.collect::<Result<_, _>>()?;
    match last {
        // No entry comes after it, and indices are counted up.
        Some(last) if last.index == u64::MAX => Err(format!("entry {last} cannot be")),
        Some(last) if last.leader_id > vote.leader_id => {
            Err(format!("entry {last} is of a later leader"))
        }
        Some(_) | None => Ok(AppendEntriesRequest {
            vote,
            prev_log_id: LogIdV1::back(prev),
            entries,
            leader_commit: LogIdV1::back(commit),
        }),
    }
}

/// A vote's parts as openraft takes them: a candidate's. One that claims to lead already would be
/// believed.
pub(crate) fn vote_request(
    vote: VoteV1,
    last: Option<LogIdV1>,
    transfer: bool,
) -> Result<VoteRequest<Types>, String> {
    if vote.committed {
        return Err("a candidate claims to lead".to_owned());
    }
    let mut request = VoteRequest::new(vote.into(), LogIdV1::back(last));
    request.leadership_transfer = transfer;
    Ok(request)
}

/// A transfer's parts as openraft takes them: a leader's.
pub(crate) fn transfer_request(
    from: VoteV1,
    to: u64,
    last: Option<LogIdV1>,
) -> Result<TransferLeaderRequest<Types>, String> {
    Ok(TransferLeaderRequest::new(
        leaders(from)?,
        to,
        LogIdV1::back(last),
    ))
}

/// A vote that claims to lead.
fn leaders(vote: VoteV1) -> Result<Vote, String> {
    if vote.committed {
        Ok(vote.into())
    } else {
        Err("who does not lead speaks as if it did".to_owned())
    }
}

#[cfg(test)]
mod tests;
