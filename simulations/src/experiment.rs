//! Any scenario there is, whatever it is about: what a user names, runs and gets a report of.
//!
//! Decides: by the key `kind` of a file which kind of scenario it is; without it, membership.

use std::{ops::Range, time::Instant};

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::{
    Scenario, ScenarioError, agreement, clusters,
    report::{Asked, BrokenRun, Report},
    run_agreement_seeds, run_cluster_seeds, run_seeds,
    scenario::{self, Shipped, file::Source},
};

/// A scenario of any kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Experiment {
    /// The membership of a mesh.
    Membership(Box<Scenario>),
    /// A group of servers that agree.
    Agreement(Box<agreement::Scenario>),
    /// K3s clusters.
    Clusters(Box<clusters::Scenario>),
}

/// What all runs of an experiment showed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Findings {
    /// Of a mesh's membership.
    Membership(Box<Report>),
    /// Of a group of servers.
    Agreement(Box<agreement::Report>),
    /// Of K3s clusters.
    Clusters(Box<clusters::Report>),
}

/// As much of a file as says what kind it is.
#[derive(Deserialize)]
struct Head {
    kind: Option<Spanned<String>>,
}

impl Experiment {
    /// Reads a scenario file of any kind.
    ///
    /// # Errors
    /// When it is no scenario, with what is wrong, where, and what to do.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let source = Source(text);
        let head: Head = source.parse()?;
        match head.kind {
            None => Self::membership(text),
            Some(kind) => match kind.get_ref().as_str() {
                "membership" => Self::membership(text),
                "agreement" => {
                    let scenario = agreement::Scenario::parse(text)?;
                    Ok(Self::Agreement(Box::new(scenario)))
                }
                "clusters" => {
                    let scenario = clusters::Scenario::parse(text)?;
                    Ok(Self::Clusters(Box::new(scenario)))
                }
                _ => Err(source.wrong(
                    &kind,
                    "kind",
                    "\"membership\", \"agreement\" or \"clusters\"",
                )),
            },
        }
    }

    fn membership(text: &str) -> Result<Self, ScenarioError> {
        let scenario = Scenario::parse(text)?;
        Ok(Self::Membership(Box::new(scenario)))
    }

    /// All that come with shoal.
    pub fn shipped() -> impl Iterator<Item = &'static Shipped> {
        let all = scenario::shipped().iter().chain(agreement::shipped());
        all.chain(clusters::shipped())
    }

    /// The one of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(name: &str) -> Result<Self, ScenarioError> {
        match Self::shipped().find(|shipped| shipped.name == name) {
            Some(shipped) => Self::parse(shipped.text),
            None => Err(ScenarioError::Unknown {
                name: name.to_owned(),
                known: Self::shipped().map(|shipped| shipped.name).collect(),
            }),
        }
    }

    /// The same with so many nodes, or servers.
    ///
    /// # Errors
    /// When its faults name some that there are not.
    pub fn sized(self, nodes: usize) -> Result<Self, ScenarioError> {
        Ok(match self {
            Self::Membership(scenario) => Self::Membership(Box::new(scenario.sized(nodes)?)),
            Self::Agreement(scenario) => Self::Agreement(Box::new(scenario.sized(nodes)?)),
            Self::Clusters(scenario) => Self::Clusters(Box::new(scenario.sized(nodes)?)),
        })
    }

    /// Runs all seeds on all cores. `progress` is told of each whether it broke an invariant.
    pub fn run(
        &self,
        asked: &Asked,
        seeds: Range<u64>,
        mut progress: impl FnMut(bool),
    ) -> Findings {
        let begun = Instant::now();
        match self {
            Self::Membership(scenario) => {
                let outcomes = run_seeds(scenario, seeds, |one| progress(one.violation.is_some()));
                let report = Report::new(scenario, asked, &outcomes, begun.elapsed());
                Findings::Membership(Box::new(report))
            }
            Self::Agreement(scenario) => {
                let told = |one: &agreement::Outcome| progress(one.violation.is_some());
                let outcomes = run_agreement_seeds(scenario, seeds, told);
                let report = agreement::Report::new(scenario, asked, &outcomes, begun.elapsed());
                Findings::Agreement(Box::new(report))
            }
            Self::Clusters(scenario) => {
                let told = |one: &clusters::Outcome| progress(one.violation.is_some());
                let outcomes = run_cluster_seeds(scenario, None, seeds, told);
                let report = clusters::Report::new(scenario, asked, &outcomes, begun.elapsed());
                Findings::Clusters(Box::new(report))
            }
        }
    }
}

impl Findings {
    /// One page with everything in it, that needs nothing else.
    pub fn html(&self) -> String {
        match self {
            Self::Membership(report) => report.html(),
            Self::Agreement(report) => report.html(),
            Self::Clusters(report) => report.html(),
        }
    }

    /// The scenario's name.
    pub fn scenario(&self) -> &str {
        match self {
            Self::Membership(report) => &report.scenario,
            Self::Agreement(report) => &report.scenario,
            Self::Clusters(report) => &report.scenario,
        }
    }

    /// How many seeds there were.
    pub fn seeds(&self) -> u64 {
        match self {
            Self::Membership(report) => report.seeds,
            Self::Agreement(report) => report.seeds,
            Self::Clusters(report) => report.seeds,
        }
    }

    /// Broken invariants, at most one per seed.
    pub fn violations(&self) -> &[BrokenRun] {
        match self {
            Self::Membership(report) => &report.violations,
            Self::Agreement(report) => &report.violations,
            Self::Clusters(report) => &report.violations,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_kind_it_is_and_an_unknown_kind_is_refused() {
        let of = |kind: &str, size: &str| {
            Experiment::parse(&format!("name = \"mine\"\n{kind}{size} = 3\n"))
        };
        assert!(matches!(of("", "nodes"), Ok(Experiment::Membership(_))));
        let membership = of("kind = \"membership\"\n", "nodes");
        assert!(matches!(membership, Ok(Experiment::Membership(_))));
        let agreement = of("kind = \"agreement\"\n", "servers");
        assert!(matches!(agreement, Ok(Experiment::Agreement(_))));
        let clusters = Experiment::parse("name = \"mine\"\nkind = \"clusters\"\nnodes = 6\n");
        assert!(matches!(clusters, Ok(Experiment::Clusters(_))));
        let error = of("kind = \"weather\"\n", "nodes").unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 2: `kind` is weather, and must be \"membership\", \"agreement\" or \"clusters\""
        );
    }

    #[test]
    fn no_two_shipped_scenarios_share_a_name() {
        let names: Vec<_> = Experiment::shipped().map(|one| one.name).collect();
        for (place, name) in names.iter().enumerate() {
            assert!(!names[..place].contains(name), "{name}");
            assert!(Experiment::find(name).is_ok(), "{name}");
        }
    }
}
