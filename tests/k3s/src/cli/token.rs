//! Join tokens: reads and writes `K10<sha256 of the CA>::<user>:<password>`.
//!
//! Follows `pkg/clientaccess/token.go` of K3s: a bare password or a bare bootstrap token is
//! taken too, and then no CA is checked. Never talks to anybody.

use aws_lc_rs::digest;

use crate::Fatal;

/// What full tokens begin with.
const PREFIX: &str = "K10";
/// Hexadecimal digits of a SHA-256.
const HASH_LENGTH: usize = 64;

/// A parsed token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// Hash that the CA must have; empty: anything is trusted.
    pub(crate) ca_hash: String,
    pub(crate) credentials: Credentials,
}

/// How a token's holder says who he is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// Basic authentication. The user may be empty in a bare password.
    Password { user: String, password: String },
    /// A bootstrap token of Kubernetes, `id.secret`.
    Bootstrap(String),
}

impl Token {
    /// Reads a token in any of its three forms.
    pub(crate) fn parse(text: &str) -> Result<Self, Fatal> {
        if text.is_empty() {
            return Err(Fatal::new("token must not be empty"));
        }
        let (ca_hash, credentials) = match text.strip_prefix(PREFIX) {
            None => ("", text),
            Some(rest) => rest.split_once("::").unwrap_or(("", rest)),
        };
        if !ca_hash.is_empty() && ca_hash.len() != HASH_LENGTH {
            return Err(Fatal::new("invalid token CA hash length"));
        }
        let bare = !text.starts_with(PREFIX);
        let credentials = if is_bootstrap(credentials) {
            Credentials::Bootstrap(credentials.to_owned())
        } else if bare {
            Credentials::Password {
                user: String::new(),
                password: credentials.to_owned(),
            }
        } else {
            match credentials.split_once(':') {
                Some((user, password)) if !password.is_empty() => Credentials::Password {
                    user: user.to_owned(),
                    password: password.to_owned(),
                },
                Some(_) | None => return Err(Fatal::new("invalid token format")),
            }
        };
        Ok(Self {
            ca_hash: ca_hash.to_owned(),
            credentials,
        })
    }

    /// The `Authorization` header of a request made with this token as `user`.
    pub(crate) fn authorization(&self, user: &str) -> String {
        use base64::{Engine, engine::general_purpose::STANDARD};
        match &self.credentials {
            Credentials::Password { password, .. } => {
                format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
            }
            Credentials::Bootstrap(token) => format!("Bearer {token}"),
        }
    }

    /// The password, where the token carries one.
    pub(crate) fn password(&self) -> Option<&str> {
        match &self.credentials {
            Credentials::Password { password, .. } => Some(password),
            Credentials::Bootstrap(_) => None,
        }
    }

    /// Whether the CA in `pem` is the one that the token names.
    pub(crate) fn check_ca(&self, pem: &str) -> Result<(), Fatal> {
        let found = ca_hash(pem);
        if self.ca_hash.is_empty() || self.ca_hash == found {
            return Ok(());
        }
        Err(Fatal::new(format!(
            "token CA hash does not match the Cluster CA certificate hash: {} != {found}",
            self.ca_hash
        )))
    }
}

/// The full form, for files that K3s writes.
pub(crate) fn full(ca_pem: &str, user: &str, password: &str) -> String {
    format!("{PREFIX}{}::{user}:{password}", ca_hash(ca_pem))
}

/// The full form of a bootstrap token.
pub(crate) fn full_bootstrap(ca_pem: &str, token: &str) -> String {
    format!("{PREFIX}{}::{token}", ca_hash(ca_pem))
}

/// SHA-256 of the CA's file as it lies on the disk, which is what K3s hashes for a bundle of one.
pub(crate) fn ca_hash(pem: &str) -> String {
    hex::encode(digest::digest(&digest::SHA256, pem.as_bytes()))
}

/// `[a-z0-9]{6}.[a-z0-9]{16}`.
pub(crate) fn is_bootstrap(text: &str) -> bool {
    let plain = |part: &str, length| {
        part.len() == length
            && (part.bytes()).all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
    };
    text.split_once('.')
        .is_some_and(|(id, secret)| plain(id, 6) && plain(secret, 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &str = "-----BEGIN CERTIFICATE-----\n";

    fn password(user: &str, password: &str) -> Credentials {
        Credentials::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        }
    }

    #[test]
    fn a_full_token_is_read_back() {
        let token = Token::parse(&full(CA, "server", "se:cret")).unwrap();
        assert_eq!(token.credentials, password("server", "se:cret"));
        token.check_ca(CA).unwrap();
        let refused = token.check_ca("another").unwrap_err().to_string();
        assert!(
            refused.starts_with("token CA hash does not match"),
            "{refused}"
        );
    }

    #[test]
    fn a_bare_password_trusts_any_ca() {
        let token = Token::parse("boop").unwrap();
        assert_eq!(token.credentials, password("", "boop"));
        token.check_ca("anything").unwrap();
    }

    #[test]
    fn bootstrap_tokens_are_told_apart() {
        let bare = Token::parse("abcdef.0123456789abcdef").unwrap();
        assert!(matches!(bare.credentials, Credentials::Bootstrap(_)));
        let full = Token::parse(&full_bootstrap(CA, "abcdef.0123456789abcdef")).unwrap();
        assert_eq!(full.credentials, bare.credentials);
        assert!(full.authorization("node").starts_with("Bearer abcdef."));
    }

    #[test]
    fn broken_tokens_are_refused_in_k3s_words() {
        for (text, words) in [
            ("", "token must not be empty"),
            ("K10abc::server:x", "invalid token CA hash length"),
            ("K10::server:", "invalid token format"),
        ] {
            assert_eq!(Token::parse(text).unwrap_err().to_string(), words);
        }
    }
}
