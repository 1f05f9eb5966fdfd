//! `shoal cluster`: K3s clusters.

mod kubeconfig;
mod show;
mod upgrade;

use node_api::{Route, types::ClusterSnapshot};

use crate::{
    consent::Yes,
    context::Context,
    failure::{Exit, Failure},
    values,
};

/// K3s clusters
#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Cluster {
    /// List all clusters
    Ls,
    /// Show everything about a cluster: its API, its nodes, a change that goes round
    Show(One),
    /// List a cluster's nodes
    Nodes(One),
    Kubeconfig(kubeconfig::PrintKubeconfig),
    /// Have one of its servers take a snapshot of a cluster's etcd
    Snapshot(One),
    Upgrade(upgrade::Upgrade),
    Decommission(Decommission),
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The cluster's name or id
    #[arg(value_parser = values::name)]
    cluster: String,
}

/// Give a whole cluster up: its nodes take K3s off, with all that ran there
///
/// The modules stay assigned to the nodes, to no cluster, until they are unassigned.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Decommission {
    #[command(flatten)]
    one: One,
    #[command(flatten)]
    yes: Yes,
}

impl One {
    fn route(&self) -> Route {
        Route::to(&["clusters", &self.cluster])
    }

    fn part(&self, part: &str) -> Route {
        Route::to(&["clusters", &self.cluster, part])
    }
}

impl Cluster {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let client = &context.client;
        match self {
            Self::Ls => context.list(client.get(&Route::to(&["clusters"])).await, show::list),
            Self::Show(one) => context.show(client.get(&one.route()).await, show::show),
            Self::Nodes(one) => context.list(client.get(&one.part("nodes")).await, show::nodes),
            Self::Kubeconfig(print) => print.run(context).await,
            Self::Snapshot(one) => {
                let answer = client.post(&one.part("snapshot"), &()).await;
                context.show(answer, taken)
            }
            Self::Upgrade(upgrade) => upgrade.run(context).await,
            Self::Decommission(decommission) => decommission.run(context).await,
        }
    }
}

fn taken(snapshot: &ClusterSnapshot) -> String {
    let ClusterSnapshot { node, name, path } = snapshot;
    format!("{name} is on {node}, at {path}")
}

impl Decommission {
    async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let cluster = &self.one.cluster;
        self.yes.or_ask(
            context.terminal,
            "decommissioning a cluster",
            &format!("Give cluster {cluster} up? All that runs in it ends, and its data go."),
        )?;
        let answer = context.client.delete(&self.one.route()).await;
        context.changed(answer, &format!("cluster {cluster} is given up"))
    }
}
