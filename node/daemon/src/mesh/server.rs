//! A server's own Raft: opened when the node is a server by agreement, closed when it is not.
//!
//! Decides nothing about agreement. Carries Raft's messages over libp2p, publishes what Raft
//! applied, and removes the log of a server that was demoted (its id is never used again).

use std::{sync::Arc, time::Duration};

use consensus_core::{LogIndex, NodeId, RaftId, go_on_alone};
use consensus_raft::{
    Agreement, Carrier, CarrierError, Lane, OpenError, Recovered, Settings, Timers, quarantine,
    recover,
};
use futures::future::BoxFuture;
use node_api::ApiError;
use overlay_net::{Channel, IncomingCall, Net};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{
    proposer::{AgreementRx, wall_now},
    replica::Replica,
    views::{Pace, Standing, StandingPlace, Views, after},
};
use crate::{
    config::RaftTimers,
    data_dir::{DataDir, DataDirError},
};

/// After a store could not be opened: the reason may be a disk that fills and empties.
const REOPEN_PAUSE: Duration = Duration::from_secs(2);
/// Raft messages handled at once; more wait in the network's own bounded queue.
const HANDLERS_MAX: usize = 64;
/// A stream of applied entries becomes views so often. Waking for each costs a busy server more
/// than applying it.
const PUBLISHED_APART: Duration = Duration::from_millis(10);

/// Raft's way to the other servers.
pub(crate) struct NetCarrier(pub(crate) Net);

impl Carrier for NetCarrier {
    fn call(
        &self,
        to: &NodeId,
        lane: Lane,
        body: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, CarrierError>> {
        let channel = match lane {
            Lane::Rpc => Channel::Raft,
            Lane::Snapshot => Channel::Snapshot,
        };
        let net = self.0.clone();
        let to = to.clone();
        Box::pin(async move {
            match net.call(&to, channel, body, ttl).await {
                // An empty answer is the other daemon's word for "no Raft here (yet)".
                Ok(answer) if answer.is_empty() => {
                    Err(CarrierError::Unreachable("not a server yet".into()))
                }
                Ok(answer) => Ok(answer),
                Err(error) if error.is_unsent() => {
                    Err(CarrierError::Unreachable(error.to_string()))
                }
                // There was a way, and an answer may only have been late.
                Err(error) => Err(CarrierError::Broken(error.to_string())),
            }
        })
    }
}

/// The profile's timers.
pub(crate) fn timers(profile: RaftTimers) -> Timers {
    match profile {
        RaftTimers::Safe => Timers::SAFE,
        RaftTimers::Lan => Timers::LAN,
        RaftTimers::Wan => Timers::WAN,
    }
}

/// Why a server's Raft does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    #[error("the log of this server is gone")]
    LogGone,
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Disk(#[from] DataDirError),
}

impl ServerError {
    /// Stable code.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::LogGone => "StoreGone",
            Self::Open(error) => error.code(),
            Self::Disk(error) => error.code(),
        }
    }

    /// What to do.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::LogGone => "demote this node and promote it again: it then joins as a new voter",
            Self::Open(error) => error.hint(),
            Self::Disk(error) => error.hint(),
        }
    }
}

/// Opens the log of `raft_id`. One that this node has voted with and lost is not begun anew: an
/// empty log under the old id would forget its votes and vote twice.
pub(crate) async fn open(
    data: &DataDir,
    me: &NodeId,
    raft_id: RaftId,
    profile: RaftTimers,
    net: &Net,
) -> Result<Agreement<Replica>, ServerError> {
    let dir = data.raft(raft_id);
    if data.has_opened_raft(raft_id) && !dir.exists() {
        return Err(ServerError::LogGone);
    }
    data.note_opened_raft(raft_id)?;
    let settings = Settings {
        dir,
        raft_id,
        node: me.clone(),
        timers: timers(profile),
    };
    let carrier = Arc::new(NetCarrier(net.clone()));
    Ok(Agreement::open(settings, Replica::default(), carrier).await?)
}

/// This node's part in a group, while it has one.
#[derive(Default)]
struct Part {
    id: Option<RaftId>,
    /// Makes what Raft applies this node's view.
    _publisher: Option<tokio_util::task::AbortOnDropHandle<()>>,
}

/// Where the outcome of a recovery goes.
pub(crate) type RecoverOrder = oneshot::Sender<Result<Recovered, ApiError>>;

fn not_a_server() -> ApiError {
    ApiError::new(
        "NotServerError",
        "this node holds no part of the mesh's agreement",
        "recover on a machine that was a server",
    )
}

fn recover_failed(reason: &str) -> ApiError {
    ApiError::new(
        "RecoverError",
        format!("the recovery failed: {reason}"),
        "the old log is as it was; look into the log for the reason",
    )
}

/// Keeps this node's Raft in line with its agreed role until cancelled.
pub(crate) struct Supervisor {
    pub(crate) data: Arc<DataDir>,
    pub(crate) me: NodeId,
    pub(crate) profile: RaftTimers,
    pub(crate) net: Net,
    pub(crate) views: Views,
    pub(crate) agreement: watch::Sender<Option<Agreement<Replica>>>,
    /// Why this server's Raft does not run, for `status`.
    pub(crate) condition: watch::Sender<Option<String>>,
    /// Wishes to go on alone.
    pub(crate) recoveries: mpsc::Receiver<RecoverOrder>,
    pub(crate) stop: CancellationToken,
}

impl Supervisor {
    /// `open_id` is the Raft id of the agreement that is there already, if one is.
    pub(crate) async fn run(mut self, open_id: Option<RaftId>) {
        let mut view = self.views.watch();
        let present = self.agreement.borrow().clone();
        let mut part = Part {
            id: open_id,
            _publisher: present.map(|agreement| self.publish(agreement)),
        };
        let left_over = self.data.raft_ids();
        loop {
            let agreed = view
                .borrow_and_update()
                .agreed
                .nodes
                .get(&self.me)
                .and_then(|node| node.raft_id);
            let wanted = self.wanted(agreed, &left_over, &part).await;
            if wanted != part.id {
                self.follow(wanted, &mut part).await;
            }
            let retry = wanted != part.id;
            // All arms only wait; nothing is lost when another one wins.
            let order = tokio::select! {
                () = self.stop.cancelled() => break,
                Some(order) = self.recoveries.recv() => Some(order),
                changed = view.changed() => if changed.is_err() { break } else { None },
                () = sleep(REOPEN_PAUSE), if retry => None,
            };
            if let Some(order) = order {
                let recovered = match part.id.take() {
                    Some(old) => self.go_on_alone(old).await,
                    None => Err(not_a_server()),
                };
                if let Ok((recovered, agreement)) = &recovered {
                    self.take_part(recovered.raft_id, agreement.clone(), &mut part);
                }
                // Whoever asked may be gone; what was done stays done.
                let _ = order.send(recovered.map(|(recovered, _)| recovered));
            }
        }
        drop(part);
        let agreement = self.agreement.send_replace(None);
        if let Some(agreement) = agreement {
            agreement.shutdown().await;
        }
    }

    /// The Raft id that this node is to have. Removes logs of ids that it had before.
    async fn wanted(
        &self,
        agreed: Option<RaftId>,
        left_over: &[RaftId],
        part: &Part,
    ) -> Option<RaftId> {
        // A server that was demoted while it was down may still be a voter.
        let still = left_over
            .iter()
            .copied()
            .find(|_| part.id.is_none() && !self.has_left());
        let wanted = agreed.or(still);
        if wanted.is_none() {
            // Whatever was wrong with its Raft, this node has none any more.
            self.condition.send_replace(None);
        }
        for old in left_over
            .iter()
            .filter(|old| agreed.is_some_and(|id| id != **old))
        {
            let _ = tokio::fs::remove_dir_all(self.data.raft(*old)).await;
        }
        wanted
    }

    /// Leaves the group once that has let this node go, and takes part in the wanted one.
    async fn follow(&self, wanted: Option<RaftId>, part: &mut Part) {
        if let Some(old) = part.id.filter(|_| self.has_left()) {
            self.close(old).await;
            *part = Part::default();
        }
        let Some(id) = wanted.filter(|_| part.id.is_none()) else {
            return;
        };
        match open(&self.data, &self.me, id, self.profile, &self.net).await {
            Ok(agreement) => {
                tracing::info!(raft_id = id.0, "this node is a server");
                self.take_part(id, agreement, part);
                self.condition.send_replace(None);
            }
            Err(error) => {
                let reason = format!("{error}: {}", error.hint());
                tracing::warn!(%error, code = error.code(), "the Raft log can't be opened");
                self.set_aside_damaged(id, &error);
                self.condition.send_replace(Some(reason));
            }
        }
    }

    fn take_part(&self, id: RaftId, agreement: Agreement<Replica>, part: &mut Part) {
        *part = Part {
            id: Some(id),
            _publisher: Some(self.publish(agreement.clone())),
        };
        self.agreement.send_replace(Some(agreement));
    }

    /// Ends this server's part in its group and begins a group of its own with all that it holds.
    /// The old log is kept aside.
    async fn go_on_alone(&self, old: RaftId) -> Result<(Recovered, Agreement<Replica>), ApiError> {
        if let Some(agreement) = self.agreement.send_replace(None) {
            agreement.shutdown().await;
        }
        let (data, me) = (self.data.clone(), self.me.clone());
        let settings = Settings {
            dir: data.raft(old),
            raft_id: old,
            node: me.clone(),
            timers: timers(self.profile),
        };
        let adapted = tokio::task::spawn_blocking(move || {
            let place = |id| data.raft(id);
            let adapt = |replica: &mut Replica, at: LogIndex| {
                let alone = go_on_alone(&mut replica.0, at, wall_now(), &me, RaftId(at.0));
                if let Err(error) = alone {
                    tracing::error!(%error, "the recovered state does not know this server");
                }
            };
            recover(&settings, Replica::default(), wall_now(), place, adapt)
        });
        let recovered = adapted
            .await
            .map_err(|error| recover_failed(&error.to_string()))?
            .map_err(|error| {
                ApiError::new(error.code(), error.to_string(), error.hint()).caused_by(&error)
            })?;
        tracing::warn!(
            era = recovered.era.0,
            adopted = recovered.survey.adopted,
            "this server goes on alone"
        );
        self.data.set_aside_raft(old).map_err(ApiError::from)?;
        let id = recovered.raft_id;
        let agreement = open(&self.data, &self.me, id, self.profile, &self.net)
            .await
            .map_err(|error| {
                ApiError::new(error.code(), error.to_string(), error.hint()).caused_by(&error)
            })?;
        Ok((recovered, agreement))
    }

    /// Whether the group goes on without this node. Until then a demoted server still votes: the
    /// very change that removes it may need its vote.
    fn has_left(&self) -> bool {
        let standing = self.views.standing();
        standing.leader.is_some() && !standing.voters.contains(&self.me)
    }

    /// A damaged log is no use to anybody here, and is kept for whoever wants to look at it. This
    /// server then has none under its id and stays without a vote until it is demoted and promoted:
    /// it joins again under a new id, through a learner.
    fn set_aside_damaged(&self, id: RaftId, error: &ServerError) {
        if !matches!(error, ServerError::Open(OpenError::Damaged(_))) {
            return;
        }
        match quarantine(&self.data.raft(id)) {
            Ok(aside) => tracing::error!(?aside, "the damaged Raft log is set aside"),
            Err(error) => tracing::error!(%error, "the damaged Raft log can't be set aside"),
        }
    }

    async fn close(&self, id: RaftId) {
        tracing::info!(raft_id = id.0, "this node is no server any more");
        if let Some(agreement) = self.agreement.send_replace(None) {
            agreement.shutdown().await;
        }
        let dir = self.data.raft(id);
        if let Err(error) = tokio::fs::remove_dir_all(&dir).await {
            tracing::warn!(?dir, %error, "the old log could not be removed");
        }
    }

    /// Everything that Raft applies or learns becomes this node's view, in a pace: who waits for an
    /// index of his own takes the view himself.
    fn publish(&self, agreement: Agreement<Replica>) -> tokio_util::task::AbortOnDropHandle<()> {
        let (views, me) = (self.views.clone(), self.me.clone());
        let mut published = agreement.published();
        let mut status = agreement.status();
        tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
            let mut pace = Pace::new(PUBLISHED_APART);
            loop {
                let (revision, state) = {
                    let published = published.borrow_and_update();
                    (published.machine.0.applied, Arc::clone(&published.machine))
                };
                views.offer(revision, Arc::clone(&state.0.agreed));
                views.add_events(after(&state.0.events, views.last_event()));
                let node = state.0.agreed.nodes.get(&me);
                let serves = node.is_some_and(|node| node.raft_id.is_some());
                drop(state);
                let standing = {
                    let status = status.borrow_and_update();
                    let voters = status.voters.values().cloned().collect();
                    Standing {
                        since: StandingPlace {
                            era: status.era.0,
                            term: status.term,
                            applied: status.applied.unwrap_or_default(),
                        },
                        leader: status.leader.clone(),
                        voters,
                    }
                };
                // Without a leader this server may be the one that is cut off or was removed. One that
                // serves no more hears from others when the group has let it go.
                if serves && standing.leader.is_some() {
                    views.set_standing(standing);
                }
                pace.rest().await;
                // Both arms only wait for a change of a watched value.
                let open = tokio::select! {
                    changed = published.changed() => changed.is_ok(),
                    changed = status.changed() => changed.is_ok(),
                };
                pace.count();
                if !open {
                    break;
                }
            }
        }))
    }
}

/// Answers the other servers' Raft messages of one lane until the network stops.
pub(crate) async fn serve(
    lane: Lane,
    mut calls: mpsc::Receiver<IncomingCall>,
    agreement: AgreementRx,
    views: Views,
) {
    let mut handlers = JoinSet::new();
    while let Some(call) = calls.recv().await {
        while handlers.len() >= HANDLERS_MAX {
            handlers.join_next().await;
        }
        let agreement = agreement.borrow().clone();
        let counts = agreement
            .as_ref()
            .is_some_and(|agreement| is_server(&views, agreement, &call.from));
        handlers.spawn(async move {
            let answer = match agreement {
                Some(agreement) if !counts => {
                    agreement.handle_former(&call.body).await.unwrap_or_default()
                }
                Some(agreement) => agreement.handle(lane, call.body).await.unwrap_or_else(|error| {
                    tracing::debug!(from = call.from.short(), %error, "a Raft message was not handled");
                    Vec::new()
                }),
                None => Vec::new(),
            };
            let _ = call.reply.send(Ok(answer));
        });
    }
}

/// Whether a Raft message from this node counts: it is a server by agreement or still in the group.
fn is_server(views: &Views, agreement: &Agreement<Replica>, from: &NodeId) -> bool {
    let agreed = views
        .view()
        .agreed
        .nodes
        .get(from)
        .is_some_and(|node| node.raft_id.is_some());
    let status = agreement.status();
    let status = status.borrow();
    agreed
        || status
            .voters
            .values()
            .chain(status.learners.values())
            .any(|id| id == from)
}
