//! `shoal node promote` and `shoal node demote`.

use node_api::{Route, types::RoleRequest};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    values,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Change {
    /// The node's name or id
    #[arg(value_parser = values::name)]
    node: String,
    /// Even if the servers that answer are no majority afterwards
    #[arg(long)]
    force: bool,
}

impl Change {
    pub(super) async fn run(self, context: &Context<'_>, role: &str) -> Result<Exit, Failure> {
        let request = RoleRequest {
            role: role.into(),
            force: self.force,
        };
        let route = Route::to(&["nodes", &self.node, "role"]);
        let answer = context.client.post(&route, &request).await;
        let article = if role == "agent" { "an" } else { "a" };
        context.changed(answer, &format!("{} is to be {article} {role}", self.node))
    }
}
