//! Containers on a Docker host.

use comfy_table::Table;
use node_api::{
    Answer, Download, Route,
    types::{ContainerView, Created, RunRequest},
};
use serde_json::json;

use super::deleted;
use crate::{
    context::Context,
    failure::{Exit, Failure},
    table::table,
    values,
};

/// Characters of a container's id that tell it apart; the docker CLI shows as many.
const ID_CHARS_SHOWN: usize = 12;

/// Create a container and start it
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// The node's name or id
    #[arg(value_parser = values::name)]
    node: String,
    /// The image
    #[arg(value_parser = values::name)]
    image: String,
    /// The container's name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Publish a port on the host's overlay addresses; may be given several times
    #[arg(short, long, value_name = "HOST:CONTAINER", value_parser = values::port)]
    pub(crate) publish: Vec<String>,
    /// Set an environment variable; may be given several times
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = values::variable)]
    env: Vec<String>,
    /// When dockerd restarts it
    #[arg(long, value_name = "POLICY", value_parser = ["no", "always", "unless-stopped", "on-failure"])]
    restart: Option<String>,
    /// The network of the mesh whose containers it is to reach by address and name
    #[arg(long, value_name = "NETWORK", value_parser = values::name)]
    network: Option<String>,
    /// The command, after --; the image's own unless given
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

/// Show what a container wrote
///
/// With --json each line is a document with the key `line`.
#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// The node's name or id
    #[arg(value_parser = values::name)]
    node: String,
    /// The container's name or id
    #[arg(value_parser = values::name)]
    container: String,
    /// Go on with what it writes from now
    #[arg(long, short)]
    follow: bool,
    /// Only the last lines of what is there
    #[arg(long, value_name = "N")]
    tail: Option<u32>,
}

/// Remove a container
#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// The node's name or id
    #[arg(value_parser = values::name)]
    node: String,
    /// The container's name or id
    #[arg(value_parser = values::name)]
    container: String,
    /// Kill it first if it runs
    #[arg(long, short)]
    force: bool,
}

pub(super) async fn ps(context: &Context<'_>, node: &str) -> Result<Exit, Failure> {
    let route = Route::to(&["docker", "hosts", node, "containers"]);
    context.list(context.client.get(&route).await, list)
}

impl Run {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let route = Route::to(&["docker", "hosts", &self.node, "containers"]);
        let request = RunRequest {
            image: self.image,
            name: self.name,
            ports: self.publish,
            command: self.command,
            env: self.env,
            restart: self.restart,
            network: self.network,
        };
        let answer: Answer<Created> = context.client.post(&route, &request).await?;
        context.show(Ok(answer), |created| created.id.clone())
    }
}

impl Logs {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let mut route = Route::to(&[
            "docker",
            "hosts",
            &self.node,
            "containers",
            &self.container,
            "logs",
        ])
        .flag("follow", self.follow);
        if let Some(tail) = self.tail {
            route = route.query("tail", &tail.to_string());
        }
        let download = context.client.download(&route).await?;
        match context.terminal.json() {
            true => as_documents(context, download).await,
            false => as_written(context, download).await,
        }
    }
}

async fn as_written(context: &Context<'_>, mut download: Download) -> Result<Exit, Failure> {
    while let Some(chunk) = download.chunk().await? {
        context.terminal.bytes(&chunk)?;
    }
    Ok(Exit::Done)
}

async fn as_documents(context: &Context<'_>, mut download: Download) -> Result<Exit, Failure> {
    while let Some(line) = download.line().await? {
        // JSON is Unicode; what a container writes need not be.
        let line = String::from_utf8_lossy(&line);
        context.terminal.value(&json!({ "line": line }))?;
    }
    Ok(Exit::Done)
}

impl Rm {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let route = Route::to(&["docker", "hosts", &self.node, "containers", &self.container])
            .flag("force", self.force);
        let answer = context.client.delete(&route).await?;
        deleted(context, &answer, &format!("{} is removed", self.container))
    }
}

fn list(containers: &[ContainerView]) -> Table {
    let rows = containers.iter().map(|container| {
        vec![
            container.id.chars().take(ID_CHARS_SHOWN).collect(),
            container.name.clone(),
            container.image.clone(),
            container.state.clone(),
            container.ports.join(", "),
        ]
    });
    table(&["CONTAINER", "NAME", "IMAGE", "STATE", "PORTS"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_shows_short_ids_and_published_ports() {
        let container = ContainerView {
            id: "0123456789abcdef0123456789abcdef".into(),
            name: "web".into(),
            image: "busybox:latest".into(),
            state: "running".into(),
            ports: vec!["[fd00::1]:80->8080/tcp".into()],
        };
        let other = ContainerView {
            ports: vec![],
            state: "exited".into(),
            ..container.clone()
        };
        insta::assert_snapshot!(list(&[container, other]).trim_fmt(), @r"
        CONTAINER     NAME  IMAGE           STATE    PORTS
        0123456789ab  web   busybox:latest  running  [fd00::1]:80->8080/tcp
        0123456789ab  web   busybox:latest  exited   -
        ");
    }
}
