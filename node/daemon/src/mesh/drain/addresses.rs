//! The virtual IPs that keep a node from being emptied.
//!
//! Decides: which ones are waited for, and in which words. That of a cluster whose only server this
//! node is goes nowhere; whoever has such a node emptied has insisted on it.
//! Never: moves one. The lease protocol does, for a node that is emptied is no candidate.

use std::collections::BTreeSet;

use consensus_core::{Agreed, NodeId, VipId, VirtualIp};

use super::servers::is_only_server;

/// What this node holds and is to let go, each with what keeps it.
pub(super) fn held(agreed: &Agreed, me: &NodeId, heard: &BTreeSet<NodeId>) -> Vec<String> {
    let rows = agreed.virtual_ips.iter();
    let held = rows.filter(|(vip, row)| row.is_holder(me) && !stays(agreed, **vip, me, heard));
    held.map(|(_, row)| waits_for(agreed, row, heard)).collect()
}

fn waits_for(agreed: &Agreed, row: &VirtualIp, heard: &BTreeSet<NodeId>) -> String {
    let name = &row.name;
    match agreed.next_holder(row, heard) {
        Ok(next) => format!("virtual IP {name} to move to {}", agreed.name_of(&next)),
        Err(unfit) if unfit.is_empty() => {
            format!("virtual IP {name}, which has no other candidate")
        }
        Err(unfit) => {
            let each = unfit
                .iter()
                .map(|(node, why)| format!("{}: {why}", agreed.name_of(node)));
            let each: Vec<String> = each.collect();
            let each = each.join(", ");
            format!("virtual IP {name}, which no other candidate can take ({each})")
        }
    }
}

/// Whether it is the API's address of a cluster that has no other server to answer for it.
fn stays(agreed: &Agreed, vip: VipId, me: &NodeId, heard: &BTreeSet<NodeId>) -> bool {
    let mut clusters = agreed.clusters.values();
    clusters.any(|cluster| cluster.vip == vip) && is_only_server(agreed, me, heard)
}
