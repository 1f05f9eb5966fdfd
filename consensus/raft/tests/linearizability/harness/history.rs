//! What clients did and were told, object by object.
//!
//! Decides the order of events: by a clock that ticks once for each. Forgets operations of which
//! the product said that nothing was written: if that was a lie, a read will show it.

use std::collections::BTreeMap;

use super::{
    checker::{Operation, Verdict, check, core_of},
    judge::{Judge, Rule},
    object::{Answer, Key, Object, Op},
};

/// One operation in a history.
pub(crate) type Entry = Operation<Op, Answer>;

/// Where an operation is written down.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    key: Key,
    at: usize,
}

/// Everything that was asked and answered.
#[derive(Debug, Default)]
pub(crate) struct History {
    objects: BTreeMap<Key, Vec<Option<Entry>>>,
    ticks: u64,
    requests: u64,
    values: u64,
}

impl History {
    /// A client asks.
    pub(crate) fn called(&mut self, client: u32, key: Key, op: Op) -> Place {
        self.ticks += 1;
        let entries = self.objects.entry(key).or_default();
        entries.push(Some(Entry {
            client,
            op,
            called: self.ticks,
            answer: None,
        }));
        let at = entries.len() - 1;
        Place { key, at }
    }

    /// It is answered.
    pub(crate) fn answered(&mut self, place: Place, answer: Answer) {
        self.ticks += 1;
        let entry = self
            .objects
            .get_mut(&place.key)
            .and_then(|all| all[place.at].as_mut());
        if let Some(entry) = entry {
            entry.answer = Some((answer, self.ticks));
        }
    }

    /// It is told that nothing was done.
    pub(crate) fn void(&mut self, place: Place) {
        if let Some(all) = self.objects.get_mut(&place.key) {
            all[place.at] = None;
        }
    }

    /// A request id that nobody else has.
    pub(crate) fn request_id(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    /// A value that nobody else writes.
    pub(crate) fn value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }

    /// The objects touched so far.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.objects.keys().copied().collect()
    }

    /// Looks for an order on every object, and writes down what is missing and what there was.
    pub(crate) fn judge(&self, judge: &mut Judge) {
        for (key, entries) in &self.objects {
            let entries: Vec<Entry> = entries.iter().flatten().cloned().collect();
            let answered = entries
                .iter()
                .filter(|entry| entry.answer.is_some())
                .count();
            judge.count_by("operation checked", answered as u64);
            judge.count_by(
                "operation without an answer",
                (entries.len() - answered) as u64,
            );
            match check::<Object>(&entries) {
                Verdict::Linearizable => {}
                Verdict::Undecided => {
                    judge.violated(Rule::Decided, format!("{key:?}: the search was given up"));
                }
                Verdict::NotLinearizable => {
                    let story = format!("{key:?}\n{}", table(&core_of::<Object>(&entries)));
                    judge.violated(Rule::Linearizable, story);
                }
            }
        }
    }
}

/// A few operations, one a line, in the order in which they were called.
pub(crate) fn table(entries: &[Entry]) -> String {
    let line = |entry: &Entry| {
        let answer = entry.answer.as_ref().map_or_else(
            || "?       no answer".to_owned(),
            |(answer, at)| format!("{at:<7} {answer:?}"),
        );
        format!(
            "    client {}  {:>6} .. {answer}  <- {:?}\n",
            entry.client, entry.called, entry.op
        )
    };
    entries.iter().map(line).collect()
}
