//! Asks an API, on a connection of its own each time and with a whole handshake, as a program does
//! that has just been started.
//!
//! Follows no redirect, reads no more than [`ANSWER_BYTES_MAX`], trusts the cluster's authority alone.

use std::{
    fs,
    io::{self, ErrorKind},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName,
        pem::{self, PemObject as _},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::kubeconfig::{Kubeconfig, Pem};

/// A node's object has some ten kilobytes, with its images some more.
pub const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// An API that can be asked.
pub struct Client {
    address: (String, u16),
    name: ServerName<'static>,
    connector: TlsConnector,
}

/// What a kubeconfig says cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A file that it names cannot be read.
    #[error("{path} cannot be read")]
    File {
        /// Its path.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// There is no certificate, or no key.
    #[error("what should be PEM is none")]
    Pem(#[from] pem::Error),
    /// The key does not fit, or the authority is none.
    #[error("its certificates are of no use")]
    Tls(#[from] rustls::Error),
    /// The address is none.
    #[error("{host} is no name and no address")]
    Host {
        /// What it is.
        host: String,
    },
}

/// A request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection.
    #[error("no connection")]
    Connect(#[source] io::Error),
    /// No handshake.
    #[error("no handshake")]
    Handshake(#[source] io::Error),
    /// The connection ended before the answer came.
    #[error("the connection was cut")]
    Cut(#[source] Option<io::Error>),
}

impl CallError {
    /// One word for a log.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Connect(error) if error.kind() == ErrorKind::ConnectionRefused => "refused",
            Self::Connect(_) => "unreachable",
            Self::Handshake(_) => "handshake",
            Self::Cut(_) => "cut",
        }
    }
}

/// What was answered.
pub struct Answer {
    /// HTTP's status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Client {
    /// The API of a kubeconfig.
    ///
    /// # Errors
    /// What it says cannot be used.
    pub fn new(kubeconfig: &Kubeconfig) -> Result<Self, ClientError> {
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(&bytes(&kubeconfig.authority)?) {
            roots.add(authority?)?;
        }
        let certificates = bytes(&kubeconfig.certificate)?;
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(&certificates).collect();
        let key = PrivateKeyDer::from_pem_slice(&bytes(&kubeconfig.key)?)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates?, key)?;
        config.resumption = Resumption::disabled();
        let host = kubeconfig.host.clone();
        let name = ServerName::try_from(host.clone());
        Ok(Self {
            name: name.map_err(|_| ClientError::Host { host: host.clone() })?,
            address: (host, kubeconfig.port),
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    /// Gets a path. Whoever calls says how long that may take.
    ///
    /// # Errors
    /// There was no whole answer.
    pub async fn get(&self, path: &str) -> Result<Answer, CallError> {
        let address = (self.address.0.as_str(), self.address.1);
        let stream = TcpStream::connect(address).await;
        let stream = stream.map_err(CallError::Connect)?;
        stream.set_nodelay(true).map_err(CallError::Connect)?;
        let stream = self.connector.connect(self.name.clone(), stream).await;
        let mut stream = stream.map_err(CallError::Handshake)?;
        // HTTP/1.0: the answer is in one piece and ends with the connection.
        let request =
            format!("GET {path} HTTP/1.0\r\nHost: api\r\nAccept: application/json\r\n\r\n");
        let cut = |error| CallError::Cut(Some(error));
        stream.write_all(request.as_bytes()).await.map_err(cut)?;
        let mut answer = Vec::new();
        let read = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await;
        // Some servers do not say goodbye.
        match read {
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => Err(cut(error)),
            Err(_) | Ok(_) => parse(&answer).ok_or(CallError::Cut(None)),
        }
    }
}

fn bytes(pem: &Pem) -> Result<Vec<u8>, ClientError> {
    match pem {
        Pem::Inside(bytes) => Ok(bytes.clone()),
        Pem::File(path) => fs::read(path).map_err(|source| ClientError::File {
            path: path.clone(),
            source,
        }),
    }
}

fn parse(answer: &[u8]) -> Option<Answer> {
    const END_OF_HEADERS: &[u8] = b"\r\n\r\n";
    let head = answer
        .windows(END_OF_HEADERS.len())
        .position(|window| window == END_OF_HEADERS)?;
    let line = std::str::from_utf8(&answer[..head]).ok()?.lines().next()?;
    let status = line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    Some(Answer {
        status: status.parse().ok()?,
        body: answer[head + END_OF_HEADERS.len()..].to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let answer = parse(b"HTTP/1.0 500 Internal\r\nA: b\r\n\r\nno\r\n\r\n").unwrap();
        assert_eq!(answer.status, 500);
        assert_eq!(answer.body, b"no\r\n\r\n");
    }

    #[test]
    fn half_an_answer_is_none() {
        for half in [
            "",
            "HTTP/1.0 200",
            "HTTP/1.0 200 OK\r\n",
            "\r\n\r\n",
            "x\r\n\r\n",
        ] {
            assert!(parse(half.as_bytes()).is_none(), "{half}");
        }
    }
}
