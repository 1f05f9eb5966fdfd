//! Connections to an engine: its unix socket on this node, mutual TLS to any other.
//!
//! Decides: how a connection is made. Whom to believe comes with the TLS configuration (bollard's
//! own TLS constructor adds the host's public roots: any public CA could pose as a node).
//! Never: connects without TLS to an address, keeps a connection for a second request.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bollard::{BollardRequest, Docker, errors::Error as BollardError};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, Response, Uri,
    body::{Body, Incoming},
    client::conn::http1,
    header::HOST,
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;

/// TCP and TLS together. Inside an overlay a round trip takes milliseconds, a relayed one a second;
/// but a dockerd that restarts (for its next certificate, say) has whoever connects wait until it is
/// back: seconds, more on a machine that has much to do. TCP asks again after 1, 3, 7 and 15 s, and
/// the last of these is to be answered too. Nothing was asked for yet, so waiting does no harm.
const CONNECT_WITHIN: Duration = Duration::from_secs(20);
/// A connection that failed a request has ended, or is about to.
const CONNECTION_END_WITHIN: Duration = Duration::from_millis(500);
/// /version is about 1 KiB; more is not an engine.
const VERSION_BYTES_MAX: usize = 64 << 10;

/// Where an engine is reached.
#[derive(Clone)]
pub(crate) enum Endpoint {
    Unix(PathBuf),
    Tls {
        address: SocketAddr,
        config: Arc<ClientConfig>,
    },
}

impl Endpoint {
    /// For people.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Unix(path) => format!("unix://{}", path.display()),
            Self::Tls { address, .. } => format!("tcp://{address}"),
        }
    }

    /// A client that speaks the given API version.
    pub(crate) fn client(
        &self,
        version: &bollard::ClientVersion,
        within: Duration,
    ) -> Result<Docker, BollardError> {
        let endpoint = self.clone();
        let transport = move |request: BollardRequest| {
            let endpoint = endpoint.clone();
            async move { endpoint.send(request).await }
        };
        // The host part only makes the URL parse; the endpoint says where to connect.
        Docker::connect_with_custom_transport(
            transport,
            Some("http://docker"),
            within.as_secs(),
            version,
        )
    }

    /// The engine's answer to an unversioned `GET /version`, within a deadline: the only request
    /// that every engine answers, whatever API versions it speaks.
    pub(crate) async fn version(&self, within: Duration) -> Result<Bytes, BollardError> {
        let asked = async {
            let request = Request::get("http://docker/version").body(Empty::<Bytes>::new())?;
            let response = self.send(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), VERSION_BYTES_MAX)
                .collect()
                .await
                .map_err(io::Error::other)?
                .to_bytes();
            if status.is_success() {
                Ok(body)
            } else {
                Err(BollardError::DockerResponseServerError {
                    status_code: status.as_u16(),
                    message: String::from_utf8_lossy(&body).into_owned(),
                })
            }
        };
        tokio::time::timeout(within, asked)
            .await
            .unwrap_or(Err(BollardError::RequestTimeoutError))
    }

    async fn send<B>(&self, request: Request<B>) -> Result<Response<Incoming>, BollardError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match self {
            Self::Unix(path) => exchange(UnixStream::connect(path).await?, request).await,
            Self::Tls { address, config } => {
                let connected = connect_tls(*address, Arc::clone(config));
                let stream = tokio::time::timeout(CONNECT_WITHIN, connected)
                    .await
                    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                exchange(stream, request).await
            }
        }
    }
}

async fn connect_tls(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::from(address.ip());
    TlsConnector::from(config).connect(name, stream).await
}

async fn exchange<S, B>(stream: S, request: Request<B>) -> Result<Response<Incoming>, BollardError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Ends by itself with the response's body.
    let connection = tokio::spawn(connection);
    match sender.send_request(in_origin_form(request)?).await {
        Ok(response) => Ok(response),
        Err(error) => {
            drop(sender);
            Err(cause(error, connection).await.into())
        }
    }
}

/// Why a request failed. A TLS 1.3 server refuses a client's certificate only after the client
/// took the handshake for done (RFC 8446, 4.4.2.4): the alert then ends the connection, and the
/// request merely learns that it was cancelled.
async fn cause(
    error: hyper::Error,
    connection: tokio::task::JoinHandle<Result<(), hyper::Error>>,
) -> hyper::Error {
    match tokio::time::timeout(CONNECTION_END_WITHIN, connection).await {
        Ok(Ok(Err(cause))) => cause,
        Ok(Ok(Ok(())) | Err(_)) | Err(_) => error,
    }
}

/// HTTP/1.1 to an origin server: the path in the request line, the host in a header (RFC 9112,
/// 3.2.1).
fn in_origin_form<B>(request: Request<B>) -> Result<Request<B>, BollardError> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let uri: Uri = path.parse()?;
    parts.uri = uri;
    parts
        .headers
        .insert(HOST, hyper::header::HeaderValue::from_static("docker"));
    Ok(Request::from_parts(parts, body))
}
