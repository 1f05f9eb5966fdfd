//! Assignments, and what they ask of each node.

use super::{Change, check_labels, docker, done, excerpt, invalid, too_large};
use crate::{Applied, Assignment, Module, NodeId, Refusal, Target, limits::SELECTORS_MAX};

pub(super) fn assign(change: &mut Change<'_>, assignment: &Assignment) -> Applied {
    let target = shown(change, &assignment.target);
    match &assignment.target {
        Target::Node(id) => {
            if !change.agreed().nodes.contains_key(id) {
                return Err(Refusal::NodeUnknown {
                    node: id.to_string(),
                });
            }
            if change.agreed().first_peer(id).is_none() {
                return Err(Refusal::MissingSdwanPeer { node: target });
            }
        }
        Target::Selector(labels) => {
            check_labels(labels)?;
            if labels.is_empty() {
                return Err(invalid("selector", "", "one or more key=value pairs"));
            }
        }
    }
    if change.agreed().assignments.contains(assignment) {
        return Err(Refusal::ModuleAssigned {
            module: assignment.module.as_str().to_owned(),
            target,
        });
    }
    refuse_more_selectors(change, assignment)?;
    change.agreed_mut().assignments.insert(assignment.clone());
    settle(change);
    done()
}

fn refuse_more_selectors(change: &Change<'_>, assignment: &Assignment) -> Result<(), Refusal> {
    let is_selector = |a: &&Assignment| matches!(a.target, Target::Selector(_));
    let present = change.agreed().assignments.iter().filter(is_selector);
    if is_selector(&assignment) && present.count() >= SELECTORS_MAX {
        return Err(too_large("the number of selectors", SELECTORS_MAX));
    }
    Ok(())
}

pub(super) fn unassign(change: &mut Change<'_>, assignment: &Assignment) -> Applied {
    let target = shown(change, &assignment.target);
    if !change.agreed().assignments.contains(assignment) {
        return Err(Refusal::ModuleNotAssigned {
            module: assignment.module.as_str().to_owned(),
            target,
        });
    }
    if let Target::Node(id) = &assignment.target {
        refuse_if_selected(change, id, assignment.module)?;
    }
    change.agreed_mut().assignments.remove(assignment);
    settle(change);
    done()
}

/// What a target that may be anything is called in a refusal.
fn shown(change: &Change<'_>, target: &Target) -> String {
    excerpt(&target.describe(change.agreed()))
}

/// Taking a module from one node means nothing while a selector still gives it.
pub(super) fn refuse_if_selected(
    change: &Change<'_>,
    id: &NodeId,
    module: Module,
) -> Result<(), Refusal> {
    let agreed = change.agreed();
    let by = agreed.assignments.iter().find(|assignment| {
        assignment.module == module
            && matches!(assignment.target, Target::Selector(_))
            && agreed.covers(&assignment.target, id)
    });
    match by {
        Some(assignment) => Err(Refusal::ModuleBySelector {
            node: agreed.name_of(id),
            module: module.as_str().to_owned(),
            selector: assignment.target.describe(agreed),
        }),
        None => Ok(()),
    }
}

/// Brings each node's rows in line with what is assigned to it now.
pub(super) fn settle(change: &mut Change<'_>) {
    let nodes: Vec<NodeId> = change.agreed().nodes.keys().cloned().collect();
    for id in nodes {
        let wanted = change.agreed().assigned(&id, Module::DockerEngine);
        docker::settle(change, &id, wanted);
    }
}
