//! The replacement of a node's WireGuard key.
//!
//! Decides what the node does next ([`wireguard_key_step`]), from what is agreed and from the keys
//! that it has. Never: sees a private key.
//!
//! An interface has one key at a time (WireGuard whitepaper, section 2), so the keys overlap at the
//! others: a new key is announced, every peer takes it as one more peer without addresses, and only
//! then it is agreed that the node has it from now on. At that entry the node gives its interfaces
//! the key and the others move its addresses. Whoever was away finds the new key in the state.
//!
//! Invariants: no key is agreed as a node's that the node had not announced before; a node that has
//! neither the agreed key nor its announced successor announces one that it makes for that, so that a
//! lost key file ends in a new key and not in a node that nobody hears. It announces none of those that
//! it has: on a disk that was put back from an older copy they are keys that were given up, perhaps
//! because somebody else had them.

use serde::{Deserialize, Serialize};

use crate::{Agreed, LogIndex, NodeId, WallMs};

/// A replacement under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRotation {
    /// When it was asked for.
    pub began: WallMs,
    /// The new key; none while the node has not made it.
    pub announced: Option<AnnouncedKey>,
}

/// A key that a node is going to have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncedKey {
    /// The public key.
    pub key: [u8; 32],
    /// The entry that announced it: whoever has put that into force has the key as a peer.
    pub since: LogIndex,
}

/// The public halves of the keys that a node has on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysAtHand {
    /// The one that its interfaces have.
    pub current: [u8; 32],
    /// The one that is to follow.
    pub next: Option<[u8; 32]>,
}

/// What a node does next about its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireguardKeyStep {
    /// Nothing.
    Rest,
    /// Announce this key; where there is none, make one that nobody has seen yet and announce it.
    Announce(Option<[u8; 32]>),
    /// Have it agreed, once the others have put `since` into force.
    Switch {
        /// The announced key.
        key: [u8; 32],
        /// The entry that announced it.
        since: LogIndex,
    },
}

/// The next step of `node`, which has the keys `at_hand`.
pub fn wireguard_key_step(agreed: &Agreed, node: &NodeId, at_hand: KeysAtHand) -> WireguardKeyStep {
    let Some(row) = agreed.nodes.get(node) else {
        return WireguardKeyStep::Rest;
    };
    let present = row.wireguard_public_key;
    let known = present == at_hand.current;
    if !known && at_hand.next == Some(present) {
        // Agreed already: the overlay takes it over.
        return WireguardKeyStep::Rest;
    }
    let rotation = agreed.key_rotations.get(node);
    let announced = rotation.and_then(|rotation| rotation.announced.as_ref());
    match announced {
        Some(announced) if Some(announced.key) == at_hand.next => WireguardKeyStep::Switch {
            key: announced.key,
            since: announced.since,
        },
        Some(_) | None if known && rotation.is_none() => WireguardKeyStep::Rest,
        // What was announced is lost, or nothing was. A successor was made for this.
        Some(_) | None if known => WireguardKeyStep::Announce(at_hand.next),
        // Of what is at hand nobody knows whether it was agreed once.
        Some(_) | None => WireguardKeyStep::Announce(None),
    }
}

impl Agreed {
    /// The key that a node is going to have, once it is known.
    pub fn announced_key(&self, node: &NodeId) -> Option<[u8; 32]> {
        let rotation = self.key_rotations.get(node)?;
        rotation.announced.as_ref().map(|announced| announced.key)
    }
}
