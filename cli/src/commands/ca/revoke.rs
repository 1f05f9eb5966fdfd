//! `shoal ca revoke`: takes certificates back before they end.

use node_api::{Route, types::RevokeRequest};

use crate::{
    consent::Yes,
    context::Context,
    failure::{Exit, Failure},
    values,
};

/// Take certificates back before they end
///
/// The answer says how many nodes refuse them already, and which do not yet and why.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Revoke {
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    yes: Yes,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct What {
    /// One certificate, by its serial number
    #[arg(long, value_name = "SERIAL", value_parser = values::serial)]
    serial: Option<String>,
    /// Every certificate of a node, its own identity's too; it stays a member and gets new ones
    #[arg(long, value_name = "NODE", value_parser = values::name)]
    node: Option<String>,
    /// Every certificate of an operator
    #[arg(long, value_name = "OPERATOR", value_parser = values::name)]
    operator: Option<String>,
}

impl What {
    fn words(&self) -> String {
        match (&self.serial, &self.node, &self.operator) {
            (Some(serial), _, _) => format!("certificate {serial}"),
            (_, Some(node), _) => format!("the certificates of {node}'s dockerd and its clients"),
            (_, _, Some(operator)) => format!("the certificates of operator {operator}"),
            (None, None, None) => unreachable!("the group of arguments is required"),
        }
    }
}

impl Revoke {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let what = self.what.words();
        let question = format!("Revoke {what}? Connections that rest on them are cut.");
        self.yes
            .or_ask(context.terminal, "revoking certificates", &question)?;
        let request = RevokeRequest {
            serial: self.what.serial,
            node: self.what.node,
            operator: self.what.operator,
        };
        let route = Route::to(&["ca", "revoke"]);
        let answer = context.client.post(&route, &request).await?;
        context.revoked(&answer, &format!("revoking {what}:"))
    }
}
