//! What the tests of every side share: names and a virtual IP.
//!
//! Decides nothing.

use std::collections::BTreeSet;

use consensus_core::{Epoch, LeaseProfile, LeaseVoters, LogIndex, NodeId, Time, VipId};

use crate::{Assignment, Assignments};

pub(crate) const VIP: VipId = VipId::from_bytes([7; 16]);

pub(crate) fn node(number: u8) -> NodeId {
    let letter = char::from(b'a' + number).to_string();
    let text = format!("12D3KooW{}", letter.repeat(44));
    text.parse().expect("a letter of base58")
}

pub(crate) fn nodes(numbers: &[u8]) -> BTreeSet<NodeId> {
    numbers.iter().copied().map(node).collect()
}

pub(crate) fn stable(numbers: &[u8]) -> LeaseVoters {
    LeaseVoters::Stable(nodes(numbers))
}

pub(crate) const fn ms(ms: u64) -> Time {
    Time::from_micros(ms * 1000)
}

pub(crate) fn assigned(
    holder: Option<u8>,
    epoch: u64,
    voters: LeaseVoters,
    since: u64,
) -> Assignments {
    let assignment = Assignment {
        holder: holder.map(node),
        epoch: Epoch(epoch),
        voters,
        voters_since: LogIndex(since),
        profile: LeaseProfile::Lan,
    };
    Assignments::from([(VIP, assignment)])
}
