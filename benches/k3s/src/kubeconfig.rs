//! The kubeconfigs that K3s writes: one cluster, one user, certificates inside or in files.
//!
//! Decides: where the API is and what proves both sides. No other kubeconfig is understood, for the
//! forms of YAML are not: a key and its value on a line, as K3s has them. Never reads a file.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// What a kubeconfig says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubeconfig {
    /// A name or an address; an IPv6 address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who signs the API's certificate.
    pub authority: Pem,
    /// Who asks.
    pub certificate: Pem,
    /// What proves it.
    pub key: Pem,
}

/// Where PEM is.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// In the kubeconfig.
    Inside(Vec<u8>),
    /// In the file of this path.
    File(String),
}

/// Without what may be secret.
impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inside(pem) => write!(f, "Inside({} bytes)", pem.len()),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// It is not as K3s writes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the kubeconfig has no {what} that is understood")]
pub struct Strange {
    /// What is missing.
    pub what: &'static str,
}

impl Kubeconfig {
    /// Reads one.
    ///
    /// # Errors
    /// Something is missing.
    pub fn read(text: &str) -> Result<Self, Strange> {
        let server = value(text, "server").and_then(endpoint);
        let (host, port) = server.ok_or(Strange { what: "server" })?;
        let pem = |key, what| pem(text, key).ok_or(Strange { what });
        Ok(Self {
            host,
            port,
            authority: pem("certificate-authority", "certificate authority")?,
            certificate: pem("client-certificate", "client certificate")?,
            key: pem("client-key", "client key")?,
        })
    }
}

fn pem(text: &str, key: &str) -> Option<Pem> {
    if let Some(data) = value(text, &format!("{key}-data")) {
        return STANDARD.decode(data).ok().map(Pem::Inside);
    }
    value(text, key).map(|path| Pem::File(path.to_owned()))
}

/// The value of a key, wherever it is.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let of = |line: &'a str| {
        let line = line.trim().trim_start_matches("- ");
        let value = line.strip_prefix(key)?.strip_prefix(':')?;
        Some(value.trim().trim_matches('"'))
    };
    text.lines().find_map(of).filter(|value| !value.is_empty())
}

fn endpoint(server: &str) -> Option<(String, u16)> {
    let authority = server.strip_prefix("https://")?.trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMIN: &str = "apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Q0E=
    server: https://[fd00::f]:6443
  name: prod
users:
- name: prod
  user:
    client-certificate-data: Q0VSVA==
    client-key-data: S0VZ
";

    const KUBELET: &str = "apiVersion: v1
clusters:
- cluster:
    server: https://127.0.0.1:6444
    certificate-authority: /agent/server-ca.crt
  name: local
users:
- name: user
  user:
    client-certificate: /agent/client-kubelet.crt
    client-key: \"/agent/client-kubelet.key\"
";

    #[test]
    fn an_administrators_has_all_inside() {
        let read = Kubeconfig::read(ADMIN).unwrap();
        let inside = |text: &str| Pem::Inside(text.as_bytes().to_vec());
        assert_eq!((read.host.as_str(), read.port), ("fd00::f", 6443));
        assert_eq!(read.authority, inside("CA"));
        assert_eq!(read.certificate, inside("CERT"));
        assert_eq!(read.key, inside("KEY"));
        assert!(!format!("{read:?}").contains("KEY"));
    }

    #[test]
    fn a_kubelets_names_files() {
        let read = Kubeconfig::read(KUBELET).unwrap();
        let file = |name: &str| Pem::File(format!("/agent/{name}"));
        assert_eq!((read.host.as_str(), read.port), ("127.0.0.1", 6444));
        assert_eq!(read.authority, file("server-ca.crt"));
        assert_eq!(read.certificate, file("client-kubelet.crt"));
        assert_eq!(read.key, file("client-kubelet.key"));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (without, what) in [
            ("server", "server"),
            ("certificate-authority-data", "certificate authority"),
            ("client-certificate-data", "client certificate"),
            ("client-key-data", "client key"),
        ] {
            let lines = ADMIN.lines().filter(|line| !line.contains(without));
            let text: Vec<&str> = lines.collect();
            let strange = Kubeconfig::read(&text.join("\n"));
            assert_eq!(strange, Err(Strange { what }), "{without}");
        }
    }
}
