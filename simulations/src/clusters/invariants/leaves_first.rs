//! A node leaves one cluster before it enters another, with all that it had of it; and a cluster does not
//! forget who is in it.
//!
//! Decides by what is agreed; what is on disks is looked at where K3s comes up. Source: SPEC 5.4.

use consensus_core::Agreed;

/// Nothing has to be remembered.
#[derive(Debug, Default)]
pub struct Stays;

impl Stays {
    /// Looks at an entry.
    ///
    /// # Errors
    /// When a node is in another cluster though it had not left.
    pub fn agreed(&self, before: &Agreed, after: &Agreed) -> Result<(), String> {
        for (node, now) in after.k3s_nodes.iter() {
            let Some(was) = before.k3s_nodes.get(node) else {
                continue;
            };
            let moved = (was.cluster, was.role) != (now.cluster, now.role);
            let given_up = !after.clusters.contains_key(&was.cluster);
            if moved && !was.is_leaving() && !given_up {
                let name = after.name_of(node);
                return Err(format!("{name} enters a cluster and had not left another"));
            }
            if was.attempt > now.attempt {
                let name = after.name_of(node);
                return Err(format!("{name} is in an earlier stay again"));
            }
        }
        Ok(())
    }
}
