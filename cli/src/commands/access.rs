//! `shoal access`: devices that use a network without a daemon.

mod configuration;
mod grant;
mod key;
mod show;

use node_api::{Route, types::AccessGatewayRequest};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    values,
};

/// Devices without a daemon that are let into a network with plain WireGuard
#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Access {
    /// List all access grants
    Ls,
    /// Show a grant, and its device's configuration but for the private key
    Show(One),
    Grant(grant::Grant),
    /// Give a device another gateway, and show its configuration but for the private key
    Move {
        #[command(flatten)]
        one: One,
        /// The node that is to forward for the device
        #[arg(long, value_name = "NODE", value_parser = values::name)]
        via: String,
    },
    /// Let a device in no more, until its grant is resumed
    Suspend(One),
    /// Let a device in again
    Resume(One),
    /// Forget a grant: its device is let in no more
    Revoke(One),
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The grant's name
    #[arg(value_parser = values::name)]
    name: String,
}

impl One {
    fn route(&self) -> Route {
        Route::to(&["access-grants", &self.name])
    }

    fn part(&self, part: &str) -> Route {
        Route::to(&["access-grants", &self.name, part])
    }
}

impl Access {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let client = &context.client;
        match self {
            Self::Ls => {
                let now_ms = super::status::now_ms();
                let answer = client.get(&Route::to(&["access-grants"])).await;
                context.list(answer, |grants| show::list(grants, now_ms))
            }
            Self::Show(one) => show::details(context, client.get(&one.route()).await),
            Self::Grant(grant) => grant.run(context).await,
            Self::Move { one, via } => {
                let request = AccessGatewayRequest { gateway: via };
                show::details(context, client.put(&one.part("gateway"), &request).await)
            }
            Self::Suspend(one) => {
                let answer = client.post(&one.part("suspend"), &()).await;
                context.changed(answer, &format!("{} is let in no more", one.name))
            }
            Self::Resume(one) => {
                let answer = client.post(&one.part("resume"), &()).await;
                context.changed(answer, &format!("{} is let in again", one.name))
            }
            Self::Revoke(one) => {
                let answer = client.delete(&one.route()).await;
                context.changed(answer, &format!("the access grant {} is revoked", one.name))
            }
        }
    }
}
