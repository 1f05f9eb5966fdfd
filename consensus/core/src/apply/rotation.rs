//! The order in which one root replaces another.
//!
//! Decides which step may follow which; when the next one is due is the leader's decision
//! (`rotation_step`). Invariants: exactly one root issues at any time; the old root is dropped
//! only when nothing in use rests on it, or when it was said to leave that behind.

use super::{Change, authority, certificates, done, too_large};
use crate::{
    Applied, EventKind, NewRoot, NodeId, Refusal, RootFingerprint, RootState, Rotation,
    RotationStep, SealedKey, limits::TEXT_BYTES_MAX, rotation::unreplaced,
};

fn check_reason(reason: &str) -> Result<(), Refusal> {
    if reason.len() > TEXT_BYTES_MAX {
        return Err(too_large("a reason", TEXT_BYTES_MAX));
    }
    Ok(())
}

pub(super) fn begin(
    change: &mut Change<'_>,
    actor: &NodeId,
    root: &NewRoot,
    key: &SealedKey,
    reason: &str,
) -> Applied {
    change.require_server(actor)?;
    check_reason(reason)?;
    if let Some(rotation) = &change.agreed().authority.rotation {
        return Err(Refusal::RotationUnderWay {
            step: rotation.step.as_str().to_owned(),
        });
    }
    authority::check_root(change, root)?;
    if root.cross.is_none() {
        let rule = "a root whose key the present root has signed";
        return Err(super::invalid("root", "without cross certificate", rule));
    }
    let fingerprint = RootFingerprint::of(&root.certificate);
    if change.agreed().root(&fingerprint).is_some() {
        let text = fingerprint.to_string();
        return Err(super::invalid("root", &text, "one that is new"));
    }
    authority::check_sealed(key, &change.state.sealing_recipients())?;
    let (time, index) = (change.time, change.index);
    let root = authority::new_root(root, RootState::Incoming, time);
    change.state.root_keys.insert(fingerprint, key.clone());
    let authority = &mut change.agreed_mut().authority;
    authority.roots.push(root);
    authority.rotation = Some(Rotation {
        step: RotationStep::Trusting,
        began_at: time,
        step_index: index,
        step_at: time,
        reason: reason.to_owned(),
        wanted: authority.rotation_wanted.take(),
    });
    change.event(
        EventKind::RotationStarted,
        None,
        [
            ("root", fingerprint.to_string()),
            ("reason", reason.to_owned()),
        ],
    );
    done()
}

fn under_way<'a>(change: &'a Change<'_>) -> Result<&'a Rotation, Refusal> {
    let rotation = change.agreed().authority.rotation.as_ref();
    rotation.ok_or(Refusal::NoRotation)
}

fn require_step(change: &Change<'_>, step: RotationStep) -> Result<(), Refusal> {
    let rotation = under_way(change)?;
    if rotation.step != step {
        return Err(Refusal::RotationOutOfStep {
            step: rotation.step.as_str().to_owned(),
        });
    }
    Ok(())
}

pub(super) fn advance(change: &mut Change<'_>, actor: &NodeId, to: RotationStep) -> Applied {
    change.require_server(actor)?;
    let rotation = under_way(change)?;
    if (rotation.step, to) != (RotationStep::Trusting, RotationStep::Issuing) {
        return Err(Refusal::RotationOutOfStep {
            step: rotation.step.as_str().to_owned(),
        });
    }
    let (time, index) = (change.time, change.index);
    let authority = &mut change.agreed_mut().authority;
    for root in &mut authority.roots {
        root.state = match root.state {
            RootState::Incoming => RootState::Active,
            RootState::Active | RootState::Outgoing => RootState::Outgoing,
        };
    }
    if let Some(rotation) = &mut authority.rotation {
        rotation.step = to;
        rotation.step_index = index;
        rotation.step_at = time;
    }
    change.event(
        EventKind::RotationAdvanced,
        None,
        [("step", to.as_str().to_owned())],
    );
    done()
}

pub(super) fn finish(
    change: &mut Change<'_>,
    actor: &NodeId,
    root: RootFingerprint,
    leave_behind: bool,
) -> Applied {
    change.require_server(actor)?;
    require_step(change, RotationStep::Issuing)?;
    let outgoing = change.agreed().root_in(RootState::Outgoing);
    if outgoing.is_none_or(|outgoing| outgoing.fingerprint() != root) {
        return Err(Refusal::RootUnknown {
            root: root.to_string(),
        });
    }
    let left = unreplaced(change.agreed(), change.time);
    let first = left
        .first()
        .map(|(_, record)| change.holder_name(Some(&record.holder)));
    let remaining = left.len() as u64;
    if let (false, Some(first)) = (leave_behind, first) {
        return Err(Refusal::RotationHeld { remaining, first });
    }
    drop_root(change, root);
    change.event(
        EventKind::RotationFinished,
        None,
        [
            ("root", root.to_string()),
            ("left_behind", remaining.to_string()),
        ],
    );
    done()
}

pub(super) fn abort(change: &mut Change<'_>, actor: &NodeId, reason: &str) -> Applied {
    change.require_server(actor)?;
    check_reason(reason)?;
    require_step(change, RotationStep::Trusting)?;
    let incoming = change.agreed().root_in(RootState::Incoming);
    let Some(root) = incoming.map(crate::Root::fingerprint) else {
        return Err(Refusal::NoRotation);
    };
    let wanted = under_way(change)?.wanted.clone();
    drop_root(change, root);
    // Of two demands the newer one stands.
    let still = &mut change.agreed_mut().authority.rotation_wanted;
    *still = still.take().or(wanted);
    change.event(
        EventKind::RotationAborted,
        None,
        [("root", root.to_string()), ("reason", reason.to_owned())],
    );
    done()
}

/// Forgets a root with everything that rests on it, and ends the rotation.
fn drop_root(change: &mut Change<'_>, root: RootFingerprint) {
    change.state.root_keys.remove(&root);
    let agreed = change.agreed_mut();
    let authority = &mut agreed.authority;
    authority.roots.retain(|known| known.fingerprint() != root);
    authority
        .intermediates
        .retain(|_, known| known.root != root);
    authority.rotation = None;
    let kept = &authority.intermediates;
    agreed
        .certificates
        .retain(|_, leaf| kept.contains_key(&leaf.issuer));
    certificates::forget_warnings(agreed);
}
