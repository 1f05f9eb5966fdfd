//! `shoal recover`: goes on from one server when the majority is lost.
//!
//! Decides: that nothing is done before whoever asks has seen what may be lost and has written the
//! mesh's name. Never: whether it is possible; the daemon says so.

use node_api::{
    Answer, Route,
    types::{RecoverPlan, RecoverRequest, Recovered},
};

use crate::{
    context::Context,
    failure::{Exit, Explained, Failure},
    table::facts,
    values,
};

/// Go on from this server when most servers are lost for good
///
/// Shows what would be done and what may be lost, and asks for the mesh's name before it is done.
/// To be given on one server only, the one whose log is the longest: the others' plans show theirs.
/// The lost servers can never vote again; those that come back come back as agents. With --json
/// the plan is one line, and what was done another.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Recover {
    /// The mesh's name, instead of writing it at the terminal
    #[arg(long, value_name = "MESH", value_parser = values::name)]
    confirm: Option<String>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecoverError {
    #[error("recovery needs the mesh's name as confirmation, and there is no terminal to ask at")]
    ConfirmationRequired { mesh: String },
    #[error("{given:?} is not the mesh's name: nothing was done")]
    NotConfirmed { given: String },
}

impl Explained for RecoverError {
    fn code(&self) -> &'static str {
        match self {
            Self::ConfirmationRequired { .. } => "ConfirmationRequiredError",
            Self::NotConfirmed { .. } => "NotConfirmedError",
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::ConfirmationRequired { mesh } => {
                format!("look at what may be lost, then give --confirm {mesh}")
            }
            Self::NotConfirmed { .. } => "the plan shows the mesh's name".into(),
        }
    }
}

impl Recover {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        context.require_socket("recovery")?;
        let route = Route::to(&["recover"]);
        let plan: Answer<RecoverPlan> = context.client.get(&route).await?;
        let terminal = context.terminal;
        if terminal.json() {
            terminal.document(&plan.body)?;
        } else {
            terminal.text(&plan_words(&plan.value))?;
        }
        let plan = plan.value;
        if let Some(refused) = plan.refused {
            return Err(refused.into());
        }
        let given = match self.confirm {
            Some(given) => given,
            None => terminal
                .ask("Write the mesh's name to go on:")?
                .ok_or_else(|| RecoverError::ConfirmationRequired {
                    mesh: plan.mesh.clone(),
                })?,
        };
        if given != plan.mesh {
            return Err(RecoverError::NotConfirmed { given }.into());
        }
        let request = RecoverRequest { confirm: given };
        let done: Answer<Recovered> = context.client.post(&route, &request).await?;
        if terminal.json() {
            terminal.document(&done.body)?;
        } else {
            terminal.text(&format!("\n{}", done_words(&plan.survivor, &done.value)))?;
            terminal.warnings(&done.value.warnings)?;
        }
        Ok(Exit::Done)
    }
}

fn or_nobody(names: &[String]) -> String {
    match names {
        [] => "nobody".into(),
        some => some.join(", "),
    }
}

fn plan_words(plan: &RecoverPlan) -> String {
    let voters = plan.lost.len() + plan.reachable.len();
    let unsure = plan.last_index.saturating_sub(plan.committed_index);
    let log = match unsure {
        0 => format!("all {} entries are known to be agreed", plan.last_index),
        _ => format!(
            "up to {} known to be agreed; {unsure} more, perhaps never agreed, are kept",
            plan.committed_index
        ),
    };
    let known = facts(&[
        ("Mesh", plan.mesh.clone()),
        ("Goes on", plan.survivor.clone()),
        ("Reachable", or_nobody(&plan.reachable)),
        ("Lost", or_nobody(&plan.lost)),
        (
            "Majority",
            format!(
                "{} of {voters} servers; answering: {}",
                plan.needed,
                plan.reachable.len()
            ),
        ),
        ("Log", log),
    ]);
    if plan.refused.is_some() {
        return known;
    }
    let mut text = format!(
        "{known}\nThe mesh goes on from {}'s log. The servers that do not answer become agents and can never \
         vote again.\n",
        plan.survivor
    );
    if !plan.may_be_lost.is_empty() {
        text += "What may be lost:\n";
        let lines = plan.may_be_lost.iter();
        text.extend(lines.map(|line| format!("  - {line}\n")));
    }
    text
}

fn done_words(survivor: &str, done: &Recovered) -> String {
    format!(
        "{survivor} goes on: recovery {}, from log index {}. No longer servers: {}.\n\n\
         Next: look at `shoal status` and `shoal node ls` here. Make new servers, three in all, \
         with\n  shoal node promote NODE\n\
         and remove for good what will not come back with\n  shoal node remove NODE",
        done.era,
        done.raft_index,
        or_nobody(&done.demoted)
    )
}

#[cfg(test)]
mod tests {
    use node_api::ApiError;

    use super::*;

    fn plan() -> RecoverPlan {
        RecoverPlan {
            mesh: "home".into(),
            survivor: "n1".into(),
            lost: vec!["n2".into(), "n3".into()],
            reachable: vec!["n1".into()],
            needed: 2,
            committed_index: 41,
            last_index: 44,
            may_be_lost: vec!["changes that only n2 and n3 acknowledged".into()],
            refused: None,
        }
    }

    #[test]
    fn the_plan_says_who_goes_on_and_what_may_be_lost() {
        insta::assert_snapshot!(plan_words(&plan()), @r"
        Mesh:      home
        Goes on:   n1
        Reachable: n1
        Lost:      n2, n3
        Majority:  2 of 3 servers; answering: 1
        Log:       up to 41 known to be agreed; 3 more, perhaps never agreed, are kept

        The mesh goes on from n1's log. The servers that do not answer become agents and can never vote again.
        What may be lost:
          - changes that only n2 and n3 acknowledged
        ");
    }

    #[test]
    fn a_plan_that_is_refused_promises_nothing() {
        let refused = RecoverPlan {
            refused: Some(ApiError::new("X", "a majority answers", "h")),
            lost: vec![],
            last_index: 41,
            ..plan()
        };
        let shown = plan_words(&refused);
        assert!(!shown.contains("goes on from"), "{shown}");
        assert!(shown.contains("all 41 entries are known"), "{shown}");
        assert!(shown.contains("Lost:      nobody"), "{shown}");
    }

    #[test]
    fn what_was_done_is_said_with_what_comes_next() {
        let done = Recovered {
            raft_index: 45,
            era: 1,
            demoted: vec!["n2".into(), "n3".into()],
            warnings: vec![],
        };
        insta::assert_snapshot!(done_words("n1", &done), @r"
        n1 goes on: recovery 1, from log index 45. No longer servers: n2, n3.

        Next: look at `shoal status` and `shoal node ls` here. Make new servers, three in all, with
          shoal node promote NODE
        and remove for good what will not come back with
          shoal node remove NODE
        ");
    }
}
