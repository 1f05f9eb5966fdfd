//! The scenarios of agreement that come with shoal.
//!
//! Decides: which there are. Their texts are part of the program.

use super::Scenario;
use crate::scenario::{ScenarioError, Shipped};

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        const SHIPPED: &[Shipped] = &[$(Shipped {
            name: $name,
            text: include_str!(concat!("../../scenarios/agreement/", $name, ".toml")),
        }),+];
    };
}

shipped![
    "leader_dies",
    "leader_killed",
    "leader_cut_off",
    "leader_mute",
    "leader_deaf",
    "leader_stalls",
    "server_restarts",
    "server_replaced",
    "slow_disks",
    "slow_links",
    "power_cut",
    "clock_drift",
    "server_storm",
    "holder_dies",
    "holder_killed",
    "leader_dies_alone",
    "holder_and_leader_die",
    "holder_and_next_die",
    "holder_cut_off",
    "holder_on_small_side",
    "voters_restart_in_close",
    "voters_forget",
    "voters_change",
    "holder_stalls",
    "holder_slow_disks",
    "clocks_set",
    "lease_storm",
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
