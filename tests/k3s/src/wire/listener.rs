//! A port that speaks HTTPS.
//!
//! Never decides what is answered. Every connection is a task; a connection that fails its
//! handshake is forgotten.

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::client::go_words;
use crate::Fatal;

/// A handshake takes no longer.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// Who is at the other end of a connection.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) address: SocketAddr,
    pub(crate) certificates: Arc<[CertificateDer<'static>]>,
}

/// A whole answer.
pub(crate) fn answer(
    status: StatusCode,
    content_type: &str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    let body = Full::new(body.into()).boxed();
    let response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, content_type)
        .body(body);
    response.unwrap_or_else(|_| Response::new(Full::new(Bytes::new()).boxed()))
}

/// Opens the port, or says why not in Go's words.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, Fatal> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| {
        let reason = go_words(&error);
        Fatal::new(format!("listen tcp {address}: bind: {reason}"))
    })
}

/// Serves for as long as the process runs.
pub(crate) async fn serve<H, F>(listener: TcpListener, tls: Arc<ServerConfig>, handle: H)
where
    H: Fn(Request<Incoming>, Remote) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let acceptor = TlsAcceptor::from(tls);
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            // Out of descriptors, or a connection that was reset before it was taken.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let (acceptor, handle) = (acceptor.clone(), handle.clone());
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream));
            let Ok(Ok(stream)) = shaken.await else {
                return;
            };
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            let remote = Remote {
                address,
                certificates: certificates
                    .iter()
                    .cloned()
                    .map(CertificateDer::into_owned)
                    .collect(),
            };
            let service = service_fn(move |request| {
                let answered = handle(request, remote.clone());
                async move { Ok::<_, Infallible>(answered.await) }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _ = connection.await;
        });
    }
}
