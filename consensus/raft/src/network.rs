//! Raft's requests over the [`Carrier`].
//!
//! Decides how long a request may take, when an unanswered one is sent again, which failure makes
//! Raft wait before the next try, and how a snapshot is cut: the next piece leaves when the last one
//! was answered. A slow answer is an answer: what is sent again is sent beside the first, so that
//! neither is given up, and the first answer to either counts. Never retries after a failure, except
//! pieces of a snapshot, and those a few times only.
//!
//! Invariant: an answer counts as one to what was asked, and as no younger than the first time that
//! it was asked. Raft's leases and its reads rest on that.

use std::{future::Future, sync::Arc, time::Duration};

use consensus_core::{NodeId, RaftId};
use futures::{StreamExt as _, stream::FuturesUnordered};
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
/// Entries are waited for as long as so many longest election timeouts: slow disks and links answer
/// by then. What is given up earlier is sent again and again, and never gets anywhere.
const ENTRIES_WAIT_ELECTIONS: u32 = 2;
/// How often it is looked whether a silence is over, per heartbeat.
const LOOKS_PER_HEARTBEAT: u32 = 5;

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
        let entries = Kind::Entries {
            again: self.timers.election_min,
            ttl: self.timers.election_max * ENTRIES_WAIT_ELECTIONS,
        };
        self.link(target, node, entries)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> Link {
        self.link(target, node, Kind::Heartbeats)
    }
}

impl Links {
    fn link(&self, target: u64, node: &Member, kind: Kind) -> Link {
        Link {
            own: self.own,
            target,
            node: node.0.clone(),
            carrier: Arc::clone(&self.carrier),
            kind,
            heartbeat: self.timers.heartbeat,
            answer_ttl: self.timers.election_max,
            offer_ttl: self.timers.commit_wait(),
            hearing: self.hearing.clone(),
            answers: self.answers.clone(),
        }
    }
}

/// What a link is for.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Raft says how long it waits for an answer, and gives up itself.
    Heartbeats,
    /// Entries, notices of what is agreed, votes and snapshots. The answer to entries waits for the
    /// other server's disk.
    Entries {
        /// When they are sent again for the first time, unanswered.
        again: Duration,
        /// How long an answer to entries is waited for: Raft sets no limit of its own.
        ttl: Duration,
    },
}

/// The way to one server.
#[derive(Clone)]
pub(crate) struct Link {
    own: u64,
    target: u64,
    node: Option<NodeId>,
    carrier: Arc<dyn Carrier>,
    kind: Kind,
    heartbeat: Duration,
    /// How long an answer is listened for that Raft waits for no more.
    answer_ttl: Duration,
    /// How long it may take to say what is wanted of a snapshot.
    offer_ttl: Duration,
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
        self.carry(kind, self.message(request), ttl).await
    }

    fn message(&self, request: RequestV1) -> Vec<u8> {
        v1::message(&EnvelopeV1 {
            to: RaftId(self.target),
            request,
        })
    }

    async fn carry(
        &self,
        kind: RPCTypes,
        body: Vec<u8>,
        ttl: Duration,
    ) -> Result<ReplyV1, RPCError<Types>> {
        let Some(node) = &self.node else {
            return Err(Unreachable::from_string("the server has no name").into());
        };
        let lane = match kind {
            RPCTypes::InstallSnapshot => Lane::Snapshot,
            RPCTypes::Vote | RPCTypes::AppendEntries | RPCTypes::TransferLeader => Lane::Rpc,
        };
        let exchange = self.carrier.call(node, lane, body, ttl);
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

    /// Waits while this leader is silent. Looked at now and then: a watch wakes those who wait for it
    /// in an order of chance, and no simulation could be repeated.
    async fn silence(&self) {
        while self.hearing.borrow().silent {
            clock::sleep(self.heartbeat / LOOKS_PER_HEARTBEAT).await;
        }
    }

    /// Has an append answered: asks once more, beside what is under way, until an answer comes or
    /// the exchange breaks off. Sends nothing while this leader is silent.
    ///
    /// The other server may see the request twice, as it may on any network.
    async fn persist(
        &self,
        rpc: &AppendEntriesRequest<Types>,
        ttl: Duration,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let stopping = || NetworkError::from_string("the server is stopping").into();
        let (body, term) = (self.message(rpc.into()), rpc.vote.leader_id.term);
        let patience = ttl.max(self.answer_ttl);
        let mut pause = match self.kind {
            Kind::Heartbeats => self.heartbeat,
            Kind::Entries { again, .. } => again,
        };
        let mut under_way = FuturesUnordered::new();
        loop {
            self.silence().await;
            // Raft may wait for it no more. An answer that comes later tells all the same that the
            // other server hears this one and follows it.
            let (link, body) = (self.clone(), body.clone());
            under_way.push(Runtime::spawn(async move {
                link.append(body, term, patience).await
            }));
            match clock::timeout(pause, under_way.next()).await {
                Ok(Some(Ok(answer))) => return answer,
                Ok(Some(Err(_)) | None) => return Err(stopping()),
                Err(_) => {}
            }
            if let Kind::Entries { .. } = self.kind {
                // They may be many bytes: what is slow is not to be made slower.
                pause *= 2;
            }
        }
    }

    async fn append(
        self,
        body: Vec<u8>,
        term: u64,
        ttl: Duration,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let sent = clock::Instant::now();
        match self.carry(RPCTypes::AppendEntries, body, ttl).await? {
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
            // A question is short, and its loss is to be noticed soon: a server that was cut off when
            // it was asked has to catch up.
            let limit = if piece { ttl } else { ttl.min(self.offer_ttl) };
            let reply = self.call(RPCTypes::InstallSnapshot, request, limit).await;
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
        // A silence is no failure: after it Raft goes on where it was, without a pause of its own. A
        // heartbeat's time runs out meanwhile, by Raft's own count.
        self.silence().await;
        // All of the time that Raft would wait: what is late by a moment is lost.
        let ttl = match self.kind {
            Kind::Heartbeats => option.hard_ttl(),
            Kind::Entries { ttl, .. } => ttl,
        };
        let answer = clock::timeout(ttl, self.persist(&rpc, ttl)).await;
        answer.unwrap_or_else(|_| Err(self.late(RPCTypes::AppendEntries, ttl)))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(RequestV1::vote(&rpc), option.hard_ttl())
            .await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(RequestV1::pre_vote(&rpc), option.hard_ttl())
            .await
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let request = RequestV1::transfer(&req);
        match self
            .call(RPCTypes::TransferLeader, request, option.hard_ttl())
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
    use tokio::time::Instant;

    use super::*;
    use crate::{clock::Instant as RaftInstant, raft_types::LeaderId};

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

    /// Answers every call after some time.
    struct Slow {
        answer: Vec<u8>,
        slow: Duration,
    }

    impl Carrier for Slow {
        fn call(
            &self,
            _: &NodeId,
            _: Lane,
            _: Vec<u8>,
            _: Duration,
        ) -> BoxFuture<'static, Result<Vec<u8>, CarrierError>> {
            let (answer, slow) = (self.answer.clone(), self.slow);
            Box::pin(async move {
                clock::sleep(slow).await;
                Ok(answer)
            })
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
        let (mut links, calls) = links_of(hears_all(), outcome);
        (links.new_client(2, &member()).await, calls)
    }

    async fn heartbeat_link(outcome: Outcome) -> (Link, Calls) {
        let (mut links, calls) = links_of(hears_all(), outcome);
        (links.new_heartbeat_client(2, &member()).await, calls)
    }

    fn hears_all() -> watch::Receiver<Hearing> {
        watch::channel(Hearing::default()).1
    }

    fn links_of(hearing: watch::Receiver<Hearing>, outcome: Outcome) -> (Links, Calls) {
        let calls = Calls::default();
        let carrier = Arc::new(Fixed {
            outcome,
            calls: Arc::clone(&calls),
        });
        let links = Links {
            own: 1,
            carrier,
            timers: Timers::SAFE,
            hearing,
            answers: Answers::default(),
        };
        (links, calls)
    }

    fn member() -> Member {
        let node = "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm";
        Member(Some(node.parse().unwrap()))
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
        let (_told, hearing) = watch::channel(silent);
        let (mut links, calls) = links_of(hearing, broken);
        let mut link = links.new_client(2, &member()).await;
        let option = RPCOption::new(Timers::SAFE.heartbeat);
        // It waits for the end of the silence, which builds up no pause after it.
        let kept = clock::timeout(
            Duration::ZERO,
            link.append_entries(append(), option.clone()),
        );
        assert!(kept.await.is_err());
        assert_eq!(*calls.lock().unwrap(), []);
        drop(link.vote(VoteRequest::new(vote(), None), option).await);
        assert_eq!(calls.lock().unwrap().len(), 1);
    }

    fn append() -> AppendEntriesRequest<Types> {
        AppendEntriesRequest {
            vote: vote(),
            prev_log_id: None,
            entries: vec![],
            leader_commit: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_is_given_all_of_rafts_time_and_is_sent_again_once_per_heartbeat() {
        let (mut link, calls) = heartbeat_link(None).await;
        let option = RPCOption::new(Timers::SAFE.heartbeat_answer());
        let begun = Instant::now();
        let late = link.append_entries(append(), option).await.unwrap_err();
        assert!(matches!(late, RPCError::Timeout(_)));
        assert_eq!(begun.elapsed(), Timers::SAFE.heartbeat_answer());
        // At 0, 50 and 100 ms; and an answer is listened for longer than Raft waits.
        let expected = [(Lane::Rpc, Timers::SAFE.election_max); 3];
        assert_eq!(*calls.lock().unwrap(), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn entries_and_notices_without_any_wait_for_slow_disks_and_are_seldom_sent_again() {
        let patience = Timers::SAFE.election_max * 2;
        let mut with_an_entry = append();
        with_an_entry.entries.push(crate::raft_types::LogEntry {
            log_id: crate::raft_types::LogId {
                leader_id: vote().leader_id,
                index: 1,
            },
            payload: crate::raft_types::Payload::Blank,
        });
        for request in [append(), with_an_entry] {
            let (mut link, calls) = link(None).await;
            let option = RPCOption::new(Timers::SAFE.heartbeat);
            let begun = Instant::now();
            let late = link.append_entries(request, option).await.unwrap_err();
            assert!(matches!(late, RPCError::Timeout(_)));
            assert_eq!(begun.elapsed(), patience);
            // At 0, 150 and 450 ms.
            assert_eq!(*calls.lock().unwrap(), [(Lane::Rpc, patience); 3]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_answer_counts_to_whichever_of_the_same_requests_it_is() {
        let answer = v1::message(&ReplyV1::Append((&AppendEntriesResponse::Success).into()));
        let slow = Timers::SAFE.election_min + Duration::from_millis(100);
        let carrier = Arc::new(Slow { answer, slow });
        let answers = Answers::default();
        let mut links = Links {
            own: 1,
            carrier,
            timers: Timers::SAFE,
            hearing: hears_all(),
            answers: answers.clone(),
        };
        let mut link = links.new_client(2, &member()).await;
        let begun = Instant::now();
        let asked = RaftInstant::now();
        let option = RPCOption::new(Timers::SAFE.heartbeat);
        let answered = link.append_entries(append(), option).await.unwrap();
        assert!(matches!(answered, AppendEntriesResponse::Success));
        assert_eq!(begun.elapsed(), slow);
        // The second one was under way already, and the answer is the first one's.
        assert_eq!(answers.of(2, vote().leader_id.term), Some(asked));
    }

    #[tokio::test(start_paused = true)]
    async fn an_offer_that_is_lost_is_repeated_soon() {
        let (mut link, calls) = link(None).await;
        let snapshot = Snapshot {
            meta: crate::raft_types::SnapshotMeta::default(),
            snapshot: vec![7],
        };
        let (cancel, option) = (
            futures::future::pending(),
            RPCOption::new(Timers::SAFE.snapshot_ttl),
        );
        let given_up = link.full_snapshot(vote(), snapshot, cancel, option).await;
        assert!(given_up.is_err());
        let expected = [(Lane::Snapshot, Timers::SAFE.commit_wait()); 4];
        assert_eq!(*calls.lock().unwrap(), expected);
    }

    #[tokio::test]
    async fn a_broken_exchange_ends_the_waiting_at_once() {
        let (mut link, calls) = link(Some(Err(CarrierError::Broken(String::new())))).await;
        let option = RPCOption::new(Timers::SAFE.heartbeat);
        let error = link.append_entries(append(), option).await.unwrap_err();
        assert!(matches!(error, RPCError::Network(_)));
        assert_eq!(calls.lock().unwrap().len(), 1);
    }
}
