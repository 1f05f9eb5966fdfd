//! Who may take a virtual IP next, as the coordinator's server sees it.
//!
//! Decides nothing: what is agreed and whom the membership hears say who is fit.

use std::collections::BTreeSet;

use consensus_core::{Agreed, NodeId, Unfit, VirtualIp};
use consensus_lease::{Candidate, Unfit as Reason};

/// The candidates in their order, with what speaks against each; and whom an operator wants.
pub(crate) fn candidates(
    agreed: &Agreed,
    vip: &VirtualIp,
    alive: &BTreeSet<NodeId>,
) -> (Vec<Candidate>, Option<NodeId>) {
    let list = vip.candidates.iter().map(|node| Candidate {
        node: node.clone(),
        unfit: (agreed.unfit(vip, node, alive).map(|why| reason(&why)))
            .into_iter()
            .collect(),
    });
    let wanted = vip.wish.as_ref().and_then(|wish| {
        let next = || agreed.next_holder(vip, alive).ok();
        wish.to.clone().or_else(next)
    });
    (list.collect(), wanted)
}

const fn reason(unfit: &Unfit) -> Reason {
    match unfit {
        Unfit::NoCandidate => Reason::NotACandidate,
        Unfit::NoMember => Reason::Removed,
        Unfit::NoPeer => Reason::NotInNetwork,
        Unfit::Unheard => Reason::Suspect,
        Unfit::Draining => Reason::Draining,
        Unfit::Untold | Unfit::NotReady(_) => Reason::NotReady,
    }
}
