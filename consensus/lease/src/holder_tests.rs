//! Claims about holders.

use consensus_core::LeaseProfile;
use proptest::prelude::*;

use super::*;
use crate::testing::{VIP, assigned, ms, node, nodes, stable};

const LIFE: Life = Life(9);
/// L of the LAN profile.
const LEASE: u64 = LeaseProfile::Lan.timing().lease_us;
const EPOCH: Epoch = Epoch(5);

fn holder() -> Holder {
    Holder::new(node(1), LIFE, Timings::REAL, BTreeMap::new())
}

/// A holder that was assigned the VIP in epoch 5 and has sent its first renewal.
fn holding(now: Time) -> Holder {
    let mut holder = holder();
    holder.handle_assignments(LogIndex(1), &held(1, stable(&[1, 2, 3]), 1), now);
    assert_eq!(renewed_to(&mut holder), nodes(&[1, 2, 3]));
    holder
}

fn held(by: u8, voters: LeaseVoters, since: u64) -> Assignments {
    assigned(Some(by), EPOCH.0, voters, since)
}

fn joint() -> LeaseVoters {
    LeaseVoters::Joint {
        old: nodes(&[1, 2, 3]),
        new: nodes(&[3, 4, 5]),
    }
}

fn ack(holder: &mut Holder, from: u8, sent: Time, now: Time) {
    ack_in(holder, from, LIFE, EPOCH, sent, now);
}

fn ack_in(holder: &mut Holder, from: u8, life: Life, epoch: Epoch, sent: Time, now: Time) {
    let granted = vec![Granted { vip: VIP, epoch }];
    let message = Message::Ack {
        life,
        sent,
        granted,
    };
    holder.handle_message(&node(from), &message, now);
}

fn said(holder: &mut Holder) -> Vec<HolderOutput> {
    std::iter::from_fn(|| holder.poll_output()).collect()
}

fn renewed_to(holder: &mut Holder) -> BTreeSet<NodeId> {
    let renewal = |output: HolderOutput| match output {
        HolderOutput::Send {
            to,
            message: Message::Renew { .. },
        } => Some(to),
        HolderOutput::Send { .. }
        | HolderOutput::Gate(_)
        | HolderOutput::Persist { .. }
        | HolderOutput::ForgetRecord { .. }
        | HolderOutput::ProposeRelease { .. }
        | HolderOutput::ProposeStable { .. } => None,
    };
    said(holder).into_iter().filter_map(renewal).collect()
}

fn orders(outputs: &[HolderOutput]) -> Vec<u64> {
    let order = |output: &HolderOutput| match output {
        HolderOutput::Gate(order) => Some(order.lease_until_us),
        HolderOutput::Send { .. }
        | HolderOutput::Persist { .. }
        | HolderOutput::ForgetRecord { .. }
        | HolderOutput::ProposeRelease { .. }
        | HolderOutput::ProposeStable { .. } => None,
    };
    outputs.iter().filter_map(order).collect()
}

#[test]
fn a_majority_for_one_renewal_carries_the_lease_from_when_it_was_sent() {
    let start = ms(1000);
    let mut holder = holding(start);
    ack(&mut holder, 1, start, ms(1003));
    ack(&mut holder, 1, start, ms(1004));
    assert_eq!(holder.lease_until(VIP), None);
    ack(&mut holder, 3, start, ms(1090));
    let until = later(start, LEASE);
    assert_eq!(holder.lease_until(VIP), Some(until));
    assert_eq!(orders(&said(&mut holder)), [until.as_micros()]);
}

#[test]
fn acknowledgements_of_different_renewals_do_not_add_up() {
    let start = ms(1000);
    let mut holder = holding(start);
    holder.handle_timeout(ms(1040));
    ack(&mut holder, 1, start, ms(1041));
    ack(&mut holder, 2, ms(1040), ms(1042));
    assert_eq!(holder.lease_until(VIP), None);
    ack(&mut holder, 3, ms(1040), ms(1043));
    assert_eq!(holder.lease_until(VIP), Some(later(ms(1040), LEASE)));
    // The older one comes late and takes nothing away.
    ack(&mut holder, 2, start, ms(1044));
    assert_eq!(holder.lease_until(VIP), Some(later(ms(1040), LEASE)));
}

#[test]
fn an_acknowledgement_after_the_lease_would_have_ended_counts_for_nothing() {
    let start = ms(1000);
    let mut holder = holding(start);
    ack(&mut holder, 1, start, ms(1001));
    ack(&mut holder, 2, start, later(start, LEASE));
    assert_eq!(holder.lease_until(VIP), None);
    assert_eq!(orders(&said(&mut holder)), [0; 0]);
}

#[test]
fn acknowledgements_of_other_lives_epochs_nodes_and_times_count_for_nothing() {
    let start = ms(1000);
    let mut holder = holding(start);
    for from in 1..=3 {
        ack_in(&mut holder, from, Life(8), EPOCH, start, start);
        ack_in(&mut holder, from, LIFE, Epoch(4), start, start);
        ack(&mut holder, from, ms(999), start);
        ack(&mut holder, from + 3, start, start);
    }
    assert_eq!(holder.lease_until(VIP), None);
}

#[test]
fn a_holder_that_was_stopped_renews_at_once_and_waits_for_a_fresh_majority() {
    let start = ms(1000);
    let mut holder = holding(start);
    // Five seconds later the old acknowledgements are in its inbox.
    ack(&mut holder, 1, start, ms(6000));
    ack(&mut holder, 2, start, ms(6000));
    assert_eq!(holder.lease_until(VIP), None);
    holder.handle_timeout(ms(6000));
    assert_eq!(renewed_to(&mut holder).len(), 3);
    assert_eq!(holder.poll_timeout(), Some(ms(6040)));
    ack(&mut holder, 1, ms(6000), ms(6001));
    ack(&mut holder, 2, ms(6000), ms(6001));
    assert_eq!(holder.lease_until(VIP), Some(later(ms(6000), LEASE)));
}

/// Renewals go out until then, and only voter 3 acknowledges.
fn in_the_minority_until(holder: &mut Holder, from: u64, until: u64) -> Vec<HolderOutput> {
    let mut outputs = Vec::new();
    for at in (from..until).step_by(40) {
        holder.handle_timeout(ms(at));
        outputs.extend(said(holder));
        ack(holder, 3, ms(at), ms(at + 1));
    }
    outputs.extend(said(holder));
    outputs
}

#[test]
fn a_holder_without_a_majority_for_twice_the_lease_lets_go_by_itself() {
    let mut holder = holding(ms(1000));
    ack(&mut holder, 1, ms(1000), ms(1001));
    ack(&mut holder, 2, ms(1000), ms(1001));
    said(&mut holder);
    let outputs = in_the_minority_until(&mut holder, 1040, 1000 + 2 * LEASE / 1000);
    assert_eq!(orders(&outputs), [0; 0]);
    assert_eq!(holder.poll_timeout(), Some(later(ms(1000), 2 * LEASE)));
    holder.handle_timeout(later(ms(1000), 2 * LEASE));
    let record = HolderRecord {
        epoch: EPOCH,
        voters_since: LogIndex(1),
        let_go: true,
    };
    let outputs = said(&mut holder);
    assert!(outputs.contains(&HolderOutput::Persist { vip: VIP, record }));
    assert_eq!(orders(&outputs), [0; 0]);
    holder.handle_persisted(VIP, record, ms(1801));
    assert_eq!(orders(&said(&mut holder)), [0]);
    holder.handle_gate_shut(VIP, EPOCH, ms(1802));
    let (vip, epoch) = (VIP, EPOCH);
    assert_eq!(
        said(&mut holder),
        [HolderOutput::ProposeRelease { vip, epoch }]
    );
}

#[test]
fn a_holder_that_never_had_a_majority_lets_go_as_well() {
    let mut holder = holding(ms(1000));
    let outputs = in_the_minority_until(&mut holder, 1040, 1000 + 2 * LEASE / 1000 + 1);
    assert!(matches!(outputs.last(), Some(HolderOutput::Persist { record, .. }) if record.let_go));
}

#[test]
fn a_holder_that_stood_still_has_asked_nobody_and_does_not_let_go() {
    let mut holder = holding(ms(1000));
    holder.handle_timeout(ms(9000));
    assert_eq!(renewed_to(&mut holder).len(), 3);
    let outputs = in_the_minority_until(&mut holder, 9040, 9000 + 2 * LEASE / 1000);
    assert_eq!(orders(&outputs), [0; 0]);
}

#[test]
fn whoever_loses_the_vip_shuts_the_gate() {
    let mut holder = holding(ms(1000));
    holder.handle_assignments(
        LogIndex(2),
        &assigned(Some(2), 6, stable(&[1]), 2),
        ms(1001),
    );
    assert_eq!(orders(&said(&mut holder)), [0]);
    assert_eq!(holder.poll_timeout(), None);
    // A late view of before changes nothing.
    holder.handle_assignments(LogIndex(1), &held(1, stable(&[1, 2, 3]), 1), ms(1002));
    assert_eq!(said(&mut holder), []);
}

#[test]
fn a_release_is_asked_for_only_when_the_gate_is_shut_and_the_decision_durable() {
    for shut_first in [true, false] {
        let mut holder = holding(ms(1000));
        let let_go = Message::LetGo {
            vip: VIP,
            epoch: EPOCH,
        };
        holder.handle_message(&node(9), &let_go, ms(1001));
        // The gate is not touched before the disk has it: until then the lease lasts.
        let outputs = said(&mut holder);
        assert_eq!(orders(&outputs), [0; 0]);
        let record = HolderRecord {
            epoch: EPOCH,
            voters_since: LogIndex(1),
            let_go: true,
        };
        assert_eq!(outputs, [HolderOutput::Persist { vip: VIP, record }]);
        if shut_first {
            // For another reason.
            holder.handle_gate_shut(VIP, EPOCH, ms(1002));
            assert_eq!(said(&mut holder), []);
        } else {
            holder.handle_persisted(VIP, record, ms(1002));
            assert_eq!(orders(&said(&mut holder)), [0]);
        }
        holder.handle_timeout(ms(2000));
        assert_eq!(said(&mut holder), []);
        holder.handle_persisted(VIP, record, ms(2001));
        holder.handle_gate_shut(VIP, EPOCH, ms(2001));
        let (vip, epoch) = (VIP, EPOCH);
        let release = HolderOutput::ProposeRelease { vip, epoch };
        let outputs = said(&mut holder);
        assert_eq!(outputs.last(), Some(&release));
        assert!(outputs.iter().filter(|one| **one == release).count() == 1);
        // Nobody took note: it is asked for again, and nothing is renewed meanwhile.
        let again = holder.poll_timeout().unwrap();
        holder.handle_timeout(again);
        assert_eq!(said(&mut holder), [release]);
        ack(&mut holder, 1, ms(1000), ms(1100));
        ack(&mut holder, 2, ms(1000), ms(1100));
        assert_eq!(holder.lease_until(VIP), None);
    }
}

#[test]
fn a_restarted_holder_resumes_its_epoch_but_not_one_that_it_let_go() {
    let record = HolderRecord {
        epoch: EPOCH,
        voters_since: LogIndex(1),
        let_go: true,
    };
    let agreed = held(1, stable(&[1, 2, 3]), 1);
    let mut fresh = holder();
    fresh.handle_assignments(LogIndex(1), &agreed, ms(1));
    assert_eq!(renewed_to(&mut fresh).len(), 3);
    let disk = BTreeMap::from([(VIP, record)]);
    let mut gone = Holder::new(node(1), LIFE, Timings::REAL, disk);
    gone.handle_assignments(LogIndex(1), &agreed, ms(1));
    assert_eq!(orders(&said(&mut gone)), [0]);
    gone.handle_gate_shut(VIP, EPOCH, ms(2));
    let (vip, epoch) = (VIP, EPOCH);
    assert_eq!(
        said(&mut gone),
        [HolderOutput::ProposeRelease { vip, epoch }]
    );
    // It is no verdict on the next epoch.
    gone.handle_assignments(LogIndex(2), &assigned(Some(1), 6, stable(&[1]), 2), ms(3));
    assert_eq!(renewed_to(&mut gone), nodes(&[1]));
}

#[test]
fn the_joint_phase_is_reported_once_the_lease_rests_on_it_durably() {
    let start = ms(1000);
    let mut holder = holding(start);
    ack(&mut holder, 1, start, start);
    ack(&mut holder, 2, start, start);
    said(&mut holder);
    holder.handle_assignments(LogIndex(7), &held(1, joint(), 7), ms(1010));
    assert_eq!(renewed_to(&mut holder), nodes(&[1, 2, 3, 4, 5]));
    // The old set alone is not enough any more.
    ack(&mut holder, 1, ms(1010), ms(1011));
    ack(&mut holder, 2, ms(1010), ms(1011));
    assert_eq!(holder.lease_until(VIP), Some(later(start, LEASE)));
    ack(&mut holder, 4, ms(1010), ms(1012));
    ack(&mut holder, 5, ms(1010), ms(1012));
    assert_eq!(holder.lease_until(VIP), Some(later(ms(1010), LEASE)));
    let record = HolderRecord {
        epoch: EPOCH,
        voters_since: LogIndex(7),
        let_go: false,
    };
    let outputs = said(&mut holder);
    assert!(outputs.contains(&HolderOutput::Persist { vip: VIP, record }));
    assert!(!outputs.iter().any(reports));
    holder.handle_persisted(VIP, record, ms(1013));
    assert_eq!(
        said(&mut holder).iter().filter(|one| reports(one)).count(),
        5
    );
    // A later life does not go back behind it.
    let disk = BTreeMap::from([(VIP, record)]);
    let mut later_life = Holder::new(node(1), Life(10), Timings::REAL, disk);
    later_life.handle_assignments(LogIndex(1), &held(1, stable(&[1, 2, 3]), 1), ms(2000));
    assert_eq!(said(&mut later_life), []);
    later_life.handle_assignments(LogIndex(8), &held(1, stable(&[3, 4, 5]), 8), ms(2001));
    assert_eq!(renewed_to(&mut later_life), nodes(&[3, 4, 5]));
}

#[test]
fn a_joint_phase_that_whoever_coordinates_does_not_end_is_proposed_to_end_by_the_holder() {
    let start = ms(1000);
    let mut holder = holding(start);
    holder.handle_assignments(LogIndex(7), &held(1, joint(), 7), ms(1010));
    for voter in [1, 2, 4, 5] {
        ack(&mut holder, voter, ms(1010), ms(1011));
    }
    let record = HolderRecord {
        epoch: EPOCH,
        voters_since: LogIndex(7),
        let_go: false,
    };
    holder.handle_persisted(VIP, record, ms(1013));
    let end = HolderOutput::ProposeStable {
        vip: VIP,
        epoch: EPOCH,
        voters_since: LogIndex(7),
    };
    let outputs = said(&mut holder);
    assert!(outputs.iter().any(reports));
    assert!(!outputs.contains(&end), "whoever coordinates may be told");
    let again = later(ms(1013), LeaseProfile::Lan.timing().missed_us());
    for at in [again, later(again, LeaseProfile::Lan.timing().missed_us())] {
        holder.handle_timeout(at);
        let outputs = said(&mut holder);
        assert_eq!(outputs.iter().filter(|one| reports(one)).count(), 5);
        assert_eq!(outputs.iter().filter(|one| **one == end).count(), 1);
    }
    // The state shows it.
    let agreed = held(1, stable(&[3, 4, 5]), 8);
    holder.handle_assignments(LogIndex(8), &agreed, ms(1300));
    holder.handle_timeout(ms(2000));
    let outputs = said(&mut holder);
    assert!(!outputs.contains(&end) && !outputs.iter().any(reports));
}

fn reports(output: &HolderOutput) -> bool {
    matches!(
        output,
        HolderOutput::Send { message: Message::RestsOnJoint { voters_since, .. }, .. }
            if *voters_since == LogIndex(7)
    )
}

#[test]
fn virtual_ips_share_one_message_to_each_voter() {
    let mut holder = holder();
    let mut agreed = Assignments::new();
    for number in 0..(RENEWALS_PER_MESSAGE_MAX + 1) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let one = held(1, stable(&[2]), 1).remove(&VIP).unwrap();
        agreed.insert(VipId::from_bytes(bytes), one);
    }
    holder.handle_assignments(LogIndex(1), &agreed, ms(1));
    assert_eq!(said(&mut holder).len(), 2);
}

proptest! {
    #[test]
    fn a_lease_never_outlasts_a_renewal_that_a_majority_received(
        steps in proptest::collection::vec((0..8_u8, 0..80_000_u64, 0..12_u64), 1..200)
    ) {
        let mut now = ms(1000);
        let mut holder = holding(now);
        let mut sent = vec![now];
        let mut acks: BTreeMap<Time, BTreeSet<u8>> = BTreeMap::new();
        for (step, pause, back) in steps {
            // Now and then the process is stopped, or the clock jumps.
            now = later(now, if step == 7 { pause * 50 } else { pause });
            if step < 3 {
                let at = sent.len().saturating_sub(1 + usize::try_from(back).unwrap());
                acks.entry(sent[at]).or_default().insert(step + 1);
                ack(&mut holder, step + 1, sent[at], now);
            } else {
                holder.handle_timeout(now);
            }
            if said(&mut holder).iter().any(|output| matches!(output, HolderOutput::Send { .. })) {
                sent.push(now);
            }
            let carried = acks.iter().filter(|(_, by)| by.len() > 1).map(|(sent, _)| *sent).max();
            let allowed = carried.map(|sent| later(sent, LEASE));
            prop_assert!(holder.lease_until(VIP) <= allowed);
            if let Some(held) = holder.held.get(&VIP) {
                prop_assert!(held.open.len() <= Timings::REAL.renewals_open_max);
            }
        }
    }

    #[test]
    fn growing_older_in_place_is_the_same_as_time_passing(
        steps in proptest::collection::vec((0..5_u8, 0..200_000_u64), 1..60)
    ) {
        let at = ms(10_000);
        let (mut moving, mut aging) = (holding(at), holding(at));
        let (mut now, mut age) = (at, 0);
        for (step, pause) in steps {
            now = later(now, pause);
            age = (age + pause).min(at.as_micros());
            aging.age(pause);
            aging.settle(at);
            let old = Time::from_micros(at.as_micros() - age);
            for (holder, now, sent) in [(&mut moving, now, at), (&mut aging, at, old)] {
                match step {
                    0..3 => ack(holder, step + 1, sent, now),
                    3 => holder.handle_timeout(now),
                    _ => holder.handle_gate_shut(VIP, EPOCH, now),
                }
            }
            let spoken = |outputs: Vec<HolderOutput>| outputs.len();
            prop_assert_eq!(spoken(said(&mut moving)), spoken(said(&mut aging)));
            let left = |until: Option<Time>, now: Time| {
                until.map(|until| until.since(now)).filter(|left| !left.is_zero())
            };
            prop_assert_eq!(left(moving.lease_until(VIP), now), left(aging.lease_until(VIP), at));
        }
    }
}
