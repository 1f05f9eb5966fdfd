//! `shoal status`: how the mesh looks from here.

use std::time::{SystemTime, UNIX_EPOCH};

use node_api::{Route, types::Status as StatusView};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    table::{NOTHING, facts, span},
};

/// Show the mesh as this node sees it
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// End with exit code 1 unless all is well: in a mesh, a leader known, no conditions
    #[arg(long)]
    check: bool,
}

impl Status {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let answer = context
            .client
            .get::<StatusView>(&Route::to(&["status"]))
            .await?;
        let healthy = is_healthy(&answer.value);
        context.show(Ok(answer), |status| words(status, now_ms()))?;
        Ok(match self.check && !healthy {
            true => Exit::Failed,
            false => Exit::Done,
        })
    }
}

fn is_healthy(status: &StatusView) -> bool {
    status.mesh_id.is_some() && status.leader.is_some() && status.conditions.is_empty()
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn words(status: &StatusView, now_ms: u64) -> String {
    let Some(mesh_id) = &status.mesh_id else {
        let known = facts(&[
            ("Node", format!("{} ({})", status.node, status.node_id)),
            ("Listens on", status.listen.join(", ")),
            ("Version", status.version.clone()),
        ]);
        return format!(
            "This machine is in no mesh.\n\n{known}{}\n\
             Make one with `shoal init`, or join one with `shoal join --token-file FILE`.",
            conditions(status)
        );
    };
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(|| NOTHING.into());
    let role = status.role.as_deref().unwrap_or("no role yet");
    let issuers = match status.issuers.as_slice() {
        [] => "none".into(),
        issuers => issuers.join(", "),
    };
    let certificate = match status.certificate_expires_ms {
        None => "none".into(),
        Some(end) if end <= now_ms => format!("expired {} ago", span(now_ms - end)),
        Some(end) => format!("valid for {}", span(end - now_ms)),
    };
    let known = facts(&[
        ("Mesh", format!("{} ({mesh_id})", or_none(&status.mesh))),
        (
            "Node",
            format!("{} ({role}, {})", status.node, status.node_id),
        ),
        (
            "Leader",
            status.leader.clone().unwrap_or_else(|| "none known".into()),
        ),
        ("Voters", status.voters.join(", ")),
        (
            "Reachable",
            format!("{} of {}", status.reachable, status.members),
        ),
        ("Issuers", issuers),
        ("Certificate", certificate),
        ("WireGuard", or_none(&status.wireguard)),
        ("Connections", connections(status)),
        ("Listens on", status.listen.join(", ")),
        ("Version", status.version.clone()),
        ("Freshness", status.freshness.clone()),
    ]);
    known + &conditions(status)
}

/// How many there are, and by which way others come.
fn connections(status: &StatusView) -> String {
    let relayed = match status.relayed {
        0 => String::new(),
        relayed => format!(", {relayed} of them relayed"),
    };
    let reached = match status.dialable {
        None => String::new(),
        Some(true) => "; this node can be dialled".into(),
        Some(false) if status.relays.is_empty() => {
            "; this node cannot be dialled, and has no relay".into()
        }
        Some(false) => format!(
            "; this node cannot be dialled, and is reached through {}",
            status.relays.join(" and ")
        ),
    };
    format!("{}{relayed}{reached}", status.connections)
}

fn conditions(status: &StatusView) -> String {
    if status.conditions.is_empty() {
        return String::new();
    }
    let lines = status
        .conditions
        .iter()
        .map(|condition| format!("  - {condition}\n"));
    lines.fold("Conditions:\n".into(), |all, line| all + &line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> StatusView {
        StatusView {
            mesh_id: Some("00112233445566778899aabbccddeeff".into()),
            mesh: Some("home".into()),
            node: "n1".into(),
            node_id: "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm".into(),
            role: Some("server".into()),
            leader: Some("n2".into()),
            raft_index: 42,
            voters: vec!["n1".into(), "n2".into(), "n3".into()],
            reachable: 3,
            members: 4,
            issuers: vec!["n1".into(), "n3".into()],
            freshness: "raft, index 42".into(),
            version: "0.1.0".into(),
            listen: vec!["/ip4/192.0.2.1/udp/7440/quic-v1".into()],
            wireguard: Some("userspace".into()),
            connections: 3,
            relayed: 1,
            dialable: Some(false),
            relays: vec!["n2".into(), "n3".into()],
            certificate_expires_ms: Some(83_000_000),
            conditions: vec!["n4 is silent".into()],
        }
    }

    #[test]
    fn status_tells_who_leads_and_who_answers() {
        insta::assert_snapshot!(words(&status(), 1_000_000), @r"
        Mesh:        home (00112233445566778899aabbccddeeff)
        Node:        n1 (server, 12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm)
        Leader:      n2
        Voters:      n1, n2, n3
        Reachable:   3 of 4
        Issuers:     n1, n3
        Certificate: valid for 22 h
        WireGuard:   userspace
        Connections: 3, 1 of them relayed; this node cannot be dialled, and is reached through n2 and n3
        Listens on:  /ip4/192.0.2.1/udp/7440/quic-v1
        Version:     0.1.0
        Freshness:   raft, index 42
        Conditions:
          - n4 is silent
        ");
    }

    #[test]
    fn status_without_a_mesh_says_how_to_get_one() {
        let alone = StatusView {
            mesh_id: None,
            mesh: None,
            role: None,
            conditions: vec![],
            ..status()
        };
        insta::assert_snapshot!(words(&alone, 0), @r"
        This machine is in no mesh.

        Node:       n1 (12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm)
        Listens on: /ip4/192.0.2.1/udp/7440/quic-v1
        Version:    0.1.0

        Make one with `shoal init`, or join one with `shoal join --token-file FILE`.
        ");
    }

    #[test]
    fn an_expired_certificate_is_called_so() {
        let shown = words(&status(), 90_000_000);
        assert!(shown.contains("expired 116 min ago"), "{shown}");
    }

    #[test]
    fn a_mesh_without_a_leader_or_with_conditions_is_not_healthy() {
        let well = StatusView {
            conditions: vec![],
            ..status()
        };
        assert!(is_healthy(&well));
        assert!(!is_healthy(&status()));
        assert!(!is_healthy(&StatusView {
            leader: None,
            ..well.clone()
        }));
        assert!(!is_healthy(&StatusView {
            mesh_id: None,
            ..well
        }));
    }
}
