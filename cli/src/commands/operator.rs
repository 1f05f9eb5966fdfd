//! `shoal operator`: people and programs that may operate the mesh from elsewhere.

mod bundle;
mod certificate;
mod ls;
mod remove;
mod role;

use crate::{
    context::Context,
    failure::{Exit, Failure},
};

/// Who may operate the mesh from elsewhere, and as what
#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Operator {
    /// List all operators
    Ls,
    Create(certificate::Create),
    Renew(certificate::Renew),
    Role(role::SetRole),
    Remove(remove::Remove),
}

/// What an operator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RoleName {
    /// Reads
    Viewer,
    /// Also changes what the mesh carries: labels, modules, containers. Root on Docker hosts
    Operator,
    /// Also decides who belongs to the mesh and who operates it
    Admin,
}

impl RoleName {
    fn as_str(self) -> &'static str {
        let role = match self {
            Self::Viewer => node_api::AccessRole::Viewer,
            Self::Operator => node_api::AccessRole::Operator,
            Self::Admin => node_api::AccessRole::Admin,
        };
        role.as_str()
    }
}

impl Operator {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        match self {
            Self::Ls => ls::run(context).await,
            Self::Create(create) => create.run(context).await,
            Self::Renew(renew) => renew.run(context).await,
            Self::Role(set_role) => set_role.run(context).await,
            Self::Remove(remove) => remove.run(context).await,
        }
    }
}
