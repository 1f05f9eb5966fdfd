//! A run as a story.
//!
//! Decides: which of thousands of changes are worth a line: the first doubt of a node, the first
//! and the last who held it dead, and when nobody doubted it any more.

use std::collections::BTreeMap;

use consensus_core::Time;
use overlay_core::membership::Condition;
use serde::Serialize;

use crate::{World, fault::Fault};

/// Lines of one story; a mesh in a storm has more to tell than anybody reads.
const LINES_MAX: usize = 250;
/// Nodes named in one line.
const NAMED_MAX: usize = 6;

/// What kind of thing happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// A fault began or was over.
    Fault,
    /// A process ended or started.
    Process,
    /// Somebody is suspected.
    Suspicion,
    /// Somebody is held dead.
    Death,
    /// Nobody doubts it any more; or a group of servers writes again.
    Trust,
    /// A server was elected.
    Leader,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// When, from the beginning of the run.
    pub at_ms: u64,
    /// What kind of thing.
    pub happening: Happening,
    /// In words.
    pub what: String,
}

/// Something of the history, in order.
enum Entry {
    Fault { fault: usize, over: bool },
    Ended { node: usize, left: bool },
    Started { node: usize },
    Doubt(usize, usize, Condition),
}

/// How a node stands with the others.
#[derive(Default)]
struct Standing {
    suspects: usize,
    deaths: usize,
    known_to_all: bool,
}

#[derive(Default)]
struct Story {
    doubts: BTreeMap<(usize, usize), Condition>,
    standings: BTreeMap<usize, Standing>,
    down: usize,
    lines: Vec<Line>,
    untold: u64,
}

/// Tells what happened in a world.
pub(crate) fn tell(world: &World) -> Vec<Line> {
    let history = world.history();
    let mut entries: Vec<(Time, usize, Entry)> = Vec::new();
    for moment in history.moments() {
        let (fault, over) = (moment.fault, moment.over);
        entries.push((moment.at, 0, Entry::Fault { fault, over }));
    }
    for end in history.ends() {
        let (node, left) = (end.node, end.left);
        entries.push((end.at, 1, Entry::Ended { node, left }));
        if let Some(until) = end.until {
            entries.push((until, 2, Entry::Started { node }));
        }
    }
    for change in history.changes() {
        let doubt = Entry::Doubt(change.observer, change.subject, change.condition);
        entries.push((change.at, 3, doubt));
    }
    // Stable: what happened at the same microsecond stays in its order.
    entries.sort_by_key(|(at, kind, _)| (*at, *kind));
    let mut story = Story::default();
    for (at, _, entry) in entries {
        story.take(world, at, &entry);
    }
    if story.untold > 0 {
        let what = format!("and {} lines more", story.untold);
        let at_ms = world.now().as_micros() / 1000;
        let happening = Happening::Fault;
        story.lines.push(Line {
            at_ms,
            happening,
            what,
        });
    }
    story.lines
}

impl Story {
    fn line(&mut self, at: Time, happening: Happening, what: String) {
        if self.lines.len() >= LINES_MAX {
            self.untold += 1;
            return;
        }
        self.lines.push(Line {
            at_ms: at.as_micros() / 1000,
            happening,
            what,
        });
    }

    fn take(&mut self, world: &World, at: Time, entry: &Entry) {
        match entry {
            Entry::Fault { fault, over } => {
                let struck = &world.struck()[*fault];
                let what = if *over {
                    format!("{} is over", struck.fault().what.kind())
                } else {
                    begins(struck.fault(), struck.targets(), struck.others())
                };
                self.line(at, Happening::Fault, what);
            }
            Entry::Ended { node, left } => {
                self.down += 1;
                self.forget(*node);
                let how = if *left { "says goodbye" } else { "is down" };
                self.line(at, Happening::Process, format!("node {node} {how}"));
            }
            Entry::Started { node } => {
                self.down -= 1;
                self.forget(*node);
                let what = format!("node {node} starts again");
                self.line(at, Happening::Process, what);
            }
            Entry::Doubt(observer, subject, condition) => {
                self.doubt(world, at, (*observer, *subject), *condition);
            }
        }
    }

    /// A process that ends takes its doubts with it.
    fn forget(&mut self, observer: usize) {
        let mine = self.doubts.range((observer, 0)..=(observer, usize::MAX));
        let mine: Vec<_> = mine.map(|(pair, doubt)| (*pair, *doubt)).collect();
        for (pair, doubt) in mine {
            self.doubts.remove(&pair);
            self.standings.entry(pair.1).or_default().change(doubt, -1);
        }
    }

    fn doubt(&mut self, world: &World, at: Time, pair: (usize, usize), condition: Condition) {
        let (observer, subject) = pair;
        let others = world.len() - self.down - usize::from(self.is_up(world, subject, at));
        let standing = self.standings.entry(subject).or_default();
        if let Some(before) = self.doubts.remove(&pair) {
            standing.change(before, -1);
        }
        if condition >= Condition::Suspect {
            self.doubts.insert(pair, condition);
            standing.change(condition, 1);
        }
        let (suspects, deaths) = (standing.suspects, standing.deaths);
        let told = match condition {
            Condition::Suspect if suspects == 1 && deaths == 0 => Some((
                Happening::Suspicion,
                format!("node {subject} is suspected, first by node {observer}"),
            )),
            Condition::Dead if deaths == 1 => Some((
                Happening::Death,
                format!("node {subject} is held dead, first by node {observer}"),
            )),
            Condition::Dead if deaths == others && !standing.known_to_all => {
                standing.known_to_all = true;
                let what = format!("node {subject} is held dead by all {deaths} others");
                Some((Happening::Death, what))
            }
            Condition::Unknown | Condition::Alive if suspects + deaths == 0 => {
                let what = format!("nobody doubts node {subject} any more");
                Some((Happening::Trust, what))
            }
            Condition::Unknown | Condition::Alive | Condition::Suspect | Condition::Dead => None,
        };
        if condition < Condition::Suspect {
            standing.known_to_all = false;
        }
        if let Some((happening, what)) = told {
            self.line(at, happening, what);
        }
    }

    fn is_up(&self, world: &World, node: usize, at: Time) -> bool {
        let mut ends = world.history().ends().iter();
        !ends
            .any(|end| end.node == node && end.at <= at && end.until.is_none_or(|until| at < until))
    }
}

impl Standing {
    fn change(&mut self, condition: Condition, by: isize) {
        let count = match condition {
            Condition::Suspect => &mut self.suspects,
            Condition::Dead => &mut self.deaths,
            Condition::Unknown | Condition::Alive => return,
        };
        *count = count.saturating_add_signed(by);
    }
}

fn begins(fault: &Fault, targets: &[usize], others: &[usize]) -> String {
    let kind = fault.what.kind();
    let lasts = fault.lasts.map_or_else(String::new, |lasts| {
        format!(" for {} s", lasts.as_secs_f64())
    });
    match (targets, others) {
        ([], _) => format!("{kind} begins{lasts}"),
        (_, []) => format!("{kind} of {} begins{lasts}", named(targets)),
        (_, _) => {
            let (from, to) = (named(targets), named(others));
            format!("{kind} between {from} and {to} begins{lasts}")
        }
    }
}

fn named(nodes: &[usize]) -> String {
    let shown: Vec<_> = nodes.iter().take(NAMED_MAX).map(usize::to_string).collect();
    let shown = shown.join(", ");
    let noun = if nodes.len() == 1 { "node" } else { "nodes" };
    match nodes.len().saturating_sub(NAMED_MAX) {
        0 => format!("{noun} {shown}"),
        more => format!("{noun} {shown} and {more} more"),
    }
}
