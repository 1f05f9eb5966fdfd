//! Asking Raft again where it refused only because answers come late.
//!
//! Decides when that is: a majority answers, if too late for the leader's lease, and nothing was
//! written. Then another heartbeat may be answered in time. Never: to repeat what may have been
//! written, or what another server could carry out.
//!
//! Invariant: it ends within the time that a commit is waited for.

use std::{future::Future, time::Duration};

use openraft::errors::{ClientWriteError, ForwardReason, LinearizableReadError, RaftError};
use tokio::sync::watch;

use crate::{
    clock,
    raft_types::Types,
    status::{RaftStatus, Role},
    timers::Timers,
};

/// Answers may be as old as so many longest election timeouts: as late as one may be and still be
/// listened for, and a heartbeat or two.
const LATELY_ELECTIONS: u32 = 2;

/// Asks again while a majority answers.
pub(crate) struct Again {
    pub(crate) status: watch::Receiver<RaftStatus>,
    pub(crate) timers: Timers,
}

/// A refusal of Raft's that may be over with the next heartbeat.
pub(crate) trait Passing {
    /// Whether nothing was written, for answers came too late.
    fn is_passing(&self) -> bool;
}

impl Passing for ClientWriteError<Types> {
    fn is_passing(&self) -> bool {
        let forward = match self {
            Self::ForwardToLeader(forward) => Some(&forward.reason),
            Self::ChangeMembershipError(_)
            | Self::LogEntryDiscarded(_)
            | Self::PreconditionFailed(_) => None,
        };
        forward == Some(&ForwardReason::LeaseExpired)
    }
}

impl Passing for LinearizableReadError<Types> {
    fn is_passing(&self) -> bool {
        match self {
            Self::QuorumNotEnough(_) => true,
            Self::ForwardToLeader(_) => false,
        }
    }
}

impl Again {
    /// What Raft says to `ask` in the end.
    pub(crate) async fn asked<T, E: Passing, A>(
        self,
        ask: impl Fn() -> A,
    ) -> Result<T, RaftError<Types, E>>
    where
        A: Future<Output = Result<T, RaftError<Types, E>>>,
    {
        let end = clock::Instant::now() + self.timers.commit_wait();
        let pause = self.timers.heartbeat;
        loop {
            let answer = ask().await;
            let passing = matches!(&answer, Err(RaftError::APIError(error)) if error.is_passing());
            if !passing || !self.is_answered() || clock::Instant::now() + pause >= end {
                return answer;
            }
            clock::sleep(pause).await;
        }
    }

    fn is_answered(&self) -> bool {
        let lately: Duration = self.timers.election_max * LATELY_ELECTIONS;
        let status = self.status.borrow();
        status.role == Role::Leader && status.majority_ago().is_some_and(|ago| ago <= lately)
    }
}
