//! How access grants are shown.

use comfy_table::Table;
use node_api::{
    Answer, ApiError,
    types::{AccessGrantDetails, AccessGrantView},
};

use super::configuration;
use crate::{
    commands::status::now_ms,
    context::Context,
    failure::{Exit, Failure},
    table::{NOTHING, countdown, facts, or_nothing, span, table, utc},
};

pub(super) fn list(grants: &[AccessGrantView], now_ms: u64) -> Table {
    let headings = [
        "NAME", "NETWORK", "IPV6", "IPV4", "GATEWAY", "STATE", "EXPIRES",
    ];
    let rows = grants.iter().map(|grant| {
        vec![
            grant.name.clone(),
            grant.network.clone(),
            grant.ipv6.to_string(),
            grant.ipv4.to_string(),
            grant.gateway.clone(),
            grant.state.clone(),
            expires(grant, now_ms),
        ]
    });
    table(&headings, rows)
}

fn expires(grant: &AccessGrantView, now_ms: u64) -> String {
    let end = grant.expires_at_ms;
    end.map_or_else(|| NOTHING.to_owned(), |end| countdown(end, now_ms))
}

/// Everything about one grant, and its device's configuration.
pub(super) fn details(
    context: &Context<'_>,
    answer: Result<Answer<AccessGrantDetails>, ApiError>,
) -> Result<Exit, Failure> {
    let answer = answer?;
    let warnings = answer.value.warnings.clone();
    let done = context.show(Ok(answer), |details| words(details, now_ms()))?;
    if !context.terminal.json() {
        context.terminal.warnings(&warnings)?;
    }
    Ok(done)
}

fn words(details: &AccessGrantDetails, now_ms: u64) -> String {
    let grant = &details.grant;
    let handshake = details.handshake_s;
    let handshake = handshake.map(|s| format!("{} ago", span(s.saturating_mul(1000))));
    let known = facts(&[
        ("Name", grant.name.clone()),
        ("Network", grant.network.clone()),
        ("IPv6", grant.ipv6.to_string()),
        ("IPv4", grant.ipv4.to_string()),
        ("Public key", grant.public_key.clone()),
        ("Gateway", grant.gateway.clone()),
        ("State", grant.state.clone()),
        ("Expires", expires(grant, now_ms)),
        ("Made", utc(grant.created_at_ms)),
        ("Device at", or_nothing(details.device_endpoint.as_ref())),
        ("Handshake", or_nothing(handshake.as_ref())),
    ]);
    match configuration::text(details, None, None) {
        Some(text) => format!("{known}\n{text}"),
        None => known,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspended() -> AccessGrantDetails {
        AccessGrantDetails {
            grant: AccessGrantView {
                name: "laptop".into(),
                network: "default".into(),
                gateway: "n1".into(),
                public_key: "bm90IGEga2V5".into(),
                ipv6: "fd00::7".parse().unwrap(),
                ipv4: "100.96.0.7".parse().unwrap(),
                state: "suspended".into(),
                expires_at_ms: Some(50_400_000),
                created_at_ms: 1_700_000_000_000,
            },
            tunnel: None,
            device_endpoint: Some("198.51.100.7:40000".into()),
            handshake_s: Some(75),
            warnings: vec![],
        }
    }

    #[test]
    fn a_grant_is_shown_with_what_its_gateway_knows() {
        insta::assert_snapshot!(words(&suspended(), 400_000), @r"
        Name:       laptop
        Network:    default
        IPv6:       fd00::7
        IPv4:       100.96.0.7
        Public key: bm90IGEga2V5
        Gateway:    n1
        State:      suspended
        Expires:    in 13h 53m
        Made:       2023-11-14 22:13 UTC
        Device at:  198.51.100.7:40000
        Handshake:  75 s ago
        ");
        insta::assert_snapshot!(list(&[suspended().grant], 400_000).trim_fmt(), @r"
        NAME    NETWORK  IPV6     IPV4        GATEWAY  STATE      EXPIRES
        laptop  default  fd00::7  100.96.0.7  n1       suspended  in 13h 53m
        ");
    }
}
