//! Answering what the other servers ask.
//!
//! Decides which messages are for this server: those of its era, to its Raft id, on the right
//! lane, of a bearable size. Never answers a message that it refuses, except one of an era that
//! is over: its sender must learn that the group went on without it.

use std::sync::Arc;

use openraft::errors::{Fatal, RaftError};
use tokio::sync::Mutex;

use crate::{
    agreement::Agreement,
    carrier::Lane,
    clock::{Instant, sleep_until},
    era::Era,
    errors::HandleError,
    machine::Machine,
    raft_types::{Snapshot, SnapshotMeta, Types, Vote},
    running::Group,
    transfer::{self, Incoming, Next},
    wire::v1::{
        self, EnvelopeV1, OfferV1, PieceV1, ReplyV1, RequestV1, TransferAnswerV1, TransferRefusalV1,
    },
};

/// The largest message on the lane of small requests: 64 of the largest entries and their heads.
const RPC_BYTES_MAX: usize = 17 * 1024 * 1024;
/// Pieces being handled at once. A sender waits for each answer, so more than one is a repeat of
/// one that was thought lost.
pub(crate) const PIECES_MAX: usize = 4;

impl<M: Machine> Agreement<M> {
    /// Answers a request that another server sent through its carrier.
    ///
    /// # Errors
    /// When the message is malformed or not for this server. The carrier then breaks the
    /// exchange off.
    pub async fn handle(&self, lane: Lane, body: Vec<u8>) -> Result<Vec<u8>, HandleError> {
        let bytes_max = match lane {
            Lane::Rpc => RPC_BYTES_MAX,
            Lane::Snapshot => transfer::MESSAGE_BYTES_MAX,
        };
        if body.len() > bytes_max {
            let bytes = body.len();
            return Err(HandleError::TooLarge { bytes, bytes_max });
        }
        let EnvelopeV1 { to, request } = v1::open_message(&body).map_err(HandleError::Malformed)?;
        let bytes = body.len();
        drop(body);
        let own = self.settings().raft_id;
        if let Some(era) = self.era().await {
            let theirs = request.era();
            if theirs < era {
                return Ok(v1::message(&ReplyV1::Fenced { era: era.0 }));
            }
            if theirs > era {
                return Err(HandleError::OtherEra { theirs, own: era });
            }
        }
        if to != own {
            return Err(HandleError::NotForUs { to, own });
        }
        let reply = match (lane, request) {
            (Lane::Snapshot, RequestV1::Offer { vote, offer }) => {
                self.receive(vote.into(), Part::Offer(offer)).await?
            }
            (Lane::Snapshot, RequestV1::Piece { vote, piece }) => {
                self.receive(vote.into(), Part::Piece(piece)).await?
            }
            (Lane::Rpc, RequestV1::Offer { .. } | RequestV1::Piece { .. })
            | (Lane::Snapshot, _) => return Err(HandleError::WrongLane),
            (Lane::Rpc, request) => {
                self.written().count(&request, bytes);
                self.ask_raft(request).await?
            }
        };
        Ok(v1::message(&reply))
    }

    /// Answers a former server, whose messages count no more: if it speaks from an era that is over
    /// it learns that, so that its old group ends. Anything else stays unanswered.
    pub async fn handle_former(&self, body: &[u8]) -> Option<Vec<u8>> {
        if body.len() > RPC_BYTES_MAX {
            return None;
        }
        let EnvelopeV1 { request, .. } = v1::open_message(body).ok()?;
        let era = self.era().await?;
        (request.era() < era).then(|| v1::message(&ReplyV1::Fenced { era: era.0 }))
    }

    async fn ask_raft(&self, request: RequestV1) -> Result<ReplyV1, HandleError> {
        let stopped = || HandleError::Stopped(self.failure());
        let permit = self.requests().acquire_owned().await;
        let permit = permit.map_err(|_| stopped())?;
        let (raft, led) = (self.raft(), self.led());
        let reply = self.on_raft(async move {
            let _permit = permit;
            let reply = answer(&raft, request).await;
            if let Ok(ReplyV1::Append(append)) = &reply
                && append.is_taken()
            {
                led.note();
            }
            reply
        });
        reply.await.ok_or_else(stopped)?
    }

    async fn receive(&self, vote: Vote, part: Part) -> Result<ReplyV1, HandleError> {
        // Not waited for: what is heavy must not pile up.
        let Ok(permit) = self.pieces().try_acquire_owned() else {
            let busy = TransferAnswerV1::Refused(TransferRefusalV1::Busy);
            return Ok(ReplyV1::Snapshot(busy));
        };
        let (raft, incoming) = (self.raft(), self.incoming());
        let received = self.on_raft(async move {
            let _permit = permit;
            let mut incoming = incoming.lock().await;
            let answer = receive::<M>(&raft, &mut incoming, vote, part).await?;
            let unwatched = incoming.is_under_way() && !incoming.watched;
            incoming.watched |= unwatched;
            Ok((answer, unwatched))
        });
        let received = received.await;
        let (answer, unwatched) =
            received.ok_or_else(|| HandleError::Stopped(self.failure()))??;
        if unwatched {
            let span = self.settings().timers.snapshot_ttl;
            // Ends with the transfer, or with Raft.
            drop(self.beside_raft(give_up(self.incoming(), span)));
        }
        Ok(ReplyV1::Snapshot(answer))
    }

    /// The era that this server lives in; nothing if it is new.
    pub async fn era(&self) -> Option<Era> {
        if let Some(era) = self.known_era().get() {
            return Some(*era);
        }
        let raft = self.raft();
        let term = self.on_raft(async move {
            let term = raft.with_raft_state(|state| state.vote_ref().leader_id.term);
            term.await.ok()
        });
        let term = term.await.flatten().filter(|term| *term > 0)?;
        Some(*self.known_era().get_or_init(|| Era::of(term)))
    }
}

/// What comes on the snapshot lane.
enum Part {
    Offer(OfferV1),
    Piece(PieceV1),
}

/// Ends a transfer that stands still.
async fn give_up(incoming: Arc<Mutex<Incoming>>, span: std::time::Duration) {
    loop {
        let again = {
            let mut incoming = incoming.lock().await;
            let again = incoming.expire(Instant::now(), span);
            incoming.watched = again.is_some();
            again
        };
        match again {
            Some(at) => sleep_until(at).await,
            None => return,
        }
    }
}

/// Takes what came on the snapshot lane. Runs on the Raft thread.
async fn receive<M: Machine>(
    raft: &Group<M>,
    incoming: &mut Incoming,
    vote: Vote,
    part: Part,
) -> Result<TransferAnswerV1, HandleError> {
    let state = raft.with_raft_state(|state| (*state.vote_ref(), state.local_committed().copied()));
    let (own, committed) = state.await.map_err(fatal)?;
    let higher = |vote: &Vote| TransferAnswerV1::HigherVote { vote: vote.into() };
    if own > vote {
        return Ok(higher(&own));
    }
    incoming.voted(&own);
    let now = Instant::now();
    let next = match part {
        Part::Piece(piece) => incoming.piece(vote, &piece, now),
        Part::Offer(offer) => match transfer::check(&vote, &offer) {
            // All of it was agreed here before, so Raft only takes note of the leader. This is
            // how a sender learns that the answer to its last piece was lost.
            Ok(meta) if meta.last_log_id <= committed => {
                return install(raft, vote, meta, Vec::new()).await;
            }
            Ok(_) => incoming.offer(vote, offer, now),
            Err(refusal) => Err(refusal),
        },
    };
    match next {
        Ok(Next::Wanted(offset)) => Ok(TransferAnswerV1::Wanted { offset }),
        Ok(Next::HigherVote(vote)) => Ok(higher(&vote)),
        // Checked here because a state that Raft itself cannot install stops it for good.
        Ok(Next::Whole(_, state)) if M::decode(&state).is_err() => {
            Ok(TransferAnswerV1::Refused(TransferRefusalV1::NoState))
        }
        Ok(Next::Whole(meta, state)) => install(raft, vote, meta, state).await,
        Err(refusal) => Ok(TransferAnswerV1::Refused(refusal)),
    }
}

async fn install<M: Machine>(
    raft: &Group<M>,
    vote: Vote,
    meta: SnapshotMeta,
    state: Vec<u8>,
) -> Result<TransferAnswerV1, HandleError> {
    let snapshot = Snapshot {
        meta,
        snapshot: state,
    };
    let installed = raft.install_full_snapshot(vote, snapshot).await;
    let vote = (&installed.map_err(fatal)?.vote).into();
    Ok(TransferAnswerV1::Installed { vote })
}

/// Has Raft answer a request. Runs on the Raft thread.
async fn answer<M: Machine>(raft: &Group<M>, request: RequestV1) -> Result<ReplyV1, HandleError> {
    match request {
        RequestV1::Append {
            vote,
            prev,
            entries,
            commit,
        } => {
            let request = v1::append_request(vote, prev, entries, commit);
            let request = request.map_err(HandleError::Malformed)?;
            let reply = raft.append_entries(request).await.map_err(stopped)?;
            Ok(ReplyV1::Append((&reply).into()))
        }
        RequestV1::Vote {
            vote,
            last,
            transfer,
        } => {
            let request = v1::vote_request(vote, last, transfer);
            let request = request.map_err(HandleError::Malformed)?;
            Ok((&raft.vote(request).await.map_err(stopped)?).into())
        }
        RequestV1::PreVote {
            vote,
            last,
            transfer,
        } => {
            let request = v1::vote_request(vote, last, transfer);
            let request = request.map_err(HandleError::Malformed)?;
            Ok((&raft.pre_vote(request).await.map_err(stopped)?).into())
        }
        RequestV1::Transfer { from, to, last } => {
            let request = v1::transfer_request(from, to, last);
            let request = request.map_err(HandleError::Malformed)?;
            let reply = raft.handle_transfer_leader(request).await.map_err(fatal)?;
            Ok(ReplyV1::Transfer((&reply).into()))
        }
        RequestV1::Offer { .. } | RequestV1::Piece { .. } => Err(HandleError::WrongLane),
    }
}

fn stopped(error: RaftError<Types>) -> HandleError {
    HandleError::Stopped(error.to_string())
}

fn fatal(error: Fatal<Types>) -> HandleError {
    HandleError::Stopped(error.to_string())
}
