//! Why a text is no scenario.
//!
//! Decides: what the author of a scenario is told: what is wrong, where, and what to do.

/// A scenario that cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// Not TOML, or with keys or values that no scenario has.
    #[error("line {line}: {problem}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// The parser's words.
        problem: String,
    },
    /// A value beyond its limits.
    #[error("line {line}: `{key}` is {value}, and must be {rule}")]
    Value {
        /// Counted from 1.
        line: usize,
        /// Which.
        key: &'static str,
        /// What stands there.
        value: String,
        /// What may stand there.
        rule: &'static str,
    },
    /// A key that this kind of fault needs.
    #[error("line {line}: a fault of kind `{kind}` needs `{key}`")]
    Missing {
        /// Of the fault.
        line: usize,
        /// Its kind.
        kind: &'static str,
        /// What is missing.
        key: &'static str,
    },
    /// A key that this kind of fault does not know.
    #[error("line {line}: a fault of kind `{kind}` has no `{key}`")]
    Surplus {
        /// Of the fault.
        line: usize,
        /// Its kind.
        kind: &'static str,
        /// What is too much.
        key: &'static str,
    },
    /// A fault that is about virtual IPs where there are none.
    #[error("{fault} is about virtual IPs, and the scenario has none")]
    NoVirtualIps {
        /// Which.
        fault: String,
    },
    /// A fault after which a voter would have forgotten what it closed.
    #[error("{fault} takes a server's disk, with what its voter of leases must not forget")]
    ForgetfulVoter {
        /// Which.
        fault: String,
    },
    /// A region that the topology does not have.
    #[error("there is no region `{name}`")]
    Region {
        /// As written.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// A fault that cannot happen in a mesh of this size.
    #[error("{what} names {wanted}, and the mesh has {nodes} nodes")]
    Size {
        /// The fault's kind and time.
        what: String,
        /// What it asks for.
        wanted: String,
        /// The mesh's size.
        nodes: usize,
    },
    /// More of something than a run has room for.
    #[error("the scenario has {count} {what}; there may be {limit}")]
    TooMany {
        /// What.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A shipped scenario that there is not.
    #[error("there is no shipped scenario `{name}`")]
    Unknown {
        /// As written.
        name: String,
        /// Those that there are.
        known: Vec<&'static str>,
    },
}

impl ScenarioError {
    /// Stable; programs match on it.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "ScenarioSyntaxError",
            Self::Value { .. } | Self::TooMany { .. } => "ScenarioValueError",
            Self::Missing { .. }
            | Self::Surplus { .. }
            | Self::NoVirtualIps { .. }
            | Self::ForgetfulVoter { .. } => "ScenarioFaultError",
            Self::Region { .. } => "ScenarioRegionError",
            Self::Size { .. } => "ScenarioSizeError",
            Self::Unknown { .. } => "ScenarioNotFoundError",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Syntax { .. } => {
                "`shoal sim show one_crash` prints a scenario to start from; docs/simulations.md \
                 lists every key"
                    .into()
            }
            Self::Value { key, rule, .. } => format!("set `{key}` to {rule}"),
            Self::Missing { key, .. } => format!("add `{key} = …` to that fault"),
            Self::Surplus { key, .. } => format!("remove `{key}` from that fault"),
            Self::NoVirtualIps { .. } => "add a section [leases] to the scenario".into(),
            Self::ForgetfulVoter { .. } => {
                "leave `disk` out, or run it without the section [leases]".into()
            }
            Self::Region { known, .. } if known.is_empty() => {
                "declare it: [[region]] with a name and a share".into()
            }
            Self::Region { known, .. } => format!("the regions are {}", known.join(", ")),
            Self::Size { .. } => "run it with more nodes (--nodes), or name fewer".into(),
            Self::TooMany { limit, .. } => format!("keep it to {limit}, or split it in two"),
            Self::Unknown { known, .. } => {
                format!(
                    "the shipped ones are {}; a file ends in .toml",
                    known.join(", ")
                )
            }
        }
    }
}
