//! The handle on a running group, for use from any runtime.
//!
//! Decides what a failure means to the caller: nothing written, or outcome unknown. Never waits
//! without a bound: every operation ends within a multiple of the election timeout.

use std::{
    collections::BTreeMap,
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use consensus_core::{LogIndex, NodeId, RaftId};
use openraft::{
    ReadPolicy,
    errors::{
        ClientWriteError, Fatal, ForwardReason, ForwardToLeader, InitializeError,
        LinearizableReadError, RaftError,
    },
    raft::TransferLeaderRequest,
};
use tokio::{
    sync::{Semaphore, oneshot, watch},
    time::timeout,
};

use crate::{
    carrier::{Carrier, Lane},
    errors::{FoundError, HandleError, OpenError, ProposeError, ReadError},
    machine::{Machine, Published},
    raft_types::{Entry, Member, Snapshot, SnapshotMeta, Types},
    running::{self, Group, Running},
    status::RaftStatus,
    timers::Timers,
    wire::v1::{self, EnvelopeV1, LogIdV1, ReplyV1, RequestV1},
};

/// The largest entry: commands are small, a kubeconfig or a bundle of certificates fits.
const ENTRY_BYTES_MAX: usize = 256 * 1024;
/// Proposals waiting for their commit on one server.
const PROPOSALS_MAX: usize = 1024;
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
    proposals: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    /// Raft ends when this is taken or dropped. Behind a lock because any clone may end it.
    stop: Mutex<Option<oneshot::Sender<()>>>,
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
        let (stop, stopped) = oneshot::channel();
        let running = running::start(settings.clone(), initial, carrier, stopped).await?;
        let shared = Shared {
            running,
            settings,
            proposals: Arc::new(Semaphore::new(PROPOSALS_MAX)),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            stop: Mutex::new(Some(stop)),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
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
        // The permit goes along: a caller that gives up does not end what it began.
        let permit = Arc::clone(&self.shared.proposals).try_acquire_owned();
        let permit = permit.map_err(|_| ProposeError::Busy)?;
        let raft = self.raft();
        let write = async move {
            let _permit = permit;
            raft.client_write(Entry(entry)).await
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

    /// Answers a request that another server sent through its carrier.
    ///
    /// # Errors
    /// When the message is malformed or not for this server. The carrier then breaks the
    /// exchange off.
    pub async fn handle(&self, lane: Lane, body: Vec<u8>) -> Result<Vec<u8>, HandleError> {
        let envelope: EnvelopeV1 = v1::open_message(&body).map_err(HandleError::Malformed)?;
        drop(body);
        let own = self.shared.settings.raft_id;
        if envelope.to != own {
            return Err(HandleError::NotForUs {
                to: envelope.to,
                own,
            });
        }
        if (lane == Lane::Snapshot) != matches!(envelope.request, RequestV1::Snapshot { .. }) {
            return Err(HandleError::WrongLane);
        }
        let stopped = || HandleError::Stopped(self.failure());
        let permit = Arc::clone(&self.shared.requests).acquire_owned().await;
        let permit = permit.map_err(|_| stopped())?;
        let raft = self.raft();
        let reply = self.on_raft(async move {
            let _permit = permit;
            answer(&raft, envelope.request).await
        });
        let reply = reply.await;
        Ok(v1::message(&reply.ok_or_else(stopped)??))
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
        let raft = self.raft();
        let read = async move { raft.ensure_linearizable(ReadPolicy::ReadIndex).await };
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

    /// Ends Raft on this server and returns when the store is closed.
    pub async fn shutdown(self) {
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

    pub(crate) fn raft(&self) -> Group<M> {
        self.shared.running.raft.clone()
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Runs `work` on the Raft thread, where the timers are; nothing if Raft has ended.
    pub(crate) async fn on_raft<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.shared.running.runtime.spawn(work).await.ok()
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
        let status = self.shared.running.status.borrow();
        status
            .failure
            .clone()
            .unwrap_or_else(|| "it was shut down".to_owned())
    }
}

/// Has Raft answer a request. Runs on the Raft thread.
async fn answer<M: Machine>(raft: &Group<M>, request: RequestV1) -> Result<ReplyV1, HandleError> {
    let malformed = HandleError::Malformed;
    match request {
        RequestV1::Append {
            vote,
            prev,
            entries,
            commit,
        } => {
            let request = v1::append_request(vote, prev, entries, commit).map_err(malformed)?;
            let reply = raft.append_entries(request).await.map_err(stopped)?;
            Ok(ReplyV1::Append((&reply).into()))
        }
        RequestV1::Vote {
            vote,
            last,
            transfer,
        } => {
            let request = v1::vote_request(vote, last, transfer);
            Ok((&raft.vote(request).await.map_err(stopped)?).into())
        }
        RequestV1::PreVote {
            vote,
            last,
            transfer,
        } => {
            let request = v1::vote_request(vote, last, transfer);
            Ok((&raft.pre_vote(request).await.map_err(stopped)?).into())
        }
        RequestV1::Transfer { from, to, last } => {
            let request = TransferLeaderRequest::new(from.into(), to, LogIdV1::back(last));
            let reply = raft.handle_transfer_leader(request).await.map_err(fatal)?;
            Ok(ReplyV1::Transfer((&reply).into()))
        }
        RequestV1::Snapshot { vote, meta, state } => {
            let meta = SnapshotMeta::try_from(meta).map_err(malformed)?;
            // Checked here because a state that Raft itself cannot install stops it for good.
            M::decode(&state).map_err(malformed)?;
            let snapshot = Snapshot {
                meta,
                snapshot: state,
            };
            let reply = raft
                .install_full_snapshot(vote.into(), snapshot)
                .await
                .map_err(fatal)?;
            Ok(ReplyV1::Snapshot {
                vote: (&reply.vote).into(),
            })
        }
    }
}

fn stopped(error: RaftError<Types>) -> HandleError {
    HandleError::Stopped(error.to_string())
}

fn fatal(error: Fatal<Types>) -> HandleError {
    HandleError::Stopped(error.to_string())
}
