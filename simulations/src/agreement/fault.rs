//! What can go wrong in a group of servers.
//!
//! Decides: what each kind is called, and what it must have done for a run to count. How it is done
//! is `strike`.

use std::{fmt, time::Duration};

pub use crate::fault::Disk;
use crate::random::Span;

/// How long a fault waits for its moment at most, each time; then it does not come.
pub(crate) const MOMENT_WITHIN: Duration = Duration::from_secs(5);

/// Something that goes wrong, once or several times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// When it begins first, after the calm.
    pub at: Duration,
    /// How long each time lasts; without it, until the run ends or by its own nature.
    pub lasts: Option<Span>,
    /// Each time waits for this, if anything.
    pub on: Option<Moment>,
    /// How often it comes.
    pub times: u32,
    /// Between the end of one time and the beginning of the next.
    pub every: Span,
    /// What it is.
    pub what: What,
}

/// What a fault may wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Somewhere in the middle of the close of a lease.
    Close,
    /// Somewhere in the middle of a change of a lease's voters.
    Joint,
}

/// Some of the servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// These.
    Index(Vec<usize>),
    /// So many, drawn anew each time.
    Count(usize),
    /// Whoever leads when it begins.
    Leader,
    /// So many of those that do not lead when it begins.
    Followers(usize),
    /// The leader and so many others.
    LeaderAnd(usize),
    /// Everybody.
    All,
    /// All that the other side does not name.
    Others,
    /// Whoever holds a virtual IP when it begins; of several any.
    Holder,
    /// The holder and so many others.
    HolderAnd(usize),
    /// So many of those that hold none.
    Idle(usize),
    /// The holder and the leader, who may be one.
    HolderAndLeader,
    /// The holder and whoever is next in the order of candidates.
    HolderAndNext,
}

/// A kind of fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Power is lost: what was not synced is gone or torn.
    Crash {
        /// Whose.
        targets: Target,
        /// What the next start finds; lost: the server is replaced by a new one.
        disk: Disk,
    },
    /// The process ends; what it wrote stays.
    Kill {
        /// Whose.
        targets: Target,
        /// What the next start finds.
        disk: Disk,
    },
    /// The process stands still.
    Stall {
        /// Which.
        targets: Target,
    },
    /// Each sync of the disk takes this long.
    SlowDisk {
        /// Whose.
        targets: Target,
        /// From the shortest to the longest.
        sync: Span,
    },
    /// Nothing passes from the first to the second.
    CutOneWay {
        /// The one side.
        from: Target,
        /// The other.
        to: Target,
    },
    /// Nothing passes between them.
    Cut {
        /// The one side.
        from: Target,
        /// The other.
        to: Target,
    },
    /// Messages between them are lost.
    Loss {
        /// The one side.
        from: Target,
        /// The other.
        to: Target,
        /// Of a million.
        ppm: u32,
    },
    /// Messages between them take longer.
    Delay {
        /// The one side.
        from: Target,
        /// The other.
        to: Target,
        /// By so much, each.
        by: Span,
    },
    /// The wall clock is set, forward or back.
    ClockStep {
        /// Whose.
        targets: Target,
        /// By so much.
        by: Span,
    },
    /// They are made agents, all at once, and later servers again: first the leases' voters change,
    /// then Raft's.
    Retire {
        /// Who.
        targets: Target,
    },
    /// Everybody named is ended and started, one after the other.
    RollingRestart {
        /// Who, by rising index.
        targets: Target,
        /// How long each is down.
        down: Duration,
        /// From one's start to the next one's end.
        pause: Duration,
    },
}

impl Fault {
    /// One that comes once.
    pub const fn once(at: Duration, lasts: Option<Duration>, what: What) -> Self {
        Self {
            at,
            lasts: match lasts {
                Some(lasts) => Some(Span {
                    min: lasts,
                    max: lasts,
                }),
                None => None,
            },
            on: None,
            times: 1,
            every: Span::micros(0, 0),
            what,
        }
    }

    /// When it is over at the latest, after the calm, among so many servers.
    pub fn ends(&self, servers: usize) -> Duration {
        let one = match &self.what {
            What::RollingRestart {
                targets,
                down,
                pause,
            } => {
                let turns = u32::try_from(targets.most(servers)).unwrap_or(u32::MAX);
                (*down + *pause) * turns
            }
            What::Crash { .. }
            | What::Kill { .. }
            | What::Stall { .. }
            | What::SlowDisk { .. }
            | What::CutOneWay { .. }
            | What::Cut { .. }
            | What::Loss { .. }
            | What::Delay { .. }
            | What::Retire { .. } => self.lasts.unwrap_or_default().max,
            What::ClockStep { .. } => Duration::ZERO,
        };
        let one = one + self.on.map_or(Duration::ZERO, |_| MOMENT_WITHIN);
        self.at + one * self.times + self.every.max * self.times.saturating_sub(1)
    }
}

impl What {
    /// The name that scenario files give it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Crash { .. } => "crash",
            Self::Kill { .. } => "kill",
            Self::Stall { .. } => "stall",
            Self::SlowDisk { .. } => "slow_disk",
            Self::CutOneWay { .. } => "cut_one_way",
            Self::Cut { .. } => "cut",
            Self::Loss { .. } => "loss",
            Self::Delay { .. } => "delay",
            Self::ClockStep { .. } => "clock_step",
            Self::Retire { .. } => "retire",
            Self::RollingRestart { .. } => "rolling_restart",
        }
    }

    /// What it must have done for the run to count.
    pub const fn evidence(&self) -> &'static str {
        match self {
            Self::Crash { .. } | Self::Kill { .. } | Self::RollingRestart { .. } => {
                "running processes ended"
            }
            Self::Stall { .. } => "tasks made to wait",
            Self::SlowDisk { .. } => "slow syncs",
            Self::CutOneWay { .. } | Self::Cut { .. } | Self::Loss { .. } => "messages lost",
            Self::Delay { .. } => "messages delayed",
            Self::ClockStep { .. } => "clocks set",
            Self::Retire { .. } => "leases that rested on them and do no more",
        }
    }

    /// Everybody it names.
    pub(crate) fn targets(&self) -> Vec<&Target> {
        match self {
            Self::Crash { targets, .. }
            | Self::Kill { targets, .. }
            | Self::Stall { targets }
            | Self::SlowDisk { targets, .. }
            | Self::Retire { targets }
            | Self::ClockStep { targets, .. }
            | Self::RollingRestart { targets, .. } => vec![targets],
            Self::CutOneWay { from, to }
            | Self::Cut { from, to }
            | Self::Loss { from, to, .. }
            | Self::Delay { from, to, .. } => vec![from, to],
        }
    }
}

impl Target {
    /// Whether it names holders of virtual IPs.
    pub(crate) const fn needs_leases(&self) -> bool {
        match self {
            Self::Holder
            | Self::HolderAnd(_)
            | Self::Idle(_)
            | Self::HolderAndLeader
            | Self::HolderAndNext => true,
            Self::Index(_)
            | Self::Count(_)
            | Self::Leader
            | Self::Followers(_)
            | Self::LeaderAnd(_)
            | Self::All
            | Self::Others => false,
        }
    }

    /// How many it names at most among so many.
    pub(crate) fn most(&self, servers: usize) -> usize {
        match self {
            Self::Index(indices) => indices.len(),
            Self::Count(count) | Self::Followers(count) | Self::Idle(count) => *count,
            Self::Leader | Self::Holder => 1,
            Self::LeaderAnd(count) | Self::HolderAnd(count) => count + 1,
            Self::HolderAndLeader | Self::HolderAndNext => servers.min(2),
            Self::All => servers,
            Self::Others => servers.saturating_sub(1),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, at_s) = (self.what.kind(), self.at.as_secs_f64());
        write!(f, "the fault {kind} at {at_s} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_comes_several_times_is_over_after_all_of_them() {
        let mut fault = Fault::once(
            Duration::from_secs(1),
            Some(Duration::from_secs(2)),
            What::Stall {
                targets: Target::Leader,
            },
        );
        assert_eq!(fault.ends(3), Duration::from_secs(3));
        fault.times = 3;
        fault.every = Span::micros(0, 500_000);
        assert_eq!(fault.ends(3), Duration::from_secs(8));
        fault.times = 1;
        fault.what = What::RollingRestart {
            targets: Target::All,
            down: Duration::from_secs(2),
            pause: Duration::from_secs(1),
        };
        assert_eq!(fault.ends(5), Duration::from_secs(16));
    }
}
