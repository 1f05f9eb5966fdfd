//! A token is agreed for the node and the stay that asked for it, from a ready server of its cluster, and
//! says so inside.
//!
//! Decides by what is sealed in it, which nobody in the simulation but the recipient and this file reads.
//! Source: SPEC 5.3.

use consensus_core::{Envelope, K3sPhase, K3sRole};

use crate::{
    clusters::{host::Sealed, mesh::View},
    node::node_id,
};

/// Nothing has to be remembered.
#[derive(Debug, Default)]
pub struct Tokens;

impl Tokens {
    /// Looks at an entry.
    pub(in crate::clusters) fn agreed(
        &self,
        sent: &Envelope,
        before: &View,
        after: &View,
    ) -> Result<(), String> {
        for (node, now) in after.agreed.k3s_nodes.iter() {
            let was = before.agreed.k3s_nodes.get(node);
            let old = was.and_then(|was| was.token.as_ref());
            let Some(token) = now.token.as_ref().filter(|token| old != Some(*token)) else {
                continue;
            };
            let name = after.agreed.name_of(node);
            let asked = was.is_some_and(|was| {
                (was.attempt, &was.phase) == (now.attempt, &K3sPhase::JoinRequest)
            });
            if !asked {
                return Err(format!("{name} gets a token that it did not ask for"));
            }
            let sealed = Sealed::from_bytes(&token.age);
            let right = sealed.is_some_and(|sealed| {
                node_id(sealed.node) == *node && sealed.attempt == now.attempt
            });
            if !right {
                return Err(format!(
                    "{name} gets in stay {} what was sealed as {sealed:?}",
                    now.attempt
                ));
            }
            let by = before.agreed.k3s_nodes.get(&sent.actor);
            let may = by.is_some_and(|by| {
                by.is_ready() && (by.cluster, by.role) == (now.cluster, K3sRole::Server)
            });
            if !may {
                return Err(format!("{name} gets a token from who is no ready server"));
            }
        }
        Ok(())
    }
}
