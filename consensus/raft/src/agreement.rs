//! The handle on a running group, for use from any runtime.
//!
//! Decides what a failure means to the caller: nothing written, or outcome unknown. Never waits
//! without a bound: every operation ends within a multiple of the election timeout.

use std::{
    collections::BTreeMap,
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Duration,
};

use consensus_core::{LogIndex, NodeId, RaftId};
use openraft::{
    ReadPolicy,
    errors::{
        ClientWriteError, ForwardReason, ForwardToLeader, InitializeError, LinearizableReadError,
        RaftError,
    },
};
use tokio::{
    sync::{self, OwnedSemaphorePermit, Semaphore, oneshot, watch},
    task::JoinHandle,
};

use crate::{
    again::Again,
    answering::PIECES_MAX,
    carrier::Carrier,
    clock::timeout,
    compaction::{self, Written},
    era::Era,
    errors::{FoundError, OpenError, ProposeError, ReadError, WaitError},
    fence::{self, Listening},
    hearing::Led,
    machine::{Machine, Published},
    raft_types::{Entry, Member, Types},
    running::{self, Group, Running},
    status::RaftStatus,
    timers::Timers,
    transfer::Incoming,
};

/// The largest entry: commands are small, a kubeconfig or a bundle of certificates fits.
const ENTRY_BYTES_MAX: usize = 256 * 1024;
/// Proposals waiting for their commit on one server.
const PROPOSALS_MAX: usize = 1024;
/// Bytes of the entries among them: 128 of the largest, or 32 KiB for each.
const PROPOSAL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Reads waiting for their index or for it to be applied. They hold no entry, so many may wait.
const READS_MAX: usize = 8192;
/// Incoming requests being handled at once; more would be a peer gone wild.
const REQUESTS_MAX: usize = 256;
/// A voter that has not answered for this many longest election timeouts counts as unreachable.
const SILENCE_ELECTIONS: u32 = 1;

/// Where and as whom a server takes part.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The store's directory; made if missing.
    pub dir: PathBuf,
    /// This server's Raft id.
    pub raft_id: RaftId,
    /// This server's node id.
    pub node: NodeId,
    /// How patient Raft is.
    pub timers: Timers,
}

/// A handle on this server's part in the group. Clones share it; Raft ends with the last one.
pub struct Agreement<M: Machine> {
    shared: Arc<Shared<M>>,
}

impl<M: Machine> Clone for Agreement<M> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

struct Shared<M: Machine> {
    running: Running<M>,
    settings: Settings,
    bounds: Bounds,
    /// Behind an async lock because a snapshot is put into force under it, which takes a while.
    incoming: Arc<sync::Mutex<Incoming>>,
    written: Arc<Written>,
    /// Set once the store has a term: it never leaves its era.
    era: OnceLock<Era>,
    /// The era that went on without this server, if one did.
    fenced: watch::Receiver<Option<Era>>,
    /// Raft ends when this is taken or dropped. Behind a lock because any clone may end it.
    stop: Mutex<Option<oneshot::Sender<()>>>,
}

/// How much may be under way at once.
struct Bounds {
    proposals: Arc<Semaphore>,
    proposal_bytes: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    pieces: Arc<Semaphore>,
}

impl Bounds {
    fn new() -> Self {
        let bound = |count| Arc::new(Semaphore::new(count));
        Self {
            proposals: bound(PROPOSALS_MAX),
            proposal_bytes: bound(PROPOSAL_BYTES_MAX),
            reads: bound(READS_MAX),
            requests: bound(REQUESTS_MAX),
            pieces: bound(PIECES_MAX),
        }
    }

    /// Room for a proposal, by count and by bytes.
    fn proposal(&self, bytes: usize) -> Option<[OwnedSemaphorePermit; 2]> {
        let one = Arc::clone(&self.proposals).try_acquire_owned().ok()?;
        let bytes = u32::try_from(bytes).ok()?;
        let all = Arc::clone(&self.proposal_bytes);
        Some([one, all.try_acquire_many_owned(bytes).ok()?])
    }
}

/// An answer from Raft that did not come in time.
pub(crate) struct Late;

impl<M: Machine> Agreement<M> {
    /// Opens the store and starts Raft in a thread of its own. A new store waits to be founded
    /// or to be added by a leader.
    ///
    /// # Errors
    /// When the store is in use, damaged or another server's, or the disk refuses.
    pub async fn open(
        settings: Settings,
        initial: M,
        carrier: Arc<dyn Carrier>,
    ) -> Result<Self, OpenError> {
        fence::check(&settings.dir)?;
        let (stop, stopped) = oneshot::channel();
        let (carrier, told) = Listening::new(carrier, settings.dir.clone());
        let running = running::start(settings.clone(), initial, carrier, stopped).await?;
        Ok(Self::around(running, settings, stop, told))
    }

    /// The same in a simulated process instead of a thread, within the caller's runtime and on
    /// the process's disk: the directory in the settings is not looked at.
    ///
    /// # Errors
    /// As [`Agreement::open`].
    #[cfg(feature = "simulation")]
    pub async fn open_in(
        process: crate::simulation::Process,
        settings: Settings,
        initial: M,
        carrier: Arc<dyn Carrier>,
    ) -> Result<Self, OpenError> {
        let (stop, stopped) = oneshot::channel();
        let (carrier, told) = Listening::new(carrier, settings.dir.clone());
        let running =
            running::start_in(process, settings.clone(), initial, carrier, stopped).await?;
        Ok(Self::around(running, settings, stop, told))
    }

    fn around(
        running: Running<M>,
        settings: Settings,
        stop: oneshot::Sender<()>,
        fenced: watch::Receiver<Option<Era>>,
    ) -> Self {
        let shared = Arc::new(Shared {
            running,
            settings,
            bounds: Bounds::new(),
            incoming: Arc::default(),
            written: Arc::default(),
            era: OnceLock::new(),
            fenced,
            stop: Mutex::new(Some(stop)),
        });
        // Both end with Raft.
        let written = Arc::clone(&shared.written);
        let (raft, status) = (shared.running.raft.clone(), shared.running.status.clone());
        let patience = shared.settings.timers.election_max;
        let home = &shared.running.home;
        drop(home.spawn(compaction::run(raft, status, written, patience)));
        drop(home.spawn(end_when_fenced(
            shared.fenced.clone(),
            Arc::downgrade(&shared),
        )));
        Self { shared }
    }

    /// Founds a group of which this server is the only voter.
    ///
    /// # Errors
    /// When this server already belongs to a group.
    pub async fn found(&self) -> Result<(), FoundError> {
        let Settings { raft_id, node, .. } = &self.shared.settings;
        let members = BTreeMap::from([(raft_id.0, Member(Some(node.clone())))]);
        let raft = self.raft();
        let founded = self
            .on_raft(async move { raft.initialize(members).await })
            .await;
        match founded.ok_or_else(|| FoundError::Stopped(self.failure()))? {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(
                InitializeError::NotAllowed(_) | InitializeError::NotInMembers(_),
            )) => Err(FoundError::AlreadyFounded),
            Err(RaftError::Fatal(fatal)) => Err(FoundError::Stopped(fatal.to_string())),
        }
    }

    /// Has `entry` agreed and applied; gives its index and the machine's answer.
    ///
    /// # Errors
    /// See [`ProposeError`]; after some of them the outcome is unknown.
    pub async fn propose(&self, entry: Vec<u8>) -> Result<(LogIndex, Vec<u8>), ProposeError> {
        let bytes = entry.len();
        if bytes > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge {
                bytes,
                bytes_max: ENTRY_BYTES_MAX,
            });
        }
        if self.shared.fenced.borrow().is_some() {
            return Err(ProposeError::Stopped(self.failure()));
        }
        // The permit goes along: a caller that gives up does not end what it began.
        let permits = self.shared.bounds.proposal(bytes);
        let permits = permits.ok_or(ProposeError::Busy)?;
        self.shared.written.add(bytes);
        let (raft, again) = (self.raft(), self.again());
        let write = async move {
            let _permits = permits;
            let write = || raft.client_write(Entry(entry.clone()));
            again.asked(write).await
        };
        let written = self.on_raft(self.in_commit_time(write)).await;
        match written.ok_or_else(|| ProposeError::Stopped(self.failure()))? {
            Ok(Ok(written)) => Ok((LogIndex(written.log_id.index), written.data.0)),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => {
                Err(self.elsewhere(to).map_or_else(
                    |(reachable, needed)| ProposeError::NoMajority { reachable, needed },
                    |leader| ProposeError::NotLeader { leader },
                ))
            }
            Ok(Err(RaftError::Fatal(fatal))) => Err(ProposeError::Stopped(fatal.to_string())),
            // A plain proposal has no precondition and changes no members.
            Err(Late)
            | Ok(Err(RaftError::APIError(
                ClientWriteError::LogEntryDiscarded(_)
                | ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_),
            ))) => {
                let (reachable, needed) = self.majority();
                Err(ProposeError::OutcomeUnknown { reachable, needed })
            }
        }
    }

    /// Follows the replicated state.
    pub fn published(&self) -> watch::Receiver<Published<M>> {
        self.shared.running.published.clone()
    }

    /// Follows this server's place in the group.
    pub fn status(&self) -> watch::Receiver<RaftStatus> {
        self.shared.running.status.clone()
    }

    /// Confirms with a majority that this server still leads and waits until it has applied
    /// everything agreed before the call. A state published at or after the returned index
    /// answers a linearizable read, on any server.
    ///
    /// # Errors
    /// When this server does not lead, or no majority confirms it in time.
    pub async fn read_index(&self) -> Result<LogIndex, ReadError> {
        if self.shared.fenced.borrow().is_some() {
            return Err(ReadError::Stopped(self.failure()));
        }
        #[cfg(feature = "planted-bugs")]
        if let Some(index) = self.unconfirmed_index().await {
            return Ok(index);
        }
        let permit = Arc::clone(&self.shared.bounds.reads).try_acquire_owned();
        let permit = permit.map_err(|_| ReadError::Busy)?;
        let raft = self.raft();
        let again = self.again();
        let read = async move {
            let _permit = permit;
            let read = || raft.ensure_linearizable(ReadPolicy::ReadIndex);
            again.asked(read).await
        };
        let confirmed = self.on_raft(self.in_commit_time(read)).await;
        match confirmed.ok_or_else(|| ReadError::Stopped(self.failure()))? {
            Ok(Ok(at)) => Ok(LogIndex(at.log_id().index)),
            Ok(Err(RaftError::Fatal(fatal))) => Err(ReadError::Stopped(fatal.to_string())),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => {
                Err(self.elsewhere(to).map_or_else(
                    |(reachable, needed)| ReadError::NoMajority { reachable, needed },
                    |leader| ReadError::NotLeader { leader },
                ))
            }
            Err(Late) | Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => {
                let (reachable, needed) = self.majority();
                Err(ReadError::NoMajority { reachable, needed })
            }
        }
    }

    /// Waits until this server has applied `index`, at most `limit`, and gives the state then.
    /// With an index from the leader's [`Agreement::read_index`] any server answers a
    /// linearizable read from it.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub async fn applied_at_least(
        &self,
        index: LogIndex,
        limit: Duration,
    ) -> Result<Published<M>, WaitError> {
        let mut published = self.published();
        let now = published.borrow().clone();
        if now.index >= index {
            return Ok(now);
        }
        let permit = Arc::clone(&self.shared.bounds.reads).try_acquire_owned();
        let permit = permit.map_err(|_| WaitError::Busy)?;
        let waited = self.on_raft(async move {
            let _permit = permit;
            let reached = published.wait_for(|now| now.index >= index);
            let state = timeout(limit, reached).await;
            let state = state.map(|state| state.map(|state| state.clone()).ok());
            state.map_err(|_| published.borrow().index)
        });
        match waited.await {
            Some(Ok(Some(state))) => Ok(state),
            Some(Err(applied)) => Err(WaitError::Behind { index, applied }),
            Some(Ok(None)) | None => Err(WaitError::Stopped(self.failure())),
        }
    }

    /// Follows whether the group went on without this server, and in which era. Once it did,
    /// Raft has ended here for good.
    pub fn fenced(&self) -> watch::Receiver<Option<Era>> {
        self.shared.fenced.clone()
    }

    /// Ends Raft on this server and returns when the store is closed. A leader first hands over
    /// to another voter if one answers.
    pub async fn shutdown(self) {
        if let Err(error) = self.hand_over().await {
            tracing::debug!(%error, "leadership was not handed over");
        }
        let mut closed = self.shared.running.closed.clone();
        drop(
            self.shared
                .stop
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        drop(self);
        // The thread never sends: an error means that it has dropped its end.
        while closed.changed().await.is_ok() {}
    }

    /// For what Raft may refuse only because answers come late.
    pub(crate) fn again(&self) -> Again {
        Again {
            status: self.status(),
            timers: self.settings().timers,
        }
    }

    pub(crate) fn raft(&self) -> Group<M> {
        self.shared.running.raft.clone()
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    pub(crate) fn incoming(&self) -> Arc<sync::Mutex<Incoming>> {
        Arc::clone(&self.shared.incoming)
    }

    pub(crate) fn written(&self) -> &Written {
        &self.shared.written
    }

    pub(crate) fn led(&self) -> Led {
        self.shared.running.led.clone()
    }

    pub(crate) fn known_era(&self) -> &OnceLock<Era> {
        &self.shared.era
    }

    pub(crate) fn requests(&self) -> Arc<Semaphore> {
        Arc::clone(&self.shared.bounds.requests)
    }

    pub(crate) fn pieces(&self) -> Arc<Semaphore> {
        Arc::clone(&self.shared.bounds.pieces)
    }

    /// Runs `work` on the Raft thread, where the timers are; nothing if Raft has ended.
    pub(crate) async fn on_raft<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.beside_raft(work).await.ok()
    }

    /// Begins `work` on the Raft thread. It ends with Raft.
    pub(crate) fn beside_raft<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.shared.running.home.spawn(work)
    }

    /// Bounds `work` by the time a commit may take.
    pub(crate) fn in_commit_time<W: Future + Send>(
        &self,
        work: W,
    ) -> impl Future<Output = Result<W::Output, Late>> + Send + use<W, M> {
        let limit = self.settings().timers.commit_wait();
        // Made inside, because a timer can only be made on the Raft thread.
        async move { timeout(limit, work).await.map_err(|_| Late) }
    }

    /// Where a refused request should go: to the leader, or nowhere when a majority is missing.
    pub(crate) fn elsewhere(
        &self,
        to: ForwardToLeader<Types>,
    ) -> Result<Option<NodeId>, (usize, usize)> {
        let own = self.settings().raft_id.0;
        match to.reason {
            ForwardReason::LeaseExpired => Err(self.majority()),
            ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
                let leader = to.leader_id.filter(|id| *id != own);
                Ok(leader.and(to.leader_node).and_then(|member| member.0))
            }
        }
    }

    /// Voters that answered lately, and voters needed.
    pub(crate) fn majority(&self) -> (usize, usize) {
        let status = self.shared.running.status.borrow();
        let span = self.settings().timers.election_max * SILENCE_ELECTIONS;
        (status.reachable(span), status.needed)
    }

    pub(crate) fn failure(&self) -> String {
        if let Some(era) = *self.shared.fenced.borrow() {
            return format!("the group was recovered without this server, in era {era}");
        }
        let status = self.shared.running.status.borrow();
        status
            .failure
            .clone()
            .unwrap_or_else(|| "it was shut down".to_owned())
    }
}

/// Ends Raft once it is known that the group went on without this server.
async fn end_when_fenced<M: Machine>(
    mut fenced: watch::Receiver<Option<Era>>,
    shared: Weak<Shared<M>>,
) {
    if fenced.wait_for(Option::is_some).await.is_ok()
        && let Some(shared) = shared.upgrade()
    {
        let mut stop = shared.stop.lock().unwrap_or_else(PoisonError::into_inner);
        drop(stop.take());
    }
}
