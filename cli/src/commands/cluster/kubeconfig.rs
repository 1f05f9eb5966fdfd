//! `shoal cluster kubeconfig`: how a cluster's administrator reaches it.
//!
//! Invariant: it is printed because it was asked for, or is in a file of its owner alone; that file's
//! place is taken before anybody is asked.

use std::path::PathBuf;

use node_api::{Answer, types::Kubeconfig};
use serde_json::json;

use super::One;
use crate::{
    context::Context,
    failure::{Exit, Failure},
    secret_file::{NewFileError, SecretFile},
};

/// Print the kubeconfig of a cluster's administrator
///
/// It leads to the virtual IP of the cluster's API, which every member of its network reaches, and
/// is called like the cluster. Whoever has it may do anything there.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct PrintKubeconfig {
    #[command(flatten)]
    one: One,
    /// Write it to a new file, readable by its owner only, instead of printing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl PrintKubeconfig {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let file = self.out.as_deref().map(SecretFile::create).transpose()?;
        let route = self.one.part("kubeconfig");
        let answer: Answer<Kubeconfig> = context.client.post(&route, &()).await?;
        let terminal = context.terminal;
        let Some(file) = file else {
            match terminal.json() {
                true => terminal.document(&answer.body)?,
                false => terminal.text(&answer.value.kubeconfig)?,
            }
            return Ok(Exit::Done);
        };
        let path = file.path();
        file.keep(&answer.value.kubeconfig)
            .map_err(|source| NewFileError::of(path, source))?;
        let path = path.display().to_string();
        match terminal.json() {
            true => terminal.value(&json!({ "path": path }))?,
            false => terminal.text(&format!(
                "the kubeconfig of {} is in {path}; `KUBECONFIG={path} kubectl get nodes` uses it",
                self.one.cluster
            ))?,
        }
        Ok(Exit::Done)
    }
}
