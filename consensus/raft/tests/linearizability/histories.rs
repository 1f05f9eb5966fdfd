//! The checker against histories whose verdict is known, and against a checker too simple to be
//! wrong.

use rand::{Rng as _, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

use crate::harness::{
    checker::{Verdict, check, core_of},
    history::Entry,
    object::{Answer, Content, Object, Op, step},
};

/// An operation from `called` to `returned`.
fn done(called: u64, returned: u64, op: Op, answer: Answer) -> Entry {
    Entry {
        client: 0,
        op,
        called,
        answer: Some((answer, returned)),
    }
}

/// An operation whose answer never came.
fn open(called: u64, op: Op) -> Entry {
    Entry {
        client: 0,
        op,
        called,
        answer: None,
    }
}

fn set(called: u64, returned: u64, value: u64) -> Entry {
    done(called, returned, Op::Set(value), Answer::Written)
}

fn get(called: u64, returned: u64, value: u64) -> Entry {
    let content = Content { value, epoch: 0 };
    done(called, returned, Op::Read, Answer::Content(content))
}

fn swap(called: u64, returned: u64, expected: u64, new: u64, changed: bool) -> Entry {
    let op = Op::CompareAndSet { expected, new };
    done(called, returned, op, Answer::Changed(changed))
}

fn take(called: u64, returned: u64, by: u64, user: u64) -> Entry {
    done(called, returned, Op::Use { by }, Answer::UsedBy(user))
}

fn verdict(history: &[Entry]) -> Verdict {
    check::<Object>(history)
}

fn assert_good(history: &[Entry]) {
    assert_eq!(verdict(history), Verdict::Linearizable, "{history:#?}");
}

fn assert_bad(history: &[Entry]) {
    assert_eq!(verdict(history), Verdict::NotLinearizable, "{history:#?}");
}

#[test]
fn an_empty_history_and_one_of_open_operations_alone_are_linearizable() {
    assert_good(&[]);
    assert_good(&[open(1, Op::Set(1)), open(2, Op::Set(2))]);
}

#[test]
fn concurrent_operations_may_take_effect_in_any_order() {
    for seen in [1, 2] {
        assert_good(&[set(1, 10, 1), set(2, 9, 2), get(11, 12, seen)]);
    }
    assert_good(&[set(1, 10, 1), get(2, 3, 0), get(4, 5, 1)]);
}

#[test]
fn a_read_of_what_was_overwritten_before_it_began_is_found() {
    assert_bad(&[set(1, 2, 1), set(3, 4, 2), get(5, 6, 1)]);
}

#[test]
fn a_lost_acknowledged_write_is_found() {
    assert_bad(&[set(1, 2, 1), get(3, 4, 0)]);
}

#[test]
fn two_readers_that_see_two_writes_in_different_orders_are_found() {
    let writes = [set(1, 20, 1), set(2, 19, 2)];
    let mut history = writes.to_vec();
    history.extend([get(3, 4, 1), get(5, 6, 2), get(7, 8, 1)]);
    assert_bad(&history);
}

#[test]
fn a_value_that_nobody_wrote_is_found() {
    assert_bad(&[set(1, 2, 1), get(3, 4, 7)]);
}

#[test]
fn two_exchanges_of_the_same_value_that_both_succeed_are_found() {
    assert_bad(&[swap(1, 10, 0, 1, true), swap(2, 9, 0, 2, true)]);
    assert_good(&[swap(1, 10, 0, 1, true), swap(2, 9, 0, 2, false)]);
}

#[test]
fn an_exchange_that_fails_without_a_reason_is_found() {
    assert_bad(&[set(1, 2, 5), swap(3, 4, 5, 6, false)]);
}

#[test]
fn a_token_used_by_two_is_found() {
    assert_bad(&[take(1, 2, 1, 1), take(3, 4, 2, 2)]);
    assert_good(&[take(1, 2, 1, 1), take(3, 4, 2, 1)]);
}

#[test]
fn an_epoch_given_to_two_holders_is_found() {
    let moved = |called, returned, to, changed| {
        let op = Op::Move { to, epoch: 0 };
        done(called, returned, op, Answer::Changed(changed))
    };
    assert_bad(&[moved(1, 4, 1, true), moved(2, 3, 2, true)]);
    assert_good(&[moved(1, 4, 1, true), moved(2, 3, 2, false)]);
}

#[test]
fn a_count_that_skips_a_number_is_found() {
    let count = |called, returned, to| done(called, returned, Op::Count, Answer::Counted(to));
    assert_bad(&[count(1, 2, 1), count(3, 4, 3)]);
    assert_good(&[count(1, 2, 1), open(3, Op::Count), count(4, 5, 3)]);
}

#[test]
fn an_operation_without_an_answer_may_have_happened_late_or_never() {
    let lost = open(1, Op::Set(9));
    assert_good(&[lost.clone(), get(2, 3, 0), get(4, 5, 9)]);
    assert_good(&[lost.clone(), get(2, 3, 0), get(4, 5, 0)]);
}

#[test]
fn an_operation_without_an_answer_happens_once_at_most_and_not_before_it_is_called() {
    let lost = open(1, Op::Set(9));
    assert_bad(&[lost, get(2, 3, 9), set(4, 5, 1), get(6, 7, 1), get(8, 9, 9)]);
    assert_bad(&[get(1, 2, 9), open(3, Op::Set(9))]);
}

#[test]
fn what_is_told_of_a_contradiction_is_no_more_than_it_takes() {
    let mut history = vec![set(1, 2, 1), get(3, 4, 1), set(5, 6, 2), get(7, 8, 2)];
    history.extend([swap(9, 10, 2, 3, true), get(11, 12, 2), set(13, 14, 4)]);
    let core = core_of::<Object>(&history);
    let called: Vec<_> = core.iter().map(|entry| entry.called).collect();
    assert_eq!(called, [5, 9, 11]);
    assert_bad(&core);
}

/// A history that really happened: every operation takes effect at one moment of its span.
fn happened(random: &mut ChaCha8Rng, operations: usize, span: u64) -> Vec<Entry> {
    let mut spans: Vec<(u64, u64, u64)> = (0..operations as u64)
        .map(|n| {
            let moment = n * 10;
            let before = random.random_range(0..span);
            let after = random.random_range(0..span);
            (
                moment.saturating_sub(before) * 4 + n % 2,
                moment * 4 + 2,
                (moment + after) * 4 + 3,
            )
        })
        .collect();
    spans.sort_by_key(|(_, moment, _)| *moment);
    let mut content = Content::default();
    let mut entries = Vec::new();
    for (n, (called, _, returned)) in spans.into_iter().enumerate() {
        let op = any_op(random, n as u64 + 1, content);
        let (next, answer) = step(content, &op);
        let lost = random.random_bool(0.05);
        if !(lost && random.random_bool(0.5)) {
            content = next;
        }
        let answer = (!lost).then_some((answer, returned));
        let client = u32::try_from(n % 6).expect("a small number");
        entries.push(Entry {
            client,
            op,
            called,
            answer,
        });
    }
    entries.shuffle(random);
    entries
}

fn any_op(random: &mut ChaCha8Rng, value: u64, now: Content) -> Op {
    match random.random_range(0..6) {
        0 => Op::Set(value),
        1 => Op::CompareAndSet {
            expected: now.value,
            new: value,
        },
        2 => Op::Move {
            to: value,
            epoch: now.epoch,
        },
        3 => Op::Count,
        _ => Op::Read,
    }
}

#[test]
fn long_histories_that_really_happened_are_linearizable() {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    for _ in 0..50 {
        assert_good(&happened(&mut random, 120, 30));
    }
}

/// Tries every order of every choice of open operations.
fn simply(left: &[Entry], content: Content) -> bool {
    if left.iter().all(|entry| entry.answer.is_none()) {
        return true;
    }
    (0..left.len()).any(|first| {
        let entry = &left[first];
        let preceded = left.iter().any(|other| {
            other
                .answer
                .as_ref()
                .is_some_and(|(_, returned)| *returned < entry.called)
        });
        let (next, answer) = step(content, &entry.op);
        let fits = entry
            .answer
            .as_ref()
            .is_none_or(|(told, _)| *told == answer);
        let mut rest = left.to_vec();
        rest.remove(first);
        !preceded && fits && simply(&rest, next)
    })
}

#[test]
fn the_verdict_is_that_of_trying_every_order() {
    let mut random = ChaCha8Rng::seed_from_u64(11);
    let mut verdicts = [0; 2];
    for _ in 0..20_000 {
        let mut history = happened(&mut random, 6, 25);
        // One answer is exchanged for another's, or for any number.
        let other = history[0].answer.as_ref().map(|(answer, _)| *answer);
        if let (Some(other), Some((answer, _))) = (other, &mut history[1].answer) {
            *answer = match answer {
                Answer::Content(content) => Answer::Content(Content {
                    value: random.random_range(0..7),
                    ..*content
                }),
                Answer::Written | Answer::Changed(_) | Answer::UsedBy(_) | Answer::Counted(_) => {
                    other
                }
            };
        }
        let good = simply(&history, Content::default());
        verdicts[usize::from(good)] += 1;
        let expected = if good {
            Verdict::Linearizable
        } else {
            Verdict::NotLinearizable
        };
        assert_eq!(verdict(&history), expected, "{history:#?}");
    }
    assert!(verdicts.iter().all(|count| *count > 1_000), "{verdicts:?}");
}
