//! One module per noun or command: its arguments, what it asks for, and how the answer reads.

pub(crate) mod access;
pub(crate) mod backup;
pub(crate) mod ca;
pub(crate) mod cluster;
pub(crate) mod docker;
pub(crate) mod events;
pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod k3s;
pub(crate) mod module;
pub(crate) mod network;
pub(crate) mod node;
pub(crate) mod operator;
pub(crate) mod recover;
pub(crate) mod run;
pub(crate) mod sim;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod vip;

use crate::{
    cli::Command,
    context::Context,
    failure::{Exit, Failure},
};

/// Carries out a command.
pub(crate) async fn run_command(command: Command, context: &Context<'_>) -> Result<Exit, Failure> {
    match command {
        Command::Init(init) => init.run(context).await,
        Command::Join(join) => join.run(context).await,
        Command::Token(token) => token.run(context).await,
        Command::Status(status) => status.run(context).await,
        Command::Node(node) => node.run(context).await,
        Command::Network(network) => network.run(context).await,
        Command::Vip(vip) => vip.run(context).await,
        Command::Access(access) => access.run(context).await,
        Command::Module(module) => module.run(context).await,
        Command::Docker(docker) => docker.run(context).await,
        Command::K3s(k3s) => k3s.run(context).await,
        Command::Cluster(cluster) => cluster.run(context).await,
        Command::Events(events) => events.run(context).await,
        Command::Ca(ca) => ca.run(context).await,
        Command::Operator(operator) => operator.run(context).await,
        Command::Backup(backup) => backup.run(context).await,
        Command::Recover(recover) => recover.run(context).await,
        Command::Run(_) => unreachable!("main replaces the process for it"),
        Command::Sim(_) => unreachable!("main runs it without a daemon"),
    }
}
