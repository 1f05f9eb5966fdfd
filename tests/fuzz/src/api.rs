//! The operator API: requests, answers, endpoints, and a whole HTTP answer through the client.
//!
//! Claims: a shape survives being written again; an endpoint is read again from the text that it
//! is shown as; a daemon that answers rubbish, in whatever framing, is an error with a code and a
//! hint, never a panic, a hang or an answer without an end.

use std::fmt::Debug;

use node_api::{ApiError, Client, Endpoint, RULES, Route, TlsFiles, types};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};

/// Bytes of the client's request: a `GET` with three headers.
const REQUEST_BYTES_MAX: usize = 1024;

pub(crate) fn endpoint(data: &[u8]) {
    let text = crate::text(data);
    let tls = TlsFiles::in_directory("/tls");
    match Endpoint::parse(&text, &tls) {
        Ok(endpoint) => {
            let shown = endpoint.to_string();
            let again = Endpoint::parse(&shown, &tls);
            assert_eq!(again.as_ref(), Ok(&endpoint), "shown as another");
            if let Endpoint::Https { authority, .. } = endpoint {
                assert_ne!(authority.port(), 0);
            }
        }
        Err(error) => assert!(error.to_string().contains("://") || !error.code().is_empty()),
    }
}

pub(crate) fn error(data: &[u8]) {
    if let Ok(error) = serde_json::from_slice::<ApiError>(data) {
        assert!((400..600).contains(&error.http_status()));
    }
    survives::<ApiError>(data);
}

/// A method and a path, one a line. Only what the table says literally is anybody's.
pub(crate) fn access_rule(data: &[u8]) {
    let text = crate::text(data);
    let (method, path) = text.split_once('\n').unwrap_or((&text, ""));
    let listed = |rule: &&node_api::Rule| rule.method == method && rule.path == path;
    let rule = RULES.iter().find(listed);
    assert_eq!(node_api::access(method, path), rule.map(|rule| rule.access));
}

/// One check for every shape that crosses the API's border, requests first.
const SHAPES: &[fn(&[u8])] = &[
    survives::<types::InitRequest>,
    survives_unseen::<types::JoinRequest>,
    survives::<types::TokenRequest>,
    survives::<types::LabelRequest>,
    survives::<types::RoleRequest>,
    survives::<types::RemoveRequest>,
    survives::<types::AssignRequest>,
    survives_unseen::<types::RunRequest>,
    survives::<types::PullRequest>,
    survives::<types::RegisterRequest>,
    survives::<types::ClientCertificateRequest>,
    survives::<types::Status>,
    survives::<types::NodeView>,
    survives::<types::NetworkView>,
    survives::<types::ModuleView>,
    survives::<types::DockerHostView>,
    survives::<types::ContainerView>,
    survives::<types::ImageView>,
    survives::<types::PullProgress>,
    survives::<types::EventView>,
    survives::<types::Changed>,
    survives::<types::VipRequest>,
    survives::<types::VipCandidatesRequest>,
    survives::<types::FailoverRequest>,
    survives::<types::VipDetails>,
    survives::<types::FailoverView>,
    survives::<types::DrillRequest>,
    survives::<types::DrillView>,
    survives::<types::FirewallRuleRequest>,
    survives::<types::FirewallView>,
    survives::<types::K3sRequest>,
    survives::<types::ClusterUpgradeRequest>,
    survives::<types::ClusterDetails>,
    survives::<types::DrainRequest>,
    survives::<types::DrainView>,
];

/// The first byte chooses the shape, the rest is its JSON.
pub(crate) fn shapes(data: &[u8]) {
    if let Some((shape, json)) = data.split_first() {
        SHAPES[usize::from(*shape) % SHAPES.len()](json);
    }
}

fn survives<T: Serialize + DeserializeOwned + PartialEq + Debug>(json: &[u8]) {
    if let Some((value, again)) = written_again::<T>(json) {
        assert_eq!(again, value);
    }
}

/// For shapes with secrets, which have no `Debug`.
fn survives_unseen<T: Serialize + DeserializeOwned + PartialEq>(json: &[u8]) {
    if let Some((value, again)) = written_again::<T>(json) {
        assert!(again == value, "another value");
    }
}

fn written_again<T: Serialize + DeserializeOwned>(json: &[u8]) -> Option<(T, T)> {
    let value: T = serde_json::from_slice(json).ok()?;
    let text = serde_json::to_vec(&value).expect("text and numbers");
    let again = serde_json::from_slice(&text).expect("its own text");
    Some((value, again))
}

/// The first byte chooses how the client asks; the rest is all that the daemon answers.
pub(crate) fn exchange(data: &[u8]) {
    let Some((kind, answer)) = data.split_first() else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime of one thread");
    runtime.block_on(async {
        let folder = tempfile::tempdir().expect("a folder for the socket");
        let socket = folder.path().join("s");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let client = Client::new(Endpoint::Unix(socket));
        tokio::join!(serve(listener, answer), ask(&client, *kind));
    });
}

async fn serve(listener: UnixListener, answer: &[u8]) {
    let Ok((mut stream, _)) = listener.accept().await else {
        return;
    };
    let _ = stream.read(&mut [0; REQUEST_BYTES_MAX]).await;
    // A client that has read enough hangs up.
    let _ = stream.write_all(answer).await;
}

async fn ask(client: &Client, kind: u8) {
    let route = Route::to(&["nodes"]);
    let error = match kind % 3 {
        0 => match client.get::<Vec<types::NodeView>>(&route).await {
            Ok(answer) => {
                let body = serde_json::from_slice::<Vec<types::NodeView>>(&answer.body);
                assert_eq!(body.ok(), Some(answer.value));
                return;
            }
            Err(error) => error,
        },
        1 => match lines(client, &route).await {
            Ok(()) => return,
            Err(error) => error,
        },
        _ => match download(client, &route).await {
            Ok(()) => return,
            Err(error) => error,
        },
    };
    assert!((400..600).contains(&error.http_status()));
}

async fn lines(client: &Client, route: &Route) -> Result<(), ApiError> {
    let mut lines = client.get_lines::<types::EventView>(route).await?;
    while let Some(line) = lines.next().await? {
        let again = serde_json::from_slice::<types::EventView>(&line.body);
        assert_eq!(again.ok(), Some(line.value));
    }
    Ok(())
}

async fn download(client: &Client, route: &Route) -> Result<(), ApiError> {
    let mut download = client.download(route).await?;
    while let Some(chunk) = download.chunk().await? {
        assert!(!chunk.is_empty());
    }
    Ok(())
}
