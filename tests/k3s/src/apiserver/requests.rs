//! A request to port 6443, from its first line to its answer.
//!
//! The supervisor's paths first, then health, discovery and objects; whoever is nobody gets 401.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT, CONTENT_TYPE},
};
use serde_json::{Value, json};

use super::{
    discovery,
    identity::{self, User},
    kinds::{self, Target},
    objects::{Objects, Query},
    protobuf, table, watch,
};
use crate::{
    etcd::state::Refusal,
    knobs,
    server::Server,
    supervisor::endpoints,
    wire::listener::{Body, Remote, answer},
};

/// As the API server: larger requests are refused.
const BODY_BYTES_MAX: usize = 3 * 1024 * 1024;

/// A request whose body was read.
pub(crate) struct Read {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Read {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }

    /// The body; an empty one is null.
    pub(crate) fn json(&self) -> Result<Value, Refusal> {
        if self.body.is_empty() {
            return Ok(Value::Null);
        }
        if self
            .header(CONTENT_TYPE.as_str())
            .starts_with(protobuf::MEDIA_TYPE)
        {
            return protobuf::decode(&self.body);
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            Refusal::new(
                400,
                "BadRequest",
                format!("the request's body is no JSON: {error}"),
            )
        })
    }
}

/// Answers anything.
pub(crate) async fn handle(
    server: Arc<Server>,
    request: Request<Incoming>,
    remote: Remote,
) -> Response<Body> {
    if knobs::hang_api() {
        std::future::pending::<()>().await;
    }
    let (parts, body) = request.into_parts();
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes().to_vec(),
        Err(_) => {
            return refuse(&Refusal::new(
                413,
                "RequestEntityTooLarge",
                "request is too large",
            ));
        }
    };
    let request = Read {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: query(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        body,
    };
    let state = server.etcd.local().state;
    let user = identity::user(
        &request.headers,
        &remote,
        &server.verifier,
        &server.passwords,
        &state,
    );
    if let Some(response) = endpoints::handle(&server, &request, &remote, &user).await {
        return response;
    }
    let unauthorized = || refuse(&Refusal::new(401, "Unauthorized", "Unauthorized"));
    let Ok(Some(user)) = user else {
        return unauthorized();
    };
    // A join token's password opens the supervisor's paths, not the API.
    if user.is_in(&[identity::SERVERS, identity::AGENTS]) {
        return unauthorized();
    }
    if !server.is_open() {
        return refuse(&Refusal::new(
            503,
            "ServiceUnavailable",
            "apiserver not ready",
        ));
    }
    match api(&server, &request, &user).await {
        Ok(response) => response,
        Err(refusal) => refuse(&refusal),
    }
}

async fn api(server: &Server, request: &Read, user: &User) -> Result<Response<Body>, Refusal> {
    match request.path.as_str() {
        "/readyz" | "/livez" | "/healthz" => return Ok(health(server, request).await),
        "/readyz/etcd" | "/livez/etcd" if server.etcd.answers().await => {
            return Ok(answer(StatusCode::OK, "text/plain; charset=utf-8", "ok"));
        }
        _ => {}
    }
    if request.method == Method::GET
        && let Some(found) = discovery::answer(&request.path)
    {
        return Ok(json_answer(StatusCode::OK, &found));
    }
    let Some(target) = kinds::target(&request.path) else {
        let words = "the server could not find the requested resource";
        return Err(Refusal::new(404, "NotFound", words));
    };
    let state = server.etcd.local().state;
    identity::allow(user, &request.method, &target, &request.query, &state)?;
    objects(server, request, &target, user).await
}

async fn objects(
    server: &Server,
    request: &Read,
    target: &Target,
    by: &User,
) -> Result<Response<Body>, Refusal> {
    let objects = Objects {
        etcd: &server.etcd,
        target,
        by,
        query: &request.query,
    };
    let accept = request.header(ACCEPT.as_str());
    let content_type = request.header(CONTENT_TYPE.as_str());
    let named = target.name.is_some();
    let (status, body) = match (
        request.method.as_str(),
        named,
        target.subresource.as_deref(),
    ) {
        ("GET", false, None) if is_set(&request.query, "watch") => {
            return Ok(server.history.watch(wanted(&objects, request, accept)));
        }
        ("GET", true, None | Some("status")) => (StatusCode::OK, objects.get(accept).await?),
        ("GET", false, None) => (StatusCode::OK, objects.list(accept).await?),
        ("POST", false, None) => (StatusCode::CREATED, objects.create(request.json()?).await?),
        ("POST", true, Some("eviction")) => {
            (StatusCode::CREATED, objects.evict(&request.json()?).await?)
        }
        ("PUT", true, None | Some("status")) => {
            (StatusCode::OK, objects.replace(request.json()?).await?)
        }
        ("PATCH", true, None | Some("status")) => (
            StatusCode::OK,
            objects.patch(content_type, &request.json()?).await?,
        ),
        ("DELETE", true, None) => (StatusCode::OK, objects.delete(&request.json()?).await?),
        _ => {
            let words = "the server does not allow this method on the requested resource";
            return Err(Refusal::new(405, "MethodNotAllowed", words));
        }
    };
    Ok(json_answer(status, &body))
}

fn wanted(objects: &Objects<'_>, request: &Read, accept: &str) -> watch::Wanted {
    let query = &request.query;
    let revision = query
        .get("resourceVersion")
        .and_then(|text| text.parse::<u64>().ok());
    let seconds = query
        .get("timeoutSeconds")
        .and_then(|text| text.parse().ok());
    let initial = is_set(query, "sendInitialEvents");
    watch::Wanted {
        kind: objects.target.kind,
        namespace: objects.target.namespace.clone(),
        selector: objects.selector(),
        since: revision.filter(|revision| *revision > 0 && !initial),
        bookmark: initial,
        table: table::wanted(accept),
        until: seconds.map(Duration::from_secs),
    }
}

fn is_set(query: &Query, name: &str) -> bool {
    query
        .get(name)
        .is_some_and(|value| matches!(value.as_str(), "1" | "true"))
}

/// The API server's own checks. Without etcd there is nothing to serve.
async fn health(server: &Server, request: &Read) -> Response<Body> {
    let readiness = request.path == "/readyz";
    let etcd = server.etcd.answers().await;
    let checks = [
        ("ping", true),
        ("etcd", etcd),
        ("stand-in", !(readiness && knobs::fail_readyz())),
    ];
    let sound = checks.iter().all(|(_, passes)| *passes);
    if sound && !request.query.contains_key("verbose") {
        return answer(StatusCode::OK, "text/plain; charset=utf-8", "ok");
    }
    let mut text = String::new();
    for (name, passes) in checks {
        text.push_str(&match passes {
            true => format!("[+]{name} ok\n"),
            false => format!("[-]{name} failed: reason withheld\n"),
        });
    }
    let name = request.path.trim_start_matches('/');
    let (status, end) = if sound {
        (StatusCode::OK, "passed")
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, "failed")
    };
    text.push_str(&format!("{name} check {end}\n"));
    answer(status, "text/plain; charset=utf-8", text)
}

pub(crate) fn json_answer(status: StatusCode, body: &Value) -> Response<Body> {
    answer(status, "application/json", body.to_string())
}

/// A `Status` of Kubernetes.
pub(crate) fn refuse(refusal: &Refusal) -> Response<Body> {
    let status = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": refusal.message,
        "reason": refusal.reason,
        "details": refusal.details,
        "code": refusal.code,
    });
    json_answer(status, &body)
}

/// Takes `a=b&c=d%20e` apart.
fn query(text: &str) -> Query {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect::<BTreeMap<_, _>>()
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten();
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let query = query("labelSelector=app%3Dweb%2Ctier+in+%28a%29&watch=1&x");
        assert_eq!(query["labelSelector"], "app=web,tier in (a)");
        assert!(is_set(&query, "watch"));
        assert_eq!(query["x"], "");
    }
}
