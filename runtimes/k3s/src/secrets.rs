//! A cluster's tokens on the host.
//!
//! Decides: that servers and agents have a token each, so that no agent can join as a server; and
//! how both travel to a server that joins. Never: puts one into settings, arguments or a log.
//!
//! A token that somebody made is its bare secret. K3s writes the whole one, with the sum of its CA
//! (`K10<SHA-256>::server:<secret>`), beside its data; who joins with that one notices a wrong
//! cluster (docs.k3s.io, `k3s token`). What a server lets agents in with is the bare secret all the
//! same: K3s compares it as it is (k3s-io/k3s, pkg/daemons/control/deps, `getNodePass`).

use std::{fmt, path::Path};

use consensus_core::K3sRole;
use runtimes_host::files::{self, FileError, HostFiles};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::paths::Paths;

/// For the owner alone.
const TOKEN_MODE: u32 = 0o600;
/// 256 bits, written as 64 hexadecimal digits.
const SECRET_BYTES: usize = 32;

/// What a node joins with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct JoinToken {
    /// For servers; agents never see it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    server: Option<String>,
    /// For agents, whole; for a server, which has to let agents in, the bare secret.
    agent: String,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(…)")
    }
}

/// A token could not be read, made or taken.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The kernel has no randomness.
    #[error("no randomness to make a token of")]
    Randomness(#[source] rustix::io::Errno),
    /// K3s has not written it yet.
    #[error("K3s has not written its token to {path} yet")]
    Missing {
        /// Where it is expected.
        path: String,
    },
    /// It is no token.
    #[error("what was sealed for this node is no token")]
    Malformed,
    /// A server's token came for an agent, or the other way round.
    #[error("the token is not one for this node's role")]
    WrongRole,
    /// A file on the host.
    #[error(transparent)]
    File(#[from] FileError),
}

impl TokenError {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Randomness(_) => "RandomnessError",
            Self::Missing { .. } => "K3sTokenMissingError",
            Self::Malformed | Self::WrongRole => "K3sTokenMalformedError",
            Self::File(error) => error.code(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Randomness(_) => "the kernel is too old; 3.17 or newer is needed".to_owned(),
            Self::Missing { .. } => "wait until the server is ready".to_owned(),
            Self::Malformed | Self::WrongRole => {
                "unassign the module and assign it again: the node then asks for another".to_owned()
            }
            Self::File(error) => error.hint(),
        }
    }
}

/// Makes a founder's secrets. Those that are there stay: a founder that was stopped half-way goes on
/// with what it had.
pub(crate) fn make(paths: &Paths, files: &HostFiles) -> Result<(), TokenError> {
    for path in [paths.server_token(), paths.agent_token()] {
        if files::read(&path)?.is_none() {
            files.write(&path, secret()?.as_bytes(), TOKEN_MODE)?;
        }
    }
    Ok(())
}

fn secret() -> Result<String, TokenError> {
    let mut bytes = [0_u8; SECRET_BYTES];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        let more = rustix::rand::getrandom(&mut bytes[filled..], flags);
        filled += more.map_err(TokenError::Randomness)?;
    }
    let text = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    bytes.zeroize();
    Ok(text)
}

/// Whether a founder's secrets are there.
pub(crate) fn are_made(paths: &Paths) -> bool {
    paths.server_token().exists() && paths.agent_token().exists()
}

/// What a node of that role joins this server's cluster with.
pub(crate) fn for_role(paths: &Paths, role: K3sRole) -> Result<JoinToken, TokenError> {
    Ok(match role {
        K3sRole::Server => JoinToken {
            server: Some(read(&paths.whole_server_token())?),
            agent: read(&paths.agent_token())?,
        },
        K3sRole::Agent => JoinToken {
            server: None,
            agent: read(&paths.whole_agent_token())?,
        },
    })
}

fn read(path: &Path) -> Result<String, TokenError> {
    match files::read(path)?.map(|text| text.trim().to_owned()) {
        Some(token) if !token.is_empty() => Ok(token),
        Some(_) | None => Err(TokenError::Missing {
            path: path.display().to_string(),
        }),
    }
}

/// Puts the token in place that was opened for this node.
pub(crate) fn put(
    paths: &Paths,
    files: &HostFiles,
    role: K3sRole,
    token: &JoinToken,
) -> Result<(), TokenError> {
    match (role, &token.server) {
        (K3sRole::Server, Some(server)) => {
            files.write(&paths.server_token(), server.as_bytes(), TOKEN_MODE)?;
        }
        (K3sRole::Agent, None) => {}
        (K3sRole::Server, None) | (K3sRole::Agent, Some(_)) => return Err(TokenError::WrongRole),
    }
    Ok(files.write(&paths.agent_token(), token.agent.as_bytes(), TOKEN_MODE)?)
}

impl JoinToken {
    /// As it is sealed.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("two texts")
    }

    /// As it was opened.
    ///
    /// # Errors
    /// It is something else. What, is not told: it may be a secret.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TokenError> {
        serde_json::from_slice(bytes).map_err(|_| TokenError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn scene() -> (tempfile::TempDir, Paths, HostFiles) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths {
            data_dir: root.path().join("data"),
            ..Paths::under(root.path())
        };
        let files = HostFiles::listed_in(paths.manifest());
        (root, paths, files)
    }

    fn served() -> (tempfile::TempDir, Paths, HostFiles) {
        let (root, paths, files) = scene();
        fs::create_dir_all(root.path().join("data/server")).unwrap();
        fs::write(paths.whole_server_token(), "K10ab::server:s\n").unwrap();
        fs::write(paths.whole_agent_token(), "K10ab::node:a\n").unwrap();
        files.write(&paths.agent_token(), b"a", 0o600).unwrap();
        (root, paths, files)
    }

    #[test]
    fn secrets_are_for_root_alone_differ_and_are_made_once() {
        let (_root, paths, files) = scene();
        assert!(!are_made(&paths));
        make(&paths, &files).unwrap();
        assert!(are_made(&paths));
        let read = || [paths.server_token(), paths.agent_token()].map(|p| fs::read(p).unwrap());
        let first = read();
        assert_ne!(first[0], first[1]);
        assert_eq!(first[0].len(), 2 * SECRET_BYTES);
        for path in [paths.server_token(), paths.agent_token()] {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        make(&paths, &files).unwrap();
        assert_eq!(read(), first);
    }

    #[test]
    fn an_agent_is_never_told_the_servers_token() {
        let (_root, paths, _) = served();
        let token = for_role(&paths, K3sRole::Agent).unwrap();
        assert!(
            !String::from_utf8(token.to_bytes())
                .unwrap()
                .contains("server")
        );
        let token = for_role(&paths, K3sRole::Server).unwrap();
        assert_eq!(JoinToken::from_bytes(&token.to_bytes()).unwrap(), token);
    }

    #[test]
    fn a_token_that_k3s_has_not_written_yet_is_not_handed_out() {
        let (_root, paths, _) = scene();
        let error = for_role(&paths, K3sRole::Agent).unwrap_err();
        assert_eq!(error.code(), "K3sTokenMissingError");
    }

    #[test]
    fn a_token_is_put_in_place_for_its_own_role() {
        let (_root, paths, files) = served();
        let of = |role| for_role(&paths, role).unwrap();
        let wrong = put(&paths, &files, K3sRole::Agent, &of(K3sRole::Server)).unwrap_err();
        assert_eq!(wrong.code(), "K3sTokenMalformedError");
        put(&paths, &files, K3sRole::Server, &of(K3sRole::Server)).unwrap();
        assert_eq!(
            fs::read_to_string(paths.server_token()).unwrap(),
            "K10ab::server:s"
        );
        assert_eq!(fs::read_to_string(paths.agent_token()).unwrap(), "a");
        put(&paths, &files, K3sRole::Agent, &of(K3sRole::Agent)).unwrap();
        assert_eq!(
            fs::read_to_string(paths.agent_token()).unwrap(),
            "K10ab::node:a"
        );
    }

    #[test]
    fn what_is_no_token_is_told_without_showing_it() {
        let error = JoinToken::from_bytes(b"hunter2").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
        let token = JoinToken::from_bytes(br#"{"agent":"hunter2"}"#).unwrap();
        assert!(!format!("{token:?}").contains("hunter2"));
    }
}
