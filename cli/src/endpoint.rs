//! Which daemon is asked.
//!
//! Decides: `--connect` before `SHOAL_SOCKET` before the default socket. Never: how it is reached.

use std::path::Path;

use node_api::{DEFAULT_SOCKET, Endpoint, EndpointError, TlsFiles};

/// The endpoint, from `--connect`, the value of `SHOAL_SOCKET`, and the TLS directory.
pub(crate) fn choose(
    connect: Option<&str>,
    socket: Option<&str>,
    tls_dir: &Path,
) -> Result<Endpoint, EndpointError> {
    let tls = TlsFiles::in_directory(tls_dir);
    if let Some(connect) = connect {
        return Endpoint::parse(connect, &tls);
    }
    match socket {
        // An empty variable is how a shell script unsets one.
        None | Some("") => Ok(Endpoint::Unix(DEFAULT_SOCKET.into())),
        Some(url) if url.contains("://") => Endpoint::parse(url, &tls),
        Some(path) => Ok(Endpoint::Unix(path.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(connect: Option<&str>, socket: Option<&str>) -> String {
        choose(connect, socket, Path::new("/tls"))
            .unwrap()
            .to_string()
    }

    #[test]
    fn connect_goes_before_the_variable_and_that_before_the_default() {
        let (connect, socket) = (Some("https://[fd00::1]:7443"), Some("/run/b.sock"));
        assert_eq!(chosen(connect, socket), "https://[fd00::1]:7443");
        assert_eq!(chosen(None, socket), "unix:///run/b.sock");
        assert_eq!(chosen(None, None), format!("unix://{DEFAULT_SOCKET}"));
        assert_eq!(chosen(None, Some("")), format!("unix://{DEFAULT_SOCKET}"));
    }

    #[test]
    fn the_variable_may_be_a_path_or_a_url() {
        assert_eq!(
            chosen(None, Some("unix:///run/c.sock")),
            "unix:///run/c.sock"
        );
        assert_eq!(chosen(None, Some("here.sock")), "unix://here.sock");
    }

    #[test]
    fn a_wrong_url_is_refused_not_passed_over() {
        for wrong in ["http://x", "unix://here.sock", "", "here.sock"] {
            assert!(choose(Some(wrong), Some("/run/b.sock"), Path::new("/tls")).is_err());
        }
        assert!(choose(None, Some("tcp://x:1"), Path::new("/tls")).is_err());
    }

    #[test]
    fn the_tls_directory_reaches_https_endpoints() {
        let endpoint = choose(Some("https://[fd00::1]"), None, Path::new("/elsewhere")).unwrap();
        let Endpoint::Https { tls, .. } = endpoint else {
            panic!("{endpoint}");
        };
        assert_eq!(tls.directory(), Path::new("/elsewhere"));
    }
}
