//! Claims about voters.

use consensus_core::LeaseProfile;
use proptest::prelude::*;

use super::*;
use crate::testing::{VIP, assigned, ms, node, nodes, stable};

/// L(1+rho) of the LAN profile.
const PROMISE: u64 = LeaseProfile::Lan.timing().promise_us();

/// A voter out of quarantine that knows holder 1 in epoch 5; it is 10 s after its start.
fn voter() -> Voter {
    let mut voter = Voter::new(node(2), Timings::REAL, BTreeMap::new(), Time::ZERO);
    voter.handle_assignments(LogIndex(1), &held_in(5), ms(10_000));
    voter
}

fn held_in(epoch: u64) -> Assignments {
    assigned(Some(1), epoch, stable(&[1, 2, 3]), 1)
}

fn renewal(epoch: u64) -> Message {
    Message::Renew {
        life: Life(9),
        sent: ms(77),
        renewals: vec![Renewal {
            vip: VIP,
            epoch: Epoch(epoch),
            profile: LeaseProfile::Lan,
        }],
    }
}

const fn close(epoch: u64) -> Message {
    Message::Close {
        vip: VIP,
        epoch: Epoch(epoch),
    }
}

fn said(voter: &mut Voter) -> Vec<VoterOutput> {
    std::iter::from_fn(|| voter.poll_output()).collect()
}

fn acked(voter: &mut Voter, from: u8, epoch: u64, now: Time) -> bool {
    voter.handle_message(&node(from), &renewal(epoch), now);
    said(voter).iter().any(|output| {
        matches!(output, VoterOutput::Send { to, message: Message::Ack { .. } } if *to == node(from))
    })
}

fn answered(outputs: &[VoterOutput]) -> usize {
    let closed = |output: &&VoterOutput| {
        matches!(
            output,
            VoterOutput::Send {
                message: Message::Closed { .. },
                ..
            }
        )
    };
    outputs.iter().filter(closed).count()
}

#[test]
fn only_the_holder_and_the_epoch_of_the_applied_state_are_acknowledged() {
    let mut voter = voter();
    let now = ms(10_000);
    assert!(acked(&mut voter, 1, 5, now));
    assert!(!acked(&mut voter, 2, 5, now));
    assert!(!acked(&mut voter, 1, 4, now));
    assert!(!acked(&mut voter, 1, 6, now));
    voter.handle_assignments(LogIndex(2), &Assignments::new(), now);
    assert!(!acked(&mut voter, 1, 5, now));
}

#[test]
fn whoever_is_not_among_the_epochs_voters_neither_promises_nor_closes() {
    let mut voter = Voter::new(node(9), Timings::REAL, BTreeMap::new(), Time::ZERO);
    let now = ms(10_000);
    voter.handle_assignments(LogIndex(1), &held_in(5), now);
    assert!(!acked(&mut voter, 1, 5, now));
    voter.handle_message(&node(2), &close(5), now);
    assert_eq!(said(&mut voter), []);
    assert!(!voter.is_closed(VIP, Epoch(5)));
    let joint = consensus_core::LeaseVoters::Joint {
        old: nodes(&[1, 2, 3]),
        new: nodes(&[2, 3, 9]),
    };
    voter.handle_assignments(LogIndex(2), &assigned(Some(1), 5, joint, 2), now);
    assert!(acked(&mut voter, 1, 5, now));
}

#[test]
fn a_renewal_that_comes_before_its_epoch_waits_for_it_until_the_next_is_sent() {
    let (start, end) = (ms(10_000), ms(10_040));
    for (learned, answered) in [(ms(10_039), true), (end, false)] {
        let mut voter = voter();
        assert!(!acked(&mut voter, 1, 6, start));
        voter.handle_assignments(LogIndex(2), &held_in(6), learned);
        let acks = said(&mut voter).into_iter().filter(|output| {
            matches!(output, VoterOutput::Send { to, message: Message::Ack { sent, .. } }
                if *to == node(1) && *sent == ms(77))
        });
        assert_eq!(acks.count(), usize::from(answered));
        // It promises from when it answers, not from when the renewal came.
        let promised = if answered {
            later(learned, PROMISE)
        } else {
            Time::ZERO
        };
        assert_eq!(voter.free_from(VIP), promised);
    }
}

#[test]
fn a_renewal_that_waits_is_acknowledged_to_its_epochs_holder_only_and_unless_closed() {
    let mut voter = voter();
    let now = ms(10_000);
    assert!(!acked(&mut voter, 3, 6, now));
    voter.handle_assignments(LogIndex(2), &held_in(6), ms(10_001));
    assert_eq!(said(&mut voter), []);
    let mut closed = Voter::new(
        node(2),
        Timings::REAL,
        BTreeMap::from([(VIP, Epoch(6))]),
        Time::ZERO,
    );
    closed.handle_assignments(LogIndex(1), &held_in(5), now);
    assert!(!acked(&mut closed, 1, 6, now));
    closed.handle_assignments(LogIndex(2), &held_in(6), ms(10_001));
    assert_eq!(said(&mut closed), []);
}

#[test]
fn an_older_view_of_the_state_is_ignored() {
    let mut voter = voter();
    voter.handle_assignments(LogIndex(9), &held_in(6), ms(10_000));
    voter.handle_assignments(LogIndex(8), &held_in(5), ms(10_000));
    assert!(!acked(&mut voter, 1, 5, ms(10_000)));
    assert!(acked(&mut voter, 1, 6, ms(10_000)));
}

#[test]
fn a_close_stops_acknowledgements_at_once_and_is_answered_when_durable_and_free() {
    let mut voter = voter();
    let start = ms(10_000);
    assert!(acked(&mut voter, 1, 5, start));
    let free = later(start, PROMISE);
    voter.handle_message(&node(9), &close(5), ms(10_001));
    assert!(!acked(&mut voter, 1, 5, ms(10_002)));
    // Asked for a second time, written a second time, but answered once.
    voter.handle_message(&node(9), &close(5), ms(10_003));
    let through = Epoch(5);
    let write = VoterOutput::PersistClosure { vip: VIP, through };
    assert_eq!(said(&mut voter), [write]);
    assert_eq!(voter.poll_timeout(), None);
    voter.handle_persisted(VIP, through, ms(10_010));
    assert_eq!(voter.poll_timeout(), Some(free));
    voter.handle_timeout(Time::from_micros(free.as_micros() - 1));
    assert_eq!(said(&mut voter), []);
    voter.handle_timeout(free);
    assert_eq!(answered(&said(&mut voter)), 1);
    // The answer was lost: asked again it is given at once, without writing anything.
    voter.handle_message(&node(9), &close(5), free);
    let outputs = said(&mut voter);
    assert_eq!((answered(&outputs), outputs.len()), (1, 1));
}

#[test]
fn a_closure_that_does_not_reach_the_disk_is_never_answered() {
    let mut voter = voter();
    voter.handle_message(&node(9), &close(5), ms(10_000));
    voter.handle_timeout(ms(1_000_000));
    assert_eq!(answered(&said(&mut voter)), 0);
    assert!(!acked(&mut voter, 1, 5, ms(1_000_000)));
}

#[test]
fn a_restarted_voter_keeps_its_closures_and_answers_nothing_in_quarantine() {
    let start = ms(20_000);
    let disk = BTreeMap::from([(VIP, Epoch(5))]);
    let mut voter = Voter::new(node(2), Timings::REAL, disk, start);
    voter.handle_assignments(LogIndex(1), &held_in(5), start);
    assert!(!acked(&mut voter, 1, 5, start));
    voter.handle_message(&node(9), &close(5), start);
    let end = later(start, PROMISE);
    assert_eq!(voter.poll_timeout(), Some(end));
    voter.handle_timeout(Time::from_micros(end.as_micros() - 1));
    assert_eq!(said(&mut voter), []);
    voter.handle_timeout(end);
    assert_eq!(answered(&said(&mut voter)), 1);
    // The next epoch was acknowledged from the first moment on.
    voter.handle_assignments(LogIndex(2), &held_in(6), end);
    assert!(acked(&mut voter, 1, 6, end));
}

#[test]
fn a_quarantine_is_as_long_as_a_promise_of_the_virtual_ips_own_profile() {
    let start = ms(20_000);
    for profile in LeaseProfile::ALL {
        let mut agreed = held_in(5);
        agreed.values_mut().for_each(|one| one.profile = profile);
        let mut voter = Voter::new(node(2), Timings::REAL, BTreeMap::new(), start);
        voter.handle_assignments(LogIndex(1), &agreed, start);
        let end = later(start, profile.timing().promise_us());
        assert_eq!(voter.free_from(VIP), end, "{profile}");
    }
}

#[test]
fn a_state_that_fell_behind_does_not_reopen_a_closed_epoch() {
    let disk = BTreeMap::from([(VIP, Epoch(6))]);
    let mut voter = Voter::new(node(2), Timings::REAL, disk, Time::ZERO);
    voter.handle_assignments(LogIndex(1), &held_in(5), ms(1));
    assert!(!acked(&mut voter, 1, 5, ms(1)));
}

#[test]
fn what_the_applied_state_does_not_know_is_not_closed() {
    let mut voter = voter();
    voter.handle_message(&node(9), &close(6), ms(10_000));
    let stranger = Message::Close {
        vip: VipId::from_bytes([8; 16]),
        epoch: Epoch(1),
    };
    voter.handle_message(&node(9), &stranger, ms(10_000));
    assert_eq!(said(&mut voter), []);
}

#[test]
fn a_voter_that_stood_still_has_kept_its_promises() {
    let mut voter = voter();
    assert!(acked(&mut voter, 1, 5, ms(10_000)));
    // Stopped for five seconds with a close in its inbox: the promise ran out meanwhile.
    voter.handle_message(&node(9), &close(5), ms(15_000));
    voter.handle_persisted(VIP, Epoch(5), ms(15_001));
    assert_eq!(answered(&said(&mut voter)), 1);
}

#[test]
fn closures_of_deleted_virtual_ips_are_bounded() {
    let closed = (0..2000_u32).map(|number| {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        (VipId::from_bytes(bytes), Epoch(1))
    });
    let mut voter = Voter::new(node(2), Timings::REAL, closed.collect(), Time::ZERO);
    voter.handle_assignments(LogIndex(1), &held_in(1), Time::ZERO);
    let forgotten = said(&mut voter).len();
    assert_eq!(forgotten, 2000 - CLOSURES_OF_GONE_KEPT);
}

proptest! {
    #[test]
    fn no_close_is_answered_inside_a_promise_nor_is_anything_promised_after_it(
        steps in proptest::collection::vec((0..5_u8, 0..300_000_u64), 1..200)
    ) {
        let mut voter = voter();
        let mut now = ms(10_000);
        let (mut bound_until, mut closed, mut writing) = (Time::ZERO, false, false);
        for (step, pause) in steps {
            now = later(now, pause);
            match step {
                0 | 1 => {
                    if acked(&mut voter, 1, 5, now) {
                        prop_assert!(!closed);
                        bound_until = later(now, PROMISE);
                    }
                    continue;
                }
                2 => {
                    voter.handle_message(&node(9), &close(5), now);
                    (closed, writing) = (true, true);
                }
                3 if writing => voter.handle_persisted(VIP, Epoch(5), now),
                _ => voter.handle_timeout(now),
            }
            if answered(&said(&mut voter)) > 0 {
                prop_assert!(closed && bound_until <= now);
            }
        }
    }

    #[test]
    fn growing_older_in_place_is_the_same_as_time_passing(
        steps in proptest::collection::vec((0..3_u8, 0..500_000_u64), 1..60)
    ) {
        let at = ms(10_000);
        let (mut moving, mut aging) = (voter(), voter());
        let mut now = at;
        for (step, pause) in steps {
            now = later(now, pause);
            aging.age(pause);
            for (voter, now) in [(&mut moving, now), (&mut aging, at)] {
                match step {
                    0 => voter.handle_message(&node(1), &renewal(5), now),
                    1 => voter.handle_message(&node(9), &close(5), now),
                    _ => voter.handle_persisted(VIP, Epoch(5), now),
                }
                voter.handle_timeout(now);
            }
            prop_assert_eq!(said(&mut moving), said(&mut aging));
        }
    }
}
