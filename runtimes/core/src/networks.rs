//! Docker's networks for the containers of the mesh's networks (SPEC 3.11).
//!
//! Decides: which of them a host has, and what stands in the way of one.
//! Never: touches a network of Docker that shoal did not make, nor one that a container needs, be it
//! a stopped one: it could not be started any more.
//!
//! Invariants:
//! - The same input gives the same steps in the same order.
//! - What is to go goes before anything is made: its subnet or its name may be needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use consensus_core::IpPrefix;

/// The label by which shoal knows its own networks in Docker. Its value is the mesh network's name.
pub const NETWORK_LABEL: &str = "internal.shoal.network";
/// So many containers are named where they are in the way.
const NAMED_MAX: usize = 3;

/// A network of Docker as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeNetwork {
    /// The mesh network that its containers are in.
    pub network: String,
    /// The bridge's interface.
    pub bridge: String,
    /// Where its containers have their addresses.
    pub subnet: IpPrefix,
    /// MTU of the bridge and of containers on it.
    pub mtu: u16,
}

impl BridgeNetwork {
    /// The host's own address on the bridge: the subnet's first.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        match self.subnet.address() {
            IpAddr::V4(first) => first.to_bits().checked_add(1).map(Ipv4Addr::from_bits),
            IpAddr::V6(_) => None,
        }
    }
}

/// A network of Docker as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenNetwork {
    /// Docker's id of it.
    pub id: String,
    /// What Docker calls it.
    pub name: String,
    /// What it is made of, if shoal made it and its parts can be told.
    pub made_of: Option<BridgeNetwork>,
    /// Whether shoal made it.
    pub ours: bool,
    /// The containers that are in it, stopped ones too.
    pub containers: BTreeSet<String>,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkStep {
    /// Remove this one.
    Remove {
        /// Docker's id of it.
        id: String,
        /// What Docker calls it.
        name: String,
    },
    /// Make this one.
    Create {
        /// What Docker is to call it.
        name: String,
        /// What it is made of.
        network: BridgeNetwork,
    },
}

/// What stands in the way, until somebody does something about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkObstacle {
    /// A network that is to go, or to be made anew, has containers.
    #[error("Docker's network {name} is to be removed and is used by {}", listed(.containers))]
    InUse {
        /// What Docker calls it.
        name: String,
        /// Who is in it.
        containers: BTreeSet<String>,
    },
    /// Somebody else's network has the name.
    #[error("Docker has a network called {name} that shoal did not make")]
    NameTaken {
        /// The name.
        name: String,
    },
}

impl NetworkObstacle {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "DockerNetworkInUseError",
            Self::NameTaken { .. } => "DockerNetworkTakenError",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::InUse { name, .. } => {
                format!("remove these containers, or `docker network disconnect -f {name}` each")
            }
            Self::NameTaken { name } => format!("`docker network rm {name}`"),
        }
    }
}

/// What is to be done, and what can't be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkPlan {
    /// In this order.
    pub steps: Vec<NetworkStep>,
    /// What stands in the way.
    pub obstacles: Vec<NetworkObstacle>,
}

/// The way from the networks that Docker has to those that are wanted, by name.
pub fn plan(wanted: &BTreeMap<String, BridgeNetwork>, seen: &[SeenNetwork]) -> NetworkPlan {
    let mut plan = NetworkPlan::default();
    let mut blocked = BTreeSet::new();
    for network in seen {
        let right =
            network.made_of.is_some() && wanted.get(&network.name) == network.made_of.as_ref();
        let name = network.name.clone();
        if network.ours && right {
            blocked.insert(name);
        } else if network.ours && network.containers.is_empty() {
            let id = network.id.clone();
            plan.steps.push(NetworkStep::Remove { id, name });
        } else if network.ours {
            blocked.insert(name.clone());
            let containers = network.containers.clone();
            plan.obstacles
                .push(NetworkObstacle::InUse { name, containers });
        } else if wanted.contains_key(&name) {
            blocked.insert(name.clone());
            plan.obstacles.push(NetworkObstacle::NameTaken { name });
        }
    }
    let missing = wanted.iter().filter(|(name, _)| !blocked.contains(*name));
    plan.steps
        .extend(missing.map(|(name, network)| NetworkStep::Create {
            name: name.clone(),
            network: network.clone(),
        }));
    plan
}

/// `web, db and 2 more`.
fn listed(containers: &BTreeSet<String>) -> String {
    let named: Vec<&str> = containers.iter().map(String::as_str).collect();
    let shown = named.iter().take(NAMED_MAX).copied().collect::<Vec<_>>();
    match named.len().saturating_sub(NAMED_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge(network: &str, third: u8) -> BridgeNetwork {
        BridgeNetwork {
            network: network.into(),
            bridge: format!("br-sh-{network}"),
            subnet: format!("10.43.{third}.0/24").parse().unwrap(),
            mtu: 1420,
        }
    }

    fn wanted(networks: &[BridgeNetwork]) -> BTreeMap<String, BridgeNetwork> {
        let named =
            |network: &BridgeNetwork| (format!("shoal-{}", network.network), network.clone());
        networks.iter().map(named).collect()
    }

    fn seen(network: &BridgeNetwork, containers: &[&str]) -> SeenNetwork {
        SeenNetwork {
            id: format!("id-{}", network.network),
            name: format!("shoal-{}", network.network),
            made_of: Some(network.clone()),
            ours: true,
            containers: containers.iter().map(ToString::to_string).collect(),
        }
    }

    fn create(network: &BridgeNetwork) -> NetworkStep {
        NetworkStep::Create {
            name: format!("shoal-{}", network.network),
            network: network.clone(),
        }
    }

    fn remove(network: &BridgeNetwork) -> NetworkStep {
        NetworkStep::Remove {
            id: format!("id-{}", network.network),
            name: format!("shoal-{}", network.network),
        }
    }

    #[test]
    fn a_wanted_network_is_made_and_one_as_wanted_is_left_alone() {
        let (a, b) = (bridge("a", 1), bridge("b", 2));
        let plan = plan(&wanted(&[a.clone(), b.clone()]), &[seen(&a, &["web"])]);
        assert_eq!(plan.steps, [create(&b)]);
        assert_eq!(plan.obstacles, []);
    }

    #[test]
    fn an_empty_network_that_is_not_wanted_goes_and_one_with_containers_stays() {
        let (a, b) = (bridge("a", 1), bridge("b", 2));
        let all = ["c1", "c2", "c3", "c4"];
        let plan = plan(&wanted(&[]), &[seen(&a, &[]), seen(&b, &all)]);
        assert_eq!(plan.steps, [remove(&a)]);
        let [obstacle] = &plan.obstacles[..] else {
            panic!("{plan:?}")
        };
        let text = obstacle.to_string();
        assert!(text.ends_with("is used by c1, c2, c3 and 1 more"), "{text}");
        assert_eq!(obstacle.code(), "DockerNetworkInUseError");
    }

    #[test]
    fn a_network_with_another_subnet_is_replaced_when_nobody_is_in_it() {
        let (old, new) = (bridge("a", 1), bridge("a", 9));
        let replaced = plan(&wanted(std::slice::from_ref(&new)), &[seen(&old, &[])]);
        assert_eq!(replaced.steps, [remove(&old), create(&new)]);
        let kept = plan(&wanted(&[new]), &[seen(&old, &["web"])]);
        assert_eq!(kept.steps, []);
        assert_eq!(kept.obstacles.len(), 1);
    }

    #[test]
    fn somebody_elses_network_is_never_touched() {
        let a = bridge("a", 1);
        let mut foreign = seen(&a, &[]);
        foreign.ours = false;
        foreign.made_of = None;
        let mut other = foreign.clone();
        other.name = "bridge".into();
        let plan = plan(&wanted(&[a]), &[foreign, other]);
        assert_eq!(plan.steps, []);
        let name = "shoal-a".to_owned();
        assert_eq!(plan.obstacles, [NetworkObstacle::NameTaken { name }]);
    }

    #[test]
    fn the_gateway_is_the_first_address() {
        assert_eq!(bridge("a", 7).gateway(), Some(Ipv4Addr::new(10, 43, 7, 1)));
    }
}
