//! From the agreed servers to Raft's membership, one step at a time.
//!
//! Decides the next membership change that the leader makes. A new server is a learner first and
//! becomes a voter only when it has caught up, so that adding it never costs the majority; a
//! removed one leaves the voters before it leaves the group, and not before the last virtual IP's
//! lease that rests on it. Raft dissertation (Ongaro 2014), 4.2.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Agreed, LogIndex, NodeId, RaftId};

/// How far behind a learner may be and still become a voter: a fraction of a second of a busy log.
const LAG_MAX: u64 = 64;

/// One change of Raft's membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoterStep {
    /// Start replicating to a server that does not vote yet.
    AddLearner(RaftId, NodeId),
    /// Replace the set of voters.
    ChangeVoters(BTreeSet<RaftId>),
    /// Stop replicating to a server that is none any more.
    DropLearner(RaftId),
}

/// What the leader sees of its group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupView {
    /// Who votes; during a change the old and the new voters.
    pub voters: BTreeSet<RaftId>,
    /// Which nodes the voters are; of those that are servers no more nobody else knows it.
    pub owners: BTreeMap<RaftId, NodeId>,
    /// Who only follows.
    pub learners: BTreeSet<RaftId>,
    /// How far each log is known to reach.
    pub matched: BTreeMap<RaftId, LogIndex>,
    /// The leader's own log.
    pub last: LogIndex,
    /// Whether a change is under way.
    pub changing: bool,
    /// Who answered lately, the leader included.
    pub heard: BTreeSet<RaftId>,
}

/// The leader's next step, or none when there is nothing to do or it has to wait.
///
/// A change that its leader did not live to finish is finished by the next one. A change to voters
/// without a majority now would stop the mesh until they are back, so it waits.
pub fn leader_step(agreed: &Agreed, group: &GroupView) -> Option<VoterStep> {
    let step = voter_step(agreed, group);
    let unfinished = || {
        group
            .changing
            .then(|| VoterStep::ChangeVoters(group.voters.clone()))
    };
    step.or_else(unfinished).filter(|step| match step {
        VoterStep::ChangeVoters(next) => next.intersection(&group.heard).count() * 2 > next.len(),
        VoterStep::AddLearner(..) | VoterStep::DropLearner(_) => true,
    })
}

/// The next step, or none when Raft's membership is what was agreed.
fn voter_step(agreed: &Agreed, group: &GroupView) -> Option<VoterStep> {
    let (voters, learners) = (&group.voters, &group.learners);
    let wanted: BTreeMap<RaftId, &NodeId> = agreed.servers().map(|(id, raft)| (raft, id)).collect();
    if let Some((raft, id)) = wanted
        .iter()
        .find(|(raft, _)| !voters.contains(raft) && !learners.contains(raft))
    {
        return Some(VoterStep::AddLearner(*raft, (*id).clone()));
    }
    let caught_up = |raft: &RaftId| {
        let at = group.matched.get(raft);
        at.is_some_and(|at| at.0.saturating_add(LAG_MAX) >= group.last.0)
    };
    let mut next: BTreeSet<RaftId> = voters
        .iter()
        .copied()
        .filter(|raft| wanted.contains_key(raft) || carries_a_lease(agreed, group, *raft))
        .collect();
    // One joins at a time: each has to be seen to work before the majority rests on the next.
    // Replacements come together, or replacing all servers would leave one alone for a while.
    let leaving = voters.len() - next.len();
    let ready = wanted
        .keys()
        .filter(|raft| learners.contains(raft) && !voters.contains(raft) && caught_up(raft));
    next.extend(ready.take(leaving.max(1)));
    if next != *voters && !next.is_empty() {
        return Some(VoterStep::ChangeVoters(next));
    }
    let stray = learners
        .iter()
        .find(|raft| !wanted.contains_key(raft) && !voters.contains(raft));
    stray.map(|raft| VoterStep::DropLearner(*raft))
}

/// Whether a voter that is no server any more has to stay: outside of Raft it would not learn that
/// a lease which rests on it has moved. A node that serves again knows it as the voter that it is.
fn carries_a_lease(agreed: &Agreed, group: &GroupView, raft: RaftId) -> bool {
    let owner = group.owners.get(&raft);
    owner.is_some_and(|owner| {
        let serves = agreed.servers().any(|(id, _)| id == owner);
        !serves && agreed.lease_uses(owner)
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, net::Ipv6Addr};

    use super::*;
    use crate::{
        Epoch, LeaseProfile, LeaseVoters, LifecycleClass, NetworkId, NetworkProfile, Node,
        NodeState, Role, VipId, VirtualIp, WallMs,
    };

    fn group(voters: &[u64], changing: bool, heard: &[u64]) -> GroupView {
        let set = |ids: &[u64]| ids.iter().copied().map(RaftId).collect();
        GroupView {
            voters: set(voters),
            changing,
            heard: set(heard),
            last: LAST,
            ..GroupView::default()
        }
    }

    #[test]
    fn a_change_to_voters_without_a_majority_waits() {
        let agreed = servers(&[1, 3]);
        assert_eq!(
            leader_step(&agreed, &group(&[1, 2, 3], false, &[1, 2])),
            None
        );
        let heard = group(&[1, 2, 3], false, &[1, 3]);
        assert_eq!(leader_step(&agreed, &heard), change(&[1, 3]));
    }

    #[test]
    fn a_change_that_was_left_unfinished_is_finished() {
        let agreed = servers(&[1, 2, 3]);
        let all = [1, 2, 3];
        assert_eq!(leader_step(&agreed, &group(&all, true, &all)), change(&all));
        assert_eq!(leader_step(&agreed, &group(&all, false, &all)), None);
    }

    #[test]
    fn a_new_server_is_a_learner_before_it_votes() {
        let agreed = servers(&[1, 5]);
        assert_eq!(
            step(&agreed, &[1], &[], &[]),
            Some(VoterStep::AddLearner(RaftId(5), id(5)))
        );
        assert_eq!(step(&agreed, &[1], &[5], &[(5, 1000)]), change(&[1, 5]));
        assert_eq!(step(&agreed, &[1, 5], &[], &[]), None);
    }

    #[test]
    fn a_laggard_is_not_promoted() {
        let agreed = servers(&[1, 5]);
        assert_eq!(step(&agreed, &[1], &[5], &[]), None);
        assert_eq!(
            step(&agreed, &[1], &[5], &[(5, LAST.0 - LAG_MAX - 1)]),
            None
        );
        assert_eq!(
            step(&agreed, &[1], &[5], &[(5, LAST.0 - LAG_MAX)]),
            change(&[1, 5])
        );
    }

    #[test]
    fn learners_become_voters_one_at_a_time() {
        let agreed = servers(&[1, 5, 6]);
        let level = [(5, 1000), (6, 1000)];
        assert_eq!(step(&agreed, &[1], &[5, 6], &level), change(&[1, 5]));
        assert_eq!(step(&agreed, &[1, 5], &[6], &level), change(&[1, 5, 6]));
    }

    #[test]
    fn a_laggard_does_not_keep_the_next_one_from_voting() {
        let agreed = servers(&[1, 5, 6]);
        assert_eq!(step(&agreed, &[1], &[5, 6], &[(6, 1000)]), change(&[1, 6]));
    }

    #[test]
    fn a_removed_server_leaves_the_voters_and_then_the_group() {
        let agreed = servers(&[1, 2]);
        assert_eq!(step(&agreed, &[1, 2, 3], &[], &[]), change(&[1, 2]));
        assert_eq!(
            step(&agreed, &[1, 2], &[3], &[(3, 1000)]),
            Some(VoterStep::DropLearner(RaftId(3)))
        );
    }

    #[test]
    fn a_learner_that_was_removed_meanwhile_is_never_promoted() {
        let agreed = servers(&[1]);
        assert_eq!(
            step(&agreed, &[1], &[5], &[(5, 1000)]),
            Some(VoterStep::DropLearner(RaftId(5)))
        );
    }

    #[test]
    fn a_replacement_joins_in_the_step_in_which_the_old_server_leaves() {
        let agreed = servers(&[1, 2, 5]);
        assert_eq!(
            step(&agreed, &[1, 2, 3], &[5], &[(5, 1000)]),
            change(&[1, 2, 5])
        );
        // Replacing all of them never leaves one alone.
        let agreed = servers(&[4, 5, 6]);
        let level = [(4, 1000), (5, 1000), (6, 1000)];
        assert_eq!(
            step(&agreed, &[1, 2, 3], &[4, 5, 6], &level),
            change(&[4, 5, 6])
        );
    }

    #[test]
    fn the_voters_are_never_emptied() {
        let agreed = servers(&[4]);
        assert_eq!(step(&agreed, &[1], &[4], &[]), None);
        assert_eq!(step(&servers(&[]), &[1], &[], &[]), None);
    }

    #[test]
    fn a_server_promoted_again_is_another_voter() {
        let agreed = servers(&[1, 9]);
        let again = step(&agreed, &[1, 5], &[9], &[(9, 1000)]);
        assert_eq!(again, change(&[1, 9]));
    }

    #[test]
    fn every_start_leads_to_what_was_agreed() {
        for start in 1_u64..16 {
            for wish in 1_u64..16 {
                let agreed = servers(&set(wish));
                let mut voters: BTreeSet<RaftId> = set(start).into_iter().map(RaftId).collect();
                let mut learners = BTreeSet::new();
                let matched = (1..=4).map(|raft| (RaftId(raft), LAST)).collect();
                let mut steps = 0;
                loop {
                    let group = GroupView {
                        voters: voters.clone(),
                        learners: learners.clone(),
                        matched: BTreeMap::clone(&matched),
                        last: LAST,
                        ..GroupView::default()
                    };
                    let Some(next) = voter_step(&agreed, &group) else {
                        break;
                    };
                    match next {
                        VoterStep::AddLearner(raft, _) => assert!(learners.insert(raft)),
                        VoterStep::DropLearner(raft) => assert!(learners.remove(&raft)),
                        VoterStep::ChangeVoters(next) => {
                            assert!(
                                next.iter()
                                    .all(|id| voters.contains(id) || learners.remove(id))
                            );
                            voters = next;
                        }
                    }
                    steps += 1;
                    assert!(steps < 16, "{start:b} never becomes {wish:b}");
                }
                assert_eq!(voters, set(wish).into_iter().map(RaftId).collect());
                assert!(learners.is_empty());
            }
        }
    }

    #[test]
    fn a_demoted_server_goes_on_voting_while_a_lease_rests_on_it() {
        let mut agreed = servers(&[1, 2]);
        let lease = |voters: &[u64], holder| VirtualIp {
            name: "web".into(),
            network: NetworkId::from_bytes([3; 16]),
            address: Ipv6Addr::LOCALHOST,
            candidates: vec![id(1)],
            check: None,
            profile: LeaseProfile::Lan,
            epoch: Epoch(1),
            holder,
            voters: LeaseVoters::Stable(voters.iter().map(|raft| id(*raft)).collect()),
            voters_since: LogIndex(1),
            readiness: BTreeMap::new(),
            wish: None,
            moves: VecDeque::new(),
            created_at: WallMs(0),
        };
        let vip = VipId::from_bytes([1; 16]);
        agreed
            .virtual_ips
            .insert(vip, lease(&[1, 2, 3], Some(id(1))));
        assert_eq!(step(&agreed, &[1, 2, 3, 4], &[], &[]), change(&[1, 2, 3]));
        assert_eq!(step(&agreed, &[1, 2, 3], &[], &[]), None);
        // Its replacement does not wait for it.
        let mut more = servers(&[1, 2, 5]);
        more.virtual_ips = agreed.virtual_ips.clone();
        let level = [(5, 1000)];
        assert_eq!(step(&more, &[1, 2, 3], &[5], &level), change(&[1, 2, 3, 5]));
        agreed.virtual_ips.insert(vip, lease(&[1, 2, 3], None));
        assert_eq!(step(&agreed, &[1, 2, 3], &[], &[]), change(&[1, 2]));
        agreed.virtual_ips.insert(vip, lease(&[1, 2], Some(id(1))));
        assert_eq!(step(&agreed, &[1, 2, 3], &[], &[]), change(&[1, 2]));
    }

    const LAST: LogIndex = LogIndex(1000);

    fn step(
        agreed: &Agreed,
        voters: &[u64],
        learners: &[u64],
        matched: &[(u64, u64)],
    ) -> Option<VoterStep> {
        let ids = |ids: &[u64]| ids.iter().copied().map(RaftId).collect();
        let matched = matched.iter().map(|(id, at)| (RaftId(*id), LogIndex(*at)));
        let group = GroupView {
            voters: ids(voters),
            owners: voters
                .iter()
                .map(|raft| (RaftId(*raft), id(*raft)))
                .collect(),
            learners: ids(learners),
            matched: matched.collect(),
            last: LAST,
            ..GroupView::default()
        };
        voter_step(agreed, &group)
    }

    fn change(voters: &[u64]) -> Option<VoterStep> {
        let voters = voters.iter().copied().map(RaftId).collect();
        Some(VoterStep::ChangeVoters(voters))
    }

    /// Raft ids 1 to 4 by the bits of a number.
    fn set(bits: u64) -> Vec<u64> {
        (1..=4)
            .filter(|raft| bits & (1 << (raft - 1)) != 0)
            .collect()
    }

    fn id(raft: u64) -> NodeId {
        format!("12D3KooW{raft:A>44}").parse().unwrap()
    }

    fn servers(raft_ids: &[u64]) -> Agreed {
        let node = |raft: u64| Node {
            name: format!("n{raft}"),
            role: Role::Server,
            raft_id: Some(RaftId(raft)),
            state: NodeState::Running,
            labels: BTreeMap::new(),
            metadata: BTreeMap::new(),
            lifecycle_class: LifecycleClass::Persistent,
            tmpfs_store: false,
            network_profile: NetworkProfile::Heavyweight,
            addresses: Vec::new(),
            wireguard_public_key: [0; 32],
            sealing_recipient: String::new(),
            has_served: false,
            joined_at: WallMs(0),
        };
        let nodes = raft_ids.iter().map(|raft| (id(*raft), node(*raft)));
        Agreed {
            nodes: nodes.collect(),
            ..Agreed::default()
        }
    }
}
