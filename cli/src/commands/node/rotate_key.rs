//! `shoal node rotate-key`: another WireGuard key for a node.

use node_api::{
    Route,
    types::{RotateKeyRequest, RotatedKey},
};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    values,
};

/// Have a node make itself another WireGuard key, while everything runs
#[derive(Debug, clap::Args)]
pub(crate) struct RotateKey {
    /// The node's name or id
    #[arg(value_parser = values::name)]
    node: String,
    /// Even if devices that it is the gateway of are cut off: they have the old key
    #[arg(long)]
    leave_devices: bool,
    /// Do not wait until the node uses its new key
    #[arg(long)]
    no_wait: bool,
}

impl RotateKey {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let route = Route::to(&["nodes", &self.node, "wireguard-key"]);
        let request = RotateKeyRequest {
            leave_devices: self.leave_devices,
            no_wait: self.no_wait,
        };
        let answer = context.client.post::<RotatedKey>(&route, &request).await?;
        let warnings = answer.value.warnings.clone();
        let exit = context.show(Ok(answer), words)?;
        if !context.terminal.json() {
            context.terminal.warnings(&warnings)?;
        }
        Ok(exit)
    }
}

fn words(rotated: &RotatedKey) -> String {
    let node = &rotated.node;
    match (&rotated.public_key, rotated.took_ms) {
        (Some(key), Some(ms)) => format!("{node} uses the WireGuard key {key} after {ms} ms"),
        (Some(key), None) => format!("{node} has announced the WireGuard key {key}"),
        (None, _) => format!("{node} is to make a new WireGuard key"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_has_its_words() {
        let mut rotated = RotatedKey {
            raft_index: 4,
            node: "n1".into(),
            public_key: None,
            took_ms: None,
            warnings: Vec::new(),
        };
        assert_eq!(words(&rotated), "n1 is to make a new WireGuard key");
        rotated.public_key = Some("k=".into());
        assert_eq!(words(&rotated), "n1 has announced the WireGuard key k=");
        rotated.took_ms = Some(80);
        assert_eq!(words(&rotated), "n1 uses the WireGuard key k= after 80 ms");
    }
}
