//! K3s clusters, their nodes, and nodes that are emptied.
//!
//! Decides how they are shown. Whether something may be is for its application to say; what a
//! cluster's own server alone knows, it is asked.

use std::collections::BTreeSet;

use axum::{Json, extract::Path};
use consensus_core::{
    Agreed, Assignment, BinaryOrigin, Cluster, ClusterCommand, ClusterId, ClusterStatus, Cni,
    Command, Drain, DrainCommand, DrainState, K3sBinary, K3sNode, K3sPhase, K3sRole, LeaseProfile,
    NodeId, Refusal, RolloutKind,
};
use node_api::{
    ApiError,
    types::{
        Changed, ClusterDetails, ClusterNodeView, ClusterSnapshot, ClusterUpgradeRequest,
        ClusterView, DrainRequest, DrainView, K3sBinaryRequest, K3sRequest, Kubeconfig,
        RolloutView,
    },
};

use super::{
    Answer, Body, Member, change,
    cluster_changes::{change_clusters, heard_servers, warnings_of},
};
use crate::{
    mesh::{Mesh, cluster_desk::Occasion},
    node::invalid_text,
};

/// Ten minutes (SPEC 7.1).
const DRAIN_TIMEOUT_S: u64 = 600;
/// Agents at once in an upgrade.
const BATCH: u16 = 1;

pub(super) async fn list(Member(mesh): Member) -> Json<Vec<ClusterView>> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let clusters = agreed.clusters.iter();
    let mut shown: Vec<_> = clusters.map(|(id, row)| view(&agreed, *id, row)).collect();
    shown.sort_by(|a, b| a.name.cmp(&b.name));
    Json(shown)
}

fn find<'a>(agreed: &'a Agreed, named: &str) -> Result<(ClusterId, &'a Cluster), Refusal> {
    agreed
        .find_cluster(named)
        .ok_or_else(|| Refusal::ClusterUnknown {
            cluster: named.chars().take(80).collect(),
        })
}

fn view(agreed: &Agreed, id: ClusterId, row: &Cluster) -> ClusterView {
    let network = agreed.networks.get(&row.network);
    ClusterView {
        id: id.to_string(),
        name: row.name.clone(),
        status: row.status.as_str().to_owned(),
        api_endpoint: agreed.api_endpoint(row),
        network: network.map_or_else(String::new, |network| network.name.clone()),
        cni: row.cni.as_str().to_owned(),
        node_count: agreed.k3s_nodes_of(id).count() as u64,
    }
}

pub(super) async fn show(
    Member(mesh): Member,
    Path(named): Path<String>,
) -> Answer<ClusterDetails> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let (id, row) = find(&agreed, &named)?;
    let reason = match &row.status {
        ClusterStatus::Error { reason } => Some(reason.clone()),
        ClusterStatus::Bootstrapping | ClusterStatus::Active => None,
    };
    Ok(Json(ClusterDetails {
        cluster: view(&agreed, id, row),
        reason,
        version: row.version.clone(),
        pod_subnet_prefix: row.pod_prefix.map(|prefix| prefix.to_string()),
        virtual_ip: agreed.virtual_ips.get(&row.vip).map(|vip| vip.name.clone()),
        founder: agreed.former_name_of(&row.founder),
        created_ms: row.created_at.0,
        rollout: rollout(&agreed, id, row, &mesh.vips.heard()),
        nodes: nodes_of(&agreed, id),
        warnings: warnings_of(&agreed, id),
    }))
}

fn rollout(
    agreed: &Agreed,
    id: ClusterId,
    row: &Cluster,
    heard: &BTreeSet<NodeId>,
) -> Option<RolloutView> {
    let rollout = row.rollout.as_ref()?;
    let failed = rollout.failed.as_ref().map(|(_, reason)| reason.clone());
    let silent = || {
        let node = rollout.turn.iter().find(|node| !heard.contains(*node))?;
        Some(format!("{} is not heard of", agreed.name_of(node)))
    };
    // Nobody's turn: those to whom it is still to go are being emptied.
    let waits = || {
        let mut pending = agreed.k3s_nodes_of(id);
        let waiting = |(node, one): &(&NodeId, &K3sNode)| {
            agreed.is_emptied(node) && rollout.kind.waits_for(one, row.generation)
        };
        let (node, _) = pending.find(waiting).filter(|_| rollout.turn.is_empty())?;
        Some(format!("{} is being drained", agreed.name_of(node)))
    };
    let (kind, version) = match &rollout.kind {
        RolloutKind::PodSubnet => ("pod_subnet", None),
        RolloutKind::Upgrade { binary } => ("upgrade", binary.version.clone()),
    };
    let done = |(_, node): &(&NodeId, &K3sNode)| rollout.kind.is_taken_by(node, row.generation);
    Some(RolloutView {
        kind: kind.to_owned(),
        version,
        turn: rollout
            .turn
            .iter()
            .map(|node| agreed.name_of(node))
            .collect(),
        done: agreed.k3s_nodes_of(id).filter(done).count() as u64,
        failed_at: rollout
            .failed
            .as_ref()
            .map(|(node, _)| agreed.former_name_of(node)),
        reason: failed.or_else(silent).or_else(waits),
    })
}

pub(super) async fn nodes(
    Member(mesh): Member,
    Path(named): Path<String>,
) -> Answer<Vec<ClusterNodeView>> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let (id, _) = find(&agreed, &named)?;
    Ok(Json(nodes_of(&agreed, id)))
}

fn nodes_of(agreed: &Agreed, id: ClusterId) -> Vec<ClusterNodeView> {
    let show = |(node, row): (&NodeId, &K3sNode)| ClusterNodeView {
        node: agreed.name_of(node),
        role: row.role.as_str().to_owned(),
        status: row.status().to_owned(),
        phase: row.phase.as_str().to_owned(),
        version: row.version.clone(),
        pod_subnets: row.pods.iter().map(ToString::to_string).collect(),
        reason: match &row.phase {
            K3sPhase::Failed { reason, code, .. } => Some(format!("{code}: {reason}")),
            K3sPhase::Assigned
            | K3sPhase::Installing
            | K3sPhase::Bootstrap
            | K3sPhase::JoinRequest
            | K3sPhase::JoinTokenIssued
            | K3sPhase::Starting
            | K3sPhase::Ready { .. }
            | K3sPhase::Leaving
            | K3sPhase::Stopped
            | K3sPhase::Drained => held_back(agreed, node, row),
        },
    };
    let mut shown: Vec<_> = agreed.k3s_nodes_of(id).map(show).collect();
    // Servers first.
    shown.sort_by(|a, b| (&b.role, &a.node).cmp(&(&a.role, &b.node)));
    shown
}

/// Why a server does not begin that a label brought to a drained node.
fn held_back(agreed: &Agreed, node: &NodeId, row: &K3sNode) -> Option<String> {
    let rests = matches!(row.phase, K3sPhase::Assigned | K3sPhase::Drained);
    let new = row.role == K3sRole::Server && !row.has_been_ready();
    let waits = rests && new && agreed.is_emptied(node);
    let name = agreed.name_of(node);
    waits.then(|| format!("{name} takes nothing new before `shoal node uncordon {name}`"))
}

pub(super) async fn provision(
    Member(mesh): Member,
    Path(node): Path<String>,
    Body(request): Body<K3sRequest>,
) -> Answer<Changed> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let found = agreed.find_node(&node).map(|(id, _)| id.clone());
    let id = found.ok_or(Refusal::NodeUnknown { node })?;
    let role = match request.role.as_str() {
        "server" => K3sRole::Server,
        "agent" => K3sRole::Agent,
        other => return Err(invalid_text("role", other, "server or agent").into()),
    };
    let cni = request.cni.as_deref().map(|name| {
        Cni::from_name(name).ok_or_else(|| invalid_text("CNI", name, "flannel or ovn_kubernetes"))
    });
    let profile = request.vip_profile.as_deref().map(|name| {
        let rule = "lan, safe, wan or slow";
        LeaseProfile::from_name(name).ok_or_else(|| invalid_text("lease profile", name, rule))
    });
    let reachable = heard_servers(&mesh, Some(&id.to_string()));
    let command = ClusterCommand::Assign {
        assignment: Assignment::to_node(role.module(), id),
        cluster: request.cluster,
        network: request.network,
        cni: cni.transpose()?,
        binary: binary(request.binary)?,
        profile: profile.transpose()?,
        reachable,
        consent: request.consent,
    };
    change_clusters(&mesh, Command::Cluster(command)).await
}

fn binary(request: K3sBinaryRequest) -> Result<K3sBinary, ApiError> {
    let K3sBinaryRequest {
        path,
        url,
        sha256,
        version,
        images,
    } = request;
    let origin = match (path, url, sha256) {
        (None, None, None) => None,
        (Some(path), None, None) => Some(BinaryOrigin::Path(path)),
        (None, Some(url), Some(sum)) => Some(BinaryOrigin::Url {
            url,
            sha256: sum_of(&sum)?,
        }),
        (None, Some(url), None) => {
            let rule = "given with the SHA-256 of the file (`--sha256`)";
            return Err(invalid_text("address of the K3s binary", &url, rule));
        }
        (_, _, Some(sum)) => {
            let rule = "given with the address of the file alone (`--k3s-url`)";
            return Err(invalid_text("SHA-256", &sum, rule));
        }
        (Some(path), Some(_), None) => {
            let rule = "either a path or an address";
            return Err(invalid_text("K3s binary", &path, rule));
        }
    };
    Ok(K3sBinary {
        origin,
        version,
        images,
    })
}

fn sum_of(text: &str) -> Result<[u8; 32], ApiError> {
    let malformed = || invalid_text("SHA-256", text, "64 hexadecimal digits");
    let bytes = text.as_bytes();
    if bytes.len() != 64 || !bytes.iter().all(u8::is_ascii_hexdigit) {
        return Err(malformed());
    }
    let mut sum = [0; 32];
    for (byte, pair) in sum.iter_mut().zip(bytes.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| malformed())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| malformed())?;
    }
    Ok(sum)
}

pub(super) async fn decommission(
    Member(mesh): Member,
    Path(cluster): Path<String>,
) -> Answer<Changed> {
    let command = ClusterCommand::Decommission { cluster };
    change(&mesh, Command::Cluster(command)).await
}

pub(super) async fn upgrade(
    Member(mesh): Member,
    Path(cluster): Path<String>,
    Body(request): Body<ClusterUpgradeRequest>,
) -> Answer<Changed> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    if let Ok((id, row)) = find(&agreed, &cluster) {
        refuse_unheard(&agreed, id, row, &mesh.vips.heard())?;
    }
    let command = ClusterCommand::Upgrade {
        cluster,
        binary: binary(request.binary)?,
        batch: request.batch.unwrap_or(BATCH),
    };
    change(&mesh, Command::Cluster(command)).await
}

/// A node that is not heard would keep its turn for good.
fn refuse_unheard(
    agreed: &Agreed,
    id: ClusterId,
    row: &Cluster,
    heard: &BTreeSet<NodeId>,
) -> Result<(), Refusal> {
    let nodes = agreed.k3s_nodes_of(id);
    let silent = nodes.filter(|(node, _)| !heard.contains(*node));
    let silent: Vec<String> = silent.map(|(node, _)| agreed.name_of(node)).collect();
    match silent.is_empty() {
        true => Ok(()),
        false => Err(Refusal::ClusterBusy {
            cluster: row.name.clone(),
            why: format!("has nodes that are not heard of: {}", silent.join(", ")),
        }),
    }
}

pub(super) async fn kubeconfig(
    Member(mesh): Member,
    Path(named): Path<String>,
) -> Answer<Kubeconfig> {
    let id = active(&mesh, &named, "kubeconfig")?;
    let kubeconfig = mesh.clusters.kubeconfig(id).await?;
    Ok(Json(Kubeconfig { kubeconfig }))
}

pub(super) async fn snapshot(
    Member(mesh): Member,
    Path(named): Path<String>,
) -> Answer<ClusterSnapshot> {
    let id = active(&mesh, &named, "state")?;
    let (clusters, nobody) = (&mesh.clusters, BTreeSet::new());
    let taken = clusters.snapshot(id, Occasion::Asked, &nobody).await?;
    Ok(Json(taken))
}

/// A cluster whose servers can be asked for something of theirs (SPEC 5.8).
fn active(mesh: &Mesh, named: &str, what: &str) -> Result<ClusterId, ApiError> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let (id, row) = find(&agreed, named)?;
    match &row.status {
        ClusterStatus::Active => Ok(id),
        ClusterStatus::Bootstrapping => {
            let (name, founder) = (&row.name, agreed.name_of(&row.founder));
            Err(ApiError::new(
                "ClusterNotReadyError",
                format!(
                    "the {what} of cluster {name} is not yet available: the cluster is bootstrapping on {founder}"
                ),
                format!("`shoal cluster show {name}` shows how far it is"),
            ))
        }
        ClusterStatus::Error { reason } => Err(Refusal::ClusterInError {
            cluster: row.name.clone(),
            reason: reason.clone(),
        }
        .into()),
    }
}

pub(super) async fn drain(
    Member(mesh): Member,
    Path(node): Path<String>,
    Body(request): Body<DrainRequest>,
) -> Answer<Changed> {
    let timeout_s = request.timeout_s.unwrap_or(DRAIN_TIMEOUT_S);
    let command = DrainCommand::Begin {
        node,
        timeout_ms: timeout_s.saturating_mul(1000),
        cordon_only: request.cordon_only,
        force: request.force,
        reachable: heard_servers(&mesh, None),
    };
    change_clusters(&mesh, Command::Drain(command)).await
}

pub(super) async fn uncordon(Member(mesh): Member, Path(node): Path<String>) -> Answer<Changed> {
    change(&mesh, Command::Drain(DrainCommand::End { node })).await
}

pub(super) async fn drained(Member(mesh): Member, Path(node): Path<String>) -> Answer<DrainView> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let found = agreed.find_node(&node);
    let (id, row) = found.ok_or(Refusal::NodeUnknown { node: node.clone() })?;
    let drain = agreed.drains.get(id);
    let drain = drain.ok_or_else(|| Refusal::NotDrained {
        node: row.name.clone(),
    })?;
    let heard = mesh.vips.heard().contains(id);
    Ok(Json(drain_view(&row.name, drain, heard)))
}

fn drain_view(node: &str, drain: &Drain, heard: bool) -> DrainView {
    let said = |reason: &String| (!reason.is_empty()).then(|| reason.clone());
    let reason = match &drain.state {
        DrainState::Draining { waits_for } if heard => said(waits_for),
        DrainState::Draining { waits_for } => Some(match waits_for.as_str() {
            "" => format!("{node} is not heard of"),
            last => format!("{node} is not heard of; it waited for {last}"),
        }),
        DrainState::Failed { reason: words } | DrainState::DrainedExcept { stays: words } => {
            said(words)
        }
        DrainState::Drained => None,
    };
    DrainView {
        node: node.to_owned(),
        state: drain.state.as_str().to_owned(),
        cordon_only: drain.cordon_only,
        reason,
        heard,
    }
}

#[cfg(test)]
mod tests {
    use consensus_core::{LogIndex, WallMs};

    use super::*;

    #[test]
    fn a_server_that_comes_to_a_drained_node_says_what_it_waits_for() {
        let text = format!("12D3KooW{}", "a".repeat(44));
        let node: NodeId = text.parse().unwrap();
        let mut row = K3sNode {
            cluster: ClusterId::from_bytes([7; 16]),
            role: K3sRole::Server,
            attempt: LogIndex(9),
            binary: K3sBinary::INSTALLED,
            phase: K3sPhase::Assigned,
            since: WallMs(0),
            token: None,
            version: None,
            generation: LogIndex(0),
            pods: BTreeSet::new(),
        };
        let mut agreed = Agreed::default();
        assert_eq!(held_back(&agreed, &node, &row), None);
        let drain = |cordon_only| Drain {
            begun: LogIndex(7),
            at: WallMs(0),
            timeout_ms: 60_000,
            cordon_only,
            state: DrainState::Drained,
            forced: false,
        };
        agreed.drains.insert(node.clone(), drain(true));
        assert_eq!(held_back(&agreed, &node, &row), None);
        agreed.drains.insert(node.clone(), drain(false));
        let said = held_back(&agreed, &node, &row).unwrap();
        assert!(said.contains("shoal node uncordon"), "{said}");
        // One that goes on, or was there before, waits for nothing.
        row.phase = K3sPhase::Starting;
        assert_eq!(held_back(&agreed, &node, &row), None);
        row.phase = K3sPhase::Drained;
        row.version = Some("v1.31.2+k3s1".to_owned());
        assert_eq!(held_back(&agreed, &node, &row), None);
    }

    fn shown(state: DrainState, heard: bool) -> (String, Option<String>) {
        let drain = Drain {
            begun: LogIndex(7),
            at: WallMs(0),
            timeout_ms: 60_000,
            cordon_only: false,
            state,
            forced: false,
        };
        let view = drain_view("n4", &drain, heard);
        assert_eq!(view.heard, heard);
        (view.state, view.reason)
    }

    fn draining(waits_for: &str) -> DrainState {
        DrainState::Draining {
            waits_for: waits_for.into(),
        }
    }

    #[test]
    fn a_drain_of_a_node_that_is_not_heard_says_so_as_long_as_it_lasts() {
        for (waits_for, heard, reason) in [
            ("", true, None),
            ("pods to end", true, Some("pods to end")),
            ("", false, Some("n4 is not heard of")),
            (
                "pods to end",
                false,
                Some("n4 is not heard of; it waited for pods to end"),
            ),
        ] {
            let (state, told) = shown(draining(waits_for), heard);
            assert_eq!((state.as_str(), told.as_deref()), ("draining", reason));
        }
        assert_eq!(shown(DrainState::Drained, false), ("drained".into(), None));
        let stays = "pod d/web-0 came after the cordon, and stays".to_owned();
        let except = DrainState::DrainedExcept {
            stays: stays.clone(),
        };
        assert_eq!(shown(except, true), ("drained".into(), Some(stays)));
        let failed = DrainState::Failed {
            reason: "no room".into(),
        };
        assert_eq!(
            shown(failed, false),
            ("failed".into(), Some("no room".into()))
        );
    }
}
