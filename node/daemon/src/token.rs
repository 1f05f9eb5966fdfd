//! The text of a bootstrap token: what a token file holds.
//!
//! One line, `shoal1.` and base64url of a postcard body with a BLAKE3 check of four bytes, so that
//! a cut or mistyped copy is told apart from a wrong one. Holds the secret; is never logged.

use std::net::SocketAddr;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use consensus_core::{Ipv4Prefix, MeshId, TokenId};
use serde::{Deserialize, Serialize};

/// What every token's text begins with.
const PREFIX: &str = "shoal1.";
/// Bytes of the check.
const CHECK_BYTES: usize = 4;
/// A token with sixteen addresses is about 500 characters.
const TEXT_CHARS_MAX: usize = 4096;

/// A bootstrap token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    /// Which mesh.
    pub(crate) mesh: MeshId,
    /// BLAKE3 of the mesh's root certificate.
    pub(crate) root_fingerprint: [u8; 32],
    /// The token's public id.
    pub(crate) id: TokenId,
    /// The secret: 256 random bits.
    pub(crate) secret: [u8; 32],
    /// Where the mesh can be reached.
    pub(crate) addresses: Vec<SocketAddr>,
    /// The first network's IPv4 prefix, so that a joiner whose host has a route into one can refuse
    /// before it has used the token.
    pub(crate) prefixes: Vec<Ipv4Prefix>,
}

/// Why a text is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("the text is no shoal token: it does not begin with {PREFIX:?}")]
    Foreign,
    #[error("the token is damaged or cut short")]
    Damaged,
}

impl Token {
    /// The text.
    pub(crate) fn encode(&self) -> String {
        let body = postcard::to_stdvec(self).expect("plain fields are always encodable");
        Self::text(&body)
    }

    /// The text around a body.
    pub(crate) fn text(body: &[u8]) -> String {
        let check = blake3::hash(body);
        let body = [body, &check.as_bytes()[..CHECK_BYTES]].concat();
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(body))
    }

    /// The token in the text.
    pub(crate) fn decode(text: &str) -> Result<Self, TokenError> {
        let body = text
            .trim()
            .strip_prefix(PREFIX)
            .ok_or(TokenError::Foreign)?;
        if body.len() > TEXT_CHARS_MAX {
            return Err(TokenError::Damaged);
        }
        let body = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| TokenError::Damaged)?;
        let at = body
            .len()
            .checked_sub(CHECK_BYTES)
            .ok_or(TokenError::Damaged)?;
        let (body, check) = body.split_at(at);
        if blake3::hash(body).as_bytes()[..CHECK_BYTES] != *check {
            return Err(TokenError::Damaged);
        }
        match postcard::take_from_bytes(body) {
            Ok((token, [])) => Ok(token),
            Ok(_) | Err(_) => Err(TokenError::Damaged),
        }
    }

    /// What the state remembers of the secret.
    pub(crate) fn secret_hash(&self) -> [u8; 32] {
        hash_secret(&self.secret)
    }
}

/// BLAKE3 of a secret, bound to this use.
pub(crate) fn hash_secret(secret: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("shoal v1 bootstrap token secret", secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token {
            mesh: MeshId::from_bytes([1; 16]),
            root_fingerprint: [2; 32],
            id: TokenId::from_bytes([3; 16]),
            secret: [4; 32],
            addresses: vec![([192, 0, 2, 1], 7440).into()],
            prefixes: vec![consensus_core::DEFAULT_IPV4_PREFIX],
        }
    }

    #[test]
    fn a_token_survives_its_text_and_the_newline_of_its_file() {
        let text = format!("{}\n", token().encode());
        assert!(Token::decode(&text) == Ok(token()));
    }

    #[test]
    fn a_cut_a_mistyped_and_a_foreign_text_are_refused() {
        let text = token().encode();
        assert!(Token::decode(&text[..text.len() - 3]) == Err(TokenError::Damaged));
        let swapped = text.replace('A', "B");
        assert!(Token::decode(&swapped) == Err(TokenError::Damaged));
        assert!(Token::decode("K10abc::server:x") == Err(TokenError::Foreign));
        assert!(Token::decode("") == Err(TokenError::Foreign));
    }
}
