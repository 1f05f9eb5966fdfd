//! `shoal docker`: Docker hosts, and what runs on them.

mod containers;
pub(crate) mod env;
mod hosts;
mod images;

use crate::{
    context::Context,
    failure::{Exit, Failure},
};

/// Docker hosts of the mesh, and what runs on them
#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Docker {
    /// List all Docker hosts
    Ls,
    /// Make a node a Docker host
    Provision(hosts::Host),
    /// Make a node forget that it was a Docker host, and revoke its certificates
    Decommission(hosts::Host),
    Register(hosts::Register),
    /// Forget a Docker host outside the mesh
    Unregister(hosts::External),
    /// List a host's containers
    Ps(hosts::Host),
    /// List a host's images
    Images(hosts::Host),
    Pull(images::Pull),
    Import(images::Import),
    Run(containers::Run),
    Logs(containers::Logs),
    Rm(containers::Rm),
    Rmi(images::Rmi),
    Env(env::Env),
}

impl Docker {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        match self {
            Self::Ls => hosts::ls(context).await,
            Self::Provision(host) => host.provision(context).await,
            Self::Decommission(host) => host.decommission(context).await,
            Self::Register(register) => register.run(context).await,
            Self::Unregister(external) => external.unregister(context).await,
            Self::Ps(host) => containers::ps(context, &host.node).await,
            Self::Images(host) => images::ls(context, &host.node).await,
            Self::Pull(pull) => pull.run(context).await,
            Self::Import(import) => import.run(context).await,
            Self::Run(run) => run.run(context).await,
            Self::Logs(logs) => logs.run(context).await,
            Self::Rm(rm) => rm.run(context).await,
            Self::Rmi(rmi) => rmi.run(context).await,
            Self::Env(env) => env.run(context).await,
        }
    }
}

/// Shows that something was deleted; what the daemon adds to that is for programs.
fn deleted(
    context: &Context<'_>,
    answer: &node_api::Answer<serde_json::Value>,
    said: &str,
) -> Result<Exit, Failure> {
    if !context.terminal.json() {
        context.terminal.text(said)?;
    } else if answer.body.trim_ascii().is_empty() {
        context.terminal.document(b"{}")?;
    } else {
        context.terminal.document(&answer.body)?;
    }
    Ok(Exit::Done)
}
