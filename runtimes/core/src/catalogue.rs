//! The modules that may be assigned to a node.
//!
//! Decides: which names exist, of which variety they are, where their category stands, and
//! whether this version carries them out. A known module that this version cannot carry out is
//! refused by name, never accepted and left lying.

/// What kind of module it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variety {
    /// Turns the node into something: a Docker host, a K3s server.
    Subscription,
    /// Changes how a subscription is configured.
    Config,
}

/// One module as operators know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// Its name in commands and JSON.
    pub name: &'static str,
    /// What kind it is.
    pub variety: Variety,
    /// Where its category stands among the others; see [`crate::daemon_json::Override`].
    pub category_position: u16,
    /// Whether this version carries it out.
    pub available: bool,
}

/// Every module known by name, in the order in which they are listed.
pub const CATALOGUE: [CatalogueEntry; 4] = [
    CatalogueEntry {
        name: "docker-engine",
        variety: Variety::Subscription,
        category_position: 1,
        available: true,
    },
    CatalogueEntry {
        name: "k3s-server",
        variety: Variety::Subscription,
        category_position: 2,
        available: true,
    },
    CatalogueEntry {
        name: "k3s-agent",
        variety: Variety::Subscription,
        category_position: 2,
        available: true,
    },
    CatalogueEntry {
        name: "daemon-json-override",
        variety: Variety::Config,
        category_position: 1,
        available: false,
    },
];

/// Why a module cannot be assigned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModuleRefused {
    /// Nobody knows that name.
    #[error("there is no module {name:?}")]
    Unknown {
        /// The name that was asked for.
        name: String,
    },
    /// The name is known, the work is not there yet.
    #[error("the module {name} is not in this version")]
    NotInThisVersion {
        /// The module's name.
        name: &'static str,
    },
}

impl ModuleRefused {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "ModuleNotFoundError",
            Self::NotInThisVersion { .. } => "ModuleNotAvailableError",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        let names: Vec<_> = CATALOGUE
            .iter()
            .filter(|entry| entry.available)
            .map(|entry| entry.name)
            .collect();
        format!("modules of this version: {}", names.join(", "))
    }
}

/// The module of that name, if it may be assigned.
pub fn assignable(name: &str) -> Result<&'static CatalogueEntry, ModuleRefused> {
    let entry = CATALOGUE
        .iter()
        .find(|entry| entry.name == name)
        .ok_or_else(|| ModuleRefused::Unknown {
            name: name.to_owned(),
        })?;
    if entry.available {
        Ok(entry)
    } else {
        Err(ModuleRefused::NotInThisVersion { name: entry.name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_a_node_something_is_a_subscription_that_may_be_assigned() {
        for name in ["docker-engine", "k3s-server", "k3s-agent"] {
            assert_eq!(assignable(name).unwrap().variety, Variety::Subscription);
        }
    }

    #[test]
    fn a_module_of_a_later_version_is_refused_by_name() {
        let refused = assignable("daemon-json-override").unwrap_err();
        assert_eq!(refused.code(), "ModuleNotAvailableError");
        assert!(refused.to_string().contains("daemon-json-override"));
    }

    #[test]
    fn an_unknown_module_is_refused_with_the_known_ones() {
        let refused = assignable("dokcer").unwrap_err();
        assert_eq!(refused.code(), "ModuleNotFoundError");
        assert!(
            refused
                .hint()
                .contains("docker-engine, k3s-server, k3s-agent")
        );
    }
}
