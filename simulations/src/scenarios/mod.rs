//! What strikes a mesh and when, as values.

mod flapping_link;
mod leave;
mod one_crash;
mod one_way_cut;
mod random_faults;
mod restart;
mod split;
mod stall;

use std::time::Duration;

use overlay_core::membership::Settings;

pub use flapping_link::flapping_link;
pub use leave::leave;
pub use one_crash::{one_crash, one_kill};
pub use one_way_cut::{deaf_node, one_way_cut};
pub use random_faults::random_faults;
pub use restart::restart;
pub use split::split_in_half;
pub use stall::stall;

use crate::{Fault, NetworkPlan};

/// The mesh has long agreed by then; faults strike from here on.
pub const CALM: Duration = Duration::from_secs(10);

/// One course of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// The name of its file.
    pub name: &'static str,
    /// Hosts.
    pub nodes: usize,
    /// The links before any fault.
    pub network: NetworkPlan,
    /// The timers of every core.
    pub settings: Settings,
    /// What strikes when, by rising time.
    pub faults: Vec<(Duration, Fault)>,
    /// When the run ends.
    pub end: Duration,
    /// Whether all must agree at the end; they cannot while links are cut.
    pub agrees_at_end: bool,
}

impl Scenario {
    fn new(
        name: &'static str,
        nodes: usize,
        faults: Vec<(Duration, Fault)>,
        end: Duration,
    ) -> Self {
        Self {
            name,
            nodes,
            network: NetworkPlan::lan(),
            settings: Settings::lan(),
            faults,
            end,
            agrees_at_end: true,
        }
    }

    /// The same over other links.
    #[must_use]
    pub fn over(self, network: NetworkPlan) -> Self {
        Self { network, ..self }
    }

    /// The same with other timers.
    #[must_use]
    pub fn with(self, settings: Settings) -> Self {
        Self { settings, ..self }
    }
}
