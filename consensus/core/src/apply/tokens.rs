//! Bootstrap tokens: made, checked, redeemed. Their secrets never enter the state.

use super::{Change, done, invalid, too_large};
use crate::{
    Applied, EventKind, Refusal, Role, Token, TokenId, WallMs,
    limits::{DAY_MS, TOKENS_MAX},
};

/// For a month an expired token says that it expired; later it is unknown.
const EXPIRED_KEPT_MS: u64 = 30 * DAY_MS;

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
        return Err(invalid("token lifetime", "0", "longer than nothing"));
    }
    let tokens = &change.state.tokens;
    if tokens.contains_key(&id) {
        let rule = "one that no other token has";
        return Err(invalid("token id", &id.to_string(), rule));
    }
    let live = tokens.values().filter(|token| token.expires_at > now);
    if live.count() >= TOKENS_MAX {
        return Err(too_large("the number of tokens", TOKENS_MAX));
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

/// Forgets a token: it admits nobody any more.
pub(super) fn revoke(change: &mut Change<'_>, id: TokenId) -> Applied {
    if change.state.tokens.remove(&id).is_none() {
        return Err(Refusal::TokenUnknown { id: id.to_string() });
    }
    change.event(EventKind::TokenRevoked, None, [("token", id.to_string())]);
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
