//! How clusters, their nodes and a change that goes round them read.

use comfy_table::Table;
use node_api::types::{ClusterDetails, ClusterNodeView, ClusterView, RolloutView};

use crate::table::{NOTHING, facts, or_nothing, table, utc};

pub(super) fn list(clusters: &[ClusterView]) -> Table {
    let headings = ["NAME", "STATUS", "API ENDPOINT", "NETWORK", "CNI", "NODES"];
    let rows = clusters.iter().map(|cluster| {
        vec![
            cluster.name.clone(),
            cluster.status.clone(),
            or_nothing(cluster.api_endpoint.as_ref()),
            cluster.network.clone(),
            cluster.cni.clone(),
            cluster.node_count.to_string(),
        ]
    });
    table(&headings, rows)
}

pub(super) fn nodes(nodes: &[ClusterNodeView]) -> Table {
    let headings = [
        "NODE", "ROLE", "STATUS", "VERSION", "PHASE", "PODS", "REASON",
    ];
    let rows = nodes.iter().map(|node| {
        vec![
            node.node.clone(),
            node.role.clone(),
            node.status.clone(),
            or_nothing(node.version.as_ref()),
            node.phase.clone(),
            node.pod_subnets.join(","),
            or_nothing(node.reason.as_ref()),
        ]
    });
    table(&headings, rows)
}

pub(super) fn show(details: &ClusterDetails) -> String {
    let cluster = &details.cluster;
    let mut known = vec![
        ("Name", cluster.name.clone()),
        ("Id", cluster.id.clone()),
        ("Status", status(details)),
        ("API endpoint", or_nothing(cluster.api_endpoint.as_ref())),
        ("Virtual IP", or_nothing(details.virtual_ip.as_ref())),
        ("Network", cluster.network.clone()),
        ("CNI", cluster.cni.clone()),
        ("Pods", or_nothing(details.pod_subnet_prefix.as_ref())),
        ("Version", or_nothing(details.version.as_ref())),
        (
            "Founded",
            format!("{}, on {}", utc(details.created_ms), details.founder),
        ),
    ];
    if let Some(rollout) = &details.rollout {
        known.push(("Change", change(rollout)));
    }
    for warning in &details.warnings {
        known.push(("Warning", warning.clone()));
    }
    format!("{}\n{}", facts(&known), nodes(&details.nodes).trim_fmt())
}

fn status(details: &ClusterDetails) -> String {
    match &details.reason {
        Some(reason) => format!("{}: {reason}", details.cluster.status),
        None => details.cluster.status.clone(),
    }
}

/// `upgrade to v1.32.0+k3s1: 2 done, now n3`
pub(super) fn change(rollout: &RolloutView) -> String {
    let what = match &rollout.version {
        Some(version) => format!("{} to {version}", rollout.kind),
        None => rollout.kind.clone(),
    };
    let now = match (&rollout.failed_at, &rollout.reason) {
        (Some(node), reason) => {
            let reason = reason.as_deref().unwrap_or(NOTHING);
            format!("stopped at {node}: {reason}")
        }
        (None, Some(reason)) => format!("now {}; {reason}", rollout.turn.join(", ")),
        (None, None) => format!("now {}", rollout.turn.join(", ")),
    };
    format!("{what}: {} done, {now}", rollout.done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upgrade() -> RolloutView {
        RolloutView {
            kind: "upgrade".into(),
            version: Some("v1.32.0+k3s1".into()),
            turn: vec!["n3".into()],
            done: 2,
            failed_at: None,
            reason: None,
        }
    }

    fn node(node: &str, role: &str, phase: &str) -> ClusterNodeView {
        ClusterNodeView {
            node: node.into(),
            role: role.into(),
            status: match phase {
                "ready" => "active".into(),
                other => other.into(),
            },
            phase: phase.into(),
            version: (phase == "ready").then(|| "v1.31.2+k3s1".into()),
            pod_subnets: vec!["10.42.1.0/24".into()],
            reason: (phase == "failed").then(|| "K3sMissingError: there is no k3s".into()),
        }
    }

    fn cluster() -> ClusterView {
        ClusterView {
            id: "0f".into(),
            name: "prod".into(),
            status: "active".into(),
            api_endpoint: Some("https://[fd00::f]:6443".into()),
            network: "default".into(),
            cni: "flannel".into(),
            node_count: 2,
        }
    }

    #[test]
    fn a_change_says_how_far_it_is_and_where_it_stopped() {
        let mut rollout = upgrade();
        assert_eq!(change(&rollout), "upgrade to v1.32.0+k3s1: 2 done, now n3");
        rollout.reason = Some("n3 is not heard of".into());
        assert_eq!(
            change(&rollout),
            "upgrade to v1.32.0+k3s1: 2 done, now n3; n3 is not heard of"
        );
        rollout.failed_at = Some("n3".into());
        rollout.reason = Some("no etcd".into());
        assert_eq!(
            change(&rollout),
            "upgrade to v1.32.0+k3s1: 2 done, stopped at n3: no etcd"
        );
    }

    #[test]
    fn the_list_tells_where_each_clusters_api_is() {
        insta::assert_snapshot!(list(&[cluster()]).trim_fmt(), @r"
        NAME  STATUS  API ENDPOINT            NETWORK  CNI      NODES
        prod  active  https://[fd00::f]:6443  default  flannel  2
        ");
    }

    #[test]
    fn a_cluster_is_shown_with_its_nodes_its_change_and_what_to_know() {
        let details = ClusterDetails {
            cluster: cluster(),
            reason: None,
            version: Some("v1.31.2+k3s1".into()),
            pod_subnet_prefix: Some("10.42.0.0/16".into()),
            virtual_ip: Some("k3s-prod".into()),
            founder: "n1".into(),
            created_ms: 951_782_399_000,
            rollout: Some(upgrade()),
            nodes: vec![node("n1", "server", "ready"), node("n4", "agent", "failed")],
            warnings: vec!["it has two servers".into()],
        };
        insta::assert_snapshot!(show(&details), @r"
        Name:         prod
        Id:           0f
        Status:       active
        API endpoint: https://[fd00::f]:6443
        Virtual IP:   k3s-prod
        Network:      default
        CNI:          flannel
        Pods:         10.42.0.0/16
        Version:      v1.31.2+k3s1
        Founded:      2000-02-28 23:59 UTC, on n1
        Change:       upgrade to v1.32.0+k3s1: 2 done, now n3
        Warning:      it has two servers

        NODE  ROLE    STATUS  VERSION       PHASE   PODS          REASON
        n1    server  active  v1.31.2+k3s1  ready   10.42.1.0/24  -
        n4    agent   failed  -             failed  10.42.1.0/24  K3sMissingError: there is no k3s
        ");
    }
}
