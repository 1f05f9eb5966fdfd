//! Modules, and where they are assigned.

use axum::Json;
use consensus_core::{Assignment, Command, Module, Refusal, Target};
use node_api::{
    ApiError,
    types::{AssignRequest, Changed, ModuleView},
};
use runtimes_core::catalogue;

use super::{Answer, Body, Member, change};
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
            .filter(|(id, _)| agreed.assigned(id, module))
            .map(|(_, node)| node.name.clone())
            .collect(),
    };
    Json(Module::ALL.into_iter().map(show).collect())
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
    let assignment = assignment(&mesh, request)?;
    change(&mesh, Command::AssignModule(assignment)).await
}

pub(super) async fn unassign(
    Member(mesh): Member,
    Body(request): Body<AssignRequest>,
) -> Answer<Changed> {
    let assignment = assignment(&mesh, request)?;
    change(&mesh, Command::UnassignModule(assignment)).await
}
