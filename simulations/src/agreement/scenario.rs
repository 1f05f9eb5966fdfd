//! What a run of a group of servers is about.
//!
//! Decides: when a run's faults are over, and whether a scenario can be run at all.

use std::time::Duration;

use consensus_core::LeaseProfile;
use simulated_raft::Timers;

use super::{
    fault::{Disk, Fault, Target, What},
    file,
};
use crate::{
    clock::Clocks,
    scenario::{Link, ScenarioError},
};

/// Servers in one run: as many voters as a mesh may have.
pub const SERVERS_MAX: usize = simulated_raft::VOTERS_MAX;
/// Faults in one scenario.
pub const FAULTS_MAX: usize = 24;
/// How long the group may take to be founded, before the calm begins.
pub(crate) const FOUNDED_WITHIN: Duration = Duration::from_secs(10);

/// One course of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// What it shows, in a sentence.
    pub about: String,
    /// Voters.
    pub servers: usize,
    /// The timers of every server.
    pub profile: Profile,
    /// What is between any two.
    pub link: Link,
    /// How far their clocks differ.
    pub clocks: Clocks,
    /// Whether the disks say that they synced and do not: then nothing can be promised.
    pub disks_lie: bool,
    /// What clients ask for.
    pub load: Load,
    /// Nothing strikes before this, counted from the founding.
    pub calm: Duration,
    /// What strikes.
    pub faults: Vec<Fault>,
    /// Once the last fault is over, the group must be whole within this time.
    pub settle: Duration,
    /// From a blow to the leader to the next acknowledged write, at most.
    pub failover_max: Option<Duration>,
    /// Virtual IPs that the servers hold, if any.
    pub leases: Option<Leases>,
}

/// Virtual IPs, all alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leases {
    /// How many; each has all servers for candidates, and begins with another one.
    pub virtual_ips: usize,
    /// The durations of their leases.
    pub profile: LeaseProfile,
    /// From the moment nobody's gate was open until the next holder's was, at most.
    pub outage_max: Option<Duration>,
}

/// A set of timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Heartbeats of 50 ms: shoal's default.
    Safe,
    /// For servers in one place.
    Lan,
    /// For servers far apart.
    Wan,
}

/// What clients ask for, of all servers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Writes begun in a second.
    pub writes_per_second: u32,
    /// Linearizable reads begun in a second.
    pub reads_per_second: u32,
}

impl Profile {
    /// Its name in scenario files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Lan => "lan",
            Self::Wan => "wan",
        }
    }

    /// The timers.
    pub const fn timers(self) -> Timers {
        match self {
            Self::Safe => Timers::SAFE,
            Self::Lan => Timers::LAN,
            Self::Wan => Timers::WAN,
        }
    }
}

impl Scenario {
    /// A group on one switch to which nothing happens.
    pub fn calm(name: &str, servers: usize) -> Self {
        Self {
            name: name.to_owned(),
            about: String::new(),
            servers,
            profile: Profile::Safe,
            link: Link::lan(),
            clocks: Clocks::default(),
            disks_lie: false,
            load: Load {
                writes_per_second: 50,
                reads_per_second: 20,
            },
            calm: Duration::from_secs(2),
            faults: Vec::new(),
            settle: Duration::from_secs(10),
            failover_max: None,
            leases: None,
        }
    }

    /// Reads a scenario file.
    ///
    /// # Errors
    /// When it is no scenario, with what is wrong, where, and what to do.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario = file::read(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// The same with another fault.
    #[must_use]
    pub fn with(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// The same with so many servers.
    ///
    /// # Errors
    /// When its faults name servers that there are not.
    pub fn sized(mut self, servers: usize) -> Result<Self, ScenarioError> {
        self.servers = servers;
        self.check()?;
        Ok(self)
    }

    /// When the last fault is over, counted from the founding.
    pub fn healed(&self) -> Duration {
        let ends = self.faults.iter().map(|fault| fault.ends(self.servers));
        self.calm + ends.max().unwrap_or_default()
    }

    /// When the run is over at the latest, counted from the founding.
    pub fn end(&self) -> Duration {
        self.healed() + self.settle
    }

    fn check(&self) -> Result<(), ScenarioError> {
        let limits = [
            ("servers", self.servers, SERVERS_MAX),
            ("faults", self.faults.len(), FAULTS_MAX),
        ];
        for (what, count, limit) in limits {
            if count > limit {
                return Err(ScenarioError::TooMany { what, count, limit });
            }
        }
        if self.servers == 0 {
            return Err(self.too_small("the scenario", "a server".into()));
        }
        for fault in &self.faults {
            self.check_leases(fault)?;
            for target in fault.what.targets() {
                let named = match target {
                    Target::Index(all) => all.iter().max().map_or(0, |last| last + 1),
                    Target::Followers(count) => count + 1,
                    Target::Count(_)
                    | Target::Leader
                    | Target::LeaderAnd(_)
                    | Target::All
                    | Target::Others
                    | Target::Holder
                    | Target::HolderAnd(_)
                    | Target::Idle(_)
                    | Target::HolderAndLeader
                    | Target::HolderAndNext => target.most(self.servers),
                };
                if named > self.servers {
                    return Err(self.too_small(fault, format!("{named} servers")));
                }
            }
        }
        Ok(())
    }

    /// Without virtual IPs nobody holds one; with them a server keeps its disk, as one without its
    /// lease records must not vote under its old name.
    fn check_leases(&self, fault: &Fault) -> Result<(), ScenarioError> {
        let needs = fault.on.is_some()
            || matches!(fault.what, What::Retire { .. })
            || fault.what.targets().iter().any(|one| one.needs_leases());
        let loses = matches!(
            &fault.what,
            What::Crash {
                disk: Disk::Lost,
                ..
            } | What::Kill {
                disk: Disk::Lost,
                ..
            }
        );
        let fault = fault.to_string();
        match self.leases {
            None if needs => Err(ScenarioError::NoVirtualIps { fault }),
            Some(_) if loses => Err(ScenarioError::ForgetfulVoter { fault }),
            None | Some(_) => Ok(()),
        }
    }

    fn too_small(&self, what: impl ToString, wanted: String) -> ScenarioError {
        ScenarioError::Size {
            what: what.to_string(),
            wanted,
            nodes: self.servers,
        }
    }
}
