//! The operator API: HTTP and JSON over the node's knowledge and the proposer.
//!
//! Decides how a view is shown; what a command does is decided by its application. Reads are
//! linearizable: this node's view is brought up to what the leader, confirmed by a majority, says
//! is agreed (ReadIndex; Ongaro, 2014, 6.4). Without a majority, or when asked to (`stale=true`),
//! they tell what this node knows. Either way they say how fresh they are. Writes are agreed before
//! they answer.

mod access_grants;
mod ca;
pub(crate) mod caller;
mod cluster_changes;
mod clusters;
mod docker;
mod events;
mod firewall;
mod listen;
mod mesh;
mod metrics;
mod modules;
mod networks;
mod nodes;
mod operators;
mod recovery;
mod vip_moves;
mod vips;
mod wireguard_key;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{FromRequest, FromRequestParts, MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use node_api::{ApiError, FRESHNESS_HEADER, types::Changed};

pub(crate) use self::caller::Caller;
pub(crate) use self::listen::{OverlayListener, bind_unix, serve_unix};
use crate::{mesh::Mesh, node::Node};

/// A reader waits so long for the leader's word. An election lasts less; without a majority nobody
/// wants to wait longer for what this node knows anyway.
const READ_WITHIN: Duration = Duration::from_secs(1);
/// JSON bodies are small; tar archives do not pass here.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Every route.
pub(crate) fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/v1/status", get(mesh::status))
        .route("/v1/init", post(mesh::init))
        .route("/v1/join", post(mesh::join))
        .route(
            "/v1/tokens",
            get(operators::tokens).post(mesh::create_token),
        )
        .route("/v1/tokens/{token}", delete(operators::revoke_token))
        .route("/v1/nodes", get(nodes::list))
        .route("/v1/nodes/{node}", get(nodes::show))
        .route("/v1/nodes/{node}/remove", post(nodes::remove))
        .route("/v1/nodes/{node}/ping", post(nodes::ping))
        .route("/v1/nodes/{node}/labels", post(nodes::label))
        .route("/v1/nodes/{node}/role", post(nodes::set_role))
        .route(
            "/v1/nodes/{node}/wireguard-key",
            post(wireguard_key::rotate),
        )
        .route("/v1/networks", get(networks::list).post(networks::create))
        .route(
            "/v1/networks/{network}",
            get(networks::show)
                .post(networks::set)
                .delete(networks::delete),
        )
        .route(
            "/v1/networks/{network}/rules",
            get(firewall::list).post(firewall::add),
        )
        .route(
            "/v1/networks/{network}/rules/{rule}",
            delete(firewall::remove),
        )
        .route(
            "/v1/networks/{network}/peers/{node}",
            put(networks::attach)
                .post(networks::set_peer)
                .delete(networks::detach),
        )
        .route("/v1/modules", get(modules::list))
        .route("/v1/modules/assign", post(modules::assign))
        .route("/v1/modules/unassign", post(modules::unassign))
        .route("/v1/events", get(events::list))
        .merge(vip_routes())
        .merge(cluster_routes())
        .merge(access_routes())
        .merge(docker_routes())
        .merge(authority_routes())
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .layer(middleware::from_fn_with_state(node.clone(), admit))
        .with_state(node)
}

/// Virtual IPs.
fn vip_routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/v1/vips", get(vips::list).post(vips::create))
        .route("/v1/vips/{vip}", get(vips::show).delete(vips::delete))
        .route("/v1/vips/{vip}/check", put(vips::set_check))
        .route("/v1/vips/{vip}/candidates", put(vips::set_candidates))
        .route("/v1/vips/{vip}/failover", post(vip_moves::fail_over))
        .route("/v1/vips/{vip}/drill", post(vip_moves::drill))
        .route("/v1/vips/{vip}/drill/kill", post(vip_moves::drill_dead))
}

/// K3s clusters, and nodes that are emptied.
fn cluster_routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/v1/clusters", get(clusters::list))
        .route(
            "/v1/clusters/{cluster}",
            get(clusters::show).delete(clusters::decommission),
        )
        .route("/v1/clusters/{cluster}/nodes", get(clusters::nodes))
        .route(
            "/v1/clusters/{cluster}/kubeconfig",
            post(clusters::kubeconfig),
        )
        .route("/v1/clusters/{cluster}/snapshot", post(clusters::snapshot))
        .route("/v1/clusters/{cluster}/upgrade", post(clusters::upgrade))
        .route("/v1/k3s/{node}/provision", post(clusters::provision))
        .route(
            "/v1/nodes/{node}/drain",
            get(clusters::drained).post(clusters::drain),
        )
        .route("/v1/nodes/{node}/uncordon", post(clusters::uncordon))
}

/// Access grants.
fn access_routes() -> Router<Arc<Node>> {
    Router::new()
        .route(
            "/v1/access-grants",
            get(access_grants::list).post(access_grants::create),
        )
        .route(
            "/v1/access-grants/{grant}",
            get(access_grants::show).delete(access_grants::revoke),
        )
        .route(
            "/v1/access-grants/{grant}/gateway",
            put(access_grants::set_gateway),
        )
        .route(
            "/v1/access-grants/{grant}/suspend",
            post(access_grants::suspend),
        )
        .route(
            "/v1/access-grants/{grant}/resume",
            post(access_grants::resume),
        )
}

/// Docker hosts.
fn docker_routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/v1/docker/hosts", get(docker::hosts))
        .route("/v1/docker/hosts/{node}", delete(docker::decommission))
        .route("/v1/docker/hosts/{node}/provision", post(docker::provision))
        .route(
            "/v1/docker/external/{name}",
            put(docker::register).delete(docker::unregister),
        )
        .route(
            "/v1/docker/hosts/{node}/containers",
            get(docker::ps).post(docker::run),
        )
        .route(
            "/v1/docker/hosts/{node}/containers/{container}",
            delete(docker::rm),
        )
        .route(
            "/v1/docker/hosts/{node}/containers/{container}/logs",
            get(docker::logs),
        )
        .route("/v1/docker/hosts/{node}/images", get(docker::images))
        .route(
            "/v1/docker/hosts/{node}/images/{image}",
            delete(docker::rmi),
        )
        .route("/v1/docker/hosts/{node}/pull", post(docker::pull))
        .route("/v1/docker/hosts/{node}/import", post(docker::import))
        .route(
            "/v1/docker/client-certificate",
            post(docker::client_certificate),
        )
}

/// Certificates, operators, and what is left when all else is lost.
fn authority_routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/v1/ca", get(ca::status))
        .route("/v1/ca/rotate", post(ca::rotate))
        .route("/v1/ca/revoke", post(ca::revoke))
        .route(
            "/v1/operators",
            get(operators::list).post(operators::create),
        )
        .route("/v1/operators/{operator}", delete(operators::remove))
        .route(
            "/v1/operators/{operator}/certificate",
            post(operators::renew),
        )
        .route("/v1/operators/{operator}/role", post(operators::set_role))
        .route("/v1/backup", post(recovery::create_backup))
        .route("/v1/restore", post(recovery::restore))
        .route("/v1/recover", get(recovery::plan).post(recovery::recover))
        .route("/metrics", get(metrics::list))
}

async fn no_route(request: Request) -> Failure {
    let message = format!("no route {} {}", request.method(), request.uri().path());
    Failure(ApiError::new(
        "RouteNotFoundError",
        message,
        "bring shoal and shoald to the same version",
    ))
}

/// An API error as an answer.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) ApiError);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl From<consensus_core::Refusal> for Failure {
    fn from(refusal: consensus_core::Refusal) -> Self {
        Self(refusal.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.0)).into_response()
    }
}

/// What handlers answer.
pub(crate) type Answer<T> = Result<Json<T>, Failure>;

/// A JSON body whose faults are answered in our own form.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _state: &S) -> Result<Self, Failure> {
        let bytes = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX)
            .await
            .map_err(|error| malformed(&error.to_string()))?;
        parse_body(&bytes).map(Self)
    }
}

/// A JSON text whose faults are answered in our own form.
fn parse_body<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| malformed(&error.to_string()))
}

fn malformed(reason: &str) -> Failure {
    Failure(ApiError::new(
        "MalformedRequestError",
        format!("the request's body is wrong: {reason}"),
        "see `shoal --help`",
    ))
}

/// Query parameters whose faults are answered in our own form.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: serde::de::DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        _state: &S,
    ) -> Result<Self, Failure> {
        axum::extract::Query::try_from_uri(&parts.uri)
            .map(|query| Self(query.0))
            .map_err(|error| {
                Failure(ApiError::new(
                    "MalformedRequestError",
                    format!("the query is wrong: {error}"),
                    "see `shoal --help`",
                ))
            })
    }
}

/// The membership that the request is about.
pub(crate) struct Member(pub(crate) Arc<Mesh>);

impl FromRequestParts<Arc<Node>> for Member {
    type Rejection = Failure;

    async fn from_request_parts(
        _: &mut axum::http::request::Parts,
        node: &Arc<Node>,
    ) -> Result<Self, Failure> {
        Ok(Self(node.require_mesh()?))
    }
}

/// How fresh an answer is, in the words of the header.
#[derive(Debug, Clone)]
pub(crate) struct Freshness(pub(crate) String);

/// Whether a reader wants what this node knows, at once.
#[derive(serde::Deserialize)]
struct Staleness {
    #[serde(default)]
    stale: bool,
}

/// Refuses who may not, brings the view up to date for who reads, and labels the answer.
async fn admit(State(node): State<Arc<Node>>, mut request: Request, next: Next) -> Response {
    let mesh = node.mesh();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let path = path.as_ref().map_or("", MatchedPath::as_str);
    let caller = request.extensions().get::<Caller>().cloned();
    let allowed = caller
        .as_ref()
        .ok_or_else(|| ApiError::new("InternalError", "a request from nobody", "report this"))
        .and_then(|caller| caller.authorize(mesh.as_deref(), request.method().as_str(), path));
    let operator = match allowed {
        Ok(operator) => operator,
        Err(error) => return Failure(error).into_response(),
    };
    let stale = axum::extract::Query::<Staleness>::try_from_uri(request.uri())
        .is_ok_and(|query| query.stale);
    let mut label = None;
    if let Some(mesh) = &mesh
        && request.method() == Method::GET
    {
        let current = !stale && mesh.proposer.catch_up(READ_WITHIN).await;
        let text = freshness(mesh, current);
        request.extensions_mut().insert(Freshness(text.clone()));
        label = Some(text);
    }
    let mut response = caller::named(operator, next.run(request)).await;
    // What was done while a majority is heard was done on its present word; whoever changes
    // something is told the index besides.
    let label = label.or_else(|| {
        let done = response.status().is_success();
        node.mesh()
            .map(|mesh| freshness(&mesh, done && mesh.proposer.hears_a_majority()))
    });
    if let Some(value) = label.and_then(|label| HeaderValue::from_str(&label).ok()) {
        response.headers_mut().insert(FRESHNESS_HEADER, value);
    }
    response
}

/// How fresh this node's view is (SPEC 1.7): as agreed when it was asked for, or as old as the last
/// word from anybody.
pub(crate) fn freshness(mesh: &Mesh, current: bool) -> String {
    let view = mesh.proposer.views.view();
    if current {
        return format!("raft, index {}", view.revision);
    }
    let members = mesh.proposer.members.borrow().clone();
    let now = mesh.clock.now();
    let last = members
        .iter()
        .filter(|(id, _)| **id != mesh.me)
        .filter_map(|(_, member)| member.last_heard)
        .max();
    let age = last.map_or_else(|| now.since(consensus_core::Time::ZERO), |at| now.since(at));
    format!(
        "gossip, {} old; agreed state as of index {}",
        seconds(age),
        view.revision
    )
}

fn seconds(age: Duration) -> String {
    format!("{:.1} s", age.as_secs_f64())
}

/// Has a command agreed and answers with its index.
pub(crate) async fn change(mesh: &Mesh, command: consensus_core::Command) -> Answer<Changed> {
    let (index, done) = mesh.proposer.submit(command).await?;
    Ok(Json(Changed {
        raft_index: index.0,
        warnings: warnings_of(done),
    }))
}

/// What an operator should know of a change.
fn warnings_of(done: consensus_core::Done) -> Vec<String> {
    match done {
        consensus_core::Done::Servers { count } => {
            crate::node::server_warnings(usize::try_from(count).unwrap_or(usize::MAX))
        }
        consensus_core::Done::Done
        | consensus_core::Done::Admitted { .. }
        | consensus_core::Done::Revoked { .. }
        | consensus_core::Done::RuleAdded { .. } => Vec::new(),
    }
}

/// The PKCS#10 request in a PEM text, DER.
fn csr_of(pem: &str) -> Result<Vec<u8>, ApiError> {
    let malformed = || crate::node::invalid_text("signing request", "", "a PKCS#10 request in PEM");
    let (_, csr) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|_| malformed())?;
    Ok(csr.contents)
}

/// RFC 3339 in UTC, with milliseconds.
pub(crate) fn rfc3339(at: consensus_core::WallMs) -> String {
    let nanos = i128::from(at.0) * 1_000_000;
    let format = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
    );
    time::OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .ok()
        .and_then(|time| time.format(&format).ok())
        .unwrap_or_else(|| format!("{} ms since 1970", at.0))
}
