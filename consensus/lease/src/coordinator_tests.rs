//! Claims about coordinators.

use consensus_core::LeaseVoters;

use super::*;
use crate::testing::{VIP, assigned, ms, node, nodes, stable};

const R: u64 = 40;
const EPOCH: Epoch = Epoch(5);

/// A leader since 1 s that knows holder 1, voters 1 to 3, and candidates 1 to 3 in order.
fn leader() -> Coordinator {
    let mut coordinator = Coordinator::new(Timings::REAL);
    let agreed = assigned(Some(1), EPOCH.0, stable(&[1, 2, 3]), 1);
    coordinator.handle_assignments(LogIndex(1), &agreed, ms(0));
    candidates(&mut coordinator, [&[], &[], &[]], None, ms(0));
    coordinator.handle_leadership(true, ms(1000));
    coordinator
}

fn candidates(coordinator: &mut Coordinator, unfit: [&[Unfit]; 3], wanted: Option<u8>, now: Time) {
    let list = (1..).zip(unfit).map(|(number, unfit)| Candidate {
        node: node(number),
        unfit: unfit.iter().copied().collect(),
    });
    coordinator.handle_candidates(VIP, list.collect(), wanted.map(node), now);
}

fn said(coordinator: &mut Coordinator) -> Vec<CoordinatorOutput> {
    std::iter::from_fn(|| coordinator.poll_output()).collect()
}

fn told(outputs: &[CoordinatorOutput], wanted: &Message) -> BTreeSet<NodeId> {
    let to = |output: &CoordinatorOutput| match output {
        CoordinatorOutput::Send { to, message } if message == wanted => Some(to.clone()),
        CoordinatorOutput::Send { .. }
        | CoordinatorOutput::ProposeAssign { .. }
        | CoordinatorOutput::ProposeJoint { .. }
        | CoordinatorOutput::ProposeStable { .. }
        | CoordinatorOutput::NoCandidate { .. } => None,
    };
    outputs.iter().filter_map(to).collect()
}

const CLOSE: Message = Message::Close {
    vip: VIP,
    epoch: EPOCH,
};
const CLOSED: Message = Message::Closed {
    vip: VIP,
    epoch: EPOCH,
};
const LET_GO: Message = Message::LetGo {
    vip: VIP,
    epoch: EPOCH,
};

fn assign(to: u8, closed_by: &[u8], reason: MoveReason) -> CoordinatorOutput {
    CoordinatorOutput::ProposeAssign {
        vip: VIP,
        after: EPOCH,
        to: node(to),
        closed_by: nodes(closed_by),
        reason,
    }
}

#[test]
fn a_holder_that_is_heard_is_left_alone() {
    let mut coordinator = leader();
    for beat in 0..100 {
        let now = ms(1000 + beat * R);
        coordinator.handle_renewed(VIP, EPOCH, now);
        coordinator.handle_timeout(now);
    }
    assert_eq!(said(&mut coordinator), []);
    assert_eq!(coordinator.poll_timeout(), Some(ms(1000 + 99 * R + 3 * R)));
}

#[test]
fn three_missed_renewals_close_the_epoch_and_a_majority_of_closures_moves_it() {
    let mut coordinator = leader();
    let missed = ms(1000 + 3 * R);
    assert_eq!(coordinator.poll_timeout(), Some(missed));
    coordinator.handle_timeout(missed);
    assert_eq!(told(&said(&mut coordinator), &CLOSE), nodes(&[1, 2, 3]));
    coordinator.handle_message(&node(2), &CLOSED, ms(1200));
    coordinator.handle_message(&node(9), &CLOSED, ms(1200));
    coordinator.handle_message(&node(2), &CLOSED, ms(1201));
    // Whoever has answered is not asked again.
    assert_eq!(told(&said(&mut coordinator), &CLOSE), nodes(&[1, 3]));
    coordinator.handle_message(&node(3), &CLOSED, ms(1202));
    let proposal = assign(2, &[2, 3], MoveReason::Unheard);
    assert_eq!(said(&mut coordinator), std::slice::from_ref(&proposal));
    let again = coordinator.poll_timeout().unwrap();
    coordinator.handle_timeout(again);
    assert_eq!(said(&mut coordinator), [proposal]);
    let agreed = assigned(Some(2), 6, stable(&[1, 2, 3]), 2);
    coordinator.handle_assignments(LogIndex(2), &agreed, ms(1500));
    assert_eq!(said(&mut coordinator), []);
    assert_eq!(coordinator.poll_timeout(), Some(ms(1500 + 3 * R)));
}

#[test]
fn a_holder_that_nobody_could_replace_stays_and_the_reasons_are_said_once() {
    let mut coordinator = leader();
    let unfit: [&[Unfit]; 3] = [&[Unfit::NotReady], &[Unfit::NotReady], &[Unfit::Suspect]];
    candidates(&mut coordinator, unfit, None, ms(1001));
    candidates(&mut coordinator, unfit, None, ms(1002));
    let outputs = said(&mut coordinator);
    assert_eq!(outputs.len(), 1);
    assert!(matches!(
        &outputs[0],
        CoordinatorOutput::NoCandidate { rejected, .. } if rejected.len() == 3
    ));
    // A second is ready: now it is asked to let go.
    candidates(&mut coordinator, [unfit[0], &[], unfit[2]], None, ms(1003));
    assert_eq!(told(&said(&mut coordinator), &LET_GO), nodes(&[1]));
}

#[test]
fn silence_is_noticed_again_after_it_was_in_vain() {
    let mut coordinator = leader();
    let unfit: [&[Unfit]; 3] = [&[], &[Unfit::NotReady], &[Unfit::NotReady]];
    candidates(&mut coordinator, unfit, None, ms(1001));
    coordinator.handle_timeout(ms(1000 + 3 * R));
    assert_eq!(said(&mut coordinator).len(), 1);
    assert_eq!(coordinator.poll_timeout(), None);
    coordinator.handle_renewed(VIP, EPOCH, ms(2000));
    assert_eq!(coordinator.poll_timeout(), Some(ms(2000 + 3 * R)));
    candidates(&mut coordinator, [&[], &[], &[]], None, ms(2001));
    coordinator.handle_timeout(ms(2000 + 3 * R));
    assert_eq!(told(&said(&mut coordinator), &CLOSE).len(), 3);
}

#[test]
fn an_operators_wish_asks_first_and_closes_when_nobody_lets_go() {
    let mut coordinator = leader();
    candidates(&mut coordinator, [&[], &[], &[]], Some(3), ms(1001));
    assert_eq!(told(&said(&mut coordinator), &LET_GO), nodes(&[1]));
    coordinator.handle_renewed(VIP, EPOCH, ms(1001 + 3 * R));
    coordinator.handle_timeout(ms(1001 + 3 * R));
    assert_eq!(told(&said(&mut coordinator), &CLOSE), nodes(&[1, 2, 3]));
    coordinator.handle_message(&node(1), &CLOSED, ms(1122));
    coordinator.handle_message(&node(2), &CLOSED, ms(1123));
    assert_eq!(
        said(&mut coordinator),
        [assign(3, &[1, 2], MoveReason::Wanted)]
    );
}

#[test]
fn what_was_let_go_is_given_out_without_a_close() {
    let mut coordinator = leader();
    let agreed = assigned(None, EPOCH.0, stable(&[1, 2, 3]), 1);
    candidates(
        &mut coordinator,
        [&[Unfit::Draining], &[], &[]],
        None,
        ms(1001),
    );
    said(&mut coordinator);
    coordinator.handle_assignments(LogIndex(2), &agreed, ms(1010));
    assert_eq!(said(&mut coordinator), [assign(2, &[], MoveReason::Unheld)]);
}

#[test]
fn whoever_loses_leadership_drops_everything_and_a_new_leader_waits() {
    let mut coordinator = leader();
    coordinator.handle_timeout(ms(1000 + 3 * R));
    coordinator.handle_leadership(false, ms(1125));
    assert_eq!(said(&mut coordinator), []);
    assert_eq!(coordinator.poll_timeout(), None);
    coordinator.handle_message(&node(1), &CLOSED, ms(1126));
    coordinator.handle_message(&node(2), &CLOSED, ms(1126));
    coordinator.handle_leadership(true, ms(5000));
    assert_eq!(said(&mut coordinator), []);
    assert_eq!(coordinator.poll_timeout(), Some(ms(5000 + 3 * R)));
}

#[test]
fn a_new_leader_whose_voter_heard_the_holder_waits_one_renewal_more_and_not_three() {
    let mut coordinator = leader();
    coordinator.handle_leadership(false, ms(1001));
    coordinator.handle_renewed(VIP, EPOCH, ms(1002));
    coordinator.handle_leadership(true, ms(1300));
    assert_eq!(coordinator.poll_timeout(), Some(ms(1300 + R)));
    coordinator.handle_timeout(ms(1300 + R));
    assert_eq!(told(&said(&mut coordinator), &CLOSE).len(), 3);
}

#[test]
fn a_wish_that_came_true_is_not_held_against_the_new_holder() {
    let mut coordinator = leader();
    candidates(&mut coordinator, [&[], &[], &[]], Some(2), ms(1001));
    said(&mut coordinator);
    coordinator.forget_wishes();
    let agreed = assigned(Some(2), EPOCH.0 + 1, stable(&[1, 2, 3]), 2);
    coordinator.handle_assignments(LogIndex(2), &agreed, ms(1010));
    assert_eq!(said(&mut coordinator), []);
}

#[test]
fn a_leader_that_stood_still_does_not_blame_the_holder() {
    let mut coordinator = leader();
    coordinator.handle_renewed(VIP, EPOCH, ms(1040));
    // Stopped for five seconds; the renewals of that time are still unread.
    coordinator.handle_timeout(ms(6040));
    assert_eq!(said(&mut coordinator), []);
    let next = coordinator.poll_timeout().unwrap();
    coordinator.handle_timeout(next);
    assert_eq!(told(&said(&mut coordinator), &CLOSE).len(), 3);
}

#[test]
fn voters_change_through_a_joint_phase_that_the_holders_own_report_ends() {
    let mut coordinator = leader();
    coordinator.handle_voters_wanted(nodes(&[1, 2, 4]), ms(1001));
    let begin = CoordinatorOutput::ProposeJoint {
        vip: VIP,
        epoch: EPOCH,
        voters_since: LogIndex(1),
        new: nodes(&[1, 2, 4]),
    };
    assert_eq!(said(&mut coordinator), [begin]);
    let joint = LeaseVoters::Joint {
        old: nodes(&[1, 2, 3]),
        new: nodes(&[1, 2, 4]),
    };
    let agreed = assigned(Some(1), EPOCH.0, joint, 7);
    coordinator.handle_assignments(LogIndex(7), &agreed, ms(1010));
    let report = |since| Message::RestsOnJoint {
        vip: VIP,
        epoch: EPOCH,
        voters_since: LogIndex(since),
    };
    coordinator.handle_message(&node(1), &report(6), ms(1020));
    coordinator.handle_message(&node(2), &report(7), ms(1020));
    assert_eq!(said(&mut coordinator), []);
    coordinator.handle_message(&node(1), &report(7), ms(1021));
    let end = CoordinatorOutput::ProposeStable {
        vip: VIP,
        epoch: EPOCH,
        voters_since: LogIndex(7),
    };
    assert_eq!(said(&mut coordinator), [end]);
}

#[test]
fn in_the_joint_phase_the_old_set_closes() {
    let mut coordinator = leader();
    let joint = LeaseVoters::Joint {
        old: nodes(&[1, 2, 3]),
        new: nodes(&[3, 4, 5]),
    };
    let agreed = assigned(Some(1), EPOCH.0, joint, 7);
    coordinator.handle_assignments(LogIndex(7), &agreed, ms(1001));
    coordinator.handle_timeout(ms(1000 + 3 * R));
    assert_eq!(told(&said(&mut coordinator), &CLOSE).len(), 5);
    for voter in [3, 4, 5] {
        coordinator.handle_message(&node(voter), &CLOSED, ms(1130));
    }
    assert_eq!(said(&mut coordinator), []);
    coordinator.handle_message(&node(1), &CLOSED, ms(1131));
    assert_eq!(
        said(&mut coordinator),
        [assign(2, &[1, 3, 4, 5], MoveReason::Unheard)]
    );
}
