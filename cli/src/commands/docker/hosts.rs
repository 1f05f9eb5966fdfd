//! Which machines are Docker hosts.

use comfy_table::Table;
use node_api::{
    Route,
    types::{DockerHostView, RegisterRequest},
};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    table::{NOTHING, or_nothing, table},
    values,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Host {
    /// The node's name or id
    #[arg(value_parser = values::name)]
    pub(super) node: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct External {
    /// The host's name
    #[arg(value_parser = values::name)]
    name: String,
}

/// Remember a Docker host outside the mesh
#[derive(Debug, clap::Args)]
pub(crate) struct Register {
    /// A name for it
    #[arg(value_parser = values::name)]
    name: String,
    /// Where its Docker API is: tcp://..., unix://... or ssh://...
    #[arg(value_parser = values::name)]
    endpoint: String,
}

impl Host {
    fn route(&self) -> Route {
        Route::to(&["docker", "hosts", &self.node])
    }

    pub(super) async fn provision(&self, context: &Context<'_>) -> Result<Exit, Failure> {
        let route = Route::to(&["docker", "hosts", &self.node, "provision"]);
        let answer = context.client.post_empty(&route).await;
        let said = format!(
            "{} becomes a Docker host; `shoal docker ls` tells how far it is",
            self.node
        );
        context.changed(answer, &said)
    }

    pub(super) async fn decommission(&self, context: &Context<'_>) -> Result<Exit, Failure> {
        let answer = context.client.delete(&self.route()).await;
        context.changed(answer, &format!("{} is no Docker host any more", self.node))
    }
}

impl Register {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let request = RegisterRequest {
            endpoint: self.endpoint,
        };
        let route = Route::to(&["docker", "external", &self.name]);
        let answer = context.client.put(&route, &request).await;
        context.changed(answer, &format!("{} is registered", self.name))
    }
}

impl External {
    pub(super) async fn unregister(&self, context: &Context<'_>) -> Result<Exit, Failure> {
        let route = Route::to(&["docker", "external", &self.name]);
        let answer = context.client.delete(&route).await;
        context.changed(answer, &format!("{} is forgotten", self.name))
    }
}

pub(super) async fn ls(context: &Context<'_>) -> Result<Exit, Failure> {
    let answer = context.client.get(&Route::to(&["docker", "hosts"])).await;
    context.list(answer, list)
}

fn list(hosts: &[DockerHostView]) -> Table {
    let rows = hosts.iter().map(|host| {
        vec![
            host.node.clone(),
            host.status.clone(),
            host.phase.clone().unwrap_or_else(|| NOTHING.into()),
            or_nothing(host.version.as_ref()),
            or_nothing(host.api_endpoint.as_ref()),
            if host.managed { "mesh" } else { "external" }.into(),
            or_nothing(host.reason.as_ref()),
        ]
    });
    let headings = [
        "NODE", "STATUS", "PHASE", "VERSION", "ENDPOINT", "RUN BY", "REASON",
    ];
    table(&headings, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_tells_hosts_of_the_mesh_from_others() {
        let ready = DockerHostView {
            node: "n1".into(),
            status: "connected".into(),
            api_endpoint: Some("tcp://[fd00::1]:2376".into()),
            version: Some("20.10.24".into()),
            managed: true,
            phase: Some("ready".into()),
            reason: None,
        };
        let failed = DockerHostView {
            node: "n2".into(),
            status: "pending".into(),
            api_endpoint: None,
            version: None,
            phase: Some("failed".into()),
            reason: Some("dockerd is not installed".into()),
            ..ready.clone()
        };
        let external = DockerHostView {
            node: "old-nas".into(),
            status: "external".into(),
            api_endpoint: Some("ssh://nas".into()),
            version: None,
            managed: false,
            phase: None,
            reason: None,
        };
        insta::assert_snapshot!(list(&[ready, failed, external]).trim_fmt(), @r"
        NODE     STATUS     PHASE   VERSION   ENDPOINT              RUN BY    REASON
        n1       connected  ready   20.10.24  tcp://[fd00::1]:2376  mesh      -
        n2       pending    failed  -         -                     mesh      dockerd is not installed
        old-nas  external   -       -         ssh://nas             external  -
        ");
    }
}
