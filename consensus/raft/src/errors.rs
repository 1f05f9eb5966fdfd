//! What can go wrong, one enum per operation, each with a stable code and a hint.
//!
//! Decides which failures leave the outcome unknown: those, and only those, may be retried only
//! with the same request id.

use consensus_core::{LogIndex, NodeId, RaftId};

use crate::era::Era;

/// Why a store's content cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreDamage {
    /// A record's checksum does not match its content.
    #[error("the checksum of {0} does not match")]
    Checksum(String),
    /// A record was written by a newer release.
    #[error("{what} has format {format}, this release reads format 1")]
    Format {
        /// The record.
        what: String,
        /// Its format byte.
        format: u8,
    },
    /// A record passes its checksum but makes no sense.
    #[error("{0} cannot be decoded")]
    Undecodable(String),
    /// The log has a gap.
    #[error("the log jumps from entry {before} to entry {after}")]
    Gap {
        /// The index before the gap, or of the last purged entry.
        before: LogIndex,
        /// The index after the gap.
        after: LogIndex,
    },
    /// The log does not begin where it should.
    #[error("the log begins with entry {0}, and no snapshot covers what is before it")]
    HeadMissing(LogIndex),
    /// Entries that were agreed are missing at the end.
    #[error("entries up to {committed} were agreed but the log ends with entry {last}")]
    TailMissing {
        /// The last entry known to be agreed.
        committed: LogIndex,
        /// The last entry that is there.
        last: LogIndex,
    },
    /// The log was purged further than the snapshot reaches.
    #[error("the log was purged up to {purged} but the snapshot reaches only {snapshot}")]
    SnapshotBehind {
        /// The last purged entry.
        purged: LogIndex,
        /// The last entry in the snapshot.
        snapshot: LogIndex,
    },
    /// A part of the log is not what was written, or is not there.
    #[error("{0}")]
    Log(String),
    /// There is a snapshot and no log at all, and so no vote.
    #[error("the log is missing")]
    LogMissing,
}

/// Why an agreement could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the store.
    #[error("another process uses the store at {0}")]
    InUse(String),
    /// The store belongs to another Raft id or node.
    #[error("the store belongs to Raft id {} of {found_node}", found.0)]
    OtherOwner {
        /// The Raft id in the store.
        found: RaftId,
        /// The node in the store.
        found_node: NodeId,
    },
    /// The store's content cannot be trusted.
    #[error("the store is damaged")]
    Damaged(#[source] StoreDamage),
    /// The disk or the operating system refused.
    #[error("the store could not be opened")]
    Io(#[source] std::io::Error),
    /// The group was recovered without this server.
    #[error("the group was recovered without this server, in era {era}")]
    Fenced {
        /// The era that it went on in.
        era: Era,
    },
    /// The timers contradict each other.
    #[error("the timers are unusable: {0}")]
    Timers(String),
    /// Raft itself did not start.
    #[error("Raft did not start: {0}")]
    Raft(String),
}

impl OpenError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InUse(_) => "StoreInUse",
            Self::OtherOwner { .. } => "StoreOfOtherServer",
            Self::Damaged(_) => "StoreDamaged",
            Self::Io(_) => "StoreUnavailable",
            Self::Fenced { .. } => "Fenced",
            Self::Timers(_) => "TimersInvalid",
            Self::Raft(_) => "RaftFailed",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::InUse(_) => "stop the other shoald on this machine",
            Self::OtherOwner { .. } => "use the state directory that belongs to this node's key",
            Self::Damaged(_) => {
                "move the store aside and let the server join again as a new learner; \
                 never copy a store from another server"
            }
            Self::Io(_) => "check the disk's free space and the directory's owner",
            Self::Fenced { .. } => {
                "move the store aside and let the server join again as a new learner"
            }
            Self::Timers(_) => "choose one of the profiles safe, lan or wan",
            Self::Raft(_) => "look into the log for the reason",
        }
    }
}

/// Why a group could not be founded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoundError {
    /// This server already belongs to a group.
    #[error("this server already belongs to a group")]
    AlreadyFounded,
    /// Raft has stopped.
    #[error("Raft has stopped: {0}")]
    Stopped(String),
}

/// Why a proposal has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This server does not lead. Nothing was written.
    #[error("this server does not lead")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Too few servers answer. Nothing was written.
    #[error("{reachable} servers answer and {needed} are needed")]
    NoMajority {
        /// Voters that answered lately, this one included.
        reachable: usize,
        /// Voters needed.
        needed: usize,
    },
    /// The entry was written here but its fate is not known: it may or may not be agreed later.
    #[error("the outcome is unknown: {reachable} servers answer and {needed} are needed")]
    OutcomeUnknown {
        /// Voters that answered lately, this one included if it still leads.
        reachable: usize,
        /// Voters needed.
        needed: usize,
    },
    /// Too many proposals are waiting. Nothing was written.
    #[error("too many proposals are waiting, or too large ones")]
    Busy,
    /// The entry is too large. Nothing was written.
    #[error("the entry has {bytes} bytes and at most {bytes_max} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Raft has stopped on this server; the outcome is unknown.
    #[error("Raft has stopped: {0}")]
    Stopped(String),
}

impl ProposeError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "NotLeader",
            Self::NoMajority { .. } => "NoMajority",
            Self::OutcomeUnknown { .. } => "OutcomeUnknown",
            Self::Busy => "Busy",
            Self::TooLarge { .. } => "TooLarge",
            Self::Stopped(_) => "RaftStopped",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "send the command to the leader",
            Self::NoMajority { .. } => "bring back enough servers to make a majority",
            Self::OutcomeUnknown { .. } => "send the same request again, with the same request id",
            Self::Busy => "try again in a moment",
            Self::TooLarge { .. } => "split the command",
            Self::Stopped(_) => "send the same request to another server, with the same request id",
        }
    }

    /// Whether the entry may yet be agreed although there is no answer.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::OutcomeUnknown { .. } | Self::Stopped(_))
    }
}

/// Why an incoming message has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandleError {
    /// The message is not understood.
    #[error("the message is not understood: {0}")]
    Malformed(String),
    /// The message is for another Raft id: its sender believes in a server that is gone.
    #[error("the message is for Raft id {} and this is {}", to.0, own.0)]
    NotForUs {
        /// Whom it is for.
        to: RaftId,
        /// Who we are.
        own: RaftId,
    },
    /// The message is larger than any that a server sends on this lane.
    #[error("the message has {bytes} bytes and at most {bytes_max} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The message is of a later era: the group was recovered, and not with this server.
    #[error("the message is of era {theirs} and this server's is {own}")]
    OtherEra {
        /// The message's era.
        theirs: Era,
        /// This server's.
        own: Era,
    },
    /// The message came on the wrong lane.
    #[error("the message came on the wrong lane")]
    WrongLane,
    /// Raft has stopped.
    #[error("Raft has stopped: {0}")]
    Stopped(String),
}

/// Why a change of members did not happen or is not known to have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This server does not lead.
    #[error("this server does not lead")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Too few servers answer. Nothing was written.
    #[error("{reachable} servers answer and {needed} are needed")]
    NoMajority {
        /// Voters that answered lately, this one included.
        reachable: usize,
        /// Voters needed.
        needed: usize,
    },
    /// Another change is under way.
    #[error("another change of members is under way")]
    InProgress,
    /// A server must be a learner before it votes.
    #[error("server {} is no learner", .0.0)]
    NotALearner(RaftId),
    /// The change is not allowed.
    #[error("the change is not allowed: {0}")]
    Refused(String),
    /// The learner has not caught up in time; it goes on catching up.
    #[error("learner {} has not caught up yet", .0.0)]
    NotCaughtUp(RaftId),
    /// The id belongs to another server.
    #[error("Raft id {} belongs to another server", .0.0)]
    IdTaken(RaftId),
    /// Too few of the new voters answer to make a majority of them. Nothing was written.
    #[error("{reachable} of the new voters answer and {needed} are needed")]
    LosesMajority {
        /// New voters that answered lately, this one included.
        reachable: usize,
        /// The majority of the new voters.
        needed: usize,
    },
    /// More voters than a group may have. Nothing was written.
    #[error("{voters} voters are too many, at most {voters_max} are allowed")]
    TooManyVoters {
        /// How many there would be.
        voters: usize,
        /// The limit.
        voters_max: usize,
    },
    /// A group without voters. Nothing was written.
    #[error("a group needs a voter")]
    NoVoters,
    /// The change was written but is not known to be agreed.
    #[error("the outcome is unknown")]
    OutcomeUnknown,
    /// Raft has stopped.
    #[error("Raft has stopped: {0}")]
    Stopped(String),
}

impl ChangeError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "NotLeader",
            Self::NoMajority { .. } => "NoMajority",
            Self::InProgress => "ChangeInProgress",
            Self::NotALearner(_) => "NotALearner",
            Self::Refused(_) => "ChangeRefused",
            Self::NotCaughtUp(_) => "NotCaughtUp",
            Self::IdTaken(_) => "RaftIdTaken",
            Self::LosesMajority { .. } => "LosesMajority",
            Self::TooManyVoters { .. } => "TooManyVoters",
            Self::NoVoters => "NoVoters",
            Self::OutcomeUnknown => "OutcomeUnknown",
            Self::Stopped(_) => "RaftStopped",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "send the command to the leader",
            Self::NoMajority { .. } => "bring back enough servers to make a majority",
            Self::InProgress => "wait for the other change to end",
            Self::NotALearner(_) => "add the server as a learner first",
            Self::Refused(_) => "look at the present voters and learners",
            Self::NotCaughtUp(_) => "check the path between the leader and the learner, then wait",
            Self::IdTaken(_) => "let the server join under a new id",
            Self::LosesMajority { .. } => {
                "bring back voters first, or remove the ones that are gone; a forced change that \
                 finds no majority stops the whole group until enough of them are back"
            }
            Self::TooManyVoters { .. } => "demote a voter first",
            Self::NoVoters => "leave at least one voter",
            Self::OutcomeUnknown => "look at the present voters before trying again",
            Self::Stopped(_) => "look into the log for the reason",
        }
    }
}

/// Why a transfer of leadership did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This server does not lead.
    #[error("this server does not lead")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// The chosen server does not vote.
    #[error("server {} is no voter", .0.0)]
    NotAVoter(RaftId),
    /// The chosen server did not take over in time.
    #[error("server {} did not take over in time", .0.0)]
    NotTaken(RaftId),
    /// Raft has stopped.
    #[error("Raft has stopped: {0}")]
    Stopped(String),
}

/// Why a read index could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This server does not lead.
    #[error("this server does not lead")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// Too few servers confirmed that this one still leads.
    #[error("{reachable} servers answer and {needed} are needed")]
    NoMajority {
        /// Voters that answered lately, this one included.
        reachable: usize,
        /// Voters needed.
        needed: usize,
    },
    /// Too many reads are waiting.
    #[error("too many reads are waiting")]
    Busy,
    /// Raft has stopped.
    #[error("Raft has stopped: {0}")]
    Stopped(String),
}

/// Why a server did not get as far as a read needs it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// It did not get there in time.
    #[error("this server has applied entry {applied} and {index} is needed")]
    Behind {
        /// The entry that is needed.
        index: LogIndex,
        /// The last one that was applied.
        applied: LogIndex,
    },
    /// Too many reads are waiting.
    #[error("too many reads are waiting")]
    Busy,
    /// Raft has stopped.
    #[error("Raft has stopped: {0}")]
    Stopped(String),
}

impl WaitError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Behind { .. } => "Behind",
            Self::Busy => "Busy",
            Self::Stopped(_) => "RaftStopped",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Behind { .. } => "ask the leader, or ask for a stale read",
            Self::Busy => "try again in a moment",
            Self::Stopped(_) => "ask another server",
        }
    }
}

impl FoundError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AlreadyFounded => "AlreadyFounded",
            Self::Stopped(_) => "RaftStopped",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::AlreadyFounded => "use the group that it belongs to, or an empty state directory",
            Self::Stopped(_) => "look into the log for the reason",
        }
    }
}

impl TransferError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "NotLeader",
            Self::NotAVoter(_) => "NotAVoter",
            Self::NotTaken(_) => "TransferNotTaken",
            Self::Stopped(_) => "RaftStopped",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "send the command to the leader",
            Self::NotAVoter(_) => "choose one of the voters",
            Self::NotTaken(_) => {
                "check that the chosen server is reachable and caught up, then try again"
            }
            Self::Stopped(_) => "look into the log for the reason",
        }
    }
}

impl ReadError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "NotLeader",
            Self::NoMajority { .. } => "NoMajority",
            Self::Busy => "Busy",
            Self::Stopped(_) => "RaftStopped",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "send the command to the leader",
            Self::NoMajority { .. } => "bring back enough servers to make a majority",
            Self::Busy => "try again in a moment",
            Self::Stopped(_) => "look into the log for the reason",
        }
    }
}
