//! A client for the operator API: HTTP/1.1 over a unix socket, or over TLS with certificates of
//! the mesh on both sides.
//!
//! Decides: how a request is framed, how long to wait, and which error a failure is. Never: what
//! an answer means, nor where anything is printed.
//! Invariants: one connection per request, closed when its answer is dropped; every answer held
//! in memory is bounded; every failure is an [`ApiError`].

mod answer;
mod endpoint;
mod failure;
mod route;
mod tls;

use std::{io, pin::Pin, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response,
    body::{Frame, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

pub use answer::{Answer, Download, Line, Lines};
pub use endpoint::{Authority, Endpoint, EndpointError};
pub use route::Route;
pub use tls::TlsFiles;

use crate::{ApiError, STALE_QUERY};
use answer::{Driver, read_answer, read_refusal};

/// How long a TCP connection and its TLS handshake may take. Three lost SYNs (1 + 2 s of waiting)
/// still fit; whoever sits at a terminal does not wait for more.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How long a daemon may think before it answers. An election and a retry take seconds, starting
/// a container on a slow disk takes tens of them; beyond two minutes the daemon hangs.
const ANSWER_WAIT: Duration = Duration::from_secs(120);
/// Bytes of an upload that are read at once: large enough for one system call per page run,
/// small enough that memory does not grow with the file.
const UPLOAD_CHUNK_BYTES: usize = 64 * 1024;

type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Asks one daemon.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
    stale: bool,
}

impl Client {
    /// A client for the daemon at `endpoint`. Connects when asked for something, not before.
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            stale: false,
        }
    }

    /// The same client, whose every `GET` is content with what the daemon knows at once, if
    /// `stale`; otherwise it waits for what is agreed by then.
    #[must_use]
    pub fn stale(mut self, stale: bool) -> Self {
        self.stale = stale;
        self
    }

    /// Where the daemon is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// `GET`: reads something.
    pub async fn get<T: DeserializeOwned>(&self, route: &Route) -> Result<Answer<T>, ApiError> {
        self.ask(Method::GET, route, None).await
    }

    /// `POST` with a JSON body.
    pub async fn post<T: DeserializeOwned>(
        &self,
        route: &Route,
        body: &(impl Serialize + Sync),
    ) -> Result<Answer<T>, ApiError> {
        self.ask(Method::POST, route, Some(json(body))).await
    }

    /// `POST` without a body.
    pub async fn post_empty<T: DeserializeOwned>(
        &self,
        route: &Route,
    ) -> Result<Answer<T>, ApiError> {
        self.ask(Method::POST, route, None).await
    }

    /// `PUT` with a JSON body.
    pub async fn put<T: DeserializeOwned>(
        &self,
        route: &Route,
        body: &(impl Serialize + Sync),
    ) -> Result<Answer<T>, ApiError> {
        self.ask(Method::PUT, route, Some(json(body))).await
    }

    /// `PUT` without a body.
    pub async fn put_empty<T: DeserializeOwned>(
        &self,
        route: &Route,
    ) -> Result<Answer<T>, ApiError> {
        self.ask(Method::PUT, route, None).await
    }

    /// `DELETE`
    pub async fn delete<T: DeserializeOwned>(&self, route: &Route) -> Result<Answer<T>, ApiError> {
        self.ask(Method::DELETE, route, None).await
    }

    /// `GET` of a stream of JSON lines.
    pub async fn get_lines<T: DeserializeOwned>(
        &self,
        route: &Route,
    ) -> Result<Lines<T>, ApiError> {
        Ok(Lines::new(self.download(route).await?))
    }

    /// `POST` with a JSON body, answered by a stream of JSON lines.
    pub async fn post_lines<T: DeserializeOwned>(
        &self,
        route: &Route,
        body: &(impl Serialize + Sync),
    ) -> Result<Lines<T>, ApiError> {
        let download = self.stream(Method::POST, route, Some(json(body))).await?;
        Ok(Lines::new(download))
    }

    /// `GET` of raw bytes of any length.
    pub async fn download(&self, route: &Route) -> Result<Download, ApiError> {
        self.stream(Method::GET, route, None).await
    }

    /// `POST` with a JSON body, answered by raw bytes of any length.
    pub async fn post_download(
        &self,
        route: &Route,
        body: &(impl Serialize + Sync),
    ) -> Result<Download, ApiError> {
        self.stream(Method::POST, route, Some(json(body))).await
    }

    /// `POST` of raw bytes, read as they are sent. With `length_bytes` the other side can tell a
    /// cut upload from a complete one even when this process dies.
    pub async fn upload<T: DeserializeOwned>(
        &self,
        route: &Route,
        source: impl AsyncRead + Send + Unpin + 'static,
        length_bytes: Option<u64>,
    ) -> Result<Answer<T>, ApiError> {
        let mut request = self.request(Method::POST, route, read_as_sent(source));
        let headers = request.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/x-tar"),
        );
        if let Some(length) = length_bytes {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        // No deadline: how long it takes depends on the file and on the disk at the other end.
        let (response, driver) = self.send(request, None).await?;
        read_answer(route, response, driver).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        route: &Route,
        body: Option<Bytes>,
    ) -> Result<Answer<T>, ApiError> {
        let request = self.request_with(method, route, body);
        let (response, driver) = self.send(request, Some(ANSWER_WAIT)).await?;
        timeout(ANSWER_WAIT, read_answer(route, response, driver))
            .await
            .map_err(|_| failure::no_answer(ANSWER_WAIT))?
    }

    async fn stream(
        &self,
        method: Method,
        route: &Route,
        body: Option<Bytes>,
    ) -> Result<Download, ApiError> {
        let request = self.request_with(method, route, body);
        // No deadline: a daemon may hold a stream's head back until there is something to follow.
        let (response, driver) = self.send(request, None).await?;
        if response.status().is_success() {
            Ok(Download::new(response, driver))
        } else {
            let refusal = timeout(ANSWER_WAIT, read_refusal(route, response)).await;
            Err(refusal.unwrap_or_else(|_| failure::no_answer(ANSWER_WAIT)))
        }
    }

    fn request_with(
        &self,
        method: Method,
        route: &Route,
        body: Option<Bytes>,
    ) -> Request<RequestBody> {
        let Some(body) = body else {
            let nothing = Empty::new().map_err(|never| match never {}).boxed_unsync();
            return self.request(method, route, nothing);
        };
        let full = Full::new(body)
            .map_err(|never| match never {})
            .boxed_unsync();
        let mut request = self.request(method, route, full);
        request.headers_mut().insert(
            header::CONTENT_TYPE,
            header::HeaderValue::from_static("application/json"),
        );
        request
    }

    fn request(&self, method: Method, route: &Route, body: RequestBody) -> Request<RequestBody> {
        let stale = self.stale && method == Method::GET;
        let target = route.clone().flag(STALE_QUERY, stale);
        Request::builder()
            .method(method)
            .uri(target.as_str())
            .header(header::HOST, self.endpoint.host_header())
            .body(body)
            .expect("routes are percent-encoded and authorities were parsed")
    }

    async fn send(
        &self,
        request: Request<RequestBody>,
        wait: Option<Duration>,
    ) -> Result<(Response<Incoming>, Driver), ApiError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.connect().await?))
            .await
            .map_err(|error| failure::exchange(&self.endpoint, &error))?;
        let driver = Driver::new(tokio::spawn(connection));
        let exchange = sender.send_request(request);
        let response = match wait {
            Some(wait) => timeout(wait, exchange)
                .await
                .map_err(|_| failure::no_answer(wait))?,
            None => exchange.await,
        };
        match response {
            Ok(response) => Ok((response, driver)),
            Err(error) => Err(failure::exchange(&self.endpoint, &error)),
        }
    }

    async fn connect(&self) -> Result<Pin<Box<dyn Connection>>, ApiError> {
        match &self.endpoint {
            Endpoint::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Box::pin(stream)),
                Err(error) => Err(failure::unix(path, &error)),
            },
            Endpoint::Https { authority, tls } => {
                let connector = tls.connector()?;
                let connecting = async {
                    let stream = TcpStream::connect((authority.host(), authority.port()))
                        .await
                        .map_err(|error| failure::tcp(authority, &error))?;
                    let name = authority.server_name();
                    let stream = connector.connect(name, stream).await;
                    stream.map_err(|error| failure::handshake(authority, &error))
                };
                let stream = timeout(CONNECT_WAIT, connecting)
                    .await
                    .map_err(|_| failure::connect_timeout(authority, CONNECT_WAIT))??;
                Ok(Box::pin(stream))
            }
        }
    }
}

fn json(body: &impl Serialize) -> Bytes {
    serde_json::to_vec(body)
        .expect("requests are structs of text and numbers, which JSON can always hold")
        .into()
}

fn read_as_sent(source: impl AsyncRead + Send + Unpin + 'static) -> RequestBody {
    let frames = futures::stream::try_unfold(source, |mut source| async move {
        let mut chunk = bytes::BytesMut::with_capacity(UPLOAD_CHUNK_BYTES);
        let read = source.read_buf(&mut chunk).await?;
        Ok((read > 0).then(|| (Frame::data(chunk.freeze()), source)))
    });
    StreamBody::new(frames).boxed_unsync()
}
