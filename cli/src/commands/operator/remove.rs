//! `shoal operator remove`.

use node_api::Route;

use crate::{
    consent::Yes,
    context::Context,
    failure::{Exit, Failure},
    values,
};

/// Remove an operator, and revoke its certificates
#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// The operator's name
    #[arg(value_parser = values::name)]
    name: String,
    #[command(flatten)]
    yes: Yes,
}

impl Remove {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let question = format!(
            "Remove operator {}? Its certificates are revoked.",
            self.name
        );
        self.yes
            .or_ask(context.terminal, "removing an operator", &question)?;
        let route = Route::to(&["operators", &self.name]);
        let answer = context.client.delete(&route).await?;
        context.revoked(&answer, &format!("operator {} is removed", self.name))
    }
}
