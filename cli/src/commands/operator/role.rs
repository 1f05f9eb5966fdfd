//! `shoal operator role`.

use node_api::{Route, types::OperatorRoleRequest};

use super::RoleName;
use crate::{
    context::Context,
    failure::{Exit, Failure},
    values,
};

/// Give an operator another role, at once
#[derive(Debug, clap::Args)]
pub(crate) struct SetRole {
    /// The operator's name
    #[arg(value_parser = values::name)]
    name: String,
    /// What it may do
    #[arg(value_enum)]
    role: RoleName,
}

impl SetRole {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let role = self.role.as_str();
        let request = OperatorRoleRequest { role: role.into() };
        let route = Route::to(&["operators", &self.name, "role"]);
        let answer = context.client.post(&route, &request).await;
        context.changed(answer, &format!("{} has the role of {role}", self.name))
    }
}
