//! `shoal cluster upgrade`: another K3s for a whole cluster.
//!
//! Decides: which cluster is meant where none is named, what of its progress is news, and when it is
//! over. Never: how far it is; the mesh carries it out whether or not anybody looks on.

use std::time::Duration;

use node_api::{
    Answer, Route,
    types::{Changed, ClusterDetails, ClusterUpgradeRequest, ClusterView},
};

use super::{One, show::change};
use crate::{
    commands::k3s::Source,
    context::Context,
    failure::{Exit, Explained, Failure},
    looking_on::{News, until_over},
    values,
};

/// Between two looks. A node's turn takes seconds; a person sees half of one.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Have every node of a cluster run another K3s
///
/// Servers come first and one at a time, the holder of the API's address last, then agents. Each is
/// emptied before, and its cluster's etcd saved. It stops at the first node that cannot: the command
/// then says which and why. Given again it goes on there, also with another K3s. The command shows
/// how far that is until it is over. Interrupting it does not stop the upgrade.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Upgrade {
    /// The cluster's name or id [default: the only one]
    #[arg(value_parser = values::name)]
    cluster: Option<String>,
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

/// No cluster was named, and there is not just one. The codes are those of an assignment that names none.
#[derive(Debug, thiserror::Error)]
enum NotNamedError {
    #[error("there is no cluster in this mesh to upgrade")]
    Nothing,
    #[error("there are several clusters, and none was named: {clusters}")]
    Several { clusters: String },
}

impl Explained for NotNamedError {
    fn code(&self) -> &'static str {
        match self {
            Self::Nothing => "NoClusterError",
            Self::Several { .. } => "ClusterAmbiguousError",
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::Nothing => {
                "found one first: `shoal k3s provision NODE --role server --cluster NAME`".into()
            }
            Self::Several { .. } => "name one: `shoal cluster upgrade CLUSTER`".into(),
        }
    }
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
        let one = match self.cluster {
            Some(cluster) => One { cluster },
            None => only(context).await?,
        };
        let Binary { path, url, sha256 } = self.source;
        let source = Source { path, url, sha256 };
        let request = ClusterUpgradeRequest {
            binary: source.request(Some(self.version.clone()), self.images),
            batch: self.batch,
        };
        let route = one.part("upgrade");
        let begun = context.client.post::<Changed>(&route, &request).await;
        if self.no_wait {
            let name = &one.cluster;
            let said = format!(
                "{name} is upgraded, one server after another; `shoal cluster show {name}` tells how far it is"
            );
            return context.changed(begun, &said);
        }
        begun?;
        let answer = follow(context, &one).await?;
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

/// The cluster that is meant where none is named (SPEC 5.4): the only one, and of several none.
async fn only(context: &Context<'_>) -> Result<One, Failure> {
    // One that this node has not heard of yet may make two of them.
    let client = context.client.clone().stale(false);
    let listed: Answer<Vec<ClusterView>> = client.get(&Route::to(&["clusters"])).await?;
    let names: Vec<String> = listed.value.into_iter().map(|one| one.name).collect();
    match <[String; 1]>::try_from(names) {
        Ok([cluster]) => Ok(One { cluster }),
        Err(names) if names.is_empty() => Err(NotNamedError::Nothing.into()),
        Err(names) => Err(NotNamedError::Several {
            clusters: names.join(", "),
        }
        .into()),
    }
}

/// Looks on until nothing goes round any more, or nothing moves.
async fn follow(context: &Context<'_>, one: &One) -> Result<Answer<ClusterDetails>, Failure> {
    // What this node knew before it heard of the upgrade would look like its end.
    let client = context.client.clone().stale(false);
    let mut news = News::on(context.terminal);
    let look = async || client.get(&one.route()).await;
    let ended = until_over(LOOK_EVERY, look, |answer| take(answer, &mut news)).await;
    news.over()?;
    ended
}

fn take(
    answer: Answer<ClusterDetails>,
    news: &mut News<'_>,
) -> Result<Option<Answer<ClusterDetails>>, Failure> {
    let Some(rollout) = &answer.value.rollout else {
        return Ok(Some(answer));
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
    news.tell(change(rollout))?;
    Ok(None)
}

fn words(details: &ClusterDetails) -> String {
    let cluster = &details.cluster;
    let version = details.version.as_deref().unwrap_or_default();
    format!(
        "{} runs {version} on {} nodes",
        cluster.name, cluster.node_count
    )
}
