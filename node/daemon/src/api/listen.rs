//! Where the API listens: a unix socket, and this node's overlay address with mutual TLS.
//!
//! Decides who gets in on the overlay: an operator's certificate of this mesh, in force. What he may
//! do is decided at each request. On the socket the file's mode decides: root only.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use consensus_authority::{ClientVerifier, PrivateKey, SharedTrust, Trust, server_config};
use consensus_core::CertificateProfile;
use hyper::{
    Request,
    body::Incoming,
    service::{Service as _, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use node_api::OVERLAY_API_PORT;
use rustls::{ServerConfig, pki_types::CertificateDer};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Caller;
use crate::{
    mesh::{Mesh, issuer::now},
    node::Node,
};

/// Connections served at once, per listener.
const CONNECTIONS_MAX: usize = 256;
/// A client that does not finish its handshake is let go.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Between two attempts to listen on an overlay address that is not there yet.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// Why the socket can't be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenerError {
    #[error("the socket {path:?} can't be made")]
    Socket { path: PathBuf, source: io::Error },
    #[error("another shoald listens on the socket {path:?}")]
    InUse { path: PathBuf },
}

impl ListenerError {
    /// Stable code.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Socket { .. } => "SocketUnusableError",
            Self::InUse { .. } => "SocketInUseError",
        }
    }

    /// What to do.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Socket { .. } => "run shoald as root, or give another path with --socket",
            Self::InUse { .. } => "stop that one first, or give this one its own --socket",
        }
    }
}

/// Binds the unix socket; one left behind by a daemon that was killed is replaced.
pub(crate) fn bind_unix(path: &Path) -> Result<UnixListener, ListenerError> {
    let failed = |source| ListenerError::Socket {
        path: path.to_owned(),
        source,
    };
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(failed)?;
    }
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(ListenerError::InUse {
                path: path.to_owned(),
            });
        }
        fs::remove_file(path).map_err(failed)?;
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves the unix socket until cancelled.
pub(crate) async fn serve_unix(listener: UnixListener, router: Router, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        // Accepting is cancel-safe: a connection is taken or stays in the backlog.
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (router, stop) = (router.clone(), stop.clone());
        tokio::spawn(async move {
            serve_connection(TokioIo::new(stream), router, Caller::Socket, stop).await;
            drop(slot);
        });
    }
}

async fn serve_connection<S>(stream: S, router: Router, caller: Caller, stop: CancellationToken)
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    // Not a layer of the router: that would be one more box around every route, made for every
    // connection and called through at every request.
    let routes = TowerToHyperService::new(router);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        routes.call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(stream, service);
    // A follower's stream never ends by itself: a stop ends it.
    tokio::select! {
        () = stop.cancelled() => {}
        result = connection => {
            if let Err(error) = result {
                tracing::debug!(%error, "an API connection broke off");
            }
        }
    }
}

/// Serves the overlay addresses of whatever mesh the node is in, until cancelled.
pub(crate) struct OverlayListener {
    pub(crate) node: Arc<Node>,
    pub(crate) router: Router,
    pub(crate) stop: CancellationToken,
}

impl OverlayListener {
    pub(crate) async fn run(self) {
        let mut meshes = self.node.watch_mesh();
        loop {
            let mesh = meshes.borrow_and_update().clone();
            if let Some(mesh) = mesh {
                // The daemon enters one mesh in its life.
                self.serve_mesh(&mesh).await;
                return;
            }
            // Both arms only wait.
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = meshes.changed() => if changed.is_err() { return },
            }
        }
    }

    async fn serve_mesh(&self, mesh: &Arc<Mesh>) {
        let mut overlay = mesh.overlay.clone();
        loop {
            let address = overlay.borrow_and_update().own().map(|peer| peer.ipv6);
            if let Some(address) = address {
                let address = SocketAddr::from((address, OVERLAY_API_PORT));
                match TcpListener::bind(address).await {
                    Ok(listener) => {
                        tracing::info!(%address, "the API listens on the overlay");
                        self.accept(mesh, listener, address).await;
                    }
                    Err(error) => {
                        tracing::warn!(%address, %error, "the API can't listen on the overlay")
                    }
                }
            }
            if self.stop.is_cancelled() {
                return;
            }
            if address.is_some() {
                sleep(RETRY_PAUSE).await;
            }
            if address.is_none() {
                // Both arms only wait.
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    changed = overlay.changed() => if changed.is_err() { return },
                }
            }
        }
    }

    /// Accepts until the node's address is another one.
    async fn accept(&self, mesh: &Arc<Mesh>, listener: TcpListener, own: SocketAddr) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut overlay = mesh.overlay.clone();
        loop {
            let present = overlay.borrow_and_update().own().map(|peer| peer.ipv6);
            if present.is_none_or(|present| own.ip() != present) {
                return;
            }
            let Ok(slot) = slots.clone().acquire_owned().await else {
                return;
            };
            // All arms are cancel-safe: a connection is taken or stays in the backlog.
            let stream = tokio::select! {
                () = self.stop.cancelled() => return,
                changed = overlay.changed() => if changed.is_ok() { continue } else { return },
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(_) => continue,
                },
            };
            let (mesh, router, stop) = (mesh.clone(), self.router.clone(), self.stop.clone());
            tokio::spawn(async move {
                let Some(config) = tls_config(&mesh) else {
                    return;
                };
                let handshake =
                    timeout(HANDSHAKE_DEADLINE, TlsAcceptor::from(config).accept(stream)).await;
                match handshake {
                    Ok(Ok(stream)) => {
                        let shown = stream.get_ref().1.peer_certificates();
                        if let Some(caller) = operator(&mesh, shown) {
                            let stream = TokioIo::new(stream);
                            serve_connection(stream, router, caller, stop).await;
                        }
                    }
                    Ok(Err(error)) => tracing::warn!(%error, "an API client was refused"),
                    Err(_) => {}
                }
                drop(slot);
            });
        }
    }
}

/// Made for each connection, so that renewed certificates and trust count at once.
fn tls_config(mesh: &Mesh) -> Option<Arc<ServerConfig>> {
    let credentials = mesh.credentials.borrow().clone();
    let trust = SharedTrust::new(Trust::clone(&credentials.trust));
    let clients = ClientVerifier::new(trust, &[CertificateProfile::Operator]);
    let key = PrivateKey::from_pkcs8(&mesh.key_der()).ok()?;
    let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
    let config = server_config(&credentials.chain, &key, clients, clock);
    config
        .inspect_err(|error| tracing::warn!(%error, "the API's certificate can't be used"))
        .ok()
        .map(Arc::new)
}

/// Who has shown these certificates in a handshake that was accepted.
fn operator(mesh: &Mesh, chain: Option<&[CertificateDer<'_>]>) -> Option<Caller> {
    let chain: Vec<Vec<u8>> = chain?.iter().map(|der| der.to_vec()).collect();
    let trust = mesh.credentials.borrow().trust.clone();
    let verified = trust.verify(&chain, now()).ok()?;
    Some(Caller::Operator {
        verified: Arc::new(verified),
        chain: Arc::new(chain),
    })
}
