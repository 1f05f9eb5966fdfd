//! Whether a history of concurrent operations on one object could have happened one at a time.
//!
//! Decides by search: Wing and Gong, "Testing and Verifying Concurrent Objects" (1993), with the
//! just-in-time linearization and the memory of configurations from Lowe, "Testing for
//! Linearizability" (2017). Objects are independent, so each is checked alone (Herlihy and Wing's
//! locality).
//!
//! An operation without an answer may have taken effect at any time after its invocation, or
//! never: it is used only where an answer needs it.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt,
    hash::Hash,
};

/// Ways looked at for one answer before the search is given up. A history of ours needs dozens.
const WAYS_MAX: usize = 200_000;

/// A sequential object.
pub(crate) trait Model {
    /// Its state.
    type State: Clone + Eq + Hash;
    /// What may be asked of it.
    type Op: Clone + PartialEq + fmt::Debug;
    /// What it answers.
    type Answer: Clone + Eq + fmt::Debug;

    /// Before the first operation.
    fn initial() -> Self::State;
    /// The next state and the answer.
    fn step(state: &Self::State, op: &Self::Op) -> (Self::State, Self::Answer);
    /// Whether the operation can change anything.
    fn is_read(op: &Self::Op) -> bool;
    /// Whether the operation's effect may show in this answer, or bring this operation about.
    fn shows_in(op: &Self::Op, other: &Self::Op, answer: &Self::Answer) -> bool;
}

/// One operation, as its client saw it. Times are ticks of one clock; no two events share a tick.
#[derive(Debug, Clone)]
pub(crate) struct Operation<O, A> {
    /// Who asked.
    pub(crate) client: u32,
    /// What.
    pub(crate) op: O,
    /// When it was asked.
    pub(crate) called: u64,
    /// What was answered, and when; nothing if no answer ever came.
    pub(crate) answer: Option<(A, u64)>,
}

/// What the search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none.
    NotLinearizable,
    /// The search was given up.
    Undecided,
}

type History<M> = [Operation<<M as Model>::Op, <M as Model>::Answer>];

/// Looks for an order in which `history` could have happened.
pub(crate) fn check<M: Model>(history: &History<M>) -> Verdict {
    // Every operation that will be answered has two events, any other one.
    let mut events: Vec<(u64, usize, bool)> = Vec::new();
    for (number, operation) in history.iter().enumerate() {
        events.push((operation.called, number, false));
        let returned = operation.answer.as_ref().map(|(_, at)| (*at, number, true));
        events.extend(returned);
    }
    events.sort_unstable();
    let mut open = BTreeSet::new();
    let mut ways = vec![Way::<M> {
        state: M::initial(),
        early: BTreeSet::new(),
        used: BTreeSet::new(),
    }];
    for (_, number, returns) in events {
        if !returns {
            open.insert(number);
            continue;
        }
        match just_in_time::<M>(history, &open, ways, number) {
            None => return Verdict::Undecided,
            Some(next) if next.is_empty() => return Verdict::NotLinearizable,
            Some(next) => ways = next,
        }
        open.remove(&number);
    }
    Verdict::Linearizable
}

/// One way in which everything so far may have happened.
struct Way<M: Model> {
    state: M::State,
    /// Operations that took effect and will be answered.
    early: BTreeSet<usize>,
    /// Operations that took effect and will never be answered.
    used: BTreeSet<usize>,
}

/// The sets of unanswered operations, none a part of another, by what else a way is made of.
type Seen<M> = HashMap<(<M as Model>::State, BTreeSet<usize>), Vec<BTreeSet<usize>>>;

/// All ways to go on from `ways` in which operation `due`, which is answered now, has taken
/// effect. Of two that differ only in the unanswered operations, one that used fewer can do
/// whatever the other can. Nothing: there are too many.
fn just_in_time<M: Model>(
    history: &History<M>,
    open: &BTreeSet<usize>,
    ways: Vec<Way<M>>,
    due: usize,
) -> Option<Vec<Way<M>>> {
    let mut next = Vec::new();
    let mut seen = Seen::<M>::new();
    let mut arrived = Seen::<M>::new();
    // In the order of how many operations took effect, so that the better of two comes first.
    let mut queue: VecDeque<Way<M>> = VecDeque::new();
    for mut way in ways {
        take_what_changes_nothing::<M>(history, open, &mut way);
        if is_new::<M>(&mut seen, &way) {
            queue.push_back(way);
        }
    }
    let mut looked_at = 0;
    while let Some(mut way) = queue.pop_front() {
        looked_at += 1;
        if looked_at > WAYS_MAX {
            return None;
        }
        if way.early.remove(&due) {
            if is_new::<M>(&mut arrived, &way) {
                next.push(way);
            }
            continue;
        }
        for number in open {
            let Some(mut further) = step::<M>(history, open, &way, *number) else {
                continue;
            };
            take_what_changes_nothing::<M>(history, open, &mut further);
            if is_new::<M>(&mut seen, &further) {
                queue.push_back(further);
            }
        }
    }
    Some(next)
}

/// The way after operation `number` took effect, if it may now.
fn step<M: Model>(
    history: &History<M>,
    open: &BTreeSet<usize>,
    way: &Way<M>,
    number: usize,
) -> Option<Way<M>> {
    if way.early.contains(&number) || way.used.contains(&number) {
        return None;
    }
    let operation = &history[number];
    // Of several alike that are never answered, one is as good as another: the first is taken.
    let alike = |other: &usize| {
        let other_one = &history[*other];
        other_one.answer.is_none() && other_one.op == operation.op && !way.used.contains(other)
    };
    if operation.answer.is_none() && open.range(..number).any(alike) {
        return None;
    }
    let (state, answer) = M::step(&way.state, &operation.op);
    let (mut early, mut used) = (way.early.clone(), way.used.clone());
    match &operation.answer {
        Some((told, _)) if *told == answer => early.insert(number),
        // An effect that changes nothing is as good as none.
        None if state != way.state => used.insert(number),
        Some(_) | None => return None,
    };
    Some(Way { state, early, used })
}

/// Lets every open operation take effect whose answer fits now and that changes nothing: at no
/// later time would it be of more use.
fn take_what_changes_nothing<M: Model>(
    history: &History<M>,
    open: &BTreeSet<usize>,
    way: &mut Way<M>,
) {
    for number in open {
        if let Some((told, _)) = &history[*number].answer {
            let (state, answer) = M::step(&way.state, &history[*number].op);
            if state == way.state && answer == *told {
                way.early.insert(*number);
            }
        }
    }
}

/// Whether no way like it is known that used no more; it then is known.
fn is_new<M: Model>(seen: &mut Seen<M>, way: &Way<M>) -> bool {
    let key = (way.state.clone(), way.early.clone());
    let known = seen.entry(key).or_default();
    if known.iter().any(|used| used.is_subset(&way.used)) {
        return false;
    }
    known.push(way.used.clone());
    true
}

/// The part of a history that is not linearizable by itself: answers that are not needed for the
/// contradiction are forgotten, then operations that show in no answer left.
pub(crate) fn core_of<M: Model>(history: &History<M>) -> Vec<Operation<M::Op, M::Answer>> {
    let mut core = history.to_vec();
    core.sort_by_key(|operation| operation.called);
    let fails = |history: &History<M>| check::<M>(history) == Verdict::NotLinearizable;
    cut_after_contradiction::<M>(&mut core);
    let mut at = core.len();
    while at > 0 {
        at -= 1;
        let mut weaker = core.clone();
        if M::is_read(&core[at].op) {
            weaker.remove(at);
        } else if core[at].answer.is_some() {
            weaker[at].answer = None;
        } else {
            continue;
        }
        if fails(&weaker) {
            core = weaker;
        }
    }
    drop_unseen::<M>(&mut core);
    core
}

/// Everything after the first answer that makes the contradiction is forgotten.
fn cut_after_contradiction<M: Model>(core: &mut Vec<Operation<M::Op, M::Answer>>) {
    let mut ends: Vec<u64> = core
        .iter()
        .filter_map(|operation| operation.answer.as_ref().map(|(_, at)| *at))
        .collect();
    ends.sort_unstable();
    let upto = |end: u64| -> Vec<_> {
        let begun = core.iter().filter(|operation| operation.called <= end);
        let known = begun.cloned().map(|mut operation| {
            operation.answer = operation.answer.filter(|(_, at)| *at <= end);
            operation
        });
        known.collect()
    };
    let first = ends.partition_point(|end| check::<M>(&upto(*end)) != Verdict::NotLinearizable);
    if let Some(end) = ends.get(first) {
        *core = upto(*end);
    }
}

fn drop_unseen<M: Model>(core: &mut Vec<Operation<M::Op, M::Answer>>) {
    let all = core.clone();
    core.retain(|operation| {
        operation.answer.is_some()
            || all.iter().any(|other| {
                let shows =
                    |(answer, _): &(M::Answer, u64)| M::shows_in(&operation.op, &other.op, answer);
                other.answer.as_ref().is_some_and(shows)
            })
    });
}
