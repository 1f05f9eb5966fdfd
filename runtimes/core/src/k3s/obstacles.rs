//! What keeps a node out of a cluster until somebody does something about it.
//!
//! Decides: the words, and what helps. Never: tries again by itself.

use super::{Phase, Plan, rests};

/// Why a node cannot be in the cluster that it was assigned to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// It has no place in the cluster's network.
    NoPlace {
        /// The node.
        node: String,
        /// The network.
        network: String,
    },
    /// The cluster's CNI wants more of a machine.
    TooSmall {
        /// The node.
        node: String,
        /// The CNI.
        cni: String,
    },
}

pub(super) fn misfits(misfit: &Misfit) -> Plan {
    match misfit {
        Misfit::NoPlace { node, network } => fails(
            "MissingSdwanPeerError",
            format!("node {node} has no address in network {network}"),
            format!("shoal network attach {node} {network}"),
        ),
        Misfit::TooSmall { node, cni } => fails(
            "CniProfileMismatchError",
            format!("{cni} does not run on {node}, which is lightweight"),
            "assign the module to heavyweight nodes only".to_owned(),
        ),
    }
}

pub(super) fn foreign(pid: Option<u32>) -> Plan {
    let reason = match pid {
        Some(pid) => format!("a K3s that shoal did not start runs here (process {pid})"),
        None => {
            "a K3s that shoal did not set up is here: k3s.service or k3s-agent.service, or the \
                 override.conf of one, is somebody else's"
                .to_owned()
        }
    };
    fails(
        "K3sAlreadyRunningError",
        reason,
        "uninstall it with its own k3s-uninstall.sh, or unassign the module".to_owned(),
    )
}

pub(super) fn strange_data() -> Plan {
    fails(
        "K3sDataPresentError",
        "there are data of a K3s that shoal did not start in /var/lib/rancher/k3s".to_owned(),
        "move them away, or unassign the module; shoal never removes what it did not make"
            .to_owned(),
    )
}

pub(super) fn disk_away(place: &str) -> Plan {
    fails(
        "K3sDataMissingError",
        format!("K3s's data were on a disk at {place}, and nothing is mounted there now"),
        format!(
            "mount it; if it is lost, unassign the module and assign it again: `mount {place}`"
        ),
    )
}

fn fails(code: &'static str, reason: String, hint: String) -> Plan {
    rests(Phase::Failed {
        code,
        reason,
        hint: Some(hint),
        retry_at: None,
    })
}
