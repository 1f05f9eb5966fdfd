//! Where a daemon is reached.
//!
//! Decides: which texts name an endpoint. Never: which endpoint is used.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

use rustls::pki_types::ServerName;

use super::TlsFiles;
use crate::{ApiError, OVERLAY_API_PORT};

/// A daemon's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix socket. Whoever may open it is the operator.
    Unix(PathBuf),
    /// An overlay address, with certificates of the mesh on both sides.
    Https {
        /// Address and port.
        authority: Authority,
        /// The certificates to show and to believe.
        tls: TlsFiles,
    },
}

/// Why a text names no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Neither of the two kinds.
    #[error("{text:?} starts neither with unix:/// nor with https://")]
    UnknownScheme {
        /// What was given.
        text: String,
    },
    /// A unix socket without an absolute path.
    #[error("{text:?} does not name an absolute path")]
    NoPath {
        /// What was given.
        text: String,
    },
    /// An https address that is not `host:port`.
    #[error("{text:?} is not https://[address]:port")]
    BadAuthority {
        /// What was given.
        text: String,
    },
}

impl EndpointError {
    /// Stable; programs match on it.
    pub fn code(&self) -> &'static str {
        "EndpointInvalidError"
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        "give unix:///run/shoal/shoald.sock, or https://[overlay address]:7443"
    }
}

impl From<EndpointError> for ApiError {
    fn from(error: EndpointError) -> Self {
        Self::new(error.code(), error.to_string(), error.hint())
    }
}

impl Endpoint {
    /// Reads `unix:///path`, `/path`, or `https://[address]:port`; the port may be left out.
    /// `tls` is only used by the last.
    pub fn parse(text: &str, tls: &TlsFiles) -> Result<Self, EndpointError> {
        if let Some(path) = text.strip_prefix("unix://") {
            return match path.starts_with('/') && path.len() > 1 {
                true => Ok(Self::Unix(path.into())),
                false => Err(EndpointError::NoPath { text: text.into() }),
            };
        }
        if text.starts_with('/') && text.len() > 1 {
            return Ok(Self::Unix(text.into()));
        }
        match text.strip_prefix("https://") {
            Some(authority) => Ok(Self::Https {
                authority: authority.parse()?,
                tls: tls.clone(),
            }),
            None => Err(EndpointError::UnknownScheme { text: text.into() }),
        }
    }

    pub(super) fn host_header(&self) -> String {
        match self {
            // There is no host behind a socket, but HTTP/1.1 wants the header.
            Self::Unix(_) => "shoald".into(),
            Self::Https { authority, .. } => authority.to_string(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Https { authority, .. } => write!(f, "https://{authority}"),
        }
    }
}

/// The host and port of an https address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    name: ServerName<'static>,
    host: String,
    port: u16,
}

impl Authority {
    /// The address or name, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn server_name(&self) -> ServerName<'static> {
        self.name.clone()
    }
}

impl FromStr for Authority {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let bad = || EndpointError::BadAuthority { text: text.into() };
        let text = text.strip_suffix('/').unwrap_or(text);
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or_else(bad)?;
                if !matches!(host.parse(), Ok(IpAddr::V6(_))) {
                    return Err(bad());
                }
                let port = match after {
                    "" => None,
                    after => Some(after.strip_prefix(':').ok_or_else(bad)?),
                };
                (host, port)
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = match port {
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(bad()),
            },
            None => OVERLAY_API_PORT,
        };
        Ok(Self {
            name: ServerName::try_from(host.to_owned()).map_err(|_| bad())?,
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, EndpointError> {
        Endpoint::parse(text, &TlsFiles::in_directory("/tls")).map(|endpoint| endpoint.to_string())
    }

    #[test]
    fn sockets_and_addresses_parse() {
        for (text, shown) in [
            ("unix:///run/x.sock", "unix:///run/x.sock"),
            ("/run/x.sock", "unix:///run/x.sock"),
            ("https://[fd00::1]:7443", "https://[fd00::1]:7443"),
            ("https://[fd00::1]", "https://[fd00::1]:7443"),
            ("https://100.96.0.1:9", "https://100.96.0.1:9"),
            ("https://node-1.example/", "https://node-1.example:7443"),
        ] {
            assert_eq!(parse(text).as_deref(), Ok(shown), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "x",
            "unix://",
            "unix:///",
            "unix://run/x.sock",
            "http://[fd00::1]:7443",
            "https://",
            "https://fd00::1",
            "https://[fd00::1",
            "https://[fd00::1]7443",
            "https://[10.0.0.1]:7443",
            "https://[fd00::1]:0",
            "https://[fd00::1]:65536",
            "https://a b:1",
            "https://user@host:1",
            "https://host:1/path",
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.code(), "EndpointInvalidError", "{text}");
        }
    }
}
