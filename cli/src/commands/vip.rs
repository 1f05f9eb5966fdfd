//! `shoal vip`: addresses that move from node to node.

mod change;
mod drill;
mod failover;
mod show;

use node_api::Route;

use crate::{
    context::Context,
    failure::{Exit, Failure},
    values,
};

/// Virtual IPs: addresses that move to another node by themselves
#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Vip {
    /// List all virtual IPs
    Ls,
    /// Show everything about one: its lease, its candidates, its last moves
    Show(One),
    Create(change::Create),
    Candidates(change::Candidates),
    Check(change::Check),
    Failover(failover::Failover),
    Drill(drill::Drill),
    Delete(change::Delete),
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The virtual IP's name
    #[arg(value_parser = values::name)]
    name: String,
}

impl One {
    fn route(&self) -> Route {
        Route::to(&["vips", &self.name])
    }

    fn part(&self, part: &str) -> Route {
        Route::to(&["vips", &self.name, part])
    }
}

impl Vip {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let client = &context.client;
        match self {
            Self::Ls => context.list(client.get(&Route::to(&["vips"])).await, show::list),
            Self::Show(one) => context.show(client.get(&one.route()).await, show::show),
            Self::Create(create) => create.run(context).await,
            Self::Candidates(candidates) => candidates.run(context).await,
            Self::Check(check) => check.run(context).await,
            Self::Failover(failover) => failover.run(context).await,
            Self::Drill(drill) => drill.run(context).await,
            Self::Delete(delete) => delete.run(context).await,
        }
    }
}
