//! `shoal node remove`.

use node_api::{Answer, Route, types::RemoveRequest};

use crate::{
    consent::Yes,
    context::Context,
    failure::{Exit, Failure},
    values,
};

/// Remove a node from the mesh for good
///
/// Its certificates are revoked and its addresses freed. The answer says how many nodes refuse it
/// already, and which do not yet and why. If it is on, it takes everything of shoal off its host
/// afterwards, and its daemon ends.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Remove {
    /// The node's name or id
    #[arg(value_parser = values::name)]
    node: String,
    /// Even if the servers that answer are no majority afterwards
    #[arg(long)]
    force: bool,
    /// Somebody else may have the machine's keys: revoke also what it signed
    #[arg(long)]
    compromised: bool,
    /// Why, for the event, and for the node should it come back
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    yes: Yes,
}

impl Remove {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        self.yes
            .or_ask(context.terminal, "removing a node", &self.question())?;
        let said = format!("{} is removed", self.node);
        let route = Route::to(&["nodes", &self.node, "remove"]);
        let request = RemoveRequest {
            force: self.force,
            compromised: self.compromised,
            reason: self.reason,
        };
        let answer: Answer<_> = context.client.post(&route, &request).await?;
        context.revoked(&answer, &said)
    }

    fn question(&self) -> String {
        let signed = match self.compromised {
            true => " So is all that it signed.",
            false => "",
        };
        format!(
            "Remove {} from the mesh? Its certificates are revoked and its addresses freed.{signed}",
            self.node
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        remove: Remove,
    }

    #[test]
    fn the_question_says_what_is_taken_back() {
        let question = |line: &str| Line::parse_from(line.split(' ')).remove.question();
        assert_eq!(
            question("remove n1"),
            "Remove n1 from the mesh? Its certificates are revoked and its addresses freed."
        );
        assert!(question("remove n1 --compromised").ends_with("So is all that it signed."));
    }
}
