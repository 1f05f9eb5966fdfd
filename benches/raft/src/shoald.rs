//! The daemon, over its operator API: a label set on a node, which is agreed through Raft.
//!
//! HTTP/1.1 over the daemon's unix socket, a connection that stays open per client.

use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::load::Client;

/// A node holds 64 labels at most; more clients share them.
const KEYS: usize = 32;

/// One client.
pub(crate) struct Writer {
    requests: http1::SendRequest<Full<Bytes>>,
    uri: String,
    key: String,
}

impl Writer {
    pub(crate) async fn connect(socket: &Path, node: &str, client: usize) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket).await;
        let stream = stream.with_context(|| format!("nobody listens at {socket:?}"))?;
        let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // An error of the connection is an error of the request that waits on it.
        tokio::spawn(connection);
        Ok(Self {
            requests,
            uri: format!("/v1/nodes/{node}/labels"),
            key: format!("bench-{}", client % KEYS),
        })
    }
}

impl Client for Writer {
    fn write(&mut self, value: String) -> BoxFuture<'_, anyhow::Result<()>> {
        let body = serde_json::json!({ "set": { self.key.as_str(): value } });
        let request = Request::post(self.uri.as_str())
            .header(header::HOST, "shoald")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.to_string())));
        Box::pin(async {
            self.requests.ready().await?;
            let response = self.requests.send_request(request?).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            anyhow::ensure!(
                status.is_success(),
                "{status}: {}",
                String::from_utf8_lossy(&body)
            );
            Ok(())
        })
    }
}
