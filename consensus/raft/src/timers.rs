//! Raft's timers: three profiles and the openraft configuration made of them.
//!
//! Decides how patient a follower is. Never measures a network: the operator picks the profile.
//! Invariant: heartbeat, twice, fits into the shortest election timeout.

use std::{sync::Arc, time::Duration};

use openraft::{Config, SnapshotPolicy};

use crate::errors::OpenError;

/// Entries between two snapshots; bounds the log that a restart has to replay. Large entries
/// bring a snapshot sooner, see [`compaction`](crate::compaction). As many as etcd's.
const SNAPSHOT_EVERY_ENTRIES: u64 = 10_000;
/// Entries in one append request; with the largest entries still a message of 16 MiB.
const APPEND_ENTRIES_MAX: u64 = 64;
/// Requests waiting for the Raft loop; beyond it callers wait.
const REQUESTS_MAX: u64 = 1024;
/// Internal notices waiting for the Raft loop.
const NOTICES_MAX: u64 = 4096;
/// State machine commands waiting.
const MACHINE_COMMANDS_MAX: u64 = 256;
/// A commit is waited for as many times as long as the longest election timeout: enough for
/// one failed and one successful election with the disk in a bad mood.
pub(crate) const COMMIT_WAIT_ELECTIONS: u32 = 10;
/// A heartbeat's answer may take as long as so many heartbeats at most: with every profile two such
/// answers, one after the other, come within the leader's lease.
const ANSWER_HEARTBEATS: u32 = 3;
/// openraft wants the shortest election timeout to be longer: by this part of a heartbeat.
const ANSWER_MARGIN: u32 = 5;

/// How often a leader speaks and how long a follower bears silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Shortest silence after which a follower stands for election.
    pub election_min: Duration,
    /// Longest such silence; also the leader's lease.
    pub election_max: Duration,
    /// Time one piece of a snapshot may take to arrive, and the last one to be put into force;
    /// also how long a transfer that stands still is remembered.
    pub snapshot_ttl: Duration,
}

impl Timers {
    /// The default: survives a slow disk and a busy machine.
    pub const SAFE: Self = Self {
        heartbeat: Duration::from_millis(50),
        election_min: Duration::from_millis(150),
        election_max: Duration::from_millis(300),
        snapshot_ttl: Duration::from_secs(20),
    };
    /// For servers in one place with good disks.
    pub const LAN: Self = Self {
        heartbeat: Duration::from_millis(20),
        election_min: Duration::from_millis(60),
        election_max: Duration::from_millis(120),
        snapshot_ttl: Duration::from_secs(20),
    };
    /// For servers up to some 200 ms apart.
    pub const WAN: Self = Self {
        heartbeat: Duration::from_millis(500),
        election_min: Duration::from_millis(2000),
        election_max: Duration::from_millis(4000),
        snapshot_ttl: Duration::from_secs(120),
    };

    /// How long a proposal or a membership change waits for its commit.
    pub fn commit_wait(&self) -> Duration {
        self.election_max * COMMIT_WAIT_ELECTIONS
    }

    /// How long a heartbeat's answer is waited for so that it counts for the leader's lease.
    ///
    /// Longer than the time between two: where every answer takes longer than that, a leader that
    /// everybody answers would otherwise have no lease, and without one it may write nothing.
    pub(crate) fn heartbeat_answer(&self) -> Duration {
        let longest = (self.heartbeat * ANSWER_HEARTBEATS).min(self.election_min);
        longest - self.heartbeat / ANSWER_MARGIN
    }

    /// The openraft configuration for these timers.
    pub(crate) fn config(&self) -> Result<Arc<Config>, OpenError> {
        if self.heartbeat * 2 > self.election_min {
            return Err(OpenError::Timers(
                "two heartbeats must fit into the shortest election timeout".to_owned(),
            ));
        }
        let config = Config {
            cluster_name: "shoal".to_owned(),
            // What openraft makes of it is how long an answer may take, and its tick. The heartbeats
            // themselves come from `hearing`.
            heartbeat_interval: millis(self.heartbeat_answer()),
            enable_heartbeat: false,
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            install_snapshot_timeout: millis(self.snapshot_ttl),
            enable_pre_vote: Some(true),
            // The committed index is saved without waiting for the disk, so a restarted leader
            // may know less than it had answered: it must be elected anew to lead.
            enable_leader_restore: Some(false),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY_ENTRIES),
            // What is purged is decided in `compaction`, which knows who still needs what.
            max_in_snapshot_log_to_keep: u64::MAX,
            max_payload_entries: APPEND_ENTRIES_MAX,
            max_append_entries: Some(APPEND_ENTRIES_MAX),
            api_channel_size: Some(REQUESTS_MAX),
            notification_channel_size: Some(NOTICES_MAX),
            state_machine_channel_size: Some(MACHINE_COMMANDS_MAX),
            backoff: format!("{}ms ...1s", millis(self.heartbeat) * 2),
            ..Config::default()
        };
        let valid = config.validate();
        valid
            .map(Arc::new)
            .map_err(|error| OpenError::Timers(error.to_string()))
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self::SAFE
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_is_a_valid_configuration() {
        for timers in [Timers::SAFE, Timers::LAN, Timers::WAN] {
            let config = timers.config().unwrap();
            assert_eq!(config.enable_pre_vote, Some(true));
        }
    }

    #[test]
    fn two_answers_fit_into_a_lease_and_each_may_take_longer_than_a_heartbeat() {
        let tightest = Timers {
            heartbeat: Duration::from_millis(75),
            ..Timers::SAFE
        };
        for timers in [Timers::SAFE, Timers::LAN, Timers::WAN, tightest] {
            let answer = timers.heartbeat_answer();
            assert!(answer * 2 <= timers.election_max, "{timers:?}");
            assert!(answer > timers.heartbeat, "{timers:?}");
            assert!(timers.config().is_ok(), "{timers:?}");
        }
    }

    #[test]
    fn a_heartbeat_slower_than_the_election_is_refused() {
        let timers = Timers {
            heartbeat: Duration::from_millis(100),
            ..Timers::SAFE
        };
        assert!(matches!(timers.config(), Err(OpenError::Timers(_))));
    }
}
