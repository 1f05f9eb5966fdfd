//! Consent to what cannot be taken back.
//!
//! Decides: when there is consent: `--yes`, or a yes at a terminal. Never: what needs it.

use crate::{
    failure::{Explained, Failure},
    terminal::Terminal,
};

/// `--yes`, of every command that asks.
#[derive(Debug, clap::Args)]
pub(crate) struct Yes {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsentError {
    #[error("{what} needs consent, and there is no terminal to ask at")]
    Required { what: String },
    #[error("there was no consent to {what}: nothing was done")]
    NotGiven { what: String },
}

impl Explained for ConsentError {
    fn code(&self) -> &'static str {
        match self {
            Self::Required { .. } => "ConfirmationRequiredError",
            Self::NotGiven { .. } => "NotConfirmedError",
        }
    }

    fn hint(&self) -> String {
        "give --yes to go on without being asked".into()
    }
}

impl Yes {
    /// Whether there is consent to anything, without a question.
    pub(crate) fn is_given(&self) -> bool {
        self.yes
    }

    /// Goes on if there is consent to `what`, such as `removing a node`.
    pub(crate) fn or_ask(
        &self,
        terminal: &Terminal,
        what: &str,
        question: &str,
    ) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        let what = || what.to_owned();
        match terminal.consent(question)? {
            Some(true) => Ok(()),
            Some(false) => Err(ConsentError::NotGiven { what: what() }.into()),
            None => Err(ConsentError::Required { what: what() }.into()),
        }
    }
}
