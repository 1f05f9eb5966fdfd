//! The supervisor's paths on port 6443.
//!
//! Follows `pkg/server/handlers/router.go` and `pkg/nodepassword/validate.go`: `/ping` and
//! `/cacerts` for everybody, certificates and settings for whoever has an agent's credentials,
//! the cluster's keys for whoever has a server's. A node's name belongs to whoever came first
//! with it, proven by a password that its machine keeps.

use aws_lc_rs::digest;
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, channel::Channel};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::{bootstrap, snapshots};
use crate::{
    apiserver::{
        identity::{AGENTS, BOOTSTRAPPERS, NODES, SERVERS, User, Wrong},
        objects,
        requests::{Read, json_answer, refuse},
    },
    clock,
    etcd::{
        peer,
        state::{Command, Refusal},
    },
    pki::{self, Pair, Subject},
    server::Server,
    wire::listener::{Body, Remote, answer},
};

const TEXT: &str = "text/plain; charset=utf-8";

/// Answers the supervisor's paths; `None` for all others.
pub(crate) async fn handle(
    server: &Server,
    request: &Read,
    remote: &Remote,
    user: &Result<Option<User>, Wrong>,
) -> Option<Response<Body>> {
    match request.path.as_str() {
        "/ping" => return Some(answer(StatusCode::OK, TEXT, "pong")),
        "/cacerts" => return Some(answer(StatusCode::OK, TEXT, server.server_ca.cert.clone())),
        _ => {}
    }
    let roles: &[&str] = match request.path.as_str() {
        "/db/info" if remote.address.ip().to_canonical().is_loopback() => &[],
        "/v1-k3s/server-bootstrap" | "/db/info" | "/db/snapshot" => &[SERVERS],
        "/v1-k3s/connect" => &[NODES],
        path if path.starts_with("/v1-k3s/") => &[AGENTS, NODES, BOOTSTRAPPERS],
        _ => return None,
    };
    let nobody = User {
        name: String::new(),
        groups: Vec::new(),
    };
    let user = match user {
        _ if roles.is_empty() => &nobody,
        Err(Wrong) => return Some(refuse(&Refusal::new(401, "Unauthorized", "not authorized"))),
        Ok(Some(user)) if user.is_in(roles) => user,
        Ok(_) => return Some(refuse(&Refusal::new(403, "Forbidden", "forbidden"))),
    };
    let answered = authorized(server, request, user).await;
    Some(answered.unwrap_or_else(|refusal| refuse(&refusal)))
}

async fn authorized(
    server: &Server,
    request: &Read,
    user: &User,
) -> Result<Response<Body>, Refusal> {
    let text = |content: &str| Ok(answer(StatusCode::OK, TEXT, content.to_owned()));
    match request.path.as_str() {
        "/v1-k3s/server-bootstrap" => {
            if !server.clustered {
                return Err(Refusal::new(400, "BadRequest", "etcd disabled"));
            }
            let data = bootstrap::data(server).map_err(internal)?;
            Ok(json_answer(StatusCode::OK, &data))
        }
        "/db/info" => {
            let state = server.etcd.read().await?.state;
            Ok(json_answer(
                StatusCode::OK,
                &peer::list(state.members.values().cloned()),
            ))
        }
        "/db/snapshot" if request.method == Method::POST => {
            let done = snapshots::serve(server, &request.json()?).map_err(internal)?;
            Ok(json_answer(StatusCode::OK, &done))
        }
        "/v1-k3s/readyz" if server.is_open() => text("ok"),
        "/v1-k3s/readyz" => Err(Refusal::new(
            503,
            "ServiceUnavailable",
            "runtime core not ready",
        )),
        "/v1-k3s/client-ca.crt" => text(&server.client_ca.cert),
        "/v1-k3s/server-ca.crt" => text(&server.server_ca.cert),
        "/v1-k3s/config" => Ok(json_answer(StatusCode::OK, &bootstrap::config(server))),
        "/v1-k3s/apiservers" => Ok(json_answer(StatusCode::OK, &api_servers(server))),
        "/v1-k3s/connect" => Ok(tunnel()),
        "/v1-k3s/serving-kubelet.crt" => {
            let node = prove_node(server, request, user).await?;
            let mut sans = vec![node.clone(), "localhost".to_owned(), "127.0.0.1".to_owned()];
            let addresses = request.header("k3s-node-ip").split(',');
            sans.extend(
                addresses
                    .filter(|address| !address.is_empty())
                    .map(str::to_owned),
            );
            let subject = Subject {
                name: &node,
                organization: None,
                sans: &sans,
                client: false,
                server: true,
            };
            certificate(&server.server_ca, &subject)
        }
        "/v1-k3s/client-kubelet.crt" => {
            let node = prove_node(server, request, user).await?;
            let name = format!("system:node:{node}");
            certificate(&server.client_ca, &Subject::client(&name, Some(NODES)))
        }
        "/v1-k3s/client-kube-proxy.crt" => certificate(
            &server.client_ca,
            &Subject::client("system:kube-proxy", None),
        ),
        "/v1-k3s/client-k3s-controller.crt" => certificate(
            &server.client_ca,
            &Subject::client("system:k3s-controller", None),
        ),
        _ => Err(Refusal::new(404, "NotFound", "404 page not found")),
    }
}

fn internal(fatal: crate::Fatal) -> Refusal {
    Refusal::new(500, "InternalError", fatal.to_string())
}

/// A certificate and its key, as agents without a signing request of their own get it.
fn certificate(ca: &Pair, subject: &Subject<'_>) -> Result<Response<Body>, Refusal> {
    let pair = pki::issue(ca, subject).map_err(internal)?;
    Ok(answer(
        StatusCode::OK,
        TEXT,
        format!("{}{}", pair.cert, pair.key),
    ))
}

/// `address:port` of every API server that is up.
fn api_servers(server: &Server) -> Value {
    let state = server.etcd.local().state;
    let endpoints = state.objects.get("/endpoints/default/kubernetes");
    let subset = endpoints.map_or(&Value::Null, |endpoints| &endpoints["subsets"][0]);
    let port = subset["ports"][0]["port"].as_u64().unwrap_or(0);
    let addresses = subset["addresses"].as_array().into_iter().flatten();
    let addresses = addresses.filter_map(|address| address["ip"].as_str()?.parse().ok());
    let port = u16::try_from(port).unwrap_or(0);
    let found: Vec<String> = addresses
        .map(|address: std::net::IpAddr| std::net::SocketAddr::new(address, port).to_string())
        .collect();
    json!(found)
}

/// The agent's tunnel: an answer that goes on for as long as both live.
fn tunnel() -> Response<Body> {
    let (mut sender, body) = Channel::<Bytes>::new(1);
    tokio::spawn(async move {
        while sender.send_data(Bytes::from_static(b".\n")).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    });
    Response::new(body.boxed())
}

/// The name of the node that asks, if the name is its own.
async fn prove_node(server: &Server, request: &Read, user: &User) -> Result<String, Refusal> {
    let wrong = |code, words: &str| Refusal::new(code, "BadRequest", words.to_owned());
    let (name, password) = (
        request.header("k3s-node-name").to_lowercase(),
        request.header("k3s-node-password"),
    );
    if name.is_empty() {
        return Err(wrong(400, "node name not set"));
    }
    if password.is_empty() {
        return Err(wrong(400, "node password not set"));
    }
    let state = server.etcd.read().await?.state;
    if let Some(node) = user.node() {
        if node != name {
            return Err(wrong(400, "header node name does not match auth node name"));
        }
        if !state.objects.contains_key(&format!("/nodes//{node}")) {
            return Err(wrong(401, "unable to verify node identity"));
        }
    }
    let secret_name = format!("{name}.node-password.k3s");
    let key = format!("/secrets/kube-system/{secret_name}");
    let hash = hex::encode(digest::digest(
        &digest::SHA256,
        format!("{name}:{password}").as_bytes(),
    ));
    let rejected = || {
        Refusal::new(
            403,
            "Forbidden",
            format!("unable to verify hash for node '{name}': hash does not match"),
        )
    };
    if let Some(secret) = state.objects.get(&key) {
        let same = secret["data"]["hash"] == STANDARD.encode(&hash);
        return if same { Ok(name) } else { Err(rejected()) };
    }
    let object = json!({
        "kind": "Secret",
        "apiVersion": "v1",
        "metadata": {
            "name": secret_name,
            "namespace": "kube-system",
            "uid": objects::uid(),
            "creationTimestamp": clock::now(),
        },
        "immutable": true,
        "data": {"hash": STANDARD.encode(&hash)},
    });
    match server.etcd.submit(Command::Create { key, object }).await {
        Ok(_) => Ok(name),
        // Somebody else was quicker with this name.
        Err(refusal) if refusal.reason == "AlreadyExists" => Err(rejected()),
        Err(refusal) => Err(refusal),
    }
}
