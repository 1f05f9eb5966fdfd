//! A file from a file server.
//!
//! Decides: how large it may be, how long it may take, how often it may be sent elsewhere. Never:
//! says that it is the right one. That is for its sum to say, so plain HTTP will do.

use std::{fs, io::Write, path::Path, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper::{Response, Uri, body::Bytes, body::Incoming, header::LOCATION};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use runtimes_host::files::{self, FileError};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

/// K3s has some 70 MB; ten times as much is no K3s.
const BYTES_MAX: u64 = 700 << 20;
/// From one piece to the next, the first one included.
const PIECE_WITHIN: Duration = Duration::from_secs(60);
/// A release is one redirection away from its address.
const REDIRECTIONS_MAX: usize = 5;

/// It could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server did not answer, or stopped in the middle.
    #[error("cannot fetch {url}: {reason}")]
    Connection {
        /// What was asked for.
        url: String,
        /// Why.
        reason: String,
    },
    /// The server has something else to say.
    #[error("cannot fetch {url}: the server says {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status line.
        status: String,
    },
    /// It does not end.
    #[error("{url} is larger than any K3s")]
    TooLarge {
        /// What was asked for.
        url: String,
    },
    /// A file on the host.
    #[error(transparent)]
    File(#[from] FileError),
}

impl FetchError {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Connection { .. } | Self::Status { .. } => "K3sFetchError",
            Self::TooLarge { .. } => "K3sFetchTooLargeError",
            Self::File(error) => error.code(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Connection { url, .. } | Self::Status { url, .. } | Self::TooLarge { url } => {
                format!("try `curl -I {url}` on the node")
            }
            Self::File(error) => error.hint(),
        }
    }
}

type Http = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Writes what is at the address into the file.
pub(crate) async fn fetch(url: &str, to: &Path) -> Result<(), FetchError> {
    let failed = |reason: String| FetchError::Connection {
        url: url.to_owned(),
        reason,
    };
    let connector = connector().map_err(|error| failed(error.to_string()))?;
    let http: Http = Client::builder(TokioExecutor::new()).build(connector);
    let mut body = ask(&http, url).await?.into_body();
    let mut file = fs::File::create(to).map_err(files::at("write", to))?;
    let mut bytes = 0_u64;
    loop {
        let piece = timeout(PIECE_WITHIN, body.frame()).await;
        let piece = piece.map_err(|_| failed("the server has gone silent".to_owned()))?;
        let Some(piece) = piece else { break };
        let piece = piece.map_err(|error| failed(error.to_string()))?;
        // Trailers are none of the file.
        let Ok(piece) = piece.into_data() else {
            continue;
        };
        bytes = bytes.saturating_add(piece.len() as u64);
        if bytes > BYTES_MAX {
            let url = url.to_owned();
            return Err(FetchError::TooLarge { url });
        }
        file.write_all(&piece).map_err(files::at("write", to))?;
    }
    Ok(file.sync_all().map_err(files::at("write", to))?)
}

/// A host that knows no authorities can still fetch by plain HTTP.
fn connector() -> Result<HttpsConnector<HttpConnector>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let known = HttpsConnectorBuilder::new().with_provider_and_platform_verifier(provider.clone());
    let builder = match known {
        Ok(builder) => builder,
        Err(error) => {
            tracing::debug!(%error, "this host knows no authorities");
            let trusting_nobody = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()?
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            HttpsConnectorBuilder::new().with_tls_config(trusting_nobody)
        }
    };
    Ok(builder.https_or_http().enable_http1().build())
}

async fn ask(http: &Http, url: &str) -> Result<Response<Incoming>, FetchError> {
    let failed = |reason: String| FetchError::Connection {
        url: url.to_owned(),
        reason,
    };
    let mut at: Uri = url
        .parse()
        .map_err(|_| failed("it is no address".to_owned()))?;
    for _ in 0..=REDIRECTIONS_MAX {
        let answer = timeout(PIECE_WITHIN, http.get(at.clone())).await;
        let answer = answer.map_err(|_| failed("the server does not answer".to_owned()))?;
        let answer = answer.map_err(|error| failed(with_sources(&error)))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let location = answer.headers().get(LOCATION);
        let location = location.filter(|_| answer.status().is_redirection());
        match location.and_then(|location| location.to_str().ok()?.parse().ok()) {
            Some(next) => at = relative_to(&at, next),
            None => {
                return Err(FetchError::Status {
                    url: url.to_owned(),
                    status: answer.status().to_string(),
                });
            }
        }
    }
    Err(failed("it is sent elsewhere again and again".to_owned()))
}

/// A path alone means the same server.
fn relative_to(base: &Uri, next: Uri) -> Uri {
    if next.authority().is_some() {
        return next;
    }
    let mut parts = next.into_parts();
    parts.scheme = base.scheme().cloned();
    parts.authority = base.authority().cloned();
    Uri::from_parts(parts).unwrap_or_else(|_| base.clone())
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        text = format!("{text}: {next}");
        source = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    /// A server that gives these answers, one to each connection.
    async fn server(answers: Vec<String>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; 4096];
                assert!(stream.read(&mut asked).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        format!("http://{address}")
    }

    fn answer(head: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
    }

    #[tokio::test]
    async fn a_file_is_fetched_where_the_server_sends_us() {
        let moved = answer("302 Found\r\nlocation: /there", "");
        let url = server(vec![moved, answer("200 OK", "k3s")]).await;
        let root = tempfile::tempdir().unwrap();
        let to = root.path().join("k3s");
        fetch(&format!("{url}/here"), &to).await.unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "k3s");
    }

    #[tokio::test]
    async fn a_refusal_of_the_server_is_told() {
        let url = server(vec![answer("404 Not Found", "no")]).await;
        let root = tempfile::tempdir().unwrap();
        let error = fetch(&url, &root.path().join("k3s")).await.unwrap_err();
        assert!(error.to_string().contains("404"), "{error}");
        let moved = answer("302 Found\r\nlocation: /", "");
        let url = server(vec![moved; 1 + REDIRECTIONS_MAX]).await;
        let error = fetch(&url, &root.path().join("k3s")).await.unwrap_err();
        assert!(error.to_string().contains("again and again"), "{error}");
    }

    #[tokio::test]
    async fn half_a_file_is_a_failure() {
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nk3s".to_owned();
        let url = server(vec![cut]).await;
        let root = tempfile::tempdir().unwrap();
        let error = fetch(&url, &root.path().join("k3s")).await.unwrap_err();
        assert_eq!(error.code(), "K3sFetchError");
    }
}
