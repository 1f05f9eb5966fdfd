//! Nodes that are emptied, and let work again (SPEC 7.1).
//!
//! Decides: whether a node may be emptied at all: a cluster keeps as many servers as its etcd needs
//! unless somebody insists ([`k3s_losses`](super::k3s_losses)).
//!
//! Invariants: what is said of an earlier drain changes nothing, nor what is said after the end of
//! this one; a node that is emptied works again only when somebody says so.

use super::{Change, done, invalid, k3s_losses, rollouts, too_large};
use crate::{
    Applied, Drain, DrainCommand, DrainState, EventKind, LogIndex, NodeId, Refusal,
    limits::REASON_BYTES_MAX,
};

/// A day: whoever waits longer has forgotten it.
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1_000..=86_400_000;

pub(super) fn apply(change: &mut Change<'_>, actor: &NodeId, command: &DrainCommand) -> Applied {
    match command {
        DrainCommand::Begin {
            node,
            timeout_ms,
            cordon_only,
            force,
            reachable,
        } => {
            let id = change.find_node(node)?;
            match cordon_only {
                true => refuse_emptied(change, &id)?,
                false => k3s_losses::refuse_drain(change, &id, reachable, *force)?,
            }
            begin(change, &id, *timeout_ms, *cordon_only, *force)
        }
        DrainCommand::Report { begun, state } => report(change, actor, *begun, state),
        DrainCommand::End { node } => end(change, node),
        DrainCommand::GiveUp { node, begun } => give_up(change, actor, node, *begun),
    }
}

/// What is stopped on a drained node starts only when somebody says that the node may work again.
pub(super) fn refuse_emptied(change: &Change<'_>, id: &NodeId) -> Result<(), Refusal> {
    match change.agreed().is_emptied(id) {
        true => Err(Refusal::NodeDrained {
            node: change.agreed().name_of(id),
        }),
        false => Ok(()),
    }
}

fn begin(
    change: &mut Change<'_>,
    id: &NodeId,
    timeout_ms: u64,
    cordon_only: bool,
    force: bool,
) -> Applied {
    if !TIMEOUT_MS.contains(&timeout_ms) {
        let text = format!("{timeout_ms} ms");
        return Err(invalid("timeout", &text, "from a second to a day"));
    }
    let drain = Drain {
        begun: change.index,
        at: change.time,
        timeout_ms,
        cordon_only,
        state: DrainState::Draining {
            waits_for: String::new(),
        },
        forced: force,
    };
    change.agreed_mut().drains.insert(id.clone(), drain);
    change.event(
        EventKind::NodeDraining,
        Some(id),
        [("cordon_only", cordon_only.to_string())],
    );
    done()
}

fn report(change: &mut Change<'_>, actor: &NodeId, begun: LogIndex, state: &DrainState) -> Applied {
    let said: &str = match state {
        DrainState::Draining { waits_for } => waits_for,
        DrainState::Failed { reason } => reason,
        DrainState::Drained => "",
        DrainState::DrainedExcept { stays } => stays,
    };
    if said.len() > REASON_BYTES_MAX {
        return Err(too_large("a reason", REASON_BYTES_MAX));
    }
    let Some(drain) = change.agreed().drains.get(actor) else {
        return done();
    };
    let over = !matches!(drain.state, DrainState::Draining { .. });
    if drain.begun != begun || drain.state == *state || over {
        return done();
    }
    become_so(change, actor, state);
    done()
}

fn become_so(change: &mut Change<'_>, node: &NodeId, state: &DrainState) {
    if let Some(drain) = change.agreed_mut().drains.get_mut(node) {
        drain.state = state.clone();
    }
    match state {
        DrainState::Draining { .. } => return,
        DrainState::Drained => change.event(EventKind::NodeDrained, Some(node), []),
        DrainState::DrainedExcept { stays } => change.event(
            EventKind::NodeDrained,
            Some(node),
            [("stays", stays.clone())],
        ),
        DrainState::Failed { reason } => change.event(
            EventKind::NodeDrainFailed,
            Some(node),
            [("reason", reason.clone())],
        ),
    }
    rollouts::advance_at(change, node);
}

/// A node that is not heard tells nobody that its time is over. Whoever waits for it is told so by a
/// server.
fn give_up(change: &mut Change<'_>, actor: &NodeId, node: &NodeId, begun: LogIndex) -> Applied {
    change.require_server(actor)?;
    let now = change.time;
    let drain = change.agreed().drains.get(node);
    if drain.is_some_and(|drain| drain.begun == begun && drain.is_overdue(now)) {
        let reason = "nothing was heard of the node in time".to_owned();
        become_so(change, node, &DrainState::Failed { reason });
    }
    done()
}

fn end(change: &mut Change<'_>, node: &str) -> Applied {
    let id = change.find_node(node)?;
    if change.agreed_mut().drains.remove(&id).is_none() {
        return Err(Refusal::NotDrained {
            node: change.agreed().name_of(&id),
        });
    }
    change.event(EventKind::NodeUncordoned, Some(&id), []);
    rollouts::advance_at(change, &id);
    done()
}

/// A node leaves for good.
pub(super) fn forget(change: &mut Change<'_>, id: &NodeId) {
    change.agreed_mut().drains.remove(id);
}
