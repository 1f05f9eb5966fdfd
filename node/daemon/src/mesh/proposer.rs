//! Has a command agreed, from whatever node it was given to.
//!
//! Decides who may be asked: this node's own Raft when it is a server, the leader it names, else the
//! servers in turn (whom next, and what an answer means for the command: [`asking`](super::asking)).
//! The request id stays the same over all attempts, so that a command whose answer was lost is applied
//! once. Gives up after a deadline, and says how many voters answer.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use consensus_core::{
    Applied, Command, Done, Envelope, LogIndex, NodeId, RaftId, RequestId, WallMs, wire::v1,
};
use consensus_raft::{Agreement, ProposeError, Published, ReadError};
use futures::{StreamExt, stream::FuturesUnordered};
use node_api::ApiError;
use overlay_core::membership::{Condition, Member};
use overlay_net::{Channel, Net, membership::Members};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    MembersRx,
    asking::{self, Asking, Attempt, Patience, Voters},
    peer_wire::{PeerAnswer, PeerRequest, decode, encode},
    replica::Replica,
    views::{View, Views},
};

/// What a server answers, or one that answers it, that knows less than the other one says.
const NOT_UNDERSTOOD: &str = "PeerMessageError";
/// A reader is sent on to another leader at most so often.
const READ_HOPS_MAX: usize = 3;
/// How long a caller waits to see his own write in this node's view.
const READ_YOUR_WRITE: Duration = Duration::from_secs(3);

/// This node's Raft, while it is a server.
pub(crate) type AgreementRx = watch::Receiver<Option<Agreement<Replica>>>;

/// Has commands agreed.
#[derive(Clone)]
pub(crate) struct Proposer {
    /// This node.
    pub(crate) me: NodeId,
    /// The way to the others.
    pub(crate) net: Net,
    /// What is known to be agreed.
    pub(crate) views: Views,
    /// Who is alive.
    pub(crate) members: MembersRx,
    /// This node's Raft.
    pub(crate) agreement: AgreementRx,
    /// How long commands may take, with this mesh's timers.
    pub(crate) patience: Patience,
}

/// Wall-clock time, for commands.
pub(crate) fn wall_now() -> WallMs {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    WallMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Proposer {
    /// Has the command agreed and waits until this node's view contains it.
    pub(crate) async fn submit(&self, command: Command) -> Result<(LogIndex, Done), ApiError> {
        let (index, done) = self.agree(command).await?;
        // Late is not wrong: the answer is agreed, only this node's own view lags.
        let _ = timeout(READ_YOUR_WRITE, self.see(index)).await;
        Ok((index, done))
    }

    /// Waits until this node's view contains the log up to `index`. False when it never will.
    ///
    /// A server takes it from its own Raft: the task that brings what that publishes has a pace.
    async fn see(&self, index: LogIndex) -> bool {
        if self.views.view().revision >= index {
            return true;
        }
        let own = self.agreement.borrow().as_ref().map(Agreement::published);
        // Both arms only wait.
        tokio::select! {
            biased;
            () = self.take_own(own, index) => true,
            seen = self.views.contains(index) => seen,
        }
    }

    /// Returns only when this node's own Raft has given what is waited for.
    async fn take_own(&self, own: Option<watch::Receiver<Published<Replica>>>, index: LogIndex) {
        let machine = match own {
            Some(mut own) => {
                let published = own.wait_for(|own| own.index >= index).await;
                published.map(|own| Arc::clone(&own.machine)).ok()
            }
            None => None,
        };
        let Some(machine) = machine else {
            return std::future::pending().await;
        };
        self.views
            .offer(machine.0.applied, machine.0.agreed.clone());
    }

    /// Has the command agreed. The operator on whose request this runs is named in its events.
    pub(crate) async fn agree(&self, command: Command) -> Result<(LogIndex, Done), ApiError> {
        self.agree_for(command, crate::api::caller::operator())
            .await
    }

    /// Has the command agreed, in an operator's name.
    pub(crate) async fn agree_for(
        &self,
        command: Command,
        operator: Option<String>,
    ) -> Result<(LogIndex, Done), ApiError> {
        let request = RequestId::from_bytes(rand::random());
        self.agree_as(request, command, operator).await
    }

    /// Has the command agreed as this request, which may be asked for again after an error that left its
    /// outcome open: as long as answers are remembered it is applied once.
    pub(crate) async fn agree_as(
        &self,
        request: RequestId,
        command: Command,
        operator: Option<String>,
    ) -> Result<(LogIndex, Done), ApiError> {
        let name = command.name();
        let envelope = Envelope {
            request,
            actor: self.me.clone(),
            time: wall_now(),
            operator,
            command,
        };
        let bytes = v1::encode(&envelope);
        if bytes.len() > v1::ENVELOPE_BYTES_MAX {
            let limit = v1::ENVELOPE_BYTES_MAX as u64;
            return Err(consensus_core::Refusal::TooLarge {
                what: "a command".into(),
                limit,
            }
            .into());
        }
        let (index, applied) = self.ask_around(&envelope, &bytes).await?;
        tracing::debug!(command = name, index = index.0, "agreed");
        applied.map(|done| (index, done)).map_err(ApiError::from)
    }

    /// Waits until this node's view contains everything that was agreed when this was called; gives
    /// false where no leader says within the bound what that is.
    pub(crate) async fn catch_up(&self, within: Duration) -> bool {
        let caught_up = async {
            let index = self.agreed_by_now().await?;
            self.see(index).await.then_some(())
        };
        timeout(within, caught_up).await.ok().flatten().is_some()
    }

    /// The leader's word, from a majority, for the last agreed index.
    async fn agreed_by_now(&self) -> Option<LogIndex> {
        let mut leader = self.views.standing().leader;
        for _ in 0..READ_HOPS_MAX {
            let asked = leader.clone()?;
            let answer = if asked == self.me {
                let agreement = self.agreement.borrow().clone();
                read_index(agreement.as_ref()).await
            } else {
                let body = encode(&PeerRequest::ReadIndex);
                let wait = self.patience.attempt;
                let answer = self.net.call(&asked, Channel::Command, body, wait);
                decode(&answer.await.ok()?).ok()?
            };
            match answer {
                PeerAnswer::ReadAt(index) => return Some(index),
                PeerAnswer::NotLeader(Some(other)) if other != asked => leader = Some(other),
                PeerAnswer::NotLeader(_)
                | PeerAnswer::Applied(..)
                | PeerAnswer::NoMajority { .. }
                | PeerAnswer::Enrolled(_)
                | PeerAnswer::Certificate { .. }
                | PeerAnswer::Enforced(_)
                | PeerAnswer::Probed(_)
                | PeerAnswer::Vip(_)
                | PeerAnswer::Cluster(_)
                | PeerAnswer::Departing
                | PeerAnswer::RotationBegun(_)
                | PeerAnswer::Failed(_) => return None,
            }
        }
        None
    }

    /// Asks servers until one has the command agreed or the time is up. One that does not answer at
    /// once is not waited for: the next is asked beside it, which the request id makes harmless.
    async fn ask_around(
        &self,
        envelope: &Envelope,
        bytes: &[u8],
    ) -> Result<(LogIndex, Applied), ApiError> {
        let end = Instant::now() + self.patience.submit;
        let mut standing = self.views.watch_standing();
        let mut leader = self.known_leader();
        let mut asking = Asking::new(leader.clone());
        let mut pending = FuturesUnordered::new();
        while Instant::now() < end {
            if asking.wants_all() {
                asking.ask_all(self.targets());
            }
            if let Some(target) = asking.next() {
                pending.push(async move {
                    let attempt = self.attempt(&target, envelope, bytes).await;
                    (target, attempt)
                });
            }
            let pause = end.min(Instant::now() + asking.patience());
            // Attempts go on while the next one begins; an answer is taken whole. The other arms
            // only wait.
            let answered = tokio::select! {
                biased;
                Some(answered) = pending.next() => Some(answered),
                Ok(()) = standing.changed() => {
                    let now = self.known_leader();
                    if let Some(next) = now.clone().filter(|_| now != leader) {
                        asking.led_by(next);
                        leader = now;
                    }
                    None
                }
                () = sleep_until(pause) => {
                    if asking.waited() {
                        asking.ask_all(self.targets());
                    }
                    None
                }
            };
            if let Some((target, attempt)) = answered
                && let Some(outcome) = asking.ended(&target, attempt)
            {
                return outcome;
            }
        }
        let (heard, voters) = self.heard_voters();
        Err(asking.in_vain(heard, voters))
    }

    /// The leader, as far as this node knows; not this node where it has no Raft (any more).
    fn known_leader(&self) -> Option<NodeId> {
        let leader = self.views.standing().leader;
        leader.filter(|leader| *leader != self.me || self.agreement.borrow().is_some())
    }

    /// Whom to ask, best first: the known leader, this node, servers that live, the others.
    fn targets(&self) -> Vec<NodeId> {
        let view = self.views.view();
        let members = self.members.borrow().clone();
        let own = self.agreement.borrow().is_some();
        let alive = |id: &NodeId| {
            members
                .get(id)
                .is_some_and(|m| matches!(m.condition, Condition::Alive | Condition::Suspect))
        };
        let mut servers: Vec<NodeId> = view.agreed.servers().map(|(id, _)| id.clone()).collect();
        servers.sort_by_key(|id| (!(own && *id == self.me), !alive(id)));
        if !own {
            servers.retain(|id| *id != self.me);
        }
        if let Some(leader) = self.known_leader() {
            servers.retain(|id| *id != leader);
            servers.insert(0, leader);
        }
        servers
    }

    async fn attempt(&self, target: &NodeId, envelope: &Envelope, bytes: &[u8]) -> Attempt {
        if *target == self.me {
            let agreement = self.agreement.borrow().clone();
            return meaning(propose_bytes(agreement.as_ref(), bytes.to_vec()).await);
        }
        let body = encode(&PeerRequest::Propose(Box::new(envelope.clone())));
        let wait = self.patience.attempt;
        match self.net.call(target, Channel::Command, body, wait).await {
            Ok(bytes) => decode(&bytes).map_or_else(Attempt::Strange, meaning),
            Err(error) => {
                tracing::debug!(to = target.short(), %error, "no answer to a command");
                if error.is_unsent() {
                    Attempt::Unsent
                } else {
                    Attempt::NoAnswer
                }
            }
        }
    }

    /// The whole agreed state, which only a server has.
    pub(crate) fn state(&self) -> Option<consensus_core::State> {
        let agreement = self.agreement.borrow().clone()?;
        let published = agreement.published();
        let machine = Arc::clone(&published.borrow().machine);
        Some(machine.0.clone())
    }

    /// The servers that this node can hear now, itself included: what a change of the voters is
    /// weighed against.
    pub(crate) fn reachable(&self) -> BTreeSet<NodeId> {
        let view = self.views.view();
        let members = self.members.borrow().clone();
        let servers = view.agreed.servers().map(|(id, _)| id);
        let heard = servers.filter(|id| self.hears(&members, id));
        heard.cloned().collect()
    }

    fn hears(&self, members: &Members, id: &NodeId) -> bool {
        let alive = |member: &Member| member.condition == Condition::Alive;
        *id == self.me || members.get(id).is_some_and(alive)
    }

    /// Whether a leader is known and most servers are heard.
    pub(crate) fn hears_a_majority(&self) -> bool {
        let view = self.views.view();
        let members = self.members.borrow().clone();
        let servers = view.agreed.servers().count();
        let heard = |(id, _): &(&NodeId, RaftId)| self.hears(&members, id);
        let reachable = view.agreed.servers().filter(heard).count();
        self.views.standing().leader.is_some() && reachable * 2 > servers
    }

    /// How many voters this node hears, how many it takes, and how many there are.
    fn heard_voters(&self) -> (Voters, usize) {
        let view = self.views.view();
        let members = self.members.borrow().clone();
        let mut voters = self.views.standing().voters;
        if voters.is_empty() {
            voters = view.agreed.servers().map(|(id, _)| id.clone()).collect();
        }
        let heard = |id: &&NodeId| self.hears(&members, id);
        let heard = Voters {
            reachable: voters.iter().filter(heard).count() as u64,
            needed: voters.len() as u64 / 2 + 1,
        };
        (heard, voters.len())
    }

    /// The error of a command that found no majority, with the voters that this node can hear.
    pub(crate) fn no_majority(&self) -> ApiError {
        let (heard, voters) = self.heard_voters();
        asking::no_majority(heard, voters)
    }
}

/// What an answer to a command means for it.
fn meaning(answer: PeerAnswer) -> Attempt {
    match answer {
        PeerAnswer::Applied(index, applied) => Attempt::Applied(index, applied),
        PeerAnswer::NotLeader(leader) => Attempt::Elsewhere(leader),
        PeerAnswer::NoMajority { reachable, needed } => {
            Attempt::NoMajority(Voters { reachable, needed })
        }
        PeerAnswer::Failed(error) if error.code == asking::BUSY => Attempt::Busy,
        // A server that does not know what it was asked.
        PeerAnswer::Failed(error) if error.code == NOT_UNDERSTOOD => Attempt::Strange(error),
        PeerAnswer::Failed(error) => Attempt::Failed(error),
        PeerAnswer::Enrolled(_)
        | PeerAnswer::Certificate { .. }
        | PeerAnswer::Enforced(_)
        | PeerAnswer::Probed(_)
        | PeerAnswer::Vip(_)
        | PeerAnswer::Cluster(_)
        | PeerAnswer::Departing
        | PeerAnswer::ReadAt(_)
        | PeerAnswer::RotationBegun(_) => Attempt::NoAnswer,
    }
}

/// Has an envelope agreed by this node's own Raft, if that leads.
pub(crate) async fn propose(
    agreement: Option<&Agreement<Replica>>,
    envelope: &Envelope,
) -> PeerAnswer {
    propose_bytes(agreement, v1::encode(envelope)).await
}

async fn propose_bytes(agreement: Option<&Agreement<Replica>>, bytes: Vec<u8>) -> PeerAnswer {
    let Some(agreement) = agreement else {
        return PeerAnswer::NotLeader(None);
    };
    match agreement.propose(bytes).await {
        Ok((index, answer)) => match v1::decode::<Applied>(&answer) {
            Ok(applied) => PeerAnswer::Applied(index, applied),
            Err(error) => PeerAnswer::Failed(ApiError::new(
                "InternalError",
                format!("the state machine's answer is not readable: {error}"),
                "report this",
            )),
        },
        Err(ProposeError::NotLeader { leader }) => PeerAnswer::NotLeader(leader),
        Err(
            ProposeError::NoMajority { reachable, needed }
            | ProposeError::OutcomeUnknown { reachable, needed },
        ) => PeerAnswer::NoMajority {
            reachable: reachable as u64,
            needed: needed as u64,
        },
        Err(ProposeError::Busy) => PeerAnswer::Failed(asking::busy()),
        Err(ProposeError::Stopped(_)) => PeerAnswer::NotLeader(None),
        Err(ProposeError::TooLarge { bytes_max, .. }) => PeerAnswer::Failed(
            consensus_core::Refusal::TooLarge {
                what: "a command".into(),
                limit: bytes_max as u64,
            }
            .into(),
        ),
    }
}

/// The log index that a reader must have seen, if this node leads.
pub(crate) async fn read_index(agreement: Option<&Agreement<Replica>>) -> PeerAnswer {
    let Some(agreement) = agreement else {
        return PeerAnswer::NotLeader(None);
    };
    match agreement.read_index().await {
        Ok(index) => PeerAnswer::ReadAt(index),
        Err(ReadError::NotLeader { leader }) => PeerAnswer::NotLeader(leader),
        Err(ReadError::NoMajority { reachable, needed }) => PeerAnswer::NoMajority {
            reachable: reachable as u64,
            needed: needed as u64,
        },
        Err(ReadError::Busy | ReadError::Stopped(_)) => PeerAnswer::NotLeader(None),
    }
}

/// Has a mesh's first command agreed by the group that its founder has just made.
pub(crate) async fn propose_first(
    agreement: &Agreement<Replica>,
    me: NodeId,
    command: Command,
) -> Result<View, ApiError> {
    let failed =
        |reason: &str| ApiError::new("RaftFailed", reason, "look into the log for the reason");
    let envelope = Envelope {
        request: RequestId::from_bytes(rand::random()),
        actor: me,
        time: wall_now(),
        operator: None,
        command,
    };
    let end = Instant::now() + asking::SUBMIT_WITHIN;
    loop {
        match propose(Some(agreement), &envelope).await {
            PeerAnswer::Applied(index, applied) => {
                applied?;
                let mut published = agreement.published();
                let state = timeout(
                    READ_YOUR_WRITE,
                    published.wait_for(|p| p.machine.0.applied >= index),
                )
                .await;
                let state = state.map_err(|_| failed("the first entry is not applied"))?;
                let state = state.map_err(|_| failed("Raft has stopped"))?;
                let agreed = state.machine.0.agreed.clone();
                let revision = state.machine.0.applied;
                return Ok(View { revision, agreed });
            }
            PeerAnswer::Failed(error) => return Err(error),
            PeerAnswer::NotLeader(_)
            | PeerAnswer::NoMajority { .. }
            | PeerAnswer::Enrolled(_)
            | PeerAnswer::Certificate { .. }
            | PeerAnswer::Enforced(_)
            | PeerAnswer::Probed(_)
            | PeerAnswer::Vip(_)
            | PeerAnswer::Cluster(_)
            | PeerAnswer::Departing
            | PeerAnswer::ReadAt(_)
            | PeerAnswer::RotationBegun(_) => {
                if Instant::now() >= end {
                    return Err(failed("the founder did not become leader"));
                }
                // The founder elects itself within a moment.
                sleep(Duration::from_millis(10)).await;
            }
        }
    }
}
