//! Whether a scenario can be run at all.
//!
//! Decides: that every fault finds the nodes that it names, whatever the size.

use super::{FAULTS_MAX, NODES_MAX, REGIONS_MAX, Scenario, ScenarioError};
use crate::fault::{Fault, Nodes};

impl Scenario {
    pub(super) fn check(&self) -> Result<(), ScenarioError> {
        let limits = [
            ("nodes", self.nodes, NODES_MAX),
            ("regions", self.topology.regions.len(), REGIONS_MAX),
            ("faults", self.faults.len(), FAULTS_MAX),
        ];
        for (what, count, limit) in limits {
            if count > limit {
                return Err(ScenarioError::TooMany { what, count, limit });
            }
        }
        if self.nodes < 2 {
            let wanted = "two nodes that could fail each other".into();
            return Err(self.too_small("the scenario", wanted));
        }
        self.faults
            .iter()
            .try_for_each(|fault| self.check_fault(fault))
    }

    fn check_fault(&self, fault: &Fault) -> Result<(), ScenarioError> {
        let sides = fault.what.sides();
        let named = fault.what.nodes().into_iter();
        let named = named.chain(sides.into_iter().flat_map(|(from, to)| [from, to]));
        let mut least = 0;
        for nodes in named {
            self.check_nodes(fault, nodes)?;
            least += nodes.least(self.nodes);
        }
        if least > self.nodes {
            return Err(self.too_small(fault, format!("{least} nodes on both sides together")));
        }
        Ok(())
    }

    fn check_nodes(&self, fault: &Fault, nodes: &Nodes) -> Result<(), ScenarioError> {
        match nodes {
            Nodes::Index(indices) => match indices.iter().find(|at| **at >= self.nodes) {
                Some(at) => Err(self.too_small(fault, format!("node {at}"))),
                None => Ok(()),
            },
            Nodes::Count(count) | Nodes::Peers(count) | Nodes::Strangers(count)
                if *count > self.nodes =>
            {
                Err(self.too_small(fault, format!("{count} nodes")))
            }
            Nodes::Region(name) if self.topology.place_of(name).is_none() => {
                let regions = self.topology.regions.iter();
                let known = regions.map(|region| region.name.clone());
                Err(ScenarioError::Region {
                    name: name.clone(),
                    known: known.filter(|name| !name.is_empty()).collect(),
                })
            }
            Nodes::Count(_)
            | Nodes::Peers(_)
            | Nodes::Strangers(_)
            | Nodes::Region(_)
            | Nodes::Percent(_)
            | Nodes::Half
            | Nodes::Others => Ok(()),
        }
    }

    fn too_small(&self, what: impl ToString, wanted: String) -> ScenarioError {
        ScenarioError::Size {
            what: what.to_string(),
            wanted,
            nodes: self.nodes,
        }
    }
}
