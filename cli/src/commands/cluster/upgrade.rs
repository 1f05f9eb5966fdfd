//! `shoal cluster upgrade`: another K3s for a whole cluster.
//!
//! Decides: what of its progress is news, and when to stop looking on. Never: how far it is; the mesh
//! carries it out whether or not anybody looks on.

use std::time::{Duration, Instant};

use node_api::{
    Answer, ApiError, Client,
    types::{Changed, ClusterDetails, ClusterUpgradeRequest},
};

use super::{One, show::change};
use crate::{
    commands::k3s::Source,
    context::Context,
    failure::{Exit, Explained, Failure, passes},
};

/// Between two looks. A node's turn takes seconds; a person sees half of one.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long nobody may answer. An election takes seconds, a server that starts again tens of them.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Have every node of a cluster run another K3s
///
/// Servers come first and one at a time, the holder of the API's address last, then agents. Each is
/// emptied before, and its cluster's etcd saved. It stops at the first node that cannot: the command
/// then says which and why. Given again it goes on there, also with another K3s. The command shows
/// how far that is until it is over. Interrupting it does not stop the upgrade.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Upgrade {
    #[command(flatten)]
    one: One,
    #[command(flatten)]
    source: Binary,
    /// What it must say its version is, such as v1.32.0+k3s1
    #[arg(long, value_name = "VERSION")]
    version: String,
    /// A directory on every node with the images of that version
    #[arg(long, value_name = "DIR")]
    images: Option<std::path::PathBuf>,
    /// So many agents at once [default: 1]
    #[arg(long, value_name = "NUMBER")]
    batch: Option<u16>,
    /// Begin it, and do not wait for its end
    #[arg(long)]
    no_wait: bool,
}

/// Which K3s.
#[derive(Debug, clap::Args)]
struct Binary {
    /// The K3s program, at the same place on every node
    #[arg(long = "binary", value_name = "PATH", required_unless_present = "url")]
    path: Option<std::path::PathBuf>,
    /// Where every node can fetch it
    #[arg(long, value_name = "URL", requires = "sha256", conflicts_with = "path")]
    url: Option<String>,
    /// What the file there must hash to
    #[arg(long, value_name = "HEX", requires = "url")]
    sha256: Option<String>,
}

/// It is not over and does not go on, or is over without having been done.
#[derive(Debug, thiserror::Error)]
enum UpgradeError {
    #[error("the upgrade of {cluster} stopped at {node} after {done} nodes: {reason}")]
    Stopped {
        cluster: String,
        node: String,
        done: u64,
        reason: String,
    },
    #[error("the upgrade of {cluster} is over and was not done: the cluster is {status}")]
    Abandoned { cluster: String, status: String },
}

impl Explained for UpgradeError {
    fn code(&self) -> &'static str {
        match self {
            Self::Stopped { .. } => "ClusterUpgradeStoppedError",
            Self::Abandoned { .. } => "ClusterUpgradeAbandonedError",
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::Stopped { node, .. } => format!(
                "no other node is changed until {node} is; it tries again by itself, and the same command goes on there, also with another --binary and --version"
            ),
            Self::Abandoned { cluster, .. } => {
                format!("`shoal cluster show {cluster}` shows how it is")
            }
        }
    }
}

impl Upgrade {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let Binary { path, url, sha256 } = self.source;
        let source = Source { path, url, sha256 };
        let request = ClusterUpgradeRequest {
            binary: source.request(Some(self.version.clone()), self.images),
            batch: self.batch,
        };
        let route = self.one.part("upgrade");
        let begun = context.client.post::<Changed>(&route, &request).await;
        if self.no_wait {
            let name = &self.one.cluster;
            let said = format!(
                "{name} is upgraded, one server after another; `shoal cluster show {name}` tells how far it is"
            );
            return context.changed(begun, &said);
        }
        begun?;
        let ended = follow(context, &self.one).await;
        if context.terminal.draws_progress() {
            context.terminal.progress_over()?;
        }
        let answer = ended?;
        // It may have been over before the first look.
        let details = &answer.value;
        if details.version.as_deref() != Some(self.version.as_str()) {
            return Err(UpgradeError::Abandoned {
                cluster: details.cluster.name.clone(),
                status: details.cluster.status.clone(),
            }
            .into());
        }
        context.show(Ok(answer), words)
    }
}

/// Looks on until nothing goes round any more, or nothing moves.
async fn follow(context: &Context<'_>, one: &One) -> Result<Answer<ClusterDetails>, Failure> {
    // What this node knew before it heard of the upgrade would look like its end.
    let client = context.client.clone().stale(false);
    let mut shown = String::new();
    let mut heard = Instant::now();
    loop {
        match look(&client, one).await {
            Ok(answer) => {
                heard = Instant::now();
                let Some(rollout) = &answer.value.rollout else {
                    return Ok(answer);
                };
                if let Some(node) = &rollout.failed_at {
                    return Err(UpgradeError::Stopped {
                        cluster: answer.value.cluster.name.clone(),
                        node: node.clone(),
                        done: rollout.done,
                        reason: rollout.reason.clone().unwrap_or_default(),
                    }
                    .into());
                }
                let news = change(rollout);
                if news != shown {
                    tell(context, &news)?;
                    shown = news;
                }
            }
            Err(error) if passes(&error) && heard.elapsed() < SILENCE_MAX => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(client: &Client, one: &One) -> Result<Answer<ClusterDetails>, ApiError> {
    client.get(&one.route()).await
}

/// For people only: a program is given one document, at the end.
fn tell(context: &Context<'_>, news: &str) -> Result<(), Failure> {
    let terminal = context.terminal;
    match (terminal.json(), terminal.draws_progress()) {
        (true, _) => Ok(()),
        (false, true) => terminal.progress(news),
        (false, false) => terminal.text(news),
    }
}

fn words(details: &ClusterDetails) -> String {
    let cluster = &details.cluster;
    let version = details.version.as_deref().unwrap_or_default();
    format!(
        "{} runs {version} on {} nodes",
        cluster.name, cluster.node_count
    )
}
