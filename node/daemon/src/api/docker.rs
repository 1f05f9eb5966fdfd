//! Docker hosts: assigned, listed, and operated from any node over the overlay.

use std::sync::Arc;

use axum::{
    Json,
    body::Body as HttpBody,
    extract::{Path, Request},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use consensus_authority::{
    CertificateProfile, Expected, PrivateKey, ServerVerifier, SharedTrust, Trust,
    certificates_to_pem, client_config,
};
use consensus_core::{
    Assignment, Command, DOCKER_TLS_PORT, DockerHost as HostRow, DockerPhase, Module, NodeId,
    Refusal,
};
use futures::{StreamExt, TryStreamExt};
use node_api::{
    ApiError,
    types::{
        Changed, ClientCertificate, ClientCertificateRequest, ContainerView, Created,
        DockerHostView, ImageView, PullProgress, PullRequest, RegisterRequest, RunRequest,
    },
};
use runtimes_core::docker::Listen;
use runtimes_docker::{
    ContainerSpec, DockerError, DockerHost, Protocol, PublishedPort, RestartPolicy,
};
use rustls::ClientConfig;
use serde::Deserialize;

use super::{Answer, Body, Failure, Member, Query, change, csr_of};
use crate::{
    mesh::{
        Mesh,
        desk::ask_servers,
        peer_wire::{PeerAnswer, PeerRequest, misunderstood},
    },
    node::invalid_text,
};

pub(super) async fn hosts(Member(mesh): Member) -> Json<Vec<DockerHostView>> {
    let view = mesh.proposer.views.view();
    let managed = view
        .agreed
        .docker_hosts
        .iter()
        .map(|(id, host)| show_host(&view.agreed.name_of(id), host));
    let external = view
        .agreed
        .external_docker_hosts
        .iter()
        .map(|(name, endpoint)| DockerHostView {
            node: name.clone(),
            status: "external".into(),
            api_endpoint: Some(endpoint.clone()),
            version: None,
            managed: false,
            phase: None,
            reason: None,
        });
    Json(managed.chain(external).collect())
}

fn show_host(name: &str, host: &HostRow) -> DockerHostView {
    let reason = if let DockerPhase::Failed { reason, code, .. } = &host.phase {
        Some(format!("{code}: {reason}"))
    } else {
        None
    };
    DockerHostView {
        node: name.to_owned(),
        status: host.status().into(),
        api_endpoint: host.api_endpoint(),
        version: host.version.clone(),
        managed: true,
        phase: Some(host.phase.as_str().into()),
        reason,
    }
}

fn find(mesh: &Mesh, name: &str) -> Result<NodeId, ApiError> {
    let view = mesh.proposer.views.view();
    let found = view.agreed.find_node(name).map(|(id, _)| id.clone());
    Ok(found.ok_or(Refusal::NodeUnknown {
        node: name.to_owned(),
    })?)
}

pub(super) async fn provision(Member(mesh): Member, Path(node): Path<String>) -> Answer<Changed> {
    let id = find(&mesh, &node)?;
    change(
        &mesh,
        Command::AssignModule(Assignment::to_node(Module::DockerEngine, id)),
    )
    .await
}

pub(super) async fn decommission(
    Member(mesh): Member,
    Path(node): Path<String>,
) -> Answer<Changed> {
    change(&mesh, Command::DecommissionDocker { node }).await
}

pub(super) async fn register(
    Member(mesh): Member,
    Path(name): Path<String>,
    Body(request): Body<RegisterRequest>,
) -> Answer<Changed> {
    change(
        &mesh,
        Command::RegisterDocker {
            name,
            endpoint: request.endpoint,
        },
    )
    .await
}

pub(super) async fn unregister(Member(mesh): Member, Path(name): Path<String>) -> Answer<Changed> {
    change(&mesh, Command::UnregisterDocker { name }).await
}

impl From<DockerError> for Failure {
    fn from(error: DockerError) -> Self {
        Self(docker_error(&error))
    }
}

fn docker_error(error: &DockerError) -> ApiError {
    let mut answer = ApiError::new(error.code(), error.to_string(), error.hint());
    if let Some(source) = std::error::Error::source(error) {
        answer = answer.caused_by(source);
    }
    answer
}

/// The node's engine, over the overlay, with this node's own certificate.
async fn engine(mesh: &Mesh, name: &str) -> Result<(DockerHost, Listen), Failure> {
    let id = find(mesh, name)?;
    let view = mesh.proposer.views.view();
    let row = view
        .agreed
        .docker_hosts
        .get(&id)
        .ok_or(Refusal::DockerHostUnknown {
            node: name.to_owned(),
        })?;
    let peer = view.agreed.first_peer(&id).map(|(_, peer)| peer.clone());
    let peer = peer.ok_or(Refusal::MissingSdwanPeer {
        node: name.to_owned(),
    })?;
    // A host that is getting its next certificate goes on meanwhile.
    if row.status() != "connected" {
        let message = format!(
            "the Docker host on {name} is {} ({})",
            row.status(),
            row.phase.as_str()
        );
        return Err(Failure(ApiError::new(
            "DockerHostNotReadyError",
            message,
            "`shoal docker ls` shows how far it is",
        )));
    }
    let listen = Listen {
        ipv6: peer.ipv6,
        ipv4: Some(peer.ipv4),
    };
    let config = engine_tls(mesh, id)?;
    let host = DockerHost::connect((listen.ipv6, DOCKER_TLS_PORT).into(), config).await?;
    Ok((host, listen))
}

/// This node's certificate, and the belief that `node`'s dockerd answers. Made for each
/// connection, so that renewed certificates and revocations count at once.
fn engine_tls(mesh: &Mesh, node: NodeId) -> Result<Arc<ClientConfig>, Failure> {
    let credentials = mesh.credentials.borrow().clone();
    let unusable = |source: &dyn std::error::Error| {
        let message = "this node's certificate can't be used for a connection to dockerd";
        let hint =
            "`shoal ca status` shows whether it is in force; restart shoald to read it again";
        Failure(ApiError::new("ClientCertificateError", message, hint).caused_by(source))
    };
    let key = PrivateKey::from_pkcs8(&mesh.key_der()).map_err(|error| unusable(&error))?;
    let servers = ServerVerifier::new(
        SharedTrust::new(Trust::clone(&credentials.trust)),
        &[CertificateProfile::DockerServer],
        Expected::NodeAndName(node),
    );
    let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
    client_config(Some((&credentials.chain, &key)), servers, clock)
        .map(Arc::new)
        .map_err(|error| unusable(&error))
}

pub(super) async fn ps(
    Member(mesh): Member,
    Path(node): Path<String>,
) -> Answer<Vec<ContainerView>> {
    let (host, _) = engine(&mesh, &node).await?;
    let containers = host
        .containers(true)
        .await?
        .into_iter()
        .map(|container| ContainerView {
            id: container.id,
            name: container.name,
            image: container.image,
            state: container.state,
            ports: container
                .ports
                .iter()
                .map(|port| match (&port.address, port.host) {
                    (Some(address), Some(host)) if address.contains(':') => {
                        format!("[{address}]:{host}->{}/{}", port.container, port.protocol)
                    }
                    (Some(address), Some(host)) => {
                        format!("{address}:{host}->{}/{}", port.container, port.protocol)
                    }
                    _ => format!("{}/{}", port.container, port.protocol),
                })
                .collect(),
        });
    Ok(Json(containers.collect()))
}

pub(super) async fn run(
    Member(mesh): Member,
    Path(node): Path<String>,
    Body(request): Body<RunRequest>,
) -> Answer<Created> {
    let spec = ContainerSpec {
        image: request.image,
        name: request.name,
        ports: request
            .ports
            .iter()
            .map(|text| published_port(text))
            .collect::<Result<_, _>>()?,
        command: request.command,
        environment: request.env,
        restart: restart_policy(request.restart.as_deref())?,
        network: match request.network {
            Some(network) => Some(container_network(&mesh, &node, &network)?),
            None => None,
        },
    };
    refuse_drained(&mesh, &node)?;
    let (host, listen) = engine(&mesh, &node).await?;
    Ok(Json(Created {
        id: host.run(&spec, listen).await?,
    }))
}

/// Nothing new comes to a node that is emptied.
fn refuse_drained(mesh: &Mesh, node: &str) -> Result<(), ApiError> {
    let (id, view) = (find(mesh, node)?, mesh.proposer.views.view());
    if !view.agreed.drains.contains_key(&id) {
        return Ok(());
    }
    let message = format!("nothing new comes to {node}, which is drained");
    let hint = format!("choose another host, or let it work: `shoal node uncordon {node}`");
    Err(ApiError::new("NodeDrainedError", message, hint))
}

/// What Docker calls a network of the mesh on that host.
fn container_network(mesh: &Mesh, node: &str, network: &str) -> Result<String, Failure> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let (id, row) = agreed
        .find_network(network)
        .ok_or_else(|| Refusal::NetworkUnknown {
            network: network.to_owned(),
        })?;
    let place = agreed.peers.get(&(*id, find(mesh, node)?));
    match place.and_then(|peer| peer.container_subnet) {
        Some(_) => Ok(row.container_network()),
        None => Err(Failure(ApiError::new(
            "ContainerSubnetMissingError",
            format!("the Docker host on {node} has no container subnet in network {network}"),
            format!(
                "`shoal network show {network}` lists who has one; `shoal network set {network} --container-subnet-prefix PREFIX` gives them"
            ),
        ))),
    }
}

fn published_port(text: &str) -> Result<PublishedPort, ApiError> {
    let refuse = || {
        invalid_text(
            "published port",
            text,
            "HOST:CONTAINER or HOST:CONTAINER/udp, both from 1 to 65535",
        )
    };
    let (ports, protocol) = match text.split_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some(_) => return Err(refuse()),
    };
    let (host, container) = ports.split_once(':').ok_or_else(refuse)?;
    let port = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(refuse)
    };
    Ok(PublishedPort {
        host: port(host)?,
        container: port(container)?,
        protocol,
    })
}

fn restart_policy(text: Option<&str>) -> Result<RestartPolicy, ApiError> {
    match text {
        None | Some("no") => Ok(RestartPolicy::No),
        Some("always") => Ok(RestartPolicy::Always),
        Some("unless-stopped") => Ok(RestartPolicy::UnlessStopped),
        Some("on-failure") => Ok(RestartPolicy::OnFailure { retries_max: 0 }),
        Some(other) => Err(invalid_text(
            "restart policy",
            other,
            "no, always, unless-stopped or on-failure",
        )),
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Force {
    #[serde(default)]
    force: bool,
}

#[derive(Debug, serde::Serialize)]
pub(super) struct Gone {
    removed: String,
}

pub(super) async fn rm(
    Member(mesh): Member,
    Path((node, container)): Path<(String, String)>,
    Query(query): Query<Force>,
) -> Answer<Gone> {
    let (host, _) = engine(&mesh, &node).await?;
    host.remove(&container, query.force).await?;
    Ok(Json(Gone { removed: container }))
}

pub(super) async fn rmi(
    Member(mesh): Member,
    Path((node, image)): Path<(String, String)>,
    Query(query): Query<Force>,
) -> Answer<Gone> {
    let (host, _) = engine(&mesh, &node).await?;
    host.remove_image(&image, query.force).await?;
    Ok(Json(Gone { removed: image }))
}

pub(super) async fn images(
    Member(mesh): Member,
    Path(node): Path<String>,
) -> Answer<Vec<ImageView>> {
    let (host, _) = engine(&mesh, &node).await?;
    let images = host.images().await?.into_iter();
    Ok(Json(
        images
            .map(|i| ImageView {
                id: i.id,
                tags: i.tags,
                size_bytes: i.size_bytes,
                created_ms: u64::try_from(i.created_unix_seconds).ok().map(|s| s * 1000),
            })
            .collect(),
    ))
}

#[derive(Debug, Deserialize)]
pub(super) struct LogOptions {
    #[serde(default)]
    follow: bool,
    tail: Option<u32>,
}

pub(super) async fn logs(
    Member(mesh): Member,
    Path((node, container)): Path<(String, String)>,
    Query(options): Query<LogOptions>,
) -> Result<Response, Failure> {
    let (host, _) = engine(&mesh, &node).await?;
    let mut lines = Box::pin(host.logs(&container, options.follow, options.tail));
    // The first answer decides between an error and a stream.
    let first = match lines.next().await {
        Some(Err(error)) => return Err(error.into()),
        Some(Ok(line)) => Some(line),
        None => None,
    };
    let rest = lines
        .map_ok(|line| line.bytes)
        .map_err(|error| std::io::Error::other(error.to_string()));
    let all = futures::stream::iter(first.map(|line| Ok(line.bytes))).chain(rest);
    Ok((
        [(CONTENT_TYPE, "application/octet-stream")],
        HttpBody::from_stream(all),
    )
        .into_response())
}

pub(super) async fn pull(
    Member(mesh): Member,
    Path(node): Path<String>,
    Body(request): Body<PullRequest>,
) -> Result<Response, Failure> {
    if request.image.is_empty() {
        return Err(invalid_text("image", "", "a name such as busybox:1.36").into());
    }
    let (host, _) = engine(&mesh, &node).await?;
    let lines = host.pull(&request.image).map(|progress| {
        let line = match progress {
            Ok(progress) => PullProgress {
                id: progress.layer,
                status: Some(progress.status),
                current_bytes: progress.done_bytes,
                total_bytes: progress.total_bytes,
                error: None,
            },
            Err(error) => PullProgress {
                id: None,
                status: None,
                current_bytes: None,
                total_bytes: None,
                error: Some(docker_error(&error)),
            },
        };
        let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
        bytes.push(b'\n');
        Ok::<_, std::convert::Infallible>(bytes)
    });
    Ok((
        [(CONTENT_TYPE, "application/x-ndjson")],
        HttpBody::from_stream(lines),
    )
        .into_response())
}

#[derive(Debug, Deserialize)]
pub(super) struct ImportOptions {
    tag: String,
}

pub(super) async fn import(
    Member(mesh): Member,
    Path(node): Path<String>,
    Query(options): Query<ImportOptions>,
    request: Request,
) -> Answer<Created> {
    let (host, _) = engine(&mesh, &node).await?;
    let tar = request
        .into_body()
        .into_data_stream()
        .map_err(std::io::Error::other);
    Ok(Json(Created {
        id: host.import(tar, &options.tag).await?,
    }))
}

pub(super) async fn client_certificate(
    Member(mesh): Member,
    Body(request): Body<ClientCertificateRequest>,
) -> Answer<ClientCertificate> {
    let asked = PeerRequest::DockerClient {
        csr: csr_of(&request.csr_pem)?,
    };
    let answer = ask_servers(&mesh.proposer, &mesh.issuer, asked).await?;
    let PeerAnswer::Certificate {
        chain,
        not_after_ms,
    } = answer
    else {
        return Err(misunderstood().into());
    };
    let trust = mesh.credentials.borrow().trust.clone();
    Ok(Json(ClientCertificate {
        certificate_pem: certificates_to_pem(chain.iter().map(Vec::as_slice)),
        ca_pem: certificates_to_pem(trust.roots().iter().map(|root| root.der())),
        expires_ms: not_after_ms,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_port_is_two_numbers_and_maybe_a_protocol() {
        let port = published_port("8080:80/udp").unwrap();
        assert_eq!(
            (port.host, port.container, port.protocol),
            (8080, 80, Protocol::Udp)
        );
        for bad in [
            "8080",
            "0:80",
            "8080:0",
            "a:b",
            "8080:80/sctp",
            "70000:1",
            "",
        ] {
            assert_eq!(
                published_port(bad).unwrap_err().code,
                "InvalidInputError",
                "{bad}"
            );
        }
    }
}
