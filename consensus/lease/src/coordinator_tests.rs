//! Claims about coordinators.

use consensus_core::LeaseVoters;

use super::*;
use crate::agreed::later;
use crate::testing::{VIP, assigned, ms, node, nodes, stable};

const R: u64 = 40;
const EPOCH: Epoch = Epoch(5);

/// A leader since 1 s that knows holder 1, voters 1 to 3, and candidates 1 to 3 in order.
fn leader() -> Coordinator {
    leader_beside(node(1), true)
}

/// The same on another node, or without a voter beside it.
fn leader_beside(me: NodeId, votes: bool) -> Coordinator {
    let mut coordinator = Coordinator::new(me, Timings::REAL, votes);
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

/// Lets it wait until it waits for nothing any more, and tells until when it did.
fn wait_for_all(coordinator: &mut Coordinator) -> Time {
    let mut now = Time::ZERO;
    while let Some(due) = coordinator.poll_timeout() {
        assert!(now < due, "it wants to be called again at once");
        now = due;
        coordinator.handle_timeout(now);
    }
    now
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

fn assigned_to(outputs: &[CoordinatorOutput]) -> Vec<Option<NodeId>> {
    let to = |output: &CoordinatorOutput| match output {
        CoordinatorOutput::ProposeAssign { to, .. } => Some(to.clone()),
        CoordinatorOutput::Send { .. }
        | CoordinatorOutput::ProposeJoint { .. }
        | CoordinatorOutput::ProposeStable { .. }
        | CoordinatorOutput::NoCandidate { .. } => None,
    };
    outputs.iter().filter_map(to).collect()
}

/// Who is asked to close this epoch.
fn told_close(coordinator: &mut Coordinator, epoch: Epoch) -> BTreeSet<NodeId> {
    told(&said(coordinator), &Message::Close { vip: VIP, epoch })
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
        to: Some(node(to)),
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
    // The next one has to learn of it first.
    assert_eq!(coordinator.poll_timeout(), Some(ms(1500 + 6 * R)));
    coordinator.handle_renewed(VIP, Epoch(6), ms(1600));
    assert_eq!(coordinator.poll_timeout(), Some(ms(1600 + 3 * R)));
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
    // Only when it is lost for good would anything be done about it.
    assert_eq!(coordinator.poll_timeout(), Some(ms(11_000)));
    coordinator.handle_renewed(VIP, EPOCH, ms(2000));
    assert_eq!(coordinator.poll_timeout(), Some(ms(2000 + 3 * R)));
    candidates(&mut coordinator, [&[], &[], &[]], None, ms(2001));
    coordinator.handle_timeout(ms(2000 + 3 * R));
    assert_eq!(told(&said(&mut coordinator), &CLOSE).len(), 3);
}

#[test]
fn a_holder_that_nobody_could_replace_and_that_is_lost_does_not_pin_its_voters() {
    let mut coordinator = leader();
    let unfit: [&[Unfit]; 3] = [&[Unfit::Suspect], &[Unfit::NotReady], &[Unfit::NotReady]];
    candidates(&mut coordinator, unfit, None, ms(1001));
    coordinator.handle_timeout(ms(1000 + 3 * R));
    said(&mut coordinator);
    coordinator.handle_timeout(ms(10_999));
    assert_eq!(told(&said(&mut coordinator), &CLOSE).len(), 0);
    coordinator.handle_timeout(ms(11_000));
    assert_eq!(told(&said(&mut coordinator), &CLOSE), nodes(&[1, 2, 3]));
    coordinator.handle_message(&node(2), &CLOSED, ms(11_010));
    assert_eq!(assigned_to(&said(&mut coordinator)), [None; 0]);
    coordinator.handle_message(&node(3), &CLOSED, ms(11_020));
    assert_eq!(assigned_to(&said(&mut coordinator)), [None]);
    // Held by nobody, it is given out as soon as anybody is fit: the same one, too.
    let agreed = assigned(None, EPOCH.0 + 1, stable(&[1, 2, 3]), 2);
    coordinator.handle_assignments(LogIndex(2), &agreed, ms(11_030));
    assert_eq!(assigned_to(&said(&mut coordinator)), [None; 0]);
    candidates(
        &mut coordinator,
        [&[], unfit[1], unfit[2]],
        None,
        ms(12_000),
    );
    assert_eq!(assigned_to(&said(&mut coordinator)), [Some(node(1))]);
}

#[test]
fn a_holder_that_nobody_could_replace_and_that_others_hear_keeps_its_epoch() {
    let mut coordinator = leader();
    let unfit: [&[Unfit]; 3] = [&[], &[Unfit::NotReady], &[Unfit::NotReady]];
    candidates(&mut coordinator, unfit, None, ms(1001));
    assert_eq!(wait_for_all(&mut coordinator), ms(11_000));
    assert_eq!(told(&said(&mut coordinator), &CLOSE).len(), 0);
}

#[test]
fn where_the_epoch_is_closed_and_nobody_else_is_fit_the_same_holder_may_have_the_next() {
    let mut coordinator = leader();
    let unfit: [&[Unfit]; 3] = [&[], &[Unfit::NotReady], &[Unfit::NotReady]];
    candidates(&mut coordinator, unfit, None, ms(1001));
    // An earlier leader closed it here and elsewhere, and was gone before it assigned the next.
    coordinator.handle_closed_here(VIP, EPOCH);
    coordinator.handle_timeout(ms(1000 + 3 * R));
    // It may still live on the others, and is asked.
    assert_eq!(told(&said(&mut coordinator), &LET_GO), nodes(&[1]));
    coordinator.handle_timeout(ms(1000 + 6 * R));
    assert_eq!(told(&said(&mut coordinator), &CLOSE), nodes(&[1, 2, 3]));
    coordinator.handle_message(&node(1), &CLOSED, ms(1300));
    coordinator.handle_message(&node(2), &CLOSED, ms(1300));
    assert_eq!(assigned_to(&said(&mut coordinator)), [Some(node(1))]);
}

#[test]
fn a_candidate_that_is_gone_after_the_close_leaves_the_address_to_nobody_and_then_to_the_next() {
    let mut coordinator = leader();
    coordinator.handle_timeout(ms(1000 + 3 * R));
    let suspect: &[Unfit] = &[Unfit::Suspect];
    candidates(&mut coordinator, [suspect; 3], None, ms(1130));
    coordinator.handle_message(&node(1), &CLOSED, ms(1131));
    coordinator.handle_message(&node(2), &CLOSED, ms(1132));
    assert_eq!(assigned_to(&said(&mut coordinator)), [None]);
    // It comes again until the state shows it, and with a candidate if there is one by then.
    let again = coordinator.poll_timeout().unwrap();
    candidates(&mut coordinator, [suspect, suspect, &[]], None, ms(1140));
    coordinator.handle_timeout(again);
    assert_eq!(assigned_to(&said(&mut coordinator)), [Some(node(3))]);
}

#[test]
fn a_leader_that_is_no_voter_of_the_lease_takes_no_silence_for_a_death() {
    let mut coordinator = leader_beside(node(9), true);
    let end = wait_for_all(&mut coordinator);
    assert_eq!(said(&mut coordinator), []);
    // Not before the others have lost the holder too.
    let suspect: &[Unfit] = &[Unfit::Suspect];
    candidates(&mut coordinator, [suspect, &[], &[]], None, end);
    assert_eq!(told(&said(&mut coordinator), &CLOSE).len(), 3);
}

#[test]
fn a_leader_that_hears_nobody_takes_no_silence_for_a_death() {
    let mut coordinator = leader();
    coordinator.handle_renewed(VIP, EPOCH, ms(1010));
    coordinator.handle_majority(Majority::Answered(ms(1010 + R)));
    coordinator.handle_timeout(ms(1010 + 3 * R));
    assert_eq!(told(&said(&mut coordinator), &CLOSE).len(), 0);
    // It was the holder alone.
    coordinator.handle_majority(Majority::Answered(ms(1010 + R + 1)));
    candidates(&mut coordinator, [&[], &[], &[]], None, ms(1010 + 3 * R));
    assert_eq!(told(&said(&mut coordinator), &CLOSE).len(), 3);
}

#[test]
fn a_leader_that_is_a_majority_by_itself_misses_the_dead_as_soon_as_three_renewals_are_due() {
    for told in [None, Some(Majority::Answered(ms(900)))] {
        let mut coordinator = leader();
        coordinator.handle_renewed(VIP, EPOCH, ms(1010));
        if let Some(before) = told {
            // Of a time when there were others.
            coordinator.handle_majority(before);
        }
        coordinator.handle_majority(Majority::Alone);
        let missed = ms(1010 + 3 * R);
        assert_eq!(coordinator.poll_timeout(), Some(missed));
        coordinator.handle_timeout(missed);
        assert_eq!(told_close(&mut coordinator, EPOCH), nodes(&[1, 2, 3]));
    }
}

/// The same on one of three voters that are no candidates.
fn leader_among_others() -> Coordinator {
    let mut coordinator = Coordinator::new(node(4), Timings::REAL, true);
    let agreed = assigned(Some(1), EPOCH.0, stable(&[4, 5, 6]), 1);
    coordinator.handle_assignments(LogIndex(1), &agreed, ms(0));
    candidates(&mut coordinator, [&[], &[], &[]], None, ms(0));
    coordinator.handle_leadership(true, ms(1000));
    coordinator
}

/// Nobody renews this epoch, and these voters close it: who is proposed next.
fn after_silence(coordinator: &mut Coordinator, epoch: u64, by: [u8; 2], now: Time) -> Option<u8> {
    coordinator.handle_timeout(now);
    let epoch = Epoch(epoch);
    for voter in by {
        let closed = Message::Closed { vip: VIP, epoch };
        coordinator.handle_message(&node(voter), &closed, now);
    }
    let to = assigned_to(&said(coordinator));
    (1..=3).find(|number| to == [Some(node(*number))])
}

/// The state says so.
fn give(coordinator: &mut Coordinator, to: u8, epoch: u64, voters: &[u8], now: Time) {
    let agreed = assigned(Some(to), epoch, stable(voters), epoch);
    coordinator.handle_assignments(LogIndex(epoch), &agreed, now);
}

#[test]
fn where_the_next_holder_is_as_dead_as_the_last_the_one_after_it_has_the_third_epoch() {
    let mut coordinator = leader_among_others();
    let mut now = ms(1000);
    let mut given = Vec::new();
    for epoch in EPOCH.0..EPOCH.0 + 5 {
        // Nobody renews, and membership has noticed nothing.
        let missed = if epoch == EPOCH.0 { 3 } else { 6 };
        now = later(now, missed * R * 1000);
        let to = after_silence(&mut coordinator, epoch, [5, 6], now);
        let to = to.expect("it is given to one of them");
        given.push(to);
        give(&mut coordinator, to, epoch + 1, &[4, 5, 6], now);
    }
    // In turn, not from one of the dead to the other.
    assert_eq!(given, [2, 3, 1, 2, 3]);
}

#[test]
fn whoever_was_closed_out_and_is_heard_again_or_was_long_ago_has_its_place_again() {
    const VOTERS: &[u8] = &[4, 5, 6];
    let missed = ms(1000 + 3 * R);
    let next =
        |coordinator: &mut Coordinator, epoch, now| after_silence(coordinator, epoch, [5, 6], now);
    // Closed out a while ago.
    for (later_ms, expected) in [(9_000, 3), (10_001, 1)] {
        let mut coordinator = leader_among_others();
        assert_eq!(next(&mut coordinator, 5, missed), Some(2));
        give(&mut coordinator, 2, 6, VOTERS, missed);
        let heard = later(missed, later_ms * 1000);
        coordinator.handle_renewed(VIP, Epoch(6), heard);
        let silent = later(heard, 3 * R * 1000);
        assert_eq!(next(&mut coordinator, 6, silent), Some(expected));
    }
    // Heard since: it holds the third epoch, and renews.
    let mut coordinator = leader_among_others();
    next(&mut coordinator, 5, missed);
    give(&mut coordinator, 2, 6, VOTERS, missed);
    let second = later(missed, 6 * R * 1000);
    assert_eq!(next(&mut coordinator, 6, second), Some(3));
    give(&mut coordinator, 1, 7, VOTERS, second);
    coordinator.handle_renewed(VIP, Epoch(7), second);
    let third = later(second, 3 * R * 1000);
    assert_eq!(next(&mut coordinator, 7, third), Some(3));
    give(&mut coordinator, 3, 8, VOTERS, third);
    let fourth = later(third, 6 * R * 1000);
    // The second was unheard the longest ago; the first, once heard, later than that.
    assert_eq!(next(&mut coordinator, 8, fourth), Some(2));
}

#[test]
fn a_leader_that_stood_still_when_it_learned_of_an_epoch_has_not_used_its_excuse_for_it() {
    let mut coordinator = leader_among_others();
    let learned = ms(1000 + 3 * R + 2 * R);
    // It is late already when the state says so.
    give(&mut coordinator, 2, 6, &[4, 5, 6], learned);
    let missed = later(learned, 6 * R * 1000);
    assert_eq!(coordinator.poll_timeout(), Some(missed));
    // It stands still once more, and the new holder gets its time all the same.
    let late = later(missed, 2 * R * 1000);
    assert_eq!(after_silence(&mut coordinator, 6, [5, 6], late), None);
    assert!(coordinator.poll_timeout() > Some(late));
}

#[test]
fn whoever_was_closed_out_and_answers_as_a_voter_has_its_place_again() {
    let mut coordinator = leader();
    let missed = ms(1000 + 3 * R);
    assert_eq!(after_silence(&mut coordinator, 5, [2, 3], missed), Some(2));
    give(&mut coordinator, 2, 6, &[1, 2, 3], missed);
    coordinator.handle_renewed(VIP, Epoch(6), missed);
    // The first is back, and closes the second out with the third.
    let silent = later(missed, 3 * R * 1000);
    assert_eq!(after_silence(&mut coordinator, 6, [1, 3], silent), Some(1));
}

#[test]
fn a_leader_that_becomes_a_voter_of_the_lease_gives_the_holder_time_to_learn_of_it() {
    let mut coordinator = leader_beside(node(9), true);
    let joint = LeaseVoters::Joint {
        old: nodes(&[1, 2, 3]),
        new: nodes(&[2, 3, 9]),
    };
    let agreed = assigned(Some(1), EPOCH.0, joint, 2);
    coordinator.handle_assignments(LogIndex(2), &agreed, ms(5_000));
    assert_eq!(coordinator.poll_timeout(), Some(ms(5_000 + 3 * R)));
    coordinator.handle_timeout(ms(5_000 + 3 * R));
    assert_eq!(told(&said(&mut coordinator), &CLOSE).len(), 4);
}

#[test]
fn a_leader_whose_own_voter_cannot_run_hears_the_holders_renewals_itself() {
    let renew = Message::Renew {
        life: crate::Life(1),
        sent: ms(3),
        renewals: vec![crate::Renewal {
            vip: VIP,
            epoch: EPOCH,
            profile: consensus_core::LeaseProfile::Lan,
        }],
    };
    for (votes, from, heard) in [(false, 1, 1100), (false, 2, 1000), (true, 1, 1000)] {
        let mut coordinator = leader_beside(node(1), votes);
        coordinator.handle_message(&node(from), &renew, ms(1100));
        assert_eq!(coordinator.poll_timeout(), Some(ms(heard + 3 * R)));
    }
}

#[test]
fn what_was_not_seen_to_be_let_go_is_given_out_after_the_longest_promise_only() {
    // As a server finds it after a recovery, when it starts and when it runs.
    let promise = consensus_core::LeaseProfile::Lan.timing().promise_us() / 1000;
    for before in [None, Some(EPOCH.0)] {
        let mut coordinator = Coordinator::new(node(1), Timings::REAL, true);
        coordinator.handle_leadership(true, ms(1));
        if let Some(before) = before {
            let agreed = assigned(Some(1), before, stable(&[1, 2, 3]), 1);
            coordinator.handle_assignments(LogIndex(1), &agreed, ms(2));
        }
        let era = assigned(None, 1 << 40, stable(&[1]), 1 << 40);
        coordinator.handle_assignments(LogIndex(1 << 40), &era, ms(5_000));
        candidates(&mut coordinator, [&[], &[], &[]], None, ms(5_001));
        coordinator.handle_timeout(ms(5_000 + promise - 1));
        assert_eq!(said(&mut coordinator), []);
        assert_eq!(coordinator.poll_timeout(), Some(ms(5_000 + promise)));
        coordinator.handle_timeout(ms(5_000 + promise));
        assert_eq!(assigned_to(&said(&mut coordinator)), [Some(node(1))]);
    }
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
fn a_leader_that_is_always_late_misses_the_dead_all_the_same() {
    let mut coordinator = leader();
    coordinator.handle_renewed(VIP, EPOCH, ms(1040));
    let stall = |coordinator: &mut Coordinator| {
        let late = later(coordinator.poll_timeout().unwrap(), 1_000_000);
        coordinator.handle_timeout(late);
        late
    };
    let late = stall(&mut coordinator);
    assert_eq!(said(&mut coordinator), []);
    // A word of the holder in between, and the next stall is not held against it either.
    coordinator.handle_renewed(VIP, EPOCH, late);
    stall(&mut coordinator);
    assert_eq!(said(&mut coordinator), []);
    stall(&mut coordinator);
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
