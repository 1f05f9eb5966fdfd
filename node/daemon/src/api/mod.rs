//! The operator API: HTTP and JSON over the node's knowledge and the proposer.
//!
//! Decides how a view is shown; what a command does is decided by its application. Reads are
//! answered from this node's view and say how fresh it is; writes are agreed before they answer.

mod docker;
mod events;
mod listen;
mod mesh;
mod networks;
mod nodes;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{FromRequest, FromRequestParts, Request, State},
    http::{HeaderValue, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use node_api::{ApiError, FRESHNESS_HEADER, types::Changed};
use overlay_core::membership::Condition;

pub(crate) use self::listen::{OverlayListener, bind_unix, serve_unix};
use crate::{mesh::Mesh, node::Node};

/// JSON bodies are small; tar archives do not pass here.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Every route.
pub(crate) fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/v1/status", get(mesh::status))
        .route("/v1/init", post(mesh::init))
        .route("/v1/join", post(mesh::join))
        .route("/v1/tokens", post(mesh::create_token))
        .route("/v1/nodes", get(nodes::list))
        .route("/v1/nodes/{node}", get(nodes::show).delete(nodes::remove))
        .route("/v1/nodes/{node}/labels", post(nodes::label))
        .route("/v1/nodes/{node}/role", post(nodes::set_role))
        .route("/v1/networks", get(networks::list))
        .route("/v1/networks/{network}", get(networks::show))
        .route(
            "/v1/networks/{network}/peers/{node}",
            put(networks::attach).delete(networks::detach),
        )
        .route("/v1/modules", get(networks::modules))
        .route("/v1/modules/assign", post(networks::assign))
        .route("/v1/modules/unassign", post(networks::unassign))
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
        .route("/v1/events", get(events::list))
        .fallback(no_route)
        .method_not_allowed_fallback(no_route)
        .layer(middleware::from_fn_with_state(node.clone(), add_freshness))
        .with_state(node)
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
        let malformed = |reason: String| {
            Failure(ApiError::new(
                "MalformedRequestError",
                format!("the request's body is wrong: {reason}"),
                "see `shoal --help`",
            ))
        };
        let bytes = axum::body::to_bytes(request.into_body(), BODY_BYTES_MAX)
            .await
            .map_err(|error| malformed(error.to_string()))?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| malformed(error.to_string()))
    }
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

async fn add_freshness(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(mesh) = node.mesh()
        && let Ok(value) = HeaderValue::from_str(&freshness(&mesh))
    {
        response.headers_mut().insert(FRESHNESS_HEADER, value);
    }
    response
}

/// How fresh this node's view is (SPEC 1.7): current as far as Raft's leader tells, or as old as
/// the last word from a majority.
pub(crate) fn freshness(mesh: &Mesh) -> String {
    let view = mesh.proposer.views.view();
    let standing = mesh.proposer.views.standing();
    let members = mesh.proposer.members.borrow().clone();
    let heard = |id: &consensus_core::NodeId| {
        *id == mesh.me
            || members
                .get(id)
                .is_some_and(|member| member.condition == Condition::Alive)
    };
    let reachable = standing.voters.iter().filter(|id| heard(id)).count();
    let agreed = standing.leader.is_some() && reachable * 2 > standing.voters.len();
    if agreed {
        return format!("raft, index {}", view.revision);
    }
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
    let warnings = match done {
        consensus_core::Done::Servers { count } => {
            crate::node::server_warnings(usize::try_from(count).unwrap_or(usize::MAX))
        }
        consensus_core::Done::Done | consensus_core::Done::Admitted { .. } => Vec::new(),
    };
    Ok(Json(Changed {
        raft_index: index.0,
        warnings,
    }))
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
