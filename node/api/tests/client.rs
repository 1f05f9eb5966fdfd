//! The client against a real HTTP server, on a unix socket and over TLS.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::{path::Path, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path as Segment, RawQuery},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use futures::StreamExt;
use node_api::{
    ApiError, Client, Endpoint, FRESHNESS_HEADER, Route, TlsFiles,
    types::{BackupRequest, Changed, Created, EventView, LabelRequest, PullProgress, PullRequest},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

const LIMIT: Duration = Duration::from_secs(10);

fn router() -> Router {
    Router::new()
        .route(
            "/v1/nodes",
            get(|| async { ([(FRESHNESS_HEADER, "raft, index 7")], "[ \"a\" ]") }),
        )
        .route(
            "/v1/nodes/{node}",
            delete(refuse).get(|| async { "not json" }),
        )
        .route("/v1/nodes/{node}/labels", post(label))
        .route("/v1/networks/{network}/peers/{node}", put(attach))
        .route("/v1/events", get(events))
        .route("/v1/query", get(query).post(query))
        .route("/v1/backup", post(backup))
        .route("/v1/docker/hosts/{node}/pull", post(pull))
        .route("/v1/docker/hosts/{node}/import", post(import))
        .route("/v1/docker/hosts/{node}/containers/{c}/logs", get(logs))
}

async fn refuse(Segment(node): Segment<String>) -> Response {
    let error = ApiError::new(
        "NodeNotFoundError",
        format!("no node {node}"),
        "see node ls",
    );
    (StatusCode::NOT_FOUND, Json(error)).into_response()
}

async fn label(Segment(node): Segment<String>, Json(asked): Json<LabelRequest>) -> Json<Changed> {
    let set = asked.set.len();
    Json(Changed {
        raft_index: 9,
        warnings: vec![format!("{node} {set} {}", asked.unset.join(","))],
    })
}

async fn attach(Segment((network, node)): Segment<(String, String)>, body: Bytes) -> Json<Changed> {
    Json(Changed {
        raft_index: u64::try_from(body.len()).unwrap(),
        warnings: vec![network, node],
    })
}

async fn events(RawQuery(query): RawQuery) -> Body {
    let event = |index| {
        let view = EventView {
            index,
            time: "2026-01-01T00:00:00.000Z".into(),
            kind: query.clone().unwrap(),
            node: None,
            payload: [].into(),
        };
        serde_json::to_string(&view).unwrap()
    };
    // Cut where no line ends, to prove that portions and lines have nothing to do with each other.
    let text = format!("{}\n\n{}\n{}", event(1), event(2), event(3));
    let parts: Vec<_> = text
        .as_bytes()
        .chunks(7)
        .map(<[u8]>::to_vec)
        .map(Ok::<_, ApiError>)
        .collect();
    Body::from_stream(futures::stream::iter(parts))
}

async fn query(RawQuery(query): RawQuery) -> Json<Option<String>> {
    Json(query)
}

async fn backup(Json(asked): Json<BackupRequest>) -> Response {
    match asked.recipients.first() {
        Some(recipient) => format!("\u{0}sealed to {recipient}\n").into_response(),
        None => refuse(Segment("n".into())).await,
    }
}

async fn pull(Json(asked): Json<PullRequest>) -> String {
    let error = ApiError::new("ImagePullError", asked.image, "");
    let error = serde_json::to_string(&error).unwrap();
    format!("{{\"id\":\"aa\",\"status\":\"Downloading\",\"current_bytes\":1}}\n{error}\n")
}

async fn import(RawQuery(query): RawQuery, headers: HeaderMap, body: Body) -> Json<Created> {
    let mut bytes = 0;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        bytes += chunk.unwrap().len();
    }
    let length = headers
        .get("content-length")
        .map_or("none", |length| length.to_str().unwrap());
    Json(Created {
        id: format!("{} {length} {bytes}", query.unwrap()),
    })
}

async fn logs() -> Body {
    Body::from(&b"\xffraw\n\nbytes"[..])
}

struct Server {
    client: Client,
    _directory: tempfile::TempDir,
}

fn on_a_socket() -> Server {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("shoald.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move { axum::serve(listener, router()).await });
    Server {
        client: Client::new(Endpoint::Unix(path)),
        _directory: directory,
    }
}

fn to(segments: &[&str]) -> Route {
    Route::to(segments)
}

#[tokio::test]
async fn an_answer_keeps_its_text_and_its_freshness() {
    let server = on_a_socket();
    let answer = server
        .client
        .get::<Vec<String>>(&to(&["nodes"]))
        .await
        .unwrap();
    assert_eq!(answer.value, ["a"]);
    assert_eq!(&answer.body[..], b"[ \"a\" ]");
    assert_eq!(answer.freshness.as_deref(), Some("raft, index 7"));
}

#[tokio::test]
async fn bodies_and_names_arrive_unchanged() {
    let server = on_a_socket();
    let asked = LabelRequest {
        set: [("k".into(), "v".into())].into(),
        unset: vec!["old".into()],
        consent: false,
    };
    let route = to(&["nodes", "ü /1", "labels"]);
    let answer = server.client.post::<Changed>(&route, &asked).await.unwrap();
    assert_eq!(answer.value.warnings, ["ü /1 1 old"]);

    let route = to(&["networks", "default", "peers", "n"]);
    let answer = server.client.put_empty::<Changed>(&route).await.unwrap();
    assert_eq!(answer.value.raft_index, 0);
    assert_eq!(answer.value.warnings, ["default", "n"]);
}

#[tokio::test]
async fn a_refusal_arrives_as_the_daemon_worded_it() {
    let server = on_a_socket();
    let refused = server
        .client
        .delete::<Changed>(&to(&["nodes", "x"]))
        .await
        .unwrap_err();
    assert_eq!(
        refused,
        ApiError::new("NodeNotFoundError", "no node x", "see node ls")
    );
}

#[tokio::test]
async fn an_answer_in_other_words_is_named_as_such() {
    let server = on_a_socket();
    let foreign = server
        .client
        .get::<Changed>(&to(&["nowhere"]))
        .await
        .unwrap_err();
    assert_eq!(foreign.code, "UnexpectedAnswerError");
    assert!(
        foreign.message.contains("404 Not Found"),
        "{}",
        foreign.message
    );
    let broken = server
        .client
        .get::<Changed>(&to(&["nodes", "x"]))
        .await
        .unwrap_err();
    assert_eq!(broken.code, "UnexpectedAnswerError");
}

#[tokio::test]
async fn an_answer_that_ends_in_the_middle_is_no_answer() {
    const HALF: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n[1,\r\n";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(HALF).await.unwrap();
        }
    });
    let client = Client::new(Endpoint::Unix(path));
    let route = to(&["nodes"]);
    let cut = client.get::<Vec<u64>>(&route).await.unwrap_err();
    assert_eq!(cut.code, "ConnectionLostError");
    assert!(cut.message.contains("in the middle"), "{}", cut.message);
    let mut download = client.download(&route).await.unwrap();
    let cut = download.line().await.unwrap_err();
    assert_eq!(cut.code, "ConnectionLostError");
}

#[tokio::test]
async fn lines_are_put_together_from_whatever_portions_arrive() {
    let server = on_a_socket();
    let route = to(&["events"])
        .query("kind_prefix", "node.")
        .flag("follow", true);
    let mut lines = server.client.get_lines::<EventView>(&route).await.unwrap();
    for index in 1..=3 {
        let line = lines.next().await.unwrap().unwrap();
        assert_eq!(line.value.index, index);
        assert_eq!(line.value.kind, "kind_prefix=node.&follow=true");
        assert!(line.body.starts_with(b"{") && line.body.ends_with(b"}"));
    }
    assert!(lines.next().await.unwrap().is_none());
}

#[tokio::test]
async fn an_error_line_ends_a_stream_as_that_error() {
    let server = on_a_socket();
    let route = to(&["docker", "hosts", "n", "pull"]);
    let asked = PullRequest {
        image: "busybox".into(),
    };
    let mut lines = server
        .client
        .post_lines::<PullProgress>(&route, &asked)
        .await
        .unwrap();
    let first = lines.next().await.unwrap().unwrap().value;
    assert_eq!((first.current_bytes, first.total_bytes), (Some(1), None));
    let error = lines.next().await.unwrap_err();
    assert_eq!(
        (error.code.as_str(), error.message.as_str()),
        ("ImagePullError", "busybox")
    );
}

#[tokio::test]
async fn raw_bytes_come_through_whole_and_as_lines() {
    let server = on_a_socket();
    let route = to(&["docker", "hosts", "n", "containers", "c", "logs"]);
    let mut whole = Vec::new();
    let mut download = server.client.download(&route).await.unwrap();
    while let Some(chunk) = download.chunk().await.unwrap() {
        whole.extend_from_slice(&chunk);
    }
    assert_eq!(whole, b"\xffraw\n\nbytes");
    let mut download = server.client.download(&route).await.unwrap();
    let mut lines = Vec::new();
    while let Some(line) = download.line().await.unwrap() {
        lines.push(line);
    }
    assert_eq!(lines, [&b"\xffraw"[..], b"", b"bytes"]);
}

#[tokio::test]
async fn raw_bytes_answer_a_document_or_a_refusal_does() {
    let server = on_a_socket();
    let route = to(&["backup"]);
    let mut asked = BackupRequest::default();
    let refused = server.client.post_download(&route, &asked).await;
    assert_eq!(refused.unwrap_err().code, "NodeNotFoundError");
    asked.recipients.push("age1x".into());
    let mut download = server.client.post_download(&route, &asked).await.unwrap();
    let mut whole = Vec::new();
    while let Some(chunk) = download.chunk().await.unwrap() {
        whole.extend_from_slice(&chunk);
    }
    assert_eq!(whole, b"\0sealed to age1x\n");
}

#[tokio::test]
async fn a_client_content_with_what_is_known_says_so_in_every_read_and_in_nothing_else() {
    let server = on_a_socket();
    let stale = server.client.clone().stale(true);
    let (plain, asking) = (to(&["query"]), to(&["query"]).query("a", "b"));
    for (client, plainly, asked) in [
        (&server.client, None, "a=b"),
        (&stale, Some("stale=true"), "a=b&stale=true"),
    ] {
        let get = client.get::<Option<String>>(&plain).await.unwrap().value;
        assert_eq!(get.as_deref(), plainly);
        let get = client.get::<Option<String>>(&asking).await.unwrap().value;
        assert_eq!(get.as_deref(), Some(asked));
        let post = client.post_empty::<Option<String>>(&plain).await.unwrap();
        assert_eq!(post.value, None);
        let mut streamed = client.download(&asking).await.unwrap();
        let line = streamed.line().await.unwrap().unwrap();
        assert_eq!(line, format!("\"{asked}\""));
    }
}

#[tokio::test]
async fn an_upload_is_streamed_with_and_without_a_known_length() {
    let server = on_a_socket();
    let route = to(&["docker", "hosts", "n", "import"]).query("tag", "a:b");
    let bytes = vec![7_u8; 3_000_001];
    for (length, said) in [(Some(3_000_001), "3000001"), (None, "none")] {
        let source = std::io::Cursor::new(bytes.clone());
        let answer = server
            .client
            .upload::<Created>(&route, source, length)
            .await
            .unwrap();
        assert_eq!(answer.value.id, format!("tag=a%3Ab {said} 3000001"));
    }
}

#[tokio::test]
async fn an_upload_that_is_refused_early_still_says_why() {
    let server = on_a_socket();
    let source = tokio::io::repeat(0);
    let route = to(&["nowhere"]);
    let upload = server.client.upload::<Created>(&route, source, None);
    let refused = tokio::time::timeout(LIMIT, upload)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(refused.code, "UnexpectedAnswerError", "{refused:?}");
}

#[tokio::test]
async fn a_missing_a_stale_and_a_closed_socket_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let client = Client::new(Endpoint::Unix(path.clone()));
    let missing = client
        .get::<Vec<String>>(&to(&["nodes"]))
        .await
        .unwrap_err();
    assert_eq!(missing.code, "DaemonUnreachableError");
    assert!(
        missing.message.ends_with("no such socket"),
        "{}",
        missing.message
    );
    assert!(missing.hint.contains("shoal run"), "{}", missing.hint);

    drop(UnixListener::bind(&path).unwrap());
    let stale = client
        .get::<Vec<String>>(&to(&["nodes"]))
        .await
        .unwrap_err();
    assert_eq!(stale.code, "DaemonUnreachableError");
    assert!(stale.message.contains("left over"), "{}", stale.message);
}

#[tokio::test]
async fn a_daemon_that_breaks_off_leaves_the_outcome_unknown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move { drop(listener.accept().await) });
    let client = Client::new(Endpoint::Unix(path));
    let lost = client
        .get::<Vec<String>>(&to(&["nodes"]))
        .await
        .unwrap_err();
    assert_eq!(lost.code, "ConnectionLostError");
    assert!(lost.hint.contains("unknown"), "{}", lost.hint);
}

/// A mesh's root and what it signs.
struct Root {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

fn root() -> Root {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "0123456789abcdef");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let pem = params.self_signed(&key).unwrap().pem();
    Root {
        issuer: Issuer::new(params, key),
        pem,
    }
}

impl Root {
    fn files(&self, directory: &Path) {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, "node");
        params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join("ca.pem"), &self.pem).unwrap();
        std::fs::write(directory.join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
    }
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, from) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

async fn over_tls(directory: &Path) -> u16 {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(directory.join("ca.pem")).unwrap())
        .unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::clone(&provider),
    );
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_file(directory.join("cert.pem")).unwrap()],
            PrivateKeyDer::from_pem_file(directory.join("key.pem")).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move { axum::serve(TlsListener { listener, acceptor }, router()).await });
    port
}

async fn nodes_over_tls(address: &str, port: u16, directory: &Path) -> Result<(), ApiError> {
    let tls = TlsFiles::in_directory(directory);
    let endpoint = Endpoint::parse(&format!("https://{address}:{port}"), &tls).unwrap();
    let answer = Client::new(endpoint)
        .get::<Vec<String>>(&to(&["nodes"]))
        .await?;
    assert_eq!(answer.value, ["a"]);
    Ok(())
}

#[tokio::test]
async fn nodes_of_one_mesh_talk_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    let root = root();
    let (server, client) = (directory.path().join("s"), directory.path().join("c"));
    root.files(&server);
    root.files(&client);
    let port = over_tls(&server).await;
    nodes_over_tls("127.0.0.1", port, &client).await.unwrap();

    let other_address = nodes_over_tls("localhost", port, &client)
        .await
        .unwrap_err();
    assert_eq!(other_address.code, "TlsError");
    assert!(
        other_address.message.contains("is no node of this mesh"),
        "{}",
        other_address.message
    );
}

#[tokio::test]
async fn another_mesh_is_refused_by_either_side() {
    let directory = tempfile::tempdir().unwrap();
    let (ours, theirs) = (root(), root());
    let (server, client) = (directory.path().join("s"), directory.path().join("c"));
    ours.files(&server);
    theirs.files(&client);
    let port = over_tls(&server).await;
    let foreign_server = nodes_over_tls("127.0.0.1", port, &client)
        .await
        .unwrap_err();
    assert_eq!(foreign_server.code, "TlsError");
    assert!(
        foreign_server.message.contains("is no node of this mesh"),
        "{}",
        foreign_server.message
    );

    std::fs::copy(server.join("ca.pem"), client.join("ca.pem")).unwrap();
    let foreign_client = nodes_over_tls("127.0.0.1", port, &client)
        .await
        .unwrap_err();
    assert_eq!(foreign_client.code, "TlsError", "{foreign_client:?}");
    assert!(
        foreign_client.message.contains("does not accept"),
        "{}",
        foreign_client.message
    );
}

#[tokio::test]
async fn missing_certificates_and_a_closed_port_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let missing = nodes_over_tls("127.0.0.1", port, directory.path())
        .await
        .unwrap_err();
    assert_eq!(missing.code, "TlsError");
    assert!(
        missing.message.ends_with("ca.pem cannot be read"),
        "{}",
        missing.message
    );
    assert!(missing.hint.contains("--tls-dir"), "{}", missing.hint);

    root().files(directory.path());
    let closed = nodes_over_tls("127.0.0.1", port, directory.path())
        .await
        .unwrap_err();
    assert_eq!(closed.code, "DaemonUnreachableError");
}
