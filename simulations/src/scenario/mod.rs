//! What a run is about: hosts, links, clocks, what strikes when, and what is asked of the mesh.
//!
//! Decides: when a run is over. A scenario is a value; [`Scenario::parse`] reads one from a file,
//! [`shipped()`] has those that come with shoal.

mod checks;
mod error;
pub(crate) mod file;
mod shipped;

use std::time::Duration;

use overlay_core::membership::Settings;

pub use self::{
    error::ScenarioError,
    shipped::{Shipped, find, shipped},
};
use crate::{
    clock::Clocks,
    fault::{Fault, Nodes, What},
    random::{Jitter, Span},
};

/// Hosts in one run; beyond it a run would not fit into the memory of one machine.
pub const NODES_MAX: usize = 20_000;
/// Unless told otherwise, larger meshes start warm: no mesh of thousands starts all at once, and what
/// everybody says to everybody then would take longer to simulate than all that follows.
pub const COLD_NODES_MAX: usize = 100;
/// Regions in one topology.
pub const REGIONS_MAX: usize = 16;
/// Faults in one scenario: each of links may need two of the 64 marks that a link has room for.
pub const FAULTS_MAX: usize = 24;

/// One course of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// What it shows, in a sentence.
    pub about: String,
    /// Hosts.
    pub nodes: usize,
    /// Whether the nodes know each other already when the run begins.
    pub start: Start,
    /// The timers of every core.
    pub settings: Settings,
    /// Where the hosts are and what is between them.
    pub topology: Topology,
    /// How far their clocks differ.
    pub clocks: Clocks,
    /// Nothing strikes before this.
    pub calm: Duration,
    /// What strikes.
    pub faults: Vec<Fault>,
    /// Once the last fault is over, all must agree within this time.
    pub settle: Duration,
    /// What is asked beyond the invariants.
    pub bounds: Bounds,
}

/// How a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Cold up to [`COLD_NODES_MAX`] nodes, else warm.
    BySize,
    /// Nobody has heard of anybody.
    Cold,
    /// Everybody has heard everybody's first words, as in a mesh that has long been running.
    Warm,
}

/// Regions and the links within and between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// Names and shares of the hosts; a single unnamed one unless given.
    pub regions: Vec<Region>,
    /// Within a region, and between any two for which nothing else is said.
    pub link: Link,
    /// Between two regions, by their places in `regions`, the lower first.
    pub between: Vec<((usize, usize), Link)>,
}

/// One site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its name.
    pub name: String,
    /// Its part of the hosts, in relation to the other regions' parts.
    pub share: u32,
}

/// What a link is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Each directed link draws its delay out of this once.
    pub latency: Span,
    /// Added to each message.
    pub jitter: Jitter,
    /// Messages lost of a million.
    pub loss_ppm: u32,
}

impl Link {
    /// One switch: a tenth of a millisecond to two milliseconds, no loss.
    pub const fn lan() -> Self {
        Self {
            latency: Span::micros(100, 2000),
            jitter: Jitter::Uniform(Duration::from_micros(500)),
            loss_ppm: 0,
        }
    }
}

/// What is asked of every run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Everybody knows of a death after this.
    pub detection_max: Option<Duration>,
    /// Beliefs that a node is dead which ran and could be reached.
    pub false_deaths_max: u64,
    /// Bytes per second that a node sends on average, with everything that carries them.
    pub bytes_per_second_max: Option<u64>,
    /// Whether nobody may even be suspected.
    pub no_suspicion: bool,
    /// How long a reachable live node may be held dead.
    pub stale_death_max: Duration,
    /// How often a node comes to suspect, on average, one that runs and that no fault is aimed at.
    pub bystander_suspicions_max: Option<u64>,
    /// Deaths of nodes that could be talked to, held by one that had just stood still.
    pub deaths_after_standstill_max: Option<u64>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            detection_max: None,
            false_deaths_max: 0,
            bytes_per_second_max: None,
            no_suspicion: false,
            // A redial, or a greeting to one of a few dead members, with room for a lost try.
            stale_death_max: Duration::from_secs(20),
            bystander_suspicions_max: None,
            deaths_after_standstill_max: None,
        }
    }
}

impl Scenario {
    /// A mesh on one switch in which nothing goes wrong.
    pub fn calm(name: &str, nodes: usize) -> Self {
        Self {
            name: name.to_owned(),
            about: String::new(),
            nodes,
            start: Start::BySize,
            settings: Settings::lan(),
            topology: Topology {
                regions: vec![Region {
                    name: String::new(),
                    share: 1,
                }],
                link: Link::lan(),
                between: Vec::new(),
            },
            clocks: Clocks::default(),
            calm: Duration::from_secs(10),
            faults: Vec::new(),
            settle: Duration::from_secs(15),
            bounds: Bounds::default(),
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

    /// The same with another fault; its time counts from the end of the calm.
    #[must_use]
    pub fn with(mut self, at: Duration, lasts: Option<Duration>, what: What) -> Self {
        self.faults.push(Fault { at, lasts, what });
        self
    }

    /// The same with this share of all messages lost.
    #[must_use]
    pub fn losing(mut self, ppm: u32) -> Self {
        self.topology.link.loss_ppm = ppm;
        for (_, link) in &mut self.topology.between {
            link.loss_ppm = ppm;
        }
        self
    }

    /// The same with so many hosts.
    ///
    /// # Errors
    /// When its faults name hosts that there are not.
    pub fn sized(mut self, nodes: usize) -> Result<Self, ScenarioError> {
        self.nodes = nodes;
        self.check()?;
        Ok(self)
    }

    pub(crate) const fn starts_warm(&self) -> bool {
        match self.start {
            Start::BySize => self.nodes > COLD_NODES_MAX,
            Start::Cold => false,
            Start::Warm => true,
        }
    }

    /// When the last fault is over and the mesh has to come together.
    pub fn healed(&self) -> Duration {
        let ends = self.faults.iter().map(|fault| self.end_of(fault));
        self.calm + ends.max().unwrap_or_default()
    }

    /// When the run ends.
    pub fn end(&self) -> Duration {
        self.healed() + self.settle
    }

    /// When a fault is over, after the calm.
    fn end_of(&self, fault: &Fault) -> Duration {
        fault.at + self.length_of(fault).unwrap_or_default()
    }

    /// How long a fault lasts, if it ends.
    pub(crate) fn length_of(&self, fault: &Fault) -> Option<Duration> {
        let own = match &fault.what {
            What::RollingRestart {
                nodes, down, every, ..
            } => {
                let turns = self.members_of(nodes).saturating_sub(1);
                Some(*every * u32::try_from(turns).unwrap_or(u32::MAX) + *down)
            }
            What::Crash { .. }
            | What::Kill { .. }
            | What::Leave { .. }
            | What::Stall { .. }
            | What::SlowDisk { .. }
            | What::CutOneWay { .. }
            | What::Cut { .. }
            | What::Flap { .. }
            | What::Loss { .. }
            | What::Delay { .. }
            | What::Churn { .. }
            | What::Forge { .. }
            | What::Storm { .. } => None,
        };
        fault.lasts.max(own)
    }

    fn members_of(&self, nodes: &Nodes) -> usize {
        match nodes {
            Nodes::Region(name) => {
                let regions = self.region_of_each();
                let wanted = self.topology.place_of(name);
                regions
                    .iter()
                    .filter(|at| Some(usize::from(**at)) == wanted)
                    .count()
            }
            Nodes::Index(_)
            | Nodes::Count(_)
            | Nodes::Percent(_)
            | Nodes::Half
            | Nodes::Others
            | Nodes::Peers(_)
            | Nodes::Strangers(_) => nodes.least(self.nodes),
        }
    }

    /// The region of every host: they take turns in proportion to the regions' shares.
    pub(crate) fn region_of_each(&self) -> Vec<u8> {
        let shares: Vec<u64> = self
            .topology
            .regions
            .iter()
            .map(|region| u64::from(region.share))
            .collect();
        let total = shares.iter().sum::<u64>().max(1);
        let mut owed = vec![0_u64; shares.len()];
        (0..self.nodes)
            .map(|_| {
                for (owed, share) in owed.iter_mut().zip(&shares) {
                    *owed += share;
                }
                let most = (0..owed.len()).max_by_key(|at| (owed[*at], usize::MAX - at));
                let at = most.unwrap_or(0);
                owed[at] = owed[at].saturating_sub(total);
                u8::try_from(at).unwrap_or(u8::MAX)
            })
            .collect()
    }
}

impl Topology {
    /// A region's place.
    pub(crate) fn place_of(&self, name: &str) -> Option<usize> {
        self.regions.iter().position(|region| region.name == name)
    }
}
