//! A file from a file server.
//!
//! Decides: how large it may be, how long it may take, how often it may be sent elsewhere. Never:
//! says that it is the right one. That is for its sum to say, so plain HTTP will do.

use std::{path::Path, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper::{Response, Uri, body::Bytes, body::Incoming, header::LOCATION};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use runtimes_host::files::{self, FileError};
use rustls::{ClientConfig, RootCertStore};
use tokio::{
    fs::File,
    io::{AsyncWriteExt, BufWriter},
    time::timeout,
};

/// K3s has some 70 MB; ten times as much is no K3s.
const BYTES_MAX: u64 = 700 << 20;
/// From one piece to the next, the first one included.
const PIECE_WITHIN: Duration = Duration::from_secs(60);
/// All of it: 70 MB in so long is what a line of 300 kbit/s brings.
const FETCHED_WITHIN: Duration = Duration::from_secs(30 * 60);
/// As much is written at a time.
const WRITTEN_BYTES: usize = 1 << 20;
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

/// An address for people: scheme, host and path. A query may be a signature that lets anybody fetch the
/// file; what stands before the host may be a password.
pub(crate) fn shown(url: &str) -> String {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let (scheme, rest) = match url[..end].split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), &url[..end]),
    };
    let host_ends = rest.find('/').unwrap_or(rest.len());
    let host_begins = rest[..host_ends].rfind('@').map_or(0, |at| at + 1);
    format!("{scheme}{}", &rest[host_begins..])
}

type Http = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Writes what is at the address into the file.
pub(crate) async fn fetch(url: &str, to: &Path) -> Result<(), FetchError> {
    fetch_within(url, to, FETCHED_WITHIN).await
}

async fn fetch_within(url: &str, to: &Path, within: Duration) -> Result<(), FetchError> {
    match timeout(within, fetch_all(url, to)).await {
        Ok(fetched) => fetched,
        Err(_) => Err(FetchError::Connection {
            url: shown(url),
            reason: format!("it is not all here after {} s", within.as_secs()),
        }),
    }
}

async fn fetch_all(url: &str, to: &Path) -> Result<(), FetchError> {
    let failed = |reason: String| FetchError::Connection {
        url: shown(url),
        reason,
    };
    let connector = connector().map_err(|error| failed(error.to_string()))?;
    let http: Http = Client::builder(TokioExecutor::new()).build(connector);
    let mut body = ask(&http, url).await?.into_body();
    // It writes where it holds up nobody else.
    let file = File::create(to).await.map_err(files::at("write", to))?;
    let mut file = BufWriter::with_capacity(WRITTEN_BYTES, file);
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
            let url = shown(url);
            return Err(FetchError::TooLarge { url });
        }
        let written = file.write_all(&piece).await;
        written.map_err(files::at("write", to))?;
    }
    file.flush().await.map_err(files::at("write", to))?;
    let synced = file.into_inner().sync_all().await;
    Ok(synced.map_err(files::at("write", to))?)
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
        url: shown(url),
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
                    url: shown(url),
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
    use std::fs;

    use tokio::{io::AsyncReadExt, net::TcpListener};

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

    #[test]
    fn an_address_is_told_by_scheme_host_and_path() {
        for (url, told) in [
            (
                "https://h:8443/a/k3s?token=secret#x",
                "https://h:8443/a/k3s",
            ),
            ("https://me:secret@h/k3s", "https://h/k3s"),
            ("http://me@secret@[fd00::1]:80", "http://[fd00::1]:80"),
            ("http://h/a@b", "http://h/a@b"),
            ("me:secret@h/k3s", "h/k3s"),
        ] {
            assert_eq!(shown(url), told);
        }
    }

    #[tokio::test]
    async fn what_signs_an_address_is_sent_and_not_told() {
        let url = server(vec![answer("403 Forbidden", "no")]).await;
        let root = tempfile::tempdir().unwrap();
        let signed = format!("{url}/k3s?X-Signature=secret#secret");
        let error = fetch(&signed, &root.path().join("k3s")).await.unwrap_err();
        for told in [error.to_string(), error.hint(), format!("{error:?}")] {
            assert!(!told.contains("secret"), "{told}");
        }
        assert!(error.to_string().contains(&format!("{url}/k3s")), "{error}");
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
    async fn a_server_that_goes_on_and_on_is_left_in_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 4096];
            assert!(stream.read(&mut asked).await.unwrap() > 0);
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 700000000\r\n\r\n";
            stream.write_all(head).await.unwrap();
            // A piece now and then: it is never silent for long.
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let root = tempfile::tempdir().unwrap();
        let url = format!("http://{address}/k3s");
        let within = Duration::from_millis(300);
        let error = fetch_within(&url, &root.path().join("k3s"), within).await;
        let error = error.unwrap_err();
        assert!(error.to_string().contains("not all here"), "{error}");
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
