//! Answers to requests, and how they become openraft's and back.
//!
//! Decides nothing.

use openraft::raft::{AppendEntriesResponse, TransferLeaderError, VoteResponse};
use serde::{Deserialize, Serialize};

use super::{LogIdV1, ReplyV1, VoteV1};
use crate::raft_types::Types;

/// The answer to an append.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum AppendReplyV1 {
    Success,
    Partial(Option<LogIdV1>),
    Conflict,
    HigherVote(VoteV1),
}

impl AppendReplyV1 {
    /// Whether it came from the leader that is followed.
    pub(crate) fn is_taken(&self) -> bool {
        !matches!(self, Self::HigherVote(_))
    }
}

/// The answer to a transfer of leadership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TransferReplyV1 {
    Taken,
    VoteChanged {
        expected: VoteV1,
        actual: VoteV1,
    },
    LogNotFlushed {
        expected: Option<LogIdV1>,
        actual: Option<LogIdV1>,
    },
}

impl From<&AppendEntriesResponse<Types>> for AppendReplyV1 {
    fn from(reply: &AppendEntriesResponse<Types>) -> Self {
        match reply {
            AppendEntriesResponse::Success => Self::Success,
            AppendEntriesResponse::PartialSuccess(at) => Self::Partial(LogIdV1::of(at.as_ref())),
            AppendEntriesResponse::Conflict => Self::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<AppendReplyV1> for AppendEntriesResponse<Types> {
    fn from(reply: AppendReplyV1) -> Self {
        match reply {
            AppendReplyV1::Success => Self::Success,
            AppendReplyV1::Partial(at) => Self::PartialSuccess(LogIdV1::back(at)),
            AppendReplyV1::Conflict => Self::Conflict,
            AppendReplyV1::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<&VoteResponse<Types>> for ReplyV1 {
    fn from(reply: &VoteResponse<Types>) -> Self {
        Self::Vote {
            vote: (&reply.vote).into(),
            granted: reply.vote_granted,
            last: LogIdV1::of(reply.last_log_id.as_ref()),
        }
    }
}

impl From<&Result<(), TransferLeaderError<Types>>> for TransferReplyV1 {
    fn from(reply: &Result<(), TransferLeaderError<Types>>) -> Self {
        match reply {
            Ok(()) => Self::Taken,
            Err(TransferLeaderError::VoteChanged { expected, actual }) => Self::VoteChanged {
                expected: expected.into(),
                actual: actual.into(),
            },
            Err(TransferLeaderError::LogNotFlushed { expected, actual }) => Self::LogNotFlushed {
                expected: LogIdV1::of(expected.as_ref()),
                actual: LogIdV1::of(actual.as_ref()),
            },
        }
    }
}

impl From<TransferReplyV1> for Result<(), TransferLeaderError<Types>> {
    fn from(reply: TransferReplyV1) -> Self {
        match reply {
            TransferReplyV1::Taken => Ok(()),
            TransferReplyV1::VoteChanged { expected, actual } => {
                Err(TransferLeaderError::VoteChanged {
                    expected: expected.into(),
                    actual: actual.into(),
                })
            }
            TransferReplyV1::LogNotFlushed { expected, actual } => {
                Err(TransferLeaderError::LogNotFlushed {
                    expected: LogIdV1::back(expected),
                    actual: LogIdV1::back(actual),
                })
            }
        }
    }
}
