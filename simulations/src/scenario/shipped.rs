//! The scenarios that come with shoal.
//!
//! Decides: which there are. Their texts are part of the program.

use super::{Scenario, ScenarioError};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shipped {
    /// What it is called.
    pub name: &'static str,
    /// Its file.
    pub text: &'static str,
}

macro_rules! shipped {
    ($($name:literal),+ $(,)?) => {
        const SHIPPED: &[Shipped] = &[$(Shipped {
            name: $name,
            text: include_str!(concat!("../../scenarios/", $name, ".toml")),
        }),+];
    };
}

shipped![
    "one_crash",
    "one_kill",
    "small_mesh",
    "leave",
    "rolling_restart",
    "split",
    "one_way_cut",
    "deaf_node",
    "flapping_link",
    "lossy",
    "slow_disk",
    "stall",
    "suspended",
    "bad_link",
    "cascade",
    "mass_failure",
    "wan",
    "churn",
    "forgery",
    "storm",
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
