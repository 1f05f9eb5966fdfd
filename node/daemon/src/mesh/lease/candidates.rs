//! Who may take a virtual IP, as this node sees it.
//!
//! Decides nothing: it puts what is agreed and what gossip says side by side for the protocol, and
//! the protocol's reasons into words.

use std::collections::BTreeSet;

use consensus_core::{Agreed, NodeId, Unfit, VirtualIp};
use consensus_lease::{Candidate, MoveReason, Unfit as Reason};
use overlay_core::membership::Condition;
use overlay_net::membership::Members;

/// Those members that this node hears, itself included.
pub(super) fn heard(agreed: &Agreed, members: &Members, me: &NodeId) -> BTreeSet<NodeId> {
    let alive = |id: &NodeId| {
        let member = members.get(id);
        id == me || member.is_some_and(|member| member.condition == Condition::Alive)
    };
    let nodes = agreed.nodes.keys();
    nodes.filter(|id| alive(id)).cloned().collect()
}

/// The candidates in their order, with what speaks against each; and whom an operator wants.
pub(super) fn candidates(
    agreed: &Agreed,
    vip: &VirtualIp,
    heard: &BTreeSet<NodeId>,
) -> (Vec<Candidate>, Option<NodeId>) {
    let list = vip.candidates.iter().map(|node| Candidate {
        node: node.clone(),
        unfit: agreed
            .unfit(vip, node, heard)
            .map(|why| reason(&why))
            .into_iter()
            .collect(),
    });
    let wanted = vip.wish.as_ref().and_then(|wish| {
        let next = || agreed.next_holder(vip, heard).ok();
        wish.to.clone().or_else(next)
    });
    (list.collect(), wanted)
}

fn reason(unfit: &Unfit) -> Reason {
    match unfit {
        Unfit::NoCandidate => Reason::NotACandidate,
        Unfit::NoMember => Reason::Removed,
        Unfit::NoPeer => Reason::NotInNetwork,
        Unfit::Unheard => Reason::Suspect,
        Unfit::Untold | Unfit::NotReady(_) => Reason::NotReady,
    }
}

/// For the event of a move.
pub(super) fn in_words(reason: &MoveReason) -> String {
    match reason {
        MoveReason::Unheld => "nobody held it".into(),
        MoveReason::Unheard => "its holder was not heard".into(),
        MoveReason::Unfit(unfit) => {
            let each: Vec<&str> = unfit.iter().map(|one| one.as_str()).collect();
            format!("its holder is {}", each.join(", "))
        }
        MoveReason::Wanted => "an operator asked for it".into(),
    }
}
