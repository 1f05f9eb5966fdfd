//! Consent to K3s being wiped off nodes, with all that it has there: a server's part of etcd too.
//!
//! Decides: that a module which is taken from a node of a cluster, and a node that goes from one cluster to
//! another, need it. Never: whether it may be; that the mesh says. What is asked is as true as what is agreed
//! at that moment.

use std::collections::{BTreeMap, BTreeSet};

use node_api::{
    ApiError, Client, Route,
    types::{ClusterNodeView, ClusterView, NodeView},
};

use crate::{consent::Yes, context::Context, failure::Failure};

/// The modules that put K3s on a node, with what they make of it.
const MODULES: [(&str, &str); 2] = [("k3s-server", "server"), ("k3s-agent", "agent")];
/// What happens, as the end of every question.
const WIPED: &str = "K3s is wiped there, with all that it has: a server's part of etcd too.";

/// Which nodes are meant.
pub(in crate::commands) enum Whom<'a> {
    /// One, by name or id.
    Node(&'a str),
    /// All that have these labels.
    With(&'a BTreeMap<String, String>),
}

/// Consent to a module being taken back, where that takes a node out of a cluster.
pub(in crate::commands) async fn to_taking(
    context: &Context<'_>,
    yes: &Yes,
    module: &str,
    whom: &Whom<'_>,
) -> Result<(), Failure> {
    let role = MODULES.iter().find(|(name, _)| *name == module);
    let Some((_, role)) = role.filter(|_| !yes.is_given()) else {
        return Ok(());
    };
    let client = context.client.clone().stale(false);
    let members = members(&client, whom, |_| true).await?;
    let lost = members.iter().filter(|(_, row)| row.role == *role);
    let lost: Vec<String> = lost.map(in_words).collect();
    if lost.is_empty() {
        return Ok(());
    }
    let question = format!("Take {module} from {}? {WIPED}", lost.join(", "));
    yes.or_ask(context.terminal, "taking K3s off a node", &question)
}

/// Consent to nodes being put into a cluster, where one of them is in another.
pub(in crate::commands) async fn to_moving(
    context: &Context<'_>,
    yes: &Yes,
    whom: &Whom<'_>,
    cluster: Option<&str>,
) -> Result<(), Failure> {
    // Without a name the only cluster is meant: there is none to come from.
    let Some(cluster) = cluster.filter(|_| !yes.is_given()) else {
        return Ok(());
    };
    let client = context.client.clone().stale(false);
    let other = |one: &ClusterView| one.name != cluster && one.id != cluster;
    let moves = members(&client, whom, other).await?;
    if moves.is_empty() {
        return Ok(());
    }
    let moves: Vec<String> = moves.iter().map(in_words).collect();
    let question = format!("Move to cluster {cluster}: {}? {WIPED}", moves.join(", "));
    yes.or_ask(
        context.terminal,
        "moving a node to another cluster",
        &question,
    )
}

/// What those of the nodes that are in one of these clusters are there, beside the cluster's name.
async fn members(
    client: &Client,
    whom: &Whom<'_>,
    is_asked_for: impl Fn(&ClusterView) -> bool,
) -> Result<Vec<(String, ClusterNodeView)>, ApiError> {
    let route = Route::to(&["clusters"]);
    let mut clusters = client.get::<Vec<ClusterView>>(&route).await?.value;
    clusters.retain(is_asked_for);
    if clusters.is_empty() {
        return Ok(Vec::new());
    }
    let nodes = client.get::<Vec<NodeView>>(&Route::to(&["nodes"])).await?;
    let meant = nodes.value.iter().filter(|node| whom.means(node));
    let meant: BTreeSet<&str> = meant.map(|node| node.name.as_str()).collect();
    let mut members = Vec::new();
    for cluster in clusters {
        let route = Route::to(&["clusters", &cluster.id, "nodes"]);
        let mut rows = client.get::<Vec<ClusterNodeView>>(&route).await?.value;
        rows.retain(|row| meant.contains(row.node.as_str()));
        members.extend(rows.into_iter().map(|row| (cluster.name.clone(), row)));
    }
    Ok(members)
}

/// `n1, a server of prod`
fn in_words((cluster, row): &(String, ClusterNodeView)) -> String {
    let article = if row.role == "agent" { "an" } else { "a" };
    format!("{}, {article} {} of {cluster}", row.node, row.role)
}

impl Whom<'_> {
    fn means(&self, node: &NodeView) -> bool {
        match self {
            Self::Node(named) => node.name == *named || node.id == *named,
            Self::With(labels) => labels
                .iter()
                .all(|(key, value)| node.labels.get(key) == Some(value)),
        }
    }
}
