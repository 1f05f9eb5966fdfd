//! Assignments, and what they ask of each node.

use std::collections::BTreeSet;

use super::{
    Change, check_labels, cluster_lifecycle, clusters, docker, done, excerpt, invalid, k3s_losses,
    k3s_nodes, too_large,
};
use crate::{
    Applied, Assignment, EventKind, Module, NodeId, Refusal, Target,
    k3s_wishes::Supposed,
    limits::{SELECTORS_MAX, TEXT_BYTES_MAX},
};

/// A K3s module that is assigned without a word about its cluster means the only one there is, or a
/// first one.
pub(super) fn assign(change: &mut Change<'_>, assignment: &Assignment) -> Applied {
    check_target(change, assignment)?;
    if change.agreed().assignments.contains(assignment) {
        return Err(Refusal::ModuleAssigned {
            module: assignment.module.as_str().to_owned(),
            target: shown(change, &assignment.target),
        });
    }
    match assignment.module {
        Module::DockerEngine => {
            insert(change, assignment)?;
            settle(change);
            done()
        }
        Module::K3sServer | Module::K3sAgent => {
            clusters::assign(change, assignment, &clusters::Asked::NOTHING)
        }
    }
}

/// A module goes to a member with a place in a network, or to all with certain labels.
pub(super) fn check_target(change: &Change<'_>, assignment: &Assignment) -> Result<(), Refusal> {
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
    refuse_more_selectors(change, assignment)
}

/// Takes an assignment in that was looked at.
pub(super) fn insert(change: &mut Change<'_>, assignment: &Assignment) -> Result<(), Refusal> {
    refuse_more_selectors(change, assignment)?;
    change.agreed_mut().assignments.insert(assignment.clone());
    Ok(())
}

fn refuse_more_selectors(change: &Change<'_>, assignment: &Assignment) -> Result<(), Refusal> {
    let is_selector = |a: &&Assignment| matches!(a.target, Target::Selector(_));
    let agreed = change.agreed();
    let present = agreed.assignments.iter().filter(is_selector);
    let is_new = !agreed.assignments.contains(assignment);
    if is_new && is_selector(&assignment) && present.count() >= SELECTORS_MAX {
        return Err(too_large("the number of selectors", SELECTORS_MAX));
    }
    Ok(())
}

pub(super) fn unassign(
    change: &mut Change<'_>,
    assignment: &Assignment,
    reachable: &BTreeSet<NodeId>,
    consent: bool,
) -> Applied {
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
    k3s_losses::refuse_change(change, Supposed::Without(assignment), reachable, consent)?;
    change.agreed_mut().assignments.remove(assignment);
    clusters::forget_wish(change, assignment);
    settle(change);
    done()
}

/// A node found something of a module otherwise than it had left it (SPEC 7.3), and puts it right. What
/// crossed the end of its assignment on the way is no news any more.
pub(super) fn report_drift(
    change: &mut Change<'_>,
    actor: &NodeId,
    module: Module,
    what: &str,
) -> Applied {
    if what.len() > TEXT_BYTES_MAX {
        return Err(too_large("what drifted", TEXT_BYTES_MAX));
    }
    let agreed = change.agreed();
    if !agreed.nodes.contains_key(actor) {
        return Err(Refusal::NodeUnknown {
            node: actor.to_string(),
        });
    }
    if agreed.assigned(actor, module) {
        change.event(
            EventKind::ModuleDrifted,
            Some(actor),
            [
                ("module", module.as_str().to_owned()),
                ("what", what.to_owned()),
            ],
        );
    }
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
        k3s_nodes::settle(change, &id);
    }
    cluster_lifecycle::settle_foundings(change);
}
