//! Modules, and where they are assigned.
//!
//! Decides which command an assignment is: that of a K3s module also says which cluster is meant.

use axum::Json;
use consensus_core::{
    Agreed, Assignment, ClusterCommand, Command, K3sBinary, Module, NodeId, Refusal, Target,
};
use node_api::{
    ApiError,
    types::{AssignRequest, Changed, ModuleView},
};
use runtimes_core::catalogue;

use super::{
    Answer, Body, Member, change,
    cluster_changes::{change_clusters, heard_servers},
};
use crate::{mesh::Mesh, node::invalid_text};

pub(super) async fn list(Member(mesh): Member) -> Json<Vec<ModuleView>> {
    let view = mesh.proposer.views.view();
    let agreed = &view.agreed;
    let show = |module: Module| ModuleView {
        name: module.as_str().into(),
        variety: "subscription".into(),
        assigned_to: agreed
            .assignments
            .iter()
            .filter(|assignment| assignment.module == module)
            .map(|assignment| assignment.target.describe(agreed))
            .collect(),
        nodes: agreed
            .nodes
            .iter()
            .filter(|(id, _)| comes_to(agreed, id, module))
            .map(|(_, node)| node.name.clone())
            .collect(),
    };
    Json(Module::ALL.into_iter().map(show).collect())
}

/// Whether a node gets a module. Of K3s it gets one of two, and nothing of a cluster that is no more.
fn comes_to(agreed: &Agreed, id: &NodeId, module: Module) -> bool {
    match module {
        Module::DockerEngine => agreed.assigned(id, module),
        Module::K3sServer | Module::K3sAgent => {
            let wanted = agreed.wanted_k3s(id);
            wanted.is_some_and(|wanted| wanted.role.module() == module)
        }
    }
}

/// What an operator asked to assign or unassign.
fn assignment(mesh: &Mesh, request: AssignRequest) -> Result<Assignment, ApiError> {
    let module = Module::from_name(&request.module).ok_or_else(|| {
        match catalogue::assignable(&request.module) {
            Err(refused) => ApiError::new(refused.code(), refused.to_string(), refused.hint()),
            Ok(_) => Refusal::ModuleUnknown {
                module: request.module.clone(),
            }
            .into(),
        }
    })?;
    let target = match (request.node, request.selector) {
        (Some(name), None) => {
            let view = mesh.proposer.views.view();
            let id = view.agreed.find_node(&name).map(|(id, _)| id.clone());
            Target::Node(id.ok_or(Refusal::NodeUnknown { node: name })?)
        }
        (None, Some(labels)) => Target::Selector(labels),
        (Some(_), Some(_)) | (None, None) => {
            return Err(invalid_text("target", "", "either a node or a selector"));
        }
    };
    Ok(Assignment { module, target })
}

pub(super) async fn assign(
    Member(mesh): Member,
    Body(request): Body<AssignRequest>,
) -> Answer<Changed> {
    let (cluster, consent) = (request.cluster.clone(), request.consent);
    let assignment = assignment(&mesh, request)?;
    if assignment.module == Module::DockerEngine {
        if let Some(named) = cluster {
            let rule = "left out: only K3s modules have one";
            return Err(invalid_text("cluster", &named, rule).into());
        }
        return change(&mesh, Command::AssignModule(assignment)).await;
    }
    refuse_again(&mesh.proposer.views.view().agreed, &assignment)?;
    let reachable = heard_servers(&mesh, one(&assignment).as_deref());
    let command = ClusterCommand::Assign {
        assignment,
        cluster,
        network: None,
        cni: None,
        binary: K3sBinary::INSTALLED,
        profile: None,
        reachable,
        consent,
    };
    change_clusters(&mesh, Command::Cluster(command)).await
}

/// The node that an assignment is to, where it is to one.
fn one(assignment: &Assignment) -> Option<String> {
    match &assignment.target {
        Target::Node(node) => Some(node.to_string()),
        Target::Selector(_) => None,
    }
}

/// Who says the same again means nothing by it; another cluster or another K3s is asked for with
/// `k3s provision`.
fn refuse_again(agreed: &Agreed, assignment: &Assignment) -> Result<(), Refusal> {
    let wish = agreed.k3s_wishes.get(assignment);
    match wish.is_some_and(|wish| agreed.clusters.contains_key(&wish.cluster)) {
        true => Err(Refusal::ModuleAssigned {
            module: assignment.module.as_str().to_owned(),
            target: assignment.target.describe(agreed),
        }),
        false => Ok(()),
    }
}

pub(super) async fn unassign(
    Member(mesh): Member,
    Body(request): Body<AssignRequest>,
) -> Answer<Changed> {
    if let Some(named) = &request.cluster {
        let rule = "left out: an assignment is to one cluster only";
        return Err(invalid_text("cluster", named, rule).into());
    }
    let consent = request.consent;
    let assignment = assignment(&mesh, request)?;
    if assignment.module == Module::DockerEngine {
        return change(&mesh, Command::UnassignModule(assignment)).await;
    }
    let reachable = heard_servers(&mesh, one(&assignment).as_deref());
    let command = ClusterCommand::Unassign {
        assignment,
        reachable,
        consent,
    };
    change_clusters(&mesh, Command::Cluster(command)).await
}
