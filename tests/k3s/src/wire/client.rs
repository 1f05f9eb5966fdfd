//! Requests to other servers, over connections that are kept.
//!
//! At most one idle connection is kept per server. A request is made again only when hyper says
//! that it never left this process.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    net::TcpStream,
    sync::Mutex,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The address is none.
    #[error("Invalid server url, failed to parse: {0}")]
    Url(String),
    /// Nobody there, or not who was expected.
    #[error("Get \"{url}\": dial tcp {authority}: {reason}")]
    Connect {
        url: String,
        authority: String,
        reason: String,
    },
    /// The connection ended before the answer did.
    #[error("Get \"{url}\": {reason}")]
    Broken { url: String, reason: String },
    /// Nothing came in time.
    #[error(
        "Get \"{0}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
    )]
    Timeout(String),
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One request.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) body: Bytes,
}

impl<'a> Call<'a> {
    pub(crate) fn get(url: &'a str) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: &[],
            body: Bytes::new(),
        }
    }
}

type Sender = SendRequest<Full<Bytes>>;

/// Speaks to servers as one user.
pub(crate) struct Client {
    tls: Arc<ClientConfig>,
    authorization: Option<String>,
    deadline: Duration,
    idle: Mutex<BTreeMap<String, Sender>>,
}

impl Client {
    pub(crate) fn new(
        tls: Arc<ClientConfig>,
        authorization: Option<String>,
        deadline: Duration,
    ) -> Self {
        Self {
            tls,
            authorization,
            deadline,
            idle: Mutex::default(),
        }
    }

    /// Makes the request and reads the answer to its end.
    pub(crate) async fn call(&self, call: Call<'_>) -> Result<Answer, RequestError> {
        let until = Instant::now() + self.deadline;
        let timeout = || RequestError::Timeout(call.url.to_owned());
        timeout_at(until, self.call_in_time(&call))
            .await
            .map_err(|_| timeout())?
    }

    async fn call_in_time(&self, call: &Call<'_>) -> Result<Answer, RequestError> {
        let authority = authority(call.url)?;
        let kept = self.idle.lock().await.remove(&authority);
        let (response, sender) = self.send(call, &authority, kept).await?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await;
        let body = body.map_err(|error| broken(call.url, &error))?.to_bytes();
        self.idle.lock().await.insert(authority, sender);
        Ok(Answer { status, body })
    }

    /// Makes the request and leaves the answer's body to the caller.
    pub(crate) async fn open(&self, call: Call<'_>) -> Result<Response<Incoming>, RequestError> {
        let authority = authority(call.url)?;
        let timeout = |_| RequestError::Timeout(call.url.to_owned());
        let sent = tokio::time::timeout(self.deadline, self.send(&call, &authority, None));
        let (response, _sender) = sent.await.map_err(timeout)??;
        Ok(response)
    }

    async fn send(
        &self,
        call: &Call<'_>,
        authority: &str,
        kept: Option<Sender>,
    ) -> Result<(Response<Incoming>, Sender), RequestError> {
        if let Some(mut sender) = kept
            && sender.ready().await.is_ok()
        {
            match sender.send_request(self.request(call, authority)?).await {
                Ok(response) => return Ok((response, sender)),
                Err(error) if error.is_canceled() => {}
                Err(error) => return Err(broken(call.url, &error)),
            }
        }
        let mut sender = self.connect(call.url, authority).await?;
        let sent = sender.send_request(self.request(call, authority)?).await;
        let response = sent.map_err(|error| broken(call.url, &error))?;
        Ok((response, sender))
    }

    fn request(
        &self,
        call: &Call<'_>,
        authority: &str,
    ) -> Result<Request<Full<Bytes>>, RequestError> {
        let path = path(call.url);
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(path)
            .header(HOST, authority);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let typed = |(name, _): &(&str, &str)| *name == CONTENT_TYPE.as_str();
        if !call.body.is_empty() && !call.headers.iter().any(typed) {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        for (name, value) in call.headers {
            request = request.header(*name, *value);
        }
        request
            .body(Full::new(call.body.clone()))
            .map_err(|error| RequestError::Url(format!("{}: {error}", call.url)))
    }

    async fn connect(&self, url: &str, authority: &str) -> Result<Sender, RequestError> {
        let failed = |reason: String| RequestError::Connect {
            url: url.to_owned(),
            authority: authority.to_owned(),
            reason,
        };
        let host = host(authority);
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| RequestError::Url(url.to_owned()))?;
        let stream = TcpStream::connect(authority).await;
        let stream = stream.map_err(|error| failed(format!("connect: {}", go_words(&error))))?;
        let _ = stream.set_nodelay(true);
        let stream = TlsConnector::from(self.tls.clone())
            .connect(name, stream)
            .await;
        let stream = stream.map_err(|error| failed(format!("tls: {error}")))?;
        let shaken = handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| broken(url, &error))?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// Go's words for the commonest failures.
pub(crate) fn go_words(error: &std::io::Error) -> String {
    use std::io::ErrorKind;
    let known = [
        (ErrorKind::ConnectionRefused, "connection refused"),
        (ErrorKind::TimedOut, "i/o timeout"),
        (ErrorKind::HostUnreachable, "no route to host"),
        (ErrorKind::NetworkUnreachable, "network is unreachable"),
        (ErrorKind::AddrInUse, "address already in use"),
        (
            ErrorKind::AddrNotAvailable,
            "cannot assign requested address",
        ),
    ];
    let words = known.into_iter().find(|(kind, _)| *kind == error.kind());
    words.map_or_else(|| error.to_string(), |(_, words)| words.to_owned())
}

fn broken(url: &str, error: &hyper::Error) -> RequestError {
    RequestError::Broken {
        url: url.to_owned(),
        reason: error.to_string(),
    }
}

/// `host:port` of an https URL; K3s takes no other.
pub(crate) fn authority(url: &str) -> Result<String, RequestError> {
    let wrong = || RequestError::Url(url.to_owned());
    let rest = url.strip_prefix("https://").ok_or_else(wrong)?;
    let authority = rest
        .split('/')
        .next()
        .filter(|authority| !authority.is_empty());
    let authority = authority.ok_or_else(wrong)?;
    let after_host = authority.rsplit(']').next().unwrap_or(authority);
    Ok(if after_host.contains(':') {
        authority.to_owned()
    } else {
        format!("{authority}:443")
    })
}

fn host(authority: &str) -> &str {
    let host = authority
        .rsplit_once(':')
        .map_or(authority, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn path(url: &str) -> &str {
    let rest = url.strip_prefix("https://").unwrap_or(url);
    rest.find('/').map_or("/", |start| &rest[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        for (url, expected) in [
            ("https://a.b", "a.b:443"),
            ("https://10.0.0.1:6443/x", "10.0.0.1:6443"),
            ("https://[fd00::1]:6443", "[fd00::1]:6443"),
            ("https://[fd00::1]", "[fd00::1]:443"),
        ] {
            assert_eq!(authority(url).unwrap(), expected);
        }
        assert_eq!(host("[fd00::1]:6443"), "fd00::1");
        assert_eq!(path("https://a:1/b/c?d"), "/b/c?d");
        assert!(authority("http://a").is_err());
    }
}
