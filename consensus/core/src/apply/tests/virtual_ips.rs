//! Virtual IPs: one holder for each epoch, and an epoch that only rises.

use std::{collections::BTreeSet, sync::Arc};

use super::world::*;
use crate::{
    Command, Epoch, EventKind, LeaseProfile, LeaseVoters, LogIndex, NodeId, Probe, RaftId,
    ReadinessCheck, Refusal, Role, VipId, VipState, VirtualIp, go_on_alone,
    limits::{TEXT_BYTES_MAX, VIP_CANDIDATES_MAX, VIP_MOVES_KEPT, VIRTUAL_IPS_MAX},
};

/// Nodes by their numbers.
pub(super) fn ids(numbers: &[u32]) -> BTreeSet<NodeId> {
    numbers.iter().copied().map(id).collect()
}

pub(super) fn names_of(numbers: &[u32]) -> Vec<String> {
    numbers.iter().copied().map(name).collect()
}

pub(super) fn create_vip(vip: &str, candidates: &[u32]) -> Command {
    Command::CreateVip {
        name: vip.into(),
        network: "default".into(),
        candidates: names_of(candidates),
        check: None,
        profile: LeaseProfile::Lan,
    }
}

pub(super) fn set_candidates(candidates: &[u32]) -> Command {
    Command::SetVipCandidates {
        vip: "web".into(),
        candidates: names_of(candidates),
    }
}

pub(super) fn checked() -> Option<ReadinessCheck> {
    Some(ReadinessCheck::new(Probe::Tcp { port: 80 }))
}

fn set_check(check: Option<ReadinessCheck>) -> Command {
    Command::SetVipCheck {
        vip: "web".into(),
        check,
    }
}

pub(super) fn fail_over(to: Option<u32>, reachable: &[u32]) -> Command {
    Command::RequestFailover {
        vip: "web".into(),
        to: to.map(name),
        reachable: ids(reachable),
    }
}

impl World {
    /// Three servers and two agents; `web` may be held by all but the first.
    pub(super) fn with_vip() -> Self {
        let mut world = Self::of(3, 5);
        world.ok(1, create_vip("web", &[2, 3, 4, 5]));
        world
    }

    pub(super) fn vip(&self) -> &VirtualIp {
        self.agreed().find_vip("web").unwrap().1
    }

    pub(super) fn vip_id(&self) -> VipId {
        self.agreed().find_vip("web").unwrap().0
    }

    /// The next holder after a close of the present epoch.
    pub(super) fn assigning(&self, to: Option<u32>, closed_by: &[u32]) -> Command {
        Command::AssignVip {
            vip: self.vip_id(),
            after: self.vip().epoch,
            to: to.map(id),
            closed_by: ids(closed_by),
            reason: "n2 is silent".into(),
        }
    }

    pub(super) fn releasing(&self, to: Option<u32>) -> Command {
        Command::ReleaseVip {
            vip: self.vip_id(),
            epoch: self.vip().epoch,
            to: to.map(id),
            reason: "asked for".into(),
        }
    }

    pub(super) fn begin(&self, new: &[u32]) -> Command {
        Command::BeginLeaseVoters {
            vip: self.vip_id(),
            epoch: self.vip().epoch,
            since: self.vip().voters_since,
            new: ids(new),
        }
    }

    pub(super) fn finish(&self) -> Command {
        Command::FinishLeaseVoters {
            vip: self.vip_id(),
            epoch: self.vip().epoch,
            since: self.vip().voters_since,
        }
    }

    pub(super) fn says(&self, ready: bool) -> Command {
        Command::ReportReadiness {
            vip: self.vip_id(),
            ready,
            reason: "connection refused".into(),
        }
    }

    fn measured(&self, epoch: u64, outage_us: u64) -> Command {
        Command::ReportMove {
            vip: self.vip_id(),
            epoch: Epoch(epoch),
            outage_us,
        }
    }

    fn payload(&self, key: &str) -> &str {
        &self.state.events.iter().last().unwrap().payload[key]
    }
}

fn stable(numbers: &[u32]) -> LeaseVoters {
    LeaseVoters::Stable(ids(numbers))
}

fn held_by(world: &World, n: u32, epoch: u64) {
    let vip = world.vip();
    assert_eq!((&vip.holder, vip.epoch), (&Some(id(n)), Epoch(epoch)));
}

#[test]
fn the_first_candidate_holds_it_and_todays_servers_vouch() {
    let world = World::with_vip();
    held_by(&world, 2, 1);
    assert_eq!(world.vip().voters, stable(&[1, 2, 3]));
    assert_eq!(world.vip().voters_since, world.state.applied);
    assert_eq!(world.vip().state(), VipState::Held);
    assert_eq!(world.kinds(), [EventKind::VipAllocated]);
    let address = world.vip().address.to_string();
    let told = [
        ("vip", "web"),
        ("address", &address),
        ("to", "n2"),
        ("epoch", "1"),
    ];
    for (key, value) in told {
        assert_eq!(world.payload(key), value);
    }
    assert!(
        world.agreed().networks[&NETWORK]
            .ipv6
            .contains(world.vip().address)
    );
}

#[test]
fn a_derived_address_never_changes_between_versions() {
    let network = World::founded().agreed().networks[&NETWORK].ipv6;
    let id = VipId::made_at(crate::MeshId::from_bytes([2; 16]), LogIndex(7));
    assert_eq!(id.to_string(), "ff4dbc8f3c0b8e89e5eae8c1054ab059");
    assert_eq!(
        id.address(network).to_string(),
        "fd87:ffec:2b4:9a21:8673:83da:b993:3f86"
    );
}

#[test]
fn one_that_is_made_again_is_another_one() {
    let mut world = World::with_vip();
    let (before, address) = (world.vip_id(), world.vip().address);
    world.ok(1, Command::DeleteVip { vip: "web".into() });
    assert_eq!(world.kinds(), [EventKind::VipReleased]);
    world.ok(1, create_vip("web", &[2, 3, 4, 5]));
    assert_ne!(world.vip_id(), before);
    assert_ne!(world.vip().address, address);
    let stale = Command::ReleaseVip {
        vip: before,
        epoch: Epoch(1),
        to: None,
        reason: String::new(),
    };
    assert_eq!(world.refused(2, stale).code(), "VirtualIpNotFoundError");
}

#[test]
fn what_is_asked_for_is_looked_at_first() {
    let mut world = World::with_vip();
    let edited = |edit: &dyn Fn(&mut Vec<String>, &mut Option<ReadinessCheck>)| {
        let (mut candidates, mut check) = (names_of(&[2]), None);
        edit(&mut candidates, &mut check);
        Command::CreateVip {
            name: "db".into(),
            network: "default".into(),
            candidates,
            check,
            profile: LeaseProfile::Safe,
        }
    };
    let nowhere = Command::CreateVip {
        name: "db".into(),
        network: "x".into(),
        candidates: names_of(&[2]),
        check: None,
        profile: LeaseProfile::Safe,
    };
    let never = ReadinessCheck {
        interval_ms: 0,
        ..checked().unwrap()
    };
    for (command, code) in [
        (create_vip("Web", &[2]), "InvalidInputError"),
        (create_vip("web", &[2]), "VirtualIpExistsError"),
        (nowhere, "NetworkNotFoundError"),
        (edited(&|all, _| all.clear()), "InvalidInputError"),
        (edited(&|all, _| all.push(name(2))), "InvalidInputError"),
        (edited(&|all, _| all.push(name(9))), "NodeNotFoundError"),
        (
            edited(&|_, check| *check = Some(never.clone())),
            "InvalidInputError",
        ),
        (set_check(Some(never.clone())), "InvalidInputError"),
        (set_candidates(&[]), "InvalidInputError"),
    ] {
        assert_eq!(
            world.refused(1, command.clone()).code(),
            code,
            "{command:?}"
        );
    }
}

#[test]
fn a_candidate_has_a_place_in_the_network_and_keeps_it() {
    let mut world = World::with_vip();
    let refusal = world.refused(1, detach(5));
    assert_eq!(refusal.code(), "VirtualIpUsesPeerError");
    assert!(refusal.to_string().contains("web"), "{refusal}");
    world.ok(1, set_candidates(&[2, 3]));
    world.ok(1, detach(5));
    let refusal = world.refused(1, set_candidates(&[2, 5]));
    assert_eq!(refusal.code(), "SdwanPeerNotFoundError");
}

#[test]
fn an_epoch_that_a_majority_of_its_voters_closed_goes_to_another_candidate() {
    let mut world = World::with_vip();
    let before = world.vip().address;
    world.ok(1, world.assigning(Some(4), &[1, 3]));
    held_by(&world, 4, 2);
    assert_eq!(world.kinds(), [EventKind::VipMoved]);
    for (key, value) in [
        ("from", "n2"),
        ("to", "n4"),
        ("epoch", "2"),
        ("reason", "n2 is silent"),
    ] {
        assert_eq!(world.payload(key), value);
    }
    assert_eq!(world.vip().address, before);
    assert_eq!(world.vip().voters, stable(&[1, 2, 3]));
}

#[test]
fn an_epoch_that_is_not_closed_stays() {
    let mut world = World::with_vip();
    for closed in [&[][..], &[1], &[4, 5], &[1, 4, 5]] {
        let refusal = world.refused(1, world.assigning(Some(3), closed));
        assert_eq!(refusal.code(), "VirtualIpNotClosedError", "{closed:?}");
    }
    let stale = world.assigning(Some(3), &[1, 3]);
    world.ok(1, stale.clone());
    assert_eq!(world.refused(1, stale).code(), "VirtualIpEpochError");
    let agent = world.assigning(Some(4), &[1, 3]);
    assert_eq!(world.refused(4, agent).code(), "NotServerError");
    let stranger = world.assigning(Some(1), &[1, 3]);
    assert_eq!(
        world.refused(1, stranger).code(),
        "VirtualIpNotCandidateError"
    );
    held_by(&world, 3, 2);
}

#[test]
fn a_closed_epoch_may_be_nobodys_while_no_candidate_is_fit() {
    let mut world = World::with_vip();
    let open = world.assigning(None, &[3]);
    assert_eq!(world.refused(1, open).code(), "VirtualIpNotClosedError");
    world.ok(1, world.assigning(None, &[1, 3]));
    assert_eq!((&world.vip().holder, world.vip().epoch), (&None, Epoch(2)));
    assert_eq!(world.kinds(), [EventKind::VipReleased]);
    // It pins no server any more, and goes to whoever is fit first.
    assert!(!world.agreed().lease_uses(&id(3)));
    world.ok(1, world.assigning(Some(2), &[]));
    held_by(&world, 2, 3);
}

#[test]
fn the_same_node_gets_another_epoch_when_it_is_back() {
    let mut world = World::with_vip();
    world.ok(1, world.assigning(Some(2), &[1, 2, 3]));
    held_by(&world, 2, 2);
}

#[test]
fn a_holder_lets_go_to_the_next_candidate_that_is_ready() {
    let mut world = World::with_vip();
    world.ok(3, world.says(false));
    world.ok(2, world.releasing(None));
    held_by(&world, 4, 2);
    assert_eq!(world.kinds(), [EventKind::VipMoved]);
    // No failback: the first one is asked again only when the present one lets go.
    world.ok(3, world.says(true));
    held_by(&world, 4, 2);
    world.ok(4, world.releasing(Some(5)));
    held_by(&world, 5, 3);
}

#[test]
fn only_the_holder_lets_go_and_only_of_what_it_holds() {
    let mut world = World::with_vip();
    let first = world.releasing(None);
    assert_eq!(
        world.refused(3, first.clone()).code(),
        "VirtualIpNotHolderError"
    );
    let refusal = world.refused(2, world.releasing(Some(2)));
    assert_eq!(refusal.code(), "VirtualIpHeldError");
    let refusal = world.refused(2, world.releasing(Some(1)));
    assert_eq!(refusal.code(), "VirtualIpNotCandidateError");
    world.ok(2, first.clone());
    assert_eq!(world.refused(2, first).code(), "VirtualIpEpochError");
}

#[test]
fn it_is_let_go_to_nobody_rather_than_to_one_who_is_not_ready() {
    let mut world = World::with_vip();
    for n in [3, 4, 5] {
        world.ok(n, world.says(false));
    }
    let refusal = world.refused(2, world.releasing(Some(4)));
    assert_eq!(refusal.code(), "VirtualIpNoCandidateError");
    let why = "n4: not ready: connection refused";
    assert!(refusal.to_string().contains(why), "{refusal}");
    held_by(&world, 2, 1);
    // Its gate is shut and stays shut for this epoch, so it can't be kept from letting go.
    world.ok(2, world.releasing(None));
    assert_eq!(
        (world.vip().holder.clone(), world.vip().epoch),
        (None, Epoch(2))
    );
}

#[test]
fn a_checked_candidate_is_not_ready_before_it_says_so() {
    let mut world = World::with_vip();
    world.ok(1, set_check(checked()));
    world.refused(2, world.releasing(Some(4)));
    world.ok(4, world.says(true));
    // Another check: what was said before was about the old one.
    let other = ReadinessCheck::new("https:443/ready".parse().unwrap());
    world.ok(1, set_check(Some(other.clone())));
    world.refused(2, world.releasing(Some(4)));
    world.ok(5, world.says(true));
    world.ignored(1, set_check(Some(other)));
    world.ok(2, world.releasing(None));
    held_by(&world, 5, 2);
}

#[test]
fn a_candidate_speaks_for_itself_and_says_only_what_is_new() {
    let mut world = World::with_vip();
    assert_eq!(
        world.refused(1, world.says(true)).code(),
        "VirtualIpNotCandidateError"
    );
    world.ok(3, world.says(false));
    let said = world.vip().readiness[&id(3)].clone();
    assert_eq!(
        (said.ready, said.reason.as_str(), said.since),
        (false, "connection refused", START)
    );
    world.now.0 += 1;
    world.ignored(3, world.says(false));
    world.ok(3, world.says(true));
    assert_eq!(world.vip().readiness[&id(3)].reason, "");
}

#[test]
fn an_operators_wish_is_kept_until_it_is_carried_out() {
    let mut world = World::with_vip();
    world.ok(1, fail_over(Some(4), &[1, 2, 3, 4]));
    held_by(&world, 2, 1);
    assert_eq!(world.vip().state(), VipState::Moving);
    world.ok(2, world.releasing(None));
    held_by(&world, 4, 2);
    assert_eq!(world.vip().wish, None);
    world.ok(1, fail_over(None, &[1, 2, 3, 4]));
    world.ok(1, world.assigning(Some(3), &[1, 2]));
    assert_eq!(
        (&world.vip().wish, world.vip().state()),
        (&None, VipState::Held)
    );
}

#[test]
fn a_wish_that_nobody_can_carry_out_is_refused_with_the_reasons() {
    let mut world = World::with_vip();
    world.ok(5, world.says(false));
    let refusal = world.refused(1, fail_over(None, &[1, 2]));
    let expected = "no other candidate may take the virtual IP web (n3: not heard of; \
                    n4: not heard of; n5: not heard of)";
    assert_eq!(refusal.to_string(), expected);
    let refusal = world.refused(1, fail_over(Some(5), &[1, 2, 3, 4, 5]));
    assert!(
        refusal
            .to_string()
            .ends_with("(n5: not ready: connection refused)"),
        "{refusal}"
    );
    assert_eq!(
        world.refused(1, fail_over(Some(2), &[1, 2])).code(),
        "VirtualIpHeldError"
    );
    assert_eq!(
        world.refused(1, fail_over(Some(1), &[1, 2])).code(),
        "VirtualIpNotCandidateError"
    );
    assert_eq!(
        world.refused(1, fail_over(Some(9), &[1, 2])).code(),
        "NodeNotFoundError"
    );
}

#[test]
fn a_wish_for_somebody_who_is_no_candidate_any_more_is_forgotten() {
    for command in [set_candidates(&[2, 3]), remove(4)] {
        let mut world = World::with_vip();
        world.ok(1, fail_over(Some(4), &[2, 4]));
        world.ok(1, command);
        assert_eq!(world.vip().wish, None);
    }
}

#[test]
fn who_holds_it_stays_a_candidate() {
    let mut world = World::with_vip();
    let refusal = world.refused(1, set_candidates(&[3, 4]));
    assert_eq!(refusal.code(), "VirtualIpHeldError");
    world.ok(3, world.says(true));
    world.ok(1, set_candidates(&[3, 2]));
    held_by(&world, 2, 1);
    assert!(world.vip().readiness[&id(3)].ready);
    world.ok(1, set_candidates(&[2]));
    assert!(world.vip().readiness.is_empty());
}

#[test]
fn a_removed_holder_is_named_until_its_lease_is_closed() {
    let mut world = World::with_vip();
    world.ok(1, remove(2));
    held_by(&world, 2, 1);
    assert_eq!(world.vip().candidates, [id(3), id(4), id(5)]);
    assert_eq!(world.vip().state(), VipState::Moving);
    assert_eq!(
        world.vip().voters,
        stable(&[1, 2, 3]),
        "its vote for a close still counts"
    );
    let early = world.assigning(Some(3), &[1]);
    assert_eq!(world.refused(1, early).code(), "VirtualIpNotClosedError");
    world.ok(1, world.assigning(Some(3), &[1, 3]));
    held_by(&world, 3, 2);
    assert_eq!(world.payload("from"), "n2", "it is remembered by its name");
}

#[test]
fn without_any_candidate_it_is_nobodys_until_there_is_one() {
    let mut world = World::with_vip();
    world.ok(1, set_candidates(&[2]));
    world.ok(1, remove(2));
    world.ok(1, world.assigning(None, &[1, 3]));
    assert_eq!((&world.vip().holder, world.vip().epoch), (&None, Epoch(2)));
    assert_eq!(world.kinds(), [EventKind::VipReleased]);
    assert_eq!(world.vip().state(), VipState::Unheld);
    world.ignored(1, world.assigning(None, &[]));
    // Nobody's lease rests on anybody, so whoever serves today vouches for the next one.
    assert!(!world.agreed().lease_uses(&id(3)));
    world.ok(1, set_role(3, Role::Agent));
    world.ok(1, set_candidates(&[4]));
    world.ok(1, world.assigning(Some(4), &[]));
    held_by(&world, 4, 3);
    assert_eq!(world.vip().voters, stable(&[1]));
}

#[test]
fn lease_voters_change_in_two_steps_and_the_holder_ends_the_first() {
    let mut world = World::with_vip();
    world.ok(1, set_role(4, Role::Server));
    world.ok(1, world.begin(&[1, 2, 4]));
    let joint = LeaseVoters::Joint {
        old: ids(&[1, 2, 3]),
        new: ids(&[1, 2, 4]),
    };
    assert_eq!(world.vip().voters, joint);
    assert_eq!(world.vip().epoch, Epoch(1), "the holder keeps what it has");
    assert_eq!(
        world.refused(1, world.begin(&[1])).code(),
        "VirtualIpVotersError"
    );
    // On its word, which any server may pass on.
    let refusal = world.clone().refused(5, world.finish());
    assert_eq!(refusal.code(), "NotServerError");
    world.clone().ok(3, world.finish());
    world.ok(2, world.finish());
    assert_eq!(world.vip().voters, stable(&[1, 2, 4]));
    assert_eq!(
        world.refused(2, world.finish()).code(),
        "VirtualIpVotersError"
    );
    world.ignored(1, world.begin(&[1, 2, 4]));
}

#[test]
fn a_word_about_an_earlier_change_of_voters_ends_no_later_one() {
    let mut world = World::with_vip();
    world.ok(1, world.begin(&[1]));
    let late = world.finish();
    world.ok(2, late.clone());
    let early = world.begin(&[1, 2]);
    world.ok(1, world.begin(&[1, 2, 3]));
    world.ok(2, world.finish());
    world.ok(1, world.begin(&[1]));
    assert_eq!(world.refused(2, late).code(), "VirtualIpVotersError");
    assert_eq!(world.refused(1, early).code(), "VirtualIpVotersError");
    assert!(matches!(world.vip().voters, LeaseVoters::Joint { .. }));
}

#[test]
fn in_the_joint_phase_the_old_voters_close_and_the_new_ones_go_on() {
    let mut world = World::with_vip();
    world.ok(1, set_role(4, Role::Server));
    world.ok(1, set_role(5, Role::Server));
    world.ok(1, world.begin(&[1, 4, 5]));
    let early = world.assigning(Some(3), &[1, 4, 5]);
    assert_eq!(world.refused(1, early).code(), "VirtualIpNotClosedError");
    world.ok(1, world.assigning(Some(3), &[2, 3]));
    held_by(&world, 3, 2);
    assert_eq!(world.vip().voters, stable(&[1, 4, 5]));
}

#[test]
fn only_servers_become_lease_voters() {
    let mut world = World::with_vip();
    for new in [&[][..], &[1, 4], &[9]] {
        assert_eq!(
            world.refused(1, world.begin(new)).code(),
            "InvalidInputError"
        );
    }
    let begin = world.begin(&[1]);
    assert_eq!(world.refused(4, begin.clone()).code(), "NotServerError");
    world.ok(2, world.releasing(None));
    assert_eq!(world.refused(1, begin).code(), "VirtualIpEpochError");
}

#[test]
fn a_server_is_in_use_until_no_lease_rests_on_it() {
    let mut world = World::with_vip();
    world.ok(1, set_role(3, Role::Agent));
    assert!(world.agreed().lease_uses(&id(3)));
    // It may be the leader still, and must be able to have the lease moved off itself.
    world.ok(3, world.begin(&[1, 2]));
    assert!(world.agreed().lease_uses(&id(3)));
    world.ok(2, world.finish());
    assert!(!world.agreed().lease_uses(&id(3)) && world.agreed().lease_uses(&id(2)));
    world.ok(1, Command::DeleteVip { vip: "web".into() });
    assert!(!world.agreed().lease_uses(&id(2)));
}

#[test]
fn a_server_that_does_not_vote_yet_is_wanted_by_no_lease() {
    let mut world = World::with_vip();
    world.ok(1, set_role(3, Role::Agent));
    world.ok(1, set_role(5, Role::Server));
    let wanted = |voting| world.agreed().lease_voters_wanted(&ids(voting));
    assert_eq!(wanted(&[1, 2, 3]), ids(&[1, 2]));
    assert_eq!(wanted(&[1, 2, 3, 5]), ids(&[1, 2, 5]));
}

#[test]
fn who_inherits_is_who_was_wished_else_the_next_one_else_the_same() {
    let mut world = World::with_vip();
    let heir = |world: &World, heard: &[u32]| world.agreed().heir(world.vip(), &ids(heard));
    assert_eq!(heir(&world, &[2, 3, 4]), Some(id(3)));
    assert_eq!(heir(&world, &[2]), Some(id(2)));
    assert_eq!(heir(&world, &[1]), None);
    world.ok(1, fail_over(Some(5), &[5]));
    assert_eq!(heir(&world, &[2, 3, 4, 5]), Some(id(5)));
    assert_eq!(heir(&world, &[2, 3, 4]), Some(id(3)));
}

#[test]
fn the_longest_outage_that_anybody_saw_is_remembered() {
    let mut world = World::with_vip();
    world.ok(2, world.releasing(None));
    world.ok(3, world.measured(2, 40_000));
    world.ok(5, world.measured(2, 45_000));
    world.ignored(4, world.measured(2, 30_000));
    world.ignored(4, world.measured(9, 30_000));
    assert_eq!(world.vip().moves[0].outage_us, Some(45_000));
    assert_eq!(
        world.refused(9, world.measured(2, 1)).code(),
        "NodeNotFoundError"
    );
}

#[test]
fn the_last_moves_are_remembered() {
    let mut world = World::with_vip();
    for _ in 0..VIP_MOVES_KEPT as u64 + 3 {
        let holder = if world.vip().holder == Some(id(2)) {
            2
        } else {
            3
        };
        world.ok(holder, world.releasing(None));
    }
    let moves = &world.vip().moves;
    assert_eq!(moves.len(), VIP_MOVES_KEPT);
    let last = moves.back().unwrap();
    assert_eq!(
        (last.epoch, &last.to),
        (world.vip().epoch, &world.vip().holder)
    );
}

#[test]
fn a_recovered_mesh_begins_far_above_every_epoch_it_may_have_forgotten() {
    let mut world = World::with_vip();
    let now = world.now;
    world.ok(2, world.releasing(None));
    world.ok(1, fail_over(None, &[1, 2, 3, 4]));
    let at = LogIndex(1 << 40);
    go_on_alone(&mut world.state, at, now, &id(1), RaftId(at.0)).unwrap();
    // Whoever held it as far as the state knows: somebody else may have since.
    assert_eq!(
        (&world.vip().holder, world.vip().epoch),
        (&None, Epoch(at.0))
    );
    assert_eq!(world.vip().voters, stable(&[1]));
    assert_eq!((world.vip().voters_since, &world.vip().wish), (at, &None));
    let told = world.state.events.iter().filter(|event| event.index == at);
    let kinds: Vec<EventKind> = told.map(|event| event.kind).collect();
    assert!(kinds.contains(&EventKind::VipReleased), "{kinds:?}");
    world.ok(1, world.assigning(Some(4), &[]));
    held_by(&world, 4, at.0 + 1);
}

#[test]
fn two_recoveries_of_one_state_never_meet_in_an_epoch() {
    let first = LogIndex(5 << 31);
    let second = LogIndex(6 << 31);
    let backup = World::with_vip();
    let recovered = |at: LogIndex| {
        let mut world = World::with_vip();
        let now = world.now;
        world.state = backup.state.clone();
        go_on_alone(&mut world.state, at, now, &id(1), RaftId(at.0)).unwrap();
        world
    };
    let mut world = recovered(first);
    for n in [3, 4].repeat(100) {
        world.ok(1, world.assigning(Some(n), &[1]));
    }
    // Every entry raises an epoch by one at most.
    assert!(world.vip().epoch.0 <= world.state.applied.0);
    assert!(world.vip().epoch < recovered(second).vip().epoch);
}

#[test]
fn too_many_and_too_long_are_refused() {
    let mut world = World::with_vip();
    let many: Vec<u32> = (2..=18).collect();
    assert_eq!(many.len(), VIP_CANDIDATES_MAX + 1);
    assert_eq!(
        world.refused(1, create_vip("db", &many)),
        too_many_candidates()
    );
    assert_eq!(
        world.refused(1, set_candidates(&many)),
        too_many_candidates()
    );
    let long = "r".repeat(TEXT_BYTES_MAX + 1);
    let mut says = world.says(false);
    let mut assigns = world.assigning(Some(3), &[1, 3]);
    let mut releases = world.releasing(None);
    for command in [&mut says, &mut assigns, &mut releases] {
        if let Command::ReportReadiness { reason, .. }
        | Command::AssignVip { reason, .. }
        | Command::ReleaseVip { reason, .. } = command
        {
            reason.clone_from(&long);
        }
        assert_eq!(world.refused(2, command.clone()).code(), "TooLargeError");
    }
    for n in 1..VIRTUAL_IPS_MAX {
        world.ok(1, create_vip(&format!("v{n}"), &[2]));
    }
    assert_eq!(
        world.refused(1, create_vip("db", &[2])).code(),
        "TooLargeError"
    );
}

fn too_many_candidates() -> Refusal {
    Refusal::TooLarge {
        what: "the number of candidates".into(),
        limit: VIP_CANDIDATES_MAX as u64,
    }
}

#[test]
fn an_address_belongs_to_a_node_or_to_a_virtual_ip() {
    let mut world = World::with_vip();
    let mesh = world.agreed().mesh.as_ref().unwrap().id;
    let prefix = world.agreed().networks[&NETWORK].ipv6;
    let next = VipId::made_at(mesh, LogIndex(world.state.applied.0 + 1)).address(prefix);
    let mut taken = world.clone();
    let agreed = Arc::make_mut(&mut taken.state.agreed);
    agreed.peers.get_mut(&(NETWORK, id(5))).unwrap().ipv6 = next;
    let refusal = taken.refused(1, create_vip("db", &[2]));
    assert_eq!(refusal.code(), "VirtualIpCollisionError");
    assert!(refusal.to_string().ends_with("is taken by n5"), "{refusal}");
    // The next entry makes another address.
    taken.ok(1, create_vip("db", &[2]));

    world.ok(1, set_candidates(&[2, 3]));
    world.ok(1, detach(5));
    let vip = world.vip_id();
    let agreed = Arc::make_mut(&mut world.state.agreed);
    agreed.virtual_ips.get_mut(&vip).unwrap().address = prefix.host(&id(5));
    let refusal = world.refused(1, attach(5));
    assert!(
        refusal.to_string().ends_with("of n5 is taken by web"),
        "{refusal}"
    );
}

#[test]
fn a_network_with_a_virtual_ip_stays() {
    let mut world = World::with_vip();
    let new = new_network(&world, "blue");
    world.ok(1, Command::CreateNetwork(new));
    world.ok(1, attach_to(4, "blue"));
    let mut blue = create_vip("db", &[4]);
    if let Command::CreateVip { network, .. } = &mut blue {
        *network = "blue".into();
    }
    world.ok(1, blue);
    world.ok(1, remove(4));
    let delete = Command::DeleteNetwork {
        network: "blue".into(),
    };
    let refusal = world.refused(1, delete.clone());
    assert!(
        refusal.to_string().contains("the virtual IP db"),
        "{refusal}"
    );
    world.ok(1, Command::DeleteVip { vip: "db".into() });
    world.ok(1, delete);
}
