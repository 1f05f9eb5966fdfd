//! Replacing a node's WireGuard key: asked for, announced, taken.

use super::{Change, access_grants, done, invalid};
use crate::{AnnouncedKey, Applied, EventKind, KeyRotation, NodeId, Refusal};

/// An operator wants a node to have another key. The devices that it is the gateway of have the old
/// one in their configuration, and are cut off by it.
pub(super) fn begin(change: &mut Change<'_>, node: &str, leave_devices: bool) -> Applied {
    let id = change.find_node(node)?;
    let name = change.agreed().name_of(&id);
    if change.agreed().key_rotations.contains_key(&id) {
        return Err(Refusal::KeyRotationUnderWay { node: name });
    }
    if let Some((devices, one)) = access_grants::through(change, &id).filter(|_| !leave_devices) {
        return Err(Refusal::KeyInDevices {
            node: name,
            devices,
            one,
        });
    }
    start(change, &id);
    done()
}

fn start(change: &mut Change<'_>, id: &NodeId) {
    let rotation = KeyRotation {
        began: change.time,
        announced: None,
    };
    let rotations = &mut change.agreed_mut().key_rotations;
    rotations.insert(id.clone(), rotation);
    change.event(EventKind::KeyRotationStarted, Some(id), []);
}

/// The node has made a key. It may do so unasked: it has lost the one that is agreed.
pub(super) fn announce(change: &mut Change<'_>, actor: &NodeId, key: &[u8; 32]) -> Applied {
    let id = change.find_node(actor.as_str())?;
    let agreed = change.agreed();
    let under_way = agreed.key_rotations.contains_key(&id);
    if agreed.nodes[&id].wireguard_public_key == *key {
        // Of a node that has not heard yet that it has it.
        if !under_way {
            return done();
        }
        let rule = "another WireGuard key than the node has already";
        return Err(invalid("key", "the one announced", rule));
    }
    if agreed.announced_key(&id) == Some(*key) {
        return done();
    }
    if let Some(by) = access_grants::owner_of_key(change, key) {
        return Err(Refusal::GrantKeyTaken { by });
    }
    if !under_way {
        start(change, &id);
    }
    let since = change.index;
    if let Some(rotation) = change.agreed_mut().key_rotations.get_mut(&id) {
        rotation.announced = Some(AnnouncedKey { key: *key, since });
    }
    done()
}

/// The node takes the key that it announced.
pub(super) fn take(change: &mut Change<'_>, actor: &NodeId, key: &[u8; 32]) -> Applied {
    let id = change.find_node(actor.as_str())?;
    let agreed = change.agreed();
    let under_way = agreed.key_rotations.contains_key(&id);
    if !under_way && agreed.nodes[&id].wireguard_public_key == *key {
        return done();
    }
    if agreed.announced_key(&id) != Some(*key) {
        let node = agreed.name_of(&id);
        return Err(Refusal::KeyNotAnnounced { node });
    }
    let agreed = change.agreed_mut();
    agreed.key_rotations.remove(&id);
    if let Some(node) = agreed.nodes.get_mut(&id) {
        node.wireguard_public_key = *key;
    }
    change.event(EventKind::KeyRotationFinished, Some(&id), []);
    done()
}
