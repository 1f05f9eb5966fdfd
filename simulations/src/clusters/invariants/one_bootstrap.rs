//! A cluster's datastore is initialised by its founder, never while one is on any disk, and never after
//! the cluster was active.
//!
//! Decides by what K3s did and by what was agreed at that moment. Source: SPEC 5.1 and 5.2.

use std::collections::BTreeSet;

use consensus_core::{Agreed, ClusterId, ClusterStatus};

use crate::node::node_id;

/// Which clusters were active.
#[derive(Debug, Default)]
pub struct Foundings {
    active: BTreeSet<ClusterId>,
}

impl Foundings {
    /// Looks at what is agreed.
    pub fn agreed(&mut self, agreed: &Agreed) {
        let active = agreed
            .clusters
            .iter()
            .filter(|(_, one)| one.status == ClusterStatus::Active);
        self.active.extend(active.map(|(id, _)| *id));
    }

    /// A node has initialised a datastore, which these nodes held one of before.
    ///
    /// # Errors
    /// When it may not have.
    pub fn founded(
        &self,
        agreed: &Agreed,
        cluster: ClusterId,
        node: usize,
        holders: &[usize],
    ) -> Result<(), String> {
        if let Some(holder) = holders.first() {
            return Err(format!(
                "n{node} initialises a cluster of which n{holder} has the datastore"
            ));
        }
        if self.active.contains(&cluster) {
            return Err(format!("n{node} initialises a cluster that was active"));
        }
        match agreed.clusters.get(&cluster) {
            Some(row) if row.founder != node_id(node) => Err(format!(
                "n{node} initialises the cluster of {}",
                agreed.former_name_of(&row.founder)
            )),
            Some(_) | None => Ok(()),
        }
    }
}

/// A cluster keeps its founder, and the stay in which it founded once it was active.
///
/// # Errors
/// When it does not.
pub fn founder_stays(before: &Agreed, after: &Agreed) -> Result<(), String> {
    for (id, was) in &before.clusters {
        let Some(now) = after.clusters.get(id) else {
            continue;
        };
        let open = was.status == ClusterStatus::Bootstrapping;
        let again = now.status == ClusterStatus::Bootstrapping && !open;
        let other = was.founder != now.founder || (was.founded != now.founded && !open);
        if again || other {
            return Err(format!("cluster {} is founded again", now.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_datastore_and_one_after_the_cluster_was_active_are_found() {
        let agreed = Agreed::default();
        let cluster = ClusterId::from_bytes([1; 16]);
        let mut foundings = Foundings::default();
        assert_eq!(foundings.founded(&agreed, cluster, 0, &[]), Ok(()));
        assert!(foundings.founded(&agreed, cluster, 0, &[2]).is_err());
        foundings.active.insert(cluster);
        assert!(foundings.founded(&agreed, cluster, 0, &[]).is_err());
    }
}
