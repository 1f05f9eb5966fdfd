//! What is the case on a host.
//!
//! Decides nothing: these are the words in which the adapter tells what it found.

use std::time::Duration;

use consensus_core::{LogIndex, Time};
use serde::{Deserialize, Serialize};

use super::TokenMark;

/// What tells one program from another of the same version: its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramSum(pub [u8; 32]);

/// What of a stay is on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Which stay.
    pub attempt: LogIndex,
    /// How it got in, once K3s was started.
    pub founded: bool,
    /// The token that was put in place last.
    pub token: Option<TokenMark>,
    /// Whether K3s was started in it. Before that, whatever data are there are somebody else's. A record
    /// that says nothing of it was made when nobody began a stay on a host with data.
    #[serde(default = "as_before")]
    pub started: bool,
    /// Where the disk is mounted that K3s's data were on when it was started last.
    #[serde(default)]
    pub disk: Option<String>,
}

const fn as_before() -> bool {
    true
}

impl Record {
    /// Of a stay that begins.
    #[must_use]
    pub const fn of(attempt: LogIndex) -> Self {
        Self {
            attempt,
            founded: false,
            token: None,
            started: false,
            disk: None,
        }
    }
}

/// With what a K3s was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartedWith {
    /// The settings' text.
    pub settings: String,
    /// The program's version.
    pub version: String,
    /// The generation of the settings.
    pub generation: LogIndex,
    /// The token.
    pub token: Option<TokenMark>,
    /// Whether it initialises the cluster's datastore, if there is none.
    pub founds: bool,
    /// The program itself; unknown of what was started before that was written down.
    #[serde(default)]
    pub sum: Option<ProgramSum>,
}

impl StartedWith {
    /// Whether it is what is wanted. Where a program's sum is not known its version has to do.
    #[must_use]
    pub fn is_as(&self, wanted: &Self) -> bool {
        let known = Self {
            sum: wanted.sum,
            ..self.clone()
        };
        known == *wanted && is_same(self.sum, wanted.sum)
    }
}

/// Whether these may be the same program, which one that is not known may always be.
pub(super) fn is_same(one: Option<ProgramSum>, other: Option<ProgramSum>) -> bool {
    one.zip(other).is_none_or(|(one, other)| one == other)
}

/// The K3s on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Daemon {
    /// None runs.
    Absent,
    /// One is there that shoal did not start.
    Foreign {
        /// Its process; none of one that is only set up and does not run.
        pid: Option<u32>,
    },
    /// The one that shoal started.
    Ours {
        /// With what; unknown if its record is gone.
        started_with: Option<StartedWith>,
        /// Whether it is ready.
        ready: bool,
    },
}

/// The `k3s` program in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// What `--version` says.
    pub version: String,
    /// What it hashes to; unknown of one that was put in place before that was written down.
    pub sum: Option<ProgramSum>,
    /// Whether it is the one that is wanted: same origin, same version.
    pub wanted: bool,
    /// Whether another file lies by now where it came from.
    pub stale: bool,
}

/// What is the case on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// This moment.
    pub now: Time,
    /// The program.
    pub program: Option<Program>,
    /// What shoal wrote down about a stay.
    pub record: Option<Record>,
    /// Whether K3s's data directory has anything in it that shoal did not put there for it.
    pub data: bool,
    /// Where nothing is mounted though the data of this stay were on a disk there.
    pub unmounted: Option<String>,
    /// For how long no data have been seen.
    pub bare_for: Duration,
    /// Whether the secrets that a founder makes are there.
    pub secrets: bool,
    /// The settings in place.
    pub settings: Option<String>,
    /// Whether it was begun to empty the node for a change, and not undone yet.
    pub emptying: bool,
    /// Whether the node was emptied for a change that is under way.
    pub vacated: bool,
    /// The daemon.
    pub daemon: Daemon,
    /// Whether it has not been ready for more than a moment.
    pub down: bool,
    /// Whether the one that runs was ready since it was started.
    pub was_ready: bool,
    /// For how long nobody has listened where it answers this host.
    pub refused_for: Duration,
    /// Whether anything is left on the host that a stay put there.
    pub leftovers: bool,
}
