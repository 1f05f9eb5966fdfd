//! Operators: who may use a node's API from elsewhere, and for what.

use super::{Change, certificates, check_name, done, too_large};
use crate::{
    Applied, Done, EventKind, Holder, NodeId, Operator, OperatorRole, Refusal,
    limits::OPERATORS_MAX,
};

pub(super) fn create(
    change: &mut Change<'_>,
    actor: &NodeId,
    name: &str,
    role: OperatorRole,
) -> Applied {
    check_name("operator name", name)?;
    let operators = &change.agreed().operators;
    if operators.contains_key(name) {
        return Err(Refusal::OperatorExists {
            name: name.to_owned(),
        });
    }
    if operators.len() >= OPERATORS_MAX {
        return Err(too_large("the number of operators", OPERATORS_MAX));
    }
    let by = change.by.map(super::excerpt);
    let operator = Operator {
        role,
        created_at: change.time,
        created_by: by.unwrap_or_else(|| change.agreed().name_of(actor)),
    };
    change
        .agreed_mut()
        .operators
        .insert(name.to_owned(), operator);
    event(change, EventKind::OperatorCreated, name, role);
    done()
}

pub(super) fn set_role(change: &mut Change<'_>, name: &str, role: OperatorRole) -> Applied {
    let before = find(change, name)?.role;
    if before == role {
        return Err(Refusal::RoleUnchanged {
            node: name.to_owned(),
            role: role.as_str().to_owned(),
        });
    }
    if let Some(operator) = change.agreed_mut().operators.get_mut(name) {
        operator.role = role;
    }
    event(change, EventKind::OperatorRoleChanged, name, role);
    done()
}

pub(super) fn remove(change: &mut Change<'_>, name: &str) -> Applied {
    let role = find(change, name)?.role;
    let holder = Holder::Operator(name.to_owned());
    let count = certificates::revoke(change, |_, record| record.holder == holder);
    change.agreed_mut().operators.remove(name);
    event(change, EventKind::OperatorRemoved, name, role);
    Ok(Done::Revoked { count })
}

fn find<'a>(change: &'a Change<'_>, name: &str) -> Result<&'a Operator, Refusal> {
    let operator = change.agreed().operators.get(name);
    operator.ok_or_else(|| Refusal::OperatorUnknown {
        name: super::excerpt(name),
    })
}

fn event(change: &mut Change<'_>, kind: EventKind, name: &str, role: OperatorRole) {
    let payload = [
        ("operator", name.to_owned()),
        ("role", role.as_str().to_owned()),
    ];
    change.event(kind, None, payload);
}
