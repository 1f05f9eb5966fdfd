//! Bootstrap tokens: made, checked, redeemed. Their secrets never enter the state.

use super::{Change, done};
use crate::{Applied, EventKind, Refusal, Role, Token, TokenId, WallMs};

/// More open tokens than an operator can have handed out.
const TOKENS_MAX: usize = 1024;
/// For a month an expired token says that it expired; later it is unknown.
const EXPIRED_KEPT_MS: u64 = 30 * 24 * 3600 * 1000;

pub(super) fn create(
    change: &mut Change<'_>,
    id: TokenId,
    secret_hash: [u8; 32],
    role: Role,
    expires_at: WallMs,
    reusable: bool,
) -> Applied {
    let now = change.time;
    if expires_at <= now {
        return Err(Refusal::Invalid {
            what: "token lifetime".into(),
            text: "0".into(),
            rule: "longer than nothing".into(),
        });
    }
    let tokens = &change.state.tokens;
    if tokens.contains_key(&id) {
        return Err(Refusal::Invalid {
            what: "token id".into(),
            text: id.to_string(),
            rule: "one that no other token has".into(),
        });
    }
    let live = tokens.values().filter(|token| token.expires_at > now);
    if live.count() >= TOKENS_MAX {
        return Err(Refusal::TooLarge {
            what: "the number of tokens".into(),
            limit: TOKENS_MAX as u64,
        });
    }
    // Expired tokens explain themselves for a while, as long as there is room.
    let crowded = tokens.len() >= TOKENS_MAX;
    let kept_ms = if crowded { 0 } else { EXPIRED_KEPT_MS };
    change
        .state
        .tokens
        .retain(|_, token| token.expires_at.0.saturating_add(kept_ms) > now.0);
    change.state.tokens.insert(
        id,
        Token {
            secret_hash,
            role,
            expires_at,
            reusable,
            used_by: None,
        },
    );
    change.event(
        EventKind::TokenCreated,
        None,
        [
            ("token", id.to_string()),
            ("role", role.as_str().to_owned()),
        ],
    );
    done()
}

/// The role that the token gives, if it is good now. Changes nothing.
pub(super) fn check(
    change: &Change<'_>,
    id: TokenId,
    secret_hash: &[u8; 32],
) -> Result<Role, Refusal> {
    let token = change
        .state
        .tokens
        .get(&id)
        .ok_or_else(|| Refusal::TokenUnknown { id: id.to_string() })?;
    // Hashes of 256-bit secrets: comparing them tells a guesser nothing that he could use.
    if token.secret_hash != *secret_hash {
        return Err(Refusal::TokenSecretWrong);
    }
    if let (false, Some(by)) = (token.reusable, &token.used_by) {
        return Err(Refusal::TokenUsed {
            by: change.agreed().name_of(by),
        });
    }
    if change.time >= token.expires_at {
        return Err(Refusal::TokenExpired {
            expired_at: token.expires_at,
        });
    }
    Ok(token.role)
}
