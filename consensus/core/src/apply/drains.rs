//! Nodes that are emptied, and let work again (SPEC 7.1).
//!
//! Decides: whether a node may be emptied at all: a cluster keeps as many servers as its etcd needs
//! unless somebody insists ([`k3s_losses`](super::k3s_losses)).
//!
//! Invariant: what is said of an earlier drain changes nothing.

use super::{Change, done, invalid, k3s_losses, too_large};
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
        } => begin(change, node, *timeout_ms, *cordon_only, *force),
        DrainCommand::Report { begun, state } => report(change, actor, *begun, state),
        DrainCommand::End { node } => end(change, node),
    }
}

fn begin(
    change: &mut Change<'_>,
    node: &str,
    timeout_ms: u64,
    cordon_only: bool,
    force: bool,
) -> Applied {
    let id = change.find_node(node)?;
    if !TIMEOUT_MS.contains(&timeout_ms) {
        let text = format!("{timeout_ms} ms");
        return Err(invalid("timeout", &text, "from a second to a day"));
    }
    if !cordon_only {
        k3s_losses::refuse_drain(change, &id, force)?;
    }
    let drain = Drain {
        begun: change.index,
        at: change.time,
        timeout_ms,
        cordon_only,
        state: DrainState::Draining {
            waits_for: String::new(),
        },
    };
    change.agreed_mut().drains.insert(id.clone(), drain);
    change.event(
        EventKind::NodeDraining,
        Some(&id),
        [("cordon_only", cordon_only.to_string())],
    );
    done()
}

fn report(change: &mut Change<'_>, actor: &NodeId, begun: LogIndex, state: &DrainState) -> Applied {
    let said: &str = match state {
        DrainState::Draining { waits_for } => waits_for,
        DrainState::Failed { reason } => reason,
        DrainState::Drained => "",
    };
    if said.len() > REASON_BYTES_MAX {
        return Err(too_large("a reason", REASON_BYTES_MAX));
    }
    let Some(drain) = change.agreed().drains.get(actor) else {
        return done();
    };
    if drain.begun != begun || drain.state == *state {
        return done();
    }
    if let Some(drain) = change.agreed_mut().drains.get_mut(actor) {
        drain.state = state.clone();
    }
    match state {
        DrainState::Draining { .. } => {}
        DrainState::Drained => change.event(EventKind::NodeDrained, Some(actor), []),
        DrainState::Failed { reason } => change.event(
            EventKind::NodeDrainFailed,
            Some(actor),
            [("reason", reason.clone())],
        ),
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
    done()
}

/// A node leaves for good.
pub(super) fn forget(change: &mut Change<'_>, id: &NodeId) {
    change.agreed_mut().drains.remove(id);
}
