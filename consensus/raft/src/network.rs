//! Raft's requests over the [`Carrier`].
//!
//! Decides how long a request may take, which failure makes Raft wait before the next try, and
//! how a snapshot is cut: the next piece leaves when the last one was answered. Never retries on
//! its own, except pieces of a snapshot, and those a few times only.

use std::{future::Future, sync::Arc, time::Duration};

use consensus_core::{NodeId, RaftId};
use openraft::{
    AsyncRuntime as _, RPCTypes, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::RPCOption,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use tokio::sync::watch;

use crate::{
    carrier::{Carrier, CarrierError, Lane},
    clock,
    hearing::{Answers, Hearing},
    raft_types::{Member, Runtime, Snapshot, Types, Vote},
    timers::Timers,
    transfer,
    wire::v1::{self, EnvelopeV1, LogIdV1, OfferV1, ReplyV1, RequestV1, TransferAnswerV1},
};

/// Failures in a row after which a transfer is left to Raft, which asks for the newest snapshot
/// and comes again. Until then the same snapshot goes on: under constant writes there is always
/// a newer one, and beginning anew each time might never end.
const FAILURES_MAX: u32 = 3;
/// Before a piece is tried again; times the failures so far.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Makes one [`Link`] per server.
pub(crate) struct Links {
    pub(crate) own: u64,
    pub(crate) carrier: Arc<dyn Carrier>,
    pub(crate) timers: Timers,
    /// A leader that nobody answers is silent for a while.
    pub(crate) hearing: watch::Receiver<Hearing>,
    /// Who answers.
    pub(crate) answers: Answers,
}

impl RaftNetworkFactory<Types> for Links {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Member) -> Link {
        Link {
            own: self.own,
            target,
            node: node.0.clone(),
            carrier: Arc::clone(&self.carrier),
            append_ttl: self.timers.election_min,
            answer_ttl: self.timers.election_max,
            hearing: self.hearing.clone(),
            answers: self.answers.clone(),
        }
    }
}

/// The way to one server.
#[derive(Clone)]
pub(crate) struct Link {
    own: u64,
    target: u64,
    node: Option<NodeId>,
    carrier: Arc<dyn Carrier>,
    /// For requests with entries: their answer waits for the other server's disk, and openraft's
    /// own limit (one heartbeat) would repeat them all the time when that disk is slow.
    append_ttl: Duration,
    /// How long an answer is listened for that Raft waits for no more.
    answer_ttl: Duration,
    hearing: watch::Receiver<Hearing>,
    answers: Answers,
}

impl Link {
    async fn call(
        &self,
        kind: RPCTypes,
        request: RequestV1,
        ttl: Duration,
    ) -> Result<ReplyV1, RPCError<Types>> {
        let Some(node) = &self.node else {
            return Err(Unreachable::from_string("the server has no name").into());
        };
        let lane = match kind {
            RPCTypes::InstallSnapshot => Lane::Snapshot,
            RPCTypes::Vote | RPCTypes::AppendEntries | RPCTypes::TransferLeader => Lane::Rpc,
        };
        let envelope = EnvelopeV1 {
            to: RaftId(self.target),
            request,
        };
        let exchange = self.carrier.call(node, lane, v1::message(&envelope), ttl);
        let body = match clock::timeout(ttl, exchange).await {
            Ok(Ok(body)) => body,
            Ok(Err(error @ CarrierError::Unreachable(_))) => {
                return Err(Unreachable::new(&error).into());
            }
            Ok(Err(error @ CarrierError::Broken(_))) => {
                return Err(NetworkError::new(&error).into());
            }
            Err(_) => return Err(self.late(kind, ttl)),
        };
        v1::open_message(&body).map_err(|error| NetworkError::from_string(error).into())
    }

    fn late(&self, action: RPCTypes, timeout: Duration) -> RPCError<Types> {
        let (id, target) = (self.own, self.target);
        Timeout {
            action,
            id,
            target,
            timeout,
        }
        .into()
    }

    async fn append(
        self,
        request: RequestV1,
        term: u64,
        ttl: Duration,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let sent = clock::Instant::now();
        match self.call(RPCTypes::AppendEntries, request, ttl).await? {
            ReplyV1::Append(reply) => {
                let answer = reply.into();
                if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                    self.answers.note(self.target, term, sent);
                }
                Ok(answer)
            }
            ReplyV1::Vote { .. }
            | ReplyV1::Transfer(_)
            | ReplyV1::Snapshot(_)
            | ReplyV1::Fenced { .. } => Err(misfit()),
        }
    }

    async fn ask_vote(
        &self,
        request: RequestV1,
        ttl: Duration,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(RPCTypes::Vote, request, ttl).await? {
            ReplyV1::Vote {
                vote,
                granted,
                last,
            } => Ok(VoteResponse::new(
                Vote::from(vote),
                LogIdV1::back(last),
                granted,
            )),
            ReplyV1::Append(_)
            | ReplyV1::Transfer(_)
            | ReplyV1::Snapshot(_)
            | ReplyV1::Fenced { .. } => Err(misfit()),
        }
    }

    /// Brings a snapshot over, piece by piece. `ttl` is for each piece; the last one's covers
    /// that it is put into force.
    async fn send(
        &self,
        vote: Vote,
        snapshot: Snapshot,
        ttl: Duration,
    ) -> Result<SnapshotResponse<Types>, RPCError<Types>> {
        let Snapshot { meta, snapshot } = snapshot;
        let meta = (&meta).into();
        let (vote, name) = ((&vote).into(), v1::transfer_name(&meta, &snapshot));
        let bytes = transfer::length(&snapshot);
        let offer = OfferV1 { meta, bytes, name };
        let offer = RequestV1::Offer { vote, offer };
        let mut sending = Sending::default();
        let (mut request, mut piece) = (offer.clone(), false);
        loop {
            let reply = self.call(RPCTypes::InstallSnapshot, request, ttl).await;
            let offset = match sending.read(reply, piece)? {
                Told::Send(offset) => offset,
                Told::Done(vote) => return Ok(SnapshotResponse::new(vote)),
                // What the other side holds is its to say.
                Told::Ask => {
                    clock::sleep(RETRY_PAUSE * sending.failures).await;
                    (request, piece) = (offer.clone(), false);
                    continue;
                }
            };
            let cut = transfer::cut(name, &snapshot, offset).ok_or_else(misfit)?;
            (request, piece) = (RequestV1::Piece { vote, piece: cut }, true);
        }
    }
}

/// How a transfer goes.
#[derive(Default)]
struct Sending {
    wanted: u64,
    /// Since the last progress.
    failures: u32,
    /// How often the other side had no more than before, or less.
    restarts: u32,
}

/// What follows from an answer.
enum Told {
    Send(u64),
    Done(Vote),
    Ask,
}

impl Sending {
    /// `piece` tells whether the request was one, so that more should be there than before.
    fn read(
        &mut self,
        reply: Result<ReplyV1, RPCError<Types>>,
        piece: bool,
    ) -> Result<Told, RPCError<Types>> {
        match reply {
            Ok(ReplyV1::Snapshot(TransferAnswerV1::Wanted { offset })) => {
                if offset > self.wanted {
                    self.failures = 0;
                } else if piece || offset < self.wanted {
                    self.restarts += 1;
                }
                self.wanted = offset;
                if self.restarts > FAILURES_MAX {
                    let lost = "the other side lost what it had, again and again";
                    return Err(Unreachable::from_string(lost).into());
                }
                Ok(Told::Send(offset))
            }
            Ok(ReplyV1::Snapshot(
                TransferAnswerV1::Installed { vote } | TransferAnswerV1::HigherVote { vote },
            )) => Ok(Told::Done(vote.into())),
            Ok(ReplyV1::Snapshot(TransferAnswerV1::Refused(refusal))) => {
                tracing::warn!(%refusal, "a piece of a snapshot was refused");
                // Raft waits longer and longer before it tries that again.
                self.failed(|| Unreachable::new(&refusal).into())
            }
            Ok(
                ReplyV1::Append(_)
                | ReplyV1::Vote { .. }
                | ReplyV1::Transfer(_)
                | ReplyV1::Fenced { .. },
            ) => Err(misfit()),
            // Raft waits before it tries again, so we need not.
            Err(error @ (RPCError::Unreachable(_) | RPCError::RemoteError(_))) => Err(error),
            Err(error @ (RPCError::Timeout(_) | RPCError::Network(_))) => self.failed(|| error),
        }
    }

    fn failed(&mut self, error: impl FnOnce() -> RPCError<Types>) -> Result<Told, RPCError<Types>> {
        self.failures += 1;
        if self.failures > FAILURES_MAX {
            return Err(error());
        }
        Ok(Told::Ask)
    }
}

fn misfit() -> RPCError<Types> {
    NetworkError::from_string("the answer does not fit the request").into()
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        if self.hearing.borrow().silent {
            return Err(Unreachable::from_string("silent, for no majority answers").into());
        }
        let ttl = if rpc.entries.is_empty() {
            option.soft_ttl()
        } else {
            option.soft_ttl().max(self.append_ttl)
        };
        let (link, term) = (self.clone(), rpc.vote.leader_id.term);
        let (request, patience) = (RequestV1::from(&rpc), ttl.max(self.answer_ttl));
        // Raft gives a heartbeat's answer less than a heartbeat. One that comes later tells all the
        // same that the other server hears this one and follows it.
        let exchange = Runtime::spawn(async move { link.append(request, term, patience).await });
        match clock::timeout(ttl, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(NetworkError::from_string("the server is stopping").into()),
            Err(_) => Err(self.late(RPCTypes::AppendEntries, ttl)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(RequestV1::vote(&rpc), option.soft_ttl())
            .await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(RequestV1::pre_vote(&rpc), option.soft_ttl())
            .await
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = RequestV1::transfer(&req);
        match self
            .call(RPCTypes::TransferLeader, request, option.soft_ttl())
            .await?
        {
            ReplyV1::Transfer(reply) => Ok(reply.into()),
            ReplyV1::Append(_)
            | ReplyV1::Vote { .. }
            | ReplyV1::Snapshot(_)
            | ReplyV1::Fenced { .. } => Err(misfit()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        // Both arms end the transfer for good, so nothing is lost when the other is dropped.
        tokio::select! {
            sent = self.send(vote, snapshot, option.soft_ttl()) => Ok(sent?),
            closed = cancel => Err(closed.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures::future::BoxFuture;

    use super::*;
    use crate::raft_types::LeaderId;

    type Calls = Arc<Mutex<Vec<(Lane, Duration)>>>;
    type Outcome = Option<Result<Vec<u8>, CarrierError>>;

    /// Answers every call in one way, or never.
    struct Fixed {
        outcome: Outcome,
        calls: Calls,
    }

    impl Carrier for Fixed {
        fn call(
            &self,
            _: &NodeId,
            lane: Lane,
            _: Vec<u8>,
            ttl: Duration,
        ) -> BoxFuture<'static, Result<Vec<u8>, CarrierError>> {
            self.calls.lock().unwrap().push((lane, ttl));
            match self.outcome.clone() {
                Some(outcome) => Box::pin(async { outcome }),
                None => Box::pin(futures::future::pending()),
            }
        }
    }

    fn vote() -> Vote {
        Vote {
            leader_id: LeaderId {
                term: 1,
                node_id: 1,
            },
            committed: true,
        }
    }

    async fn link(outcome: Outcome) -> (Link, Calls) {
        link_of(Hearing::default(), outcome).await
    }

    async fn link_of(hearing: Hearing, outcome: Outcome) -> (Link, Calls) {
        let calls = Calls::default();
        let carrier = Arc::new(Fixed {
            outcome,
            calls: Arc::clone(&calls),
        });
        let mut links = Links {
            own: 1,
            carrier,
            timers: Timers::SAFE,
            hearing: watch::channel(hearing).1,
            answers: Answers::default(),
        };
        let node = "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm"
            .parse()
            .unwrap();
        (links.new_client(2, &Member(Some(node))).await, calls)
    }

    async fn ask(outcome: Outcome) -> RPCError<Types> {
        let (mut link, _) = link(outcome).await;
        let option = RPCOption::new(Duration::from_millis(40));
        link.vote(VoteRequest::new(vote(), None), option)
            .await
            .unwrap_err()
    }

    #[tokio::test]
    async fn failures_make_raft_wait_only_when_there_is_no_way() {
        let gone = Some(Err(CarrierError::Unreachable("refused".to_owned())));
        assert!(matches!(ask(gone).await, RPCError::Unreachable(_)));
        let broken = Some(Err(CarrierError::Broken("reset".to_owned())));
        assert!(matches!(ask(broken).await, RPCError::Network(_)));
        assert!(matches!(ask(None).await, RPCError::Timeout(_)));
        assert!(matches!(ask(Some(Ok(vec![9]))).await, RPCError::Network(_)));
        let wanted = TransferAnswerV1::Wanted { offset: 0 };
        let misfit = v1::message(&ReplyV1::Snapshot(wanted));
        assert!(matches!(ask(Some(Ok(misfit))).await, RPCError::Network(_)));
    }

    #[tokio::test]
    async fn a_silent_leader_sends_no_heartbeat_and_no_entry_but_may_ask_for_votes() {
        let silent = Hearing {
            deaf: true,
            silent: true,
            ..Hearing::default()
        };
        let broken = Some(Err(CarrierError::Broken(String::new())));
        let (mut link, calls) = link_of(silent, broken).await;
        let option = RPCOption::new(Timers::SAFE.heartbeat);
        let heartbeat = AppendEntriesRequest {
            vote: vote(),
            prev_log_id: None,
            entries: vec![],
            leader_commit: None,
        };
        let error = link.append_entries(heartbeat, option.clone()).await;
        assert!(matches!(error.unwrap_err(), RPCError::Unreachable(_)));
        assert_eq!(*calls.lock().unwrap(), []);
        drop(link.vote(VoteRequest::new(vote(), None), option).await);
        assert_eq!(calls.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn heartbeats_are_impatient_and_entries_wait_for_the_disk() {
        let (mut link, calls) = link(Some(Err(CarrierError::Broken(String::new())))).await;
        let option = RPCOption::new(Timers::SAFE.heartbeat);
        let mut request = AppendEntriesRequest {
            vote: vote(),
            prev_log_id: None,
            entries: vec![],
            leader_commit: None,
        };
        drop(link.append_entries(request.clone(), option.clone()).await);
        let at = crate::raft_types::LogId {
            leader_id: vote().leader_id,
            index: 1,
        };
        let payload = crate::raft_types::Payload::Blank;
        request.entries.push(crate::raft_types::LogEntry {
            log_id: at,
            payload,
        });
        drop(link.append_entries(request, option.clone()).await);
        // Whatever Raft waits for, the answer is listened for as long.
        let expected = [(Lane::Rpc, Timers::SAFE.election_max); 2];
        assert_eq!(*calls.lock().unwrap(), expected);
    }
}
