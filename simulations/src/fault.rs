//! What can go wrong in the world, as values.
//!
//! Decides nothing; [`strike`](crate::strike) carries it out. Every fault counts what it hit: one
//! that hit nothing fails the run, because whoever wrote it believes that it was survived.

use std::{fmt, time::Duration};

use crate::random::Span;

/// Which nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nodes {
    /// These, counted from 0.
    Index(Vec<usize>),
    /// So many, drawn anew in every run.
    Count(usize),
    /// So many of a hundred, drawn anew in every run; at least one.
    Percent(u32),
    /// All of a region.
    Region(String),
    /// Every second one, so that the halves mingle in every ring.
    Half,
    /// All that the fault's other side does not name.
    Others,
    /// So many of whom the first node of the other side holds connections to.
    Peers(usize),
    /// So many of whom it holds none to, so that it neither watches them nor is watched by them.
    Strangers(usize),
}

/// What a restarted process finds of what it had written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// Everything: it counts its starts on.
    Kept,
    /// Nothing but its key: it counts its starts from the beginning.
    Lost,
}

/// One disturbance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// When it begins, after the calm.
    pub at: Duration,
    /// When it ends after that; never, if not given.
    pub lasts: Option<Duration>,
    /// What it is.
    pub what: What,
}

/// The kinds of disturbance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The hosts lose power: peers notice nothing but silence. They start again at the end.
    Crash {
        /// Which.
        nodes: Nodes,
        /// What the next start finds.
        disk: Disk,
    },
    /// The processes are killed, the hosts live: peers see their connections close.
    Kill {
        /// Which.
        nodes: Nodes,
        /// What the next start finds.
        disk: Disk,
    },
    /// The nodes say goodbye and end. They start again at the end.
    Leave {
        /// Which.
        nodes: Nodes,
    },
    /// The processes stand still; what arrives meanwhile waits.
    Stall {
        /// Which.
        nodes: Nodes,
    },
    /// The processes stand still again and again, each time for a write to a slow disk.
    SlowDisk {
        /// Which.
        nodes: Nodes,
        /// How long a write takes.
        sync: Span,
        /// Between two writes.
        every: Duration,
    },
    /// Nothing gets from the first to the second any more.
    CutOneWay {
        /// Who is not heard.
        from: Nodes,
        /// Who does not hear.
        to: Nodes,
    },
    /// Nothing passes between the two any more.
    Cut {
        /// One side.
        from: Nodes,
        /// The other.
        to: Nodes,
    },
    /// The links between the two are cut and mended in turn.
    Flap {
        /// One side.
        from: Nodes,
        /// The other.
        to: Nodes,
        /// How long they are cut.
        down: Duration,
        /// How long they work.
        up: Duration,
    },
    /// The links between the two lose messages.
    Loss {
        /// One side.
        from: Nodes,
        /// The other.
        to: Nodes,
        /// Of a million messages.
        ppm: u32,
    },
    /// The links between the two are slower.
    Delay {
        /// One side.
        from: Nodes,
        /// The other.
        to: Nodes,
        /// Added to each message.
        by: Span,
    },
    /// One after the other is killed and started again.
    RollingRestart {
        /// Which, in this order.
        nodes: Nodes,
        /// How long each is down.
        down: Duration,
        /// Between two of them.
        every: Duration,
        /// What each start finds.
        disk: Disk,
    },
    /// Hosts lose power at random and come back.
    Churn {
        /// Among which.
        nodes: Nodes,
        /// Between two of them.
        every: Span,
        /// How long each is down.
        down: Span,
        /// What each start finds.
        disk: Disk,
    },
    /// Members say of others what these never said: that they are dead, in the name of others; that
    /// they are dead, in their own name, although they do not watch them; that they live elsewhere.
    Forge {
        /// Who lies.
        from: Nodes,
        /// Of whom.
        to: Nodes,
    },
    /// Crashes, kills, restarts, cuts, stalls and loss at random; all is mended at the end.
    Storm {
        /// How many.
        count: usize,
    },
}

impl What {
    /// The name that scenario files give it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Crash { .. } => "crash",
            Self::Kill { .. } => "kill",
            Self::Leave { .. } => "leave",
            Self::Stall { .. } => "stall",
            Self::SlowDisk { .. } => "slow_disk",
            Self::CutOneWay { .. } => "cut_one_way",
            Self::Cut { .. } => "cut",
            Self::Flap { .. } => "flap",
            Self::Loss { .. } => "loss",
            Self::Delay { .. } => "delay",
            Self::RollingRestart { .. } => "rolling_restart",
            Self::Churn { .. } => "churn",
            Self::Forge { .. } => "forge",
            Self::Storm { .. } => "storm",
        }
    }

    /// What it must have done for the run to count.
    pub const fn evidence(&self) -> &'static str {
        match self {
            Self::Crash { .. }
            | Self::Kill { .. }
            | Self::Leave { .. }
            | Self::RollingRestart { .. }
            | Self::Churn { .. } => "running processes ended",
            Self::Stall { .. } | Self::SlowDisk { .. } => "messages and timers made to wait",
            Self::CutOneWay { .. } | Self::Cut { .. } | Self::Flap { .. } | Self::Loss { .. } => {
                "messages and dials lost"
            }
            Self::Delay { .. } => "messages delayed",
            Self::Forge { .. } => "forgeries sent",
            Self::Storm { .. } => "disturbances carried out",
        }
    }

    /// Both sides of a fault between nodes.
    pub(crate) const fn sides(&self) -> Option<(&Nodes, &Nodes)> {
        match self {
            Self::CutOneWay { from, to }
            | Self::Cut { from, to }
            | Self::Flap { from, to, .. }
            | Self::Loss { from, to, .. }
            | Self::Delay { from, to, .. }
            | Self::Forge { from, to } => Some((from, to)),
            Self::Crash { .. }
            | Self::Kill { .. }
            | Self::Leave { .. }
            | Self::Stall { .. }
            | Self::SlowDisk { .. }
            | Self::RollingRestart { .. }
            | Self::Churn { .. }
            | Self::Storm { .. } => None,
        }
    }

    /// The nodes of a fault of processes.
    pub(crate) const fn nodes(&self) -> Option<&Nodes> {
        match self {
            Self::Crash { nodes, .. }
            | Self::Kill { nodes, .. }
            | Self::Leave { nodes }
            | Self::Stall { nodes }
            | Self::SlowDisk { nodes, .. }
            | Self::RollingRestart { nodes, .. }
            | Self::Churn { nodes, .. } => Some(nodes),
            Self::CutOneWay { .. }
            | Self::Cut { .. }
            | Self::Flap { .. }
            | Self::Loss { .. }
            | Self::Delay { .. }
            | Self::Forge { .. }
            | Self::Storm { .. } => None,
        }
    }
}

impl Nodes {
    /// How many there are in a mesh of `count`; what only a run can tell is the least of it.
    pub(crate) fn least(&self, count: usize) -> usize {
        match self {
            Self::Index(nodes) => nodes.len(),
            Self::Count(wanted) | Self::Peers(wanted) | Self::Strangers(wanted) => *wanted,
            Self::Percent(percent) => share(count, *percent),
            Self::Half => count / 2,
            Self::Region(_) | Self::Others => 1,
        }
    }
}

/// So many of a hundred, at least one.
pub(crate) fn share(count: usize, percent: u32) -> usize {
    (count * usize::try_from(percent).unwrap_or(100) / 100).max(1)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, at_s) = (self.what.kind(), self.at.as_secs_f64());
        write!(f, "the fault {kind} at {at_s} s")
    }
}
