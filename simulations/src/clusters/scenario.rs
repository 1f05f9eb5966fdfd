//! What a run of clusters is about.
//!
//! Decides: which scenarios come with shoal, and how much a run has room for. Their texts are part of
//! the program.

use std::time::Duration;

use super::file;
use crate::{
    random::Span,
    scenario::{ScenarioError, Shipped},
};

/// Machines in one run.
pub(super) const NODES_MAX: usize = 32;
/// The fewest: the first wishes name so many.
pub(super) const NODES_MIN: usize = 5;

/// How words fare on their way, in percent. All are repeated until they are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Post {
    /// Never arrive.
    pub lost: u32,
    /// Are carried out, and the answer never arrives.
    pub unanswered: u32,
    /// Arrive a second time, later.
    pub doubled: u32,
    /// Arrive up to a minute late, while they are repeated.
    pub late: u32,
}

/// What strikes, and how often one is wanted rather than another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Strikes {
    /// shoald is killed; K3s goes on.
    pub shoald: u32,
    /// K3s is killed.
    pub k3s: u32,
    /// The machine loses power.
    pub power: u32,
    /// The machine loses power and its disk.
    pub disk: u32,
    /// Nothing can be installed for a while.
    pub source: u32,
    /// About every second K3s does not answer for a moment.
    pub silence: u32,
}

impl Strikes {
    /// What there is, by name.
    pub fn kinds(&self) -> Vec<&'static str> {
        let all = [
            ("shoald", self.shoald),
            ("k3s", self.k3s),
            ("power", self.power),
            ("disk", self.disk),
            ("source", self.source),
            ("silence", self.silence),
        ];
        let there = all.into_iter().filter(|(_, weight)| *weight > 0);
        there.map(|(kind, _)| kind).collect()
    }
}

/// One course of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// What it is called.
    pub name: String,
    /// What it shows, in a sentence.
    pub about: String,
    /// Machines.
    pub nodes: usize,
    /// How long an operator asks for things and faults strike.
    pub storm: Duration,
    /// Once all that is over, everything must be ready, gone, or in error with a reason, within this
    /// time: some pauses of a minute, and a start that takes five.
    pub settle: Duration,
    /// Between two wishes of the operator.
    pub wishes_every: Span,
    /// How many of a hundred wishes are for another K3s of the first cluster; of the others a few are
    /// too.
    pub upgrades: u32,
    /// How many of a hundred wishes give the network of all clusters a pod prefix, or take it back.
    pub pod_prefixes: u32,
    /// Between two strikes.
    pub strikes_every: Span,
    /// Which.
    pub strikes: Strikes,
    /// The way of a word.
    pub post: Post,
}

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        const SHIPPED: &[Shipped] = &[$(Shipped {
            name: $name,
            text: include_str!(concat!("../../scenarios/clusters/", $name, ".toml")),
        }),+];
    };
}

shipped![
    "clusters_calm",
    "clusters_bad_post",
    "clusters_shoald_killed",
    "clusters_power_cut",
    "clusters_disk_lost",
    "clusters_quick_changes",
    "clusters_upgrades",
    "clusters_pod_prefix",
    "clusters_storm",
];

/// All of them, the simplest first.
pub const fn shipped() -> &'static [Shipped] {
    SHIPPED
}

/// The one of that name.
///
/// # Errors
/// When there is none.
pub fn find(name: &str) -> Result<Scenario, ScenarioError> {
    match SHIPPED.iter().find(|shipped| shipped.name == name) {
        Some(shipped) => Scenario::parse(shipped.text),
        None => Err(ScenarioError::Unknown {
            name: name.to_owned(),
            known: SHIPPED.iter().map(|shipped| shipped.name).collect(),
        }),
    }
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// When it is no scenario, with what is wrong, where, and what to do.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        file::read(text)
    }

    /// When the run is over at the latest.
    pub fn end(&self) -> Duration {
        self.storm + self.settle
    }

    /// The same with so many machines.
    ///
    /// # Errors
    /// When these are too few, or too many.
    pub fn sized(mut self, nodes: usize) -> Result<Self, ScenarioError> {
        if nodes > NODES_MAX {
            return Err(ScenarioError::TooMany {
                what: "nodes",
                count: nodes,
                limit: NODES_MAX,
            });
        }
        if nodes < NODES_MIN {
            return Err(ScenarioError::Size {
                what: "the scenario".to_owned(),
                wanted: format!("{NODES_MIN} nodes"),
                nodes,
            });
        }
        self.nodes = nodes;
        Ok(self)
    }
}
