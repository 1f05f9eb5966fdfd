//! Who gets a virtual IP next.
//!
//! Decides: the first of the ordered candidates that is fit; whoever had it lately and was not heard
//! comes after the others, the longest ago first, for membership takes seconds to notice the dead.
//! Never: prefers an earlier candidate to a present holder; there is no failback unless somebody wants
//! it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use consensus_core::{Agreed, NodeId, Time, VirtualIp};

/// Why a node cannot be given a virtual IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unfit {
    /// It is not on the VIP's list.
    NotACandidate,
    /// It has been removed from the mesh.
    Removed,
    /// It has no address in the VIP's network.
    NotInNetwork,
    /// It is being drained, or is suspended.
    Draining,
    /// Membership takes it for suspect, dead or gone.
    Suspect,
    /// Its readiness check fails, or has not been heard of.
    NotReady,
    /// It is the one that is to lose the VIP.
    Holder,
}

impl Unfit {
    /// Its name in answers and events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotACandidate => "not a candidate",
            Self::Removed => "removed",
            Self::NotInNetwork => "not in the network",
            Self::Draining => "draining",
            Self::Suspect => "suspect",
            Self::NotReady => "not ready",
            Self::Holder => "holds it now",
        }
    }

    /// Whether a *holder* of which this is true has to go. Not on suspicion: a holder's death is
    /// the end of its lease, not somebody's opinion.
    pub const fn costs_the_vip(self) -> bool {
        match self {
            Self::NotACandidate
            | Self::Removed
            | Self::NotInNetwork
            | Self::Draining
            | Self::NotReady => true,
            Self::Suspect | Self::Holder => false,
        }
    }
}

impl From<&consensus_core::Unfit> for Unfit {
    fn from(why: &consensus_core::Unfit) -> Self {
        use consensus_core::Unfit as Why;
        match why {
            Why::NoCandidate => Self::NotACandidate,
            Why::NoMember => Self::Removed,
            Why::NoPeer => Self::NotInNetwork,
            Why::Unheard => Self::Suspect,
            Why::Draining => Self::Draining,
            Why::Untold | Why::NotReady(_) => Self::NotReady,
        }
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One node on a VIP's ordered list, with what speaks against it now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Candidate {
    /// Which node.
    pub node: NodeId,
    /// Nothing, if it is fit.
    pub unfit: BTreeSet<Unfit>,
}

/// A candidate that was passed over.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rejected {
    /// Which node.
    pub node: NodeId,
    /// Why; never nothing.
    pub unfit: BTreeSet<Unfit>,
}

/// A virtual IP's candidates in their order, with what speaks against each as one sees it who hears
/// these; and whom an operator wants.
pub fn candidates(
    agreed: &Agreed,
    vip: &VirtualIp,
    heard: &BTreeSet<NodeId>,
) -> (Vec<Candidate>, Option<NodeId>) {
    let list = vip.candidates.iter().map(|node| {
        let why = agreed.unfit(vip, node, heard);
        Candidate {
            node: node.clone(),
            unfit: why.iter().map(Unfit::from).collect(),
        }
    });
    let wanted = vip.wish.as_ref().and_then(|wish| {
        let next = || agreed.next_holder(vip, heard).ok();
        wish.to.clone().or_else(next)
    });
    (list.collect(), wanted)
}

/// The next holder: who is wanted, or else the first fit candidate besides the one that is leaving.
/// `unheard` has those from whom it was taken unheard, and when.
///
/// # Errors
/// When there is none: every candidate (or the wanted node) with what speaks against it.
pub fn choose(
    candidates: &[Candidate],
    leaving: Option<&NodeId>,
    wanted: Option<&NodeId>,
    unheard: &BTreeMap<NodeId, Time>,
) -> Result<NodeId, Vec<Rejected>> {
    let reasons = |candidate: &Candidate| {
        let mut unfit = candidate.unfit.clone();
        if leaving == Some(&candidate.node) {
            unfit.insert(Unfit::Holder);
        }
        unfit
    };
    let listed: Vec<&Candidate> = (candidates.iter())
        .filter(|candidate| wanted.is_none_or(|wanted| candidate.node == *wanted))
        .collect();
    let fit = listed.iter().filter(|one| reasons(one).is_empty());
    if let Some(first) = fit.min_by_key(|one| unheard.get(&one.node)) {
        return Ok(first.node.clone());
    }
    if let (Some(wanted), []) = (wanted, &listed[..]) {
        return Err(vec![Rejected {
            node: wanted.clone(),
            unfit: BTreeSet::from([Unfit::NotACandidate]),
        }]);
    }
    let reject = |one: &&Candidate| Rejected {
        node: one.node.clone(),
        unfit: reasons(one),
    };
    Err(listed.iter().map(reject).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use consensus_core::{
        Epoch, FailoverWish, LeaseProfile, LogIndex, NetworkId, Unfit as Why, WallMs,
    };

    use super::*;
    use crate::testing::{ms, node, stable};

    const NOBODY: &BTreeMap<NodeId, Time> = &BTreeMap::new();

    fn candidate(number: u8, unfit: &[Unfit]) -> Candidate {
        Candidate {
            node: node(number),
            unfit: unfit.iter().copied().collect(),
        }
    }

    #[test]
    fn the_first_fit_candidate_is_next() {
        let list = [
            candidate(1, &[Unfit::Draining]),
            candidate(2, &[]),
            candidate(3, &[]),
        ];
        assert_eq!(choose(&list, None, None, NOBODY), Ok(node(2)));
        assert_eq!(choose(&list, Some(&node(2)), None, NOBODY), Ok(node(3)));
    }

    #[test]
    fn whoever_is_wanted_comes_before_the_order_but_not_before_fitness() {
        let list = [
            candidate(1, &[]),
            candidate(2, &[]),
            candidate(3, &[Unfit::NotReady]),
        ];
        assert_eq!(choose(&list, None, Some(&node(2)), NOBODY), Ok(node(2)));
        let refused = choose(&list, None, Some(&node(3)), NOBODY).unwrap_err();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].unfit, BTreeSet::from([Unfit::NotReady]));
        let stranger = choose(&list, None, Some(&node(9)), NOBODY).unwrap_err();
        assert_eq!(stranger[0].unfit, BTreeSet::from([Unfit::NotACandidate]));
    }

    #[test]
    fn whoever_was_not_heard_comes_after_the_others_and_the_longest_ago_first() {
        let list = [candidate(1, &[]), candidate(2, &[]), candidate(3, &[])];
        let unheard = |all: &[(u8, u64)]| -> BTreeMap<NodeId, Time> {
            let all = all.iter().map(|(number, at)| (node(*number), ms(*at)));
            all.collect()
        };
        let first = unheard(&[(1, 5)]);
        assert_eq!(choose(&list, None, None, &first), Ok(node(2)));
        assert_eq!(choose(&list, Some(&node(2)), None, &first), Ok(node(3)));
        let all = unheard(&[(1, 5), (2, 4), (3, 9)]);
        assert_eq!(choose(&list, None, None, &all), Ok(node(2)));
        assert_eq!(choose(&list, Some(&node(2)), None, &all), Ok(node(1)));
        // Who is wanted is wanted all the same.
        assert_eq!(choose(&list, None, Some(&node(3)), &all), Ok(node(3)));
    }

    #[test]
    fn if_nobody_is_fit_every_candidate_comes_with_its_reasons() {
        let list = [
            candidate(1, &[Unfit::Suspect, Unfit::NotInNetwork]),
            candidate(2, &[]),
        ];
        let rejected = choose(&list, Some(&node(2)), None, NOBODY).unwrap_err();
        let words: Vec<String> = (rejected.iter())
            .flat_map(|one| one.unfit.iter().map(ToString::to_string))
            .collect();
        assert_eq!(words, ["not in the network", "suspect", "holds it now"]);
    }

    fn vip(wish: Option<FailoverWish>) -> VirtualIp {
        VirtualIp {
            name: "web".into(),
            network: NetworkId::from_bytes([2; 16]),
            address: "fd00::a".parse().unwrap(),
            candidates: vec![node(2), node(1)],
            check: None,
            profile: LeaseProfile::Lan,
            epoch: Epoch(4),
            holder: Some(node(1)),
            voters: stable(&[1]),
            voters_since: LogIndex(1),
            readiness: BTreeMap::new(),
            wish,
            moves: VecDeque::new(),
            created_at: WallMs(0),
        }
    }

    #[test]
    fn candidates_come_in_their_order_with_what_the_agreed_state_says_against_each() {
        let agreed = Agreed::default();
        let wish = |to| {
            let at = WallMs(0);
            Some(FailoverWish { to, at })
        };
        let strangers = [
            candidate(2, &[Unfit::Removed]),
            candidate(1, &[Unfit::Removed]),
        ];
        for (wish, wanted) in [
            (None, None),
            (wish(Some(node(1))), Some(node(1))),
            // The next one that is fit, and nobody is.
            (wish(None), None),
        ] {
            let found = candidates(&agreed, &vip(wish), &BTreeSet::new());
            assert_eq!(found, (strangers.to_vec(), wanted));
        }
    }

    #[test]
    fn whatever_makes_a_candidate_unfit_has_its_reason_here() {
        for (why, reason) in [
            (Why::NoCandidate, Unfit::NotACandidate),
            (Why::NoMember, Unfit::Removed),
            (Why::NoPeer, Unfit::NotInNetwork),
            (Why::Unheard, Unfit::Suspect),
            (Why::Draining, Unfit::Draining),
            (Why::Untold, Unfit::NotReady),
            (Why::NotReady("refused".into()), Unfit::NotReady),
        ] {
            assert_eq!(Unfit::from(&why), reason, "{why}");
        }
    }
}
