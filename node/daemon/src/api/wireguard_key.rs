//! Another WireGuard key for a node.
//!
//! Decides how long the caller waits to see it in use; the node goes on without him.

use std::time::Duration;

use axum::{Json, extract::Path};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use consensus_core::{Agreed, Command, NodeId, Refusal};
use node_api::types::{RotateKeyRequest, RotatedKey};
use tokio::time::{Instant, timeout_at};

use super::{Answer, Body, Member};
use crate::mesh::views::Views;

/// Making, announcing and taking a key are two agreements and a question to every node: a second. A
/// node that is away does it when it is back.
const ROTATED_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn rotate(
    Member(mesh): Member,
    Path(node): Path<String>,
    Body(request): Body<RotateKeyRequest>,
) -> Answer<RotatedKey> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let (id, row) = agreed
        .find_node(&node)
        .ok_or(Refusal::NodeUnknown { node: node.clone() })?;
    let before = row.wireguard_public_key;
    let command = Command::RotateWireguardKey {
        node: id.to_string(),
        leave_devices: request.leave_devices,
    };
    let began = Instant::now();
    let (index, _) = mesh.proposer.submit(command).await?;
    let patience = if request.no_wait {
        Duration::ZERO
    } else {
        ROTATED_WITHIN
    };
    let until = began + patience;
    let done = timeout_at(until, replaced(&mesh.proposer.views, id, &before)).await;
    let took = began.elapsed();
    let agreed = mesh.proposer.views.view().agreed.clone();
    let name = row.name.clone();
    let warnings = match done {
        Ok(()) => Vec::new(),
        Err(_) => vec![format!(
            "{name} does not use its new key yet; it does so by itself: `shoal node show {name}` tells how far it is"
        )],
    };
    Ok(Json(RotatedKey {
        raft_index: index.0,
        node: name,
        public_key: newest_key(&agreed, id)
            .filter(|key| *key != before)
            .map(|key| STANDARD.encode(key)),
        took_ms: done
            .is_ok()
            .then(|| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
        warnings,
    }))
}

/// The announced key, or the one in use.
fn newest_key(agreed: &Agreed, node: &NodeId) -> Option<[u8; 32]> {
    let present = || agreed.nodes.get(node).map(|row| row.wireguard_public_key);
    agreed.announced_key(node).or_else(present)
}

/// Waits until the node has another key than `before`, or is gone.
async fn replaced(views: &Views, node: &NodeId, before: &[u8; 32]) {
    let mut following = views.watch();
    let other = |agreed: &Agreed| {
        let row = agreed.nodes.get(node);
        row.is_none_or(|row| row.wireguard_public_key != *before)
    };
    while !other(&following.borrow_and_update().agreed) {
        if following.changed().await.is_err() {
            // The daemon ends.
            return;
        }
    }
}
