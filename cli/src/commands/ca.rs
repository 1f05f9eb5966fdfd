//! `shoal ca`: the mesh's certificate authority.

mod revoke;
mod rotate;
mod status;

use crate::{
    context::Context,
    failure::{Exit, Failure},
};

/// The mesh's certificate authority
#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Ca {
    /// Show roots, servers' authorities and certificates, and when each ends
    Status,
    Rotate(rotate::Rotate),
    Revoke(revoke::Revoke),
}

impl Ca {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        match self {
            Self::Status => status::run(context).await,
            Self::Rotate(rotate) => rotate.run(context).await,
            Self::Revoke(revoke) => revoke.run(context).await,
        }
    }
}
