//! `shoal module`: what nodes are told to be.

use std::collections::BTreeMap;

use comfy_table::Table;
use node_api::{
    Route,
    types::{AssignRequest, ModuleView},
};

use super::k3s::consent;
use crate::{
    consent::Yes,
    context::Context,
    failure::{Exit, Failure},
    table::{pairs, table},
    values,
};

/// What nodes are told to be: Docker hosts, nodes of K3s clusters
#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Module {
    /// List all modules and where they are assigned
    Ls,
    /// Assign a module to a node, or to every node with certain labels
    Assign(Assign),
    Unassign(Unassign),
}

#[derive(Debug, clap::Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Assignment {
    /// The node's name or id; left out with --selector
    #[arg(
        value_parser = values::name,
        required_unless_present = "selector",
        conflicts_with = "selector"
    )]
    node: Option<String>,
    /// The module's name, such as docker-engine or k3s-agent
    #[arg(required = true, value_parser = values::name)]
    module: String,
    /// Every node that has all these labels, now and later
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = values::selector)]
    selector: Option<BTreeMap<String, String>>,
}

#[derive(Debug, clap::Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Assign {
    #[command(flatten)]
    assignment: Assignment,
    /// Of k3s-server and k3s-agent: the cluster's name or id [default: the only one]
    ///
    /// `shoal k3s provision` can also say which K3s a node gets, and where. A node that is in another
    /// cluster leaves that one first, and loses all that K3s has there.
    #[arg(long, value_name = "NAME", value_parser = values::name)]
    cluster: Option<String>,
    #[command(flatten)]
    yes: Yes,
}

/// Take an assignment back
///
/// A node that loses k3s-server or k3s-agent loses all that K3s has there; a server leaves etcd first.
#[derive(Debug, clap::Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Unassign {
    #[command(flatten)]
    assignment: Assignment,
    #[command(flatten)]
    yes: Yes,
}

impl Module {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        match self {
            Self::Ls => context.list(context.client.get(&Route::to(&["modules"])).await, list),
            Self::Assign(Assign {
                assignment,
                cluster,
                yes,
            }) => {
                let verb = ("assign", "assigned to");
                assignment.run(context, verb, cluster, &yes).await
            }
            Self::Unassign(Unassign { assignment, yes }) => {
                let verb = ("unassign", "no longer assigned to");
                assignment.run(context, verb, None, &yes).await
            }
        }
    }
}

impl Assignment {
    fn target(&self) -> String {
        match (&self.node, &self.selector) {
            (Some(node), _) => node.clone(),
            (None, selector) => {
                let labels = selector.as_ref().map(pairs).unwrap_or_default();
                format!("nodes with {labels}")
            }
        }
    }

    /// The verb comes with what is said of it once it is done.
    async fn run(
        self,
        context: &Context<'_>,
        (verb, said): (&str, &str),
        cluster: Option<String>,
        yes: &Yes,
    ) -> Result<Exit, Failure> {
        let said = format!("{} is {said} {}", self.module, self.target());
        let request = AssignRequest {
            module: self.module,
            node: self.node,
            selector: self.selector,
            cluster,
            consent: false,
        };
        let route = Route::to(&["modules", verb]);
        let answer = consent::post(context, yes, &route, |consent| AssignRequest {
            consent,
            ..request.clone()
        });
        context.changed(Ok(answer.await?), &said)
    }
}

fn list(modules: &[ModuleView]) -> Table {
    let rows = modules.iter().map(|module| {
        vec![
            module.name.clone(),
            module.variety.clone(),
            module.assigned_to.join(" "),
            module.nodes.join(" "),
        ]
    });
    table(&["MODULE", "VARIETY", "ASSIGNED TO", "NODES"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_tells_assignments_from_the_nodes_they_come_to() {
        let module = |name: &str, assigned_to: &[&str], nodes: &[&str]| ModuleView {
            name: name.into(),
            variety: "subscription".into(),
            assigned_to: assigned_to.iter().map(ToString::to_string).collect(),
            nodes: nodes.iter().map(ToString::to_string).collect(),
        };
        let modules = [
            module("docker-engine", &["n1", "zone=a"], &["n1", "n2", "n3"]),
            module("k3s-server", &[], &[]),
        ];
        insta::assert_snapshot!(list(&modules).trim_fmt(), @r"
        MODULE         VARIETY       ASSIGNED TO  NODES
        docker-engine  subscription  n1 zone=a    n1 n2 n3
        k3s-server     subscription  -            -
        ");
    }
}
