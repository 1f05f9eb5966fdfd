//! How faults are carried out.
//!
//! Decides: which nodes a fault meets in this run, when its steps follow, and what counts as having
//! hit something. Invariant: when a scenario's last fault is over, every link that faults marked is
//! as before and whoever was to come back has been started.

use std::time::Duration;

use rand::Rng;

use crate::{
    fault::{Disk, Fault, Nodes, What, share},
    network::Effect,
    random::{Span, as_micros},
    world::{Event, World},
};

/// How often a liar lies.
const FORGE_PERIOD: Duration = Duration::from_millis(500);

/// A part of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Begin,
    /// The next of several like it.
    Turn,
    /// This node starts again.
    Restart(usize),
    End,
}

/// A fault and what it did in this run.
#[derive(Debug)]
pub struct Struck {
    fault: Fault,
    targets: Vec<usize>,
    others: Vec<usize>,
    marks: Vec<usize>,
    turn: usize,
    hits: u64,
    ends_us: u64,
}

impl Struck {
    pub(crate) const fn new(fault: Fault) -> Self {
        Self {
            fault,
            targets: Vec::new(),
            others: Vec::new(),
            marks: Vec::new(),
            turn: 0,
            hits: 0,
            ends_us: 0,
        }
    }

    /// What it is.
    pub const fn fault(&self) -> &Fault {
        &self.fault
    }

    /// How often it did what it was meant to do; see [`What::evidence`].
    pub const fn hits(&self) -> u64 {
        self.hits
    }

    /// The nodes that it met.
    pub fn targets(&self) -> &[usize] {
        &self.targets
    }

    /// The nodes at the other ends of the links that it met.
    pub fn others(&self) -> &[usize] {
        &self.others
    }
}

impl World {
    pub(crate) fn strike(&mut self, fault: usize, step: Step) {
        let what = self.struck[fault].fault.what.clone();
        let code = match step {
            Step::Begin => 0,
            Step::Turn => 1,
            Step::Restart(node) => 3 + node as u64,
            Step::End => 2,
        };
        self.trace.note(self.now_us, b'F', fault, 0, code);
        match step {
            Step::Begin => self.begin(fault, &what),
            Step::Turn => self.turn(fault, &what),
            Step::Restart(node) => self.restart(node),
            Step::End => self.end(fault, &what),
        }
    }

    fn begin(&mut self, fault: usize, what: &What) {
        if let Some(nodes) = what.nodes() {
            self.struck[fault].targets = self.pick(nodes, &[]);
        }
        if let Some((from, to)) = what.sides() {
            let from = self.pick(from, &[]);
            self.struck[fault].others = self.pick(to, &from);
            self.struck[fault].targets = from;
        }
        if let Some(lasts) = self.struck[fault].fault.lasts {
            self.struck[fault].ends_us = self.now_us + as_micros(lasts);
            self.follow(fault, Step::End, lasts);
        }
        self.history.began(self.now_us, fault);
        let targets = self.struck[fault].targets.clone();
        match what {
            What::Crash { disk, .. } => self.end_each(fault, &targets, |w, n| w.crash(n, *disk)),
            What::Kill { disk, .. } => self.end_each(fault, &targets, |w, n| w.kill(n, *disk)),
            What::Leave { .. } => self.end_each(fault, &targets, Self::leave),
            What::Stall { .. } => {
                let span = self.struck[fault].fault.lasts.unwrap_or_default();
                for node in targets {
                    self.stall(node, span, fault);
                }
            }
            What::SlowDisk { .. }
            | What::Churn { .. }
            | What::RollingRestart { .. }
            | What::Forge { .. } => {
                self.turn(fault, what);
            }
            What::CutOneWay { .. }
            | What::Cut { .. }
            | What::Flap { .. }
            | What::Loss { .. }
            | What::Delay { .. } => self.mark(fault, what),
            What::Storm { count } => {
                let lasts = self.struck[fault].fault.lasts.unwrap_or_default();
                for _ in 0..*count {
                    let wait = Span::micros(0, as_micros(lasts)).draw(&mut self.rng);
                    self.follow(fault, Step::Turn, wait);
                }
            }
        }
        if let What::Flap { down, .. } = what {
            self.follow(fault, Step::Turn, *down);
        }
    }

    fn turn(&mut self, fault: usize, what: &What) {
        let struck = &mut self.struck[fault];
        let (turn, targets) = (struck.turn, struck.targets.clone());
        let over = struck.fault.lasts.is_some() && self.now_us >= struck.ends_us;
        struck.turn += 1;
        if over {
            return;
        }
        match what {
            What::SlowDisk { sync, every, .. } => {
                for node in targets {
                    let wait = sync.draw(&mut self.rng);
                    self.stall(node, wait, fault);
                }
                self.follow(fault, Step::Turn, *every);
            }
            What::RollingRestart {
                down, every, disk, ..
            } => {
                let Some(node) = targets.get(turn) else {
                    return;
                };
                self.end_each(fault, &[*node], |w, n| w.kill(n, *disk));
                self.follow(fault, Step::Restart(*node), *down);
                self.follow(fault, Step::Turn, *every);
            }
            What::Churn {
                every, down, disk, ..
            } => {
                let up: Vec<_> = targets
                    .into_iter()
                    .filter(|n| self.is_running(*n))
                    .collect();
                if !up.is_empty() {
                    let node = up[self.rng.random_range(0..up.len())];
                    self.end_each(fault, &[node], |w, n| w.crash(n, *disk));
                    let wait = down.draw(&mut self.rng);
                    self.follow(fault, Step::Restart(node), wait);
                }
                let wait = every.draw(&mut self.rng);
                self.follow(fault, Step::Turn, wait);
            }
            What::Flap { up, down, .. } => {
                let wait = if turn.is_multiple_of(2) {
                    self.unmark(fault);
                    *up
                } else {
                    self.mark(fault, what);
                    *down
                };
                self.follow(fault, Step::Turn, wait);
            }
            What::Forge { .. } => {
                let victims = self.struck[fault].others.clone();
                for liar in targets {
                    self.struck[fault].hits += self.forge(liar, &victims);
                }
                self.follow(fault, Step::Turn, FORGE_PERIOD);
            }
            What::Storm { .. } => self.storm(fault),
            What::Crash { .. }
            | What::Kill { .. }
            | What::Leave { .. }
            | What::Stall { .. }
            | What::CutOneWay { .. }
            | What::Cut { .. }
            | What::Loss { .. }
            | What::Delay { .. } => {}
        }
    }

    fn end(&mut self, fault: usize, what: &What) {
        self.unmark(fault);
        let everybody = matches!(what, What::Storm { .. });
        let targets = if everybody {
            (0..self.len()).collect()
        } else {
            self.struck[fault].targets.clone()
        };
        if what.nodes().is_some() || everybody {
            for node in targets {
                self.restart(node);
            }
        }
        self.history.over(self.now_us, fault);
    }

    fn follow(&mut self, fault: usize, step: Step, wait: Duration) {
        self.schedule(wait, Event::Fault { fault, step });
    }

    fn mark(&mut self, fault: usize, what: &What) {
        let struck = &self.struck[fault];
        let (from, to) = (struck.targets.clone(), struck.others.clone());
        let (effect, both_ways) = match what {
            What::CutOneWay { .. } => (Effect::Cut, false),
            What::Cut { .. } | What::Flap { .. } => (Effect::Cut, true),
            What::Loss { ppm, .. } => (Effect::Loss(*ppm), from != to),
            What::Delay { by, .. } => (Effect::Delay(*by), from != to),
            What::Crash { .. }
            | What::Kill { .. }
            | What::Leave { .. }
            | What::Stall { .. }
            | What::SlowDisk { .. }
            | What::RollingRestart { .. }
            | What::Churn { .. }
            | What::Forge { .. }
            | What::Storm { .. } => return,
        };
        self.put(fault, &from, &to, effect);
        if both_ways {
            self.put(fault, &to, &from, effect);
        }
    }

    fn put(&mut self, fault: usize, from: &[usize], to: &[usize], effect: Effect) {
        let place = self.network.mark(from, to, effect, fault, self.now_us);
        self.struck[fault].marks.extend(place);
    }

    fn unmark(&mut self, fault: usize) {
        for place in std::mem::take(&mut self.struck[fault].marks) {
            if let Some((fault, hits)) = self.network.unmark(place, self.now_us) {
                self.struck[fault].hits += hits;
            }
        }
    }

    fn end_each(&mut self, fault: usize, nodes: &[usize], end: impl Fn(&mut Self, usize)) {
        for node in nodes {
            if self.is_running(*node) {
                end(self, *node);
                self.struck[fault].hits += 1;
            }
        }
    }

    fn crash(&mut self, node: usize, disk: Disk) {
        self.stop(node, false);
        self.keep(node, disk);
    }

    fn kill(&mut self, node: usize, disk: Disk) {
        self.stop(node, false);
        self.close_all(node);
        self.keep(node, disk);
    }

    fn keep(&mut self, node: usize, disk: Disk) {
        if disk == Disk::Lost {
            self.nodes[node].generation = None;
        }
    }

    fn leave(&mut self, node: usize) {
        let local = self.nodes[node].clock.at(self.now_us);
        self.nodes[node].core.handle_leave(local);
        self.drain(node);
        self.stop(node, true);
        self.close_all(node);
    }

    fn restart(&mut self, node: usize) {
        if !self.is_running(node) {
            self.start(node);
        }
    }

    fn stall(&mut self, node: usize, span: Duration, fault: usize) {
        if !self.is_running(node) {
            return;
        }
        let until = self.now_us + as_micros(span);
        let before = self.nodes[node].stalled.map_or(0, |(until, _)| until);
        self.nodes[node].stalled = Some((until.max(before), fault));
        self.schedule(span, Event::Resume { node });
    }

    /// Something had to wait for a process that stands still.
    pub(crate) fn count_wait(&mut self, node: usize) {
        if let Some((_, fault)) = self.nodes[node].stalled {
            self.struck[fault].hits += 1;
        }
    }

    /// One disturbance of a storm.
    fn storm(&mut self, fault: usize) {
        let node = self.rng.random_range(0..self.len());
        let running = self.is_running(node);
        match self.rng.random_range(0..9) {
            0 if running => self.crash(node, Disk::Kept),
            1 if running => self.kill(node, Disk::Kept),
            2 if running => self.crash(node, Disk::Lost),
            0..=3 => self.restart(node),
            4 => {
                let span = Span::micros(100_000, 8_000_000).draw(&mut self.rng);
                self.stall(node, span, fault);
            }
            5 | 6 => {
                let (from, to) = (self.toss(), self.toss());
                self.put(fault, &from, &to, Effect::Cut);
                if self.rng.random_bool(0.5) {
                    self.put(fault, &to, &from, Effect::Cut);
                }
            }
            7 => self.unmark(fault),
            _ => {
                let all: Vec<_> = (0..self.len()).collect();
                let ppm = self.rng.random_range(0..200_000);
                self.put(fault, &all, &all, Effect::Loss(ppm));
            }
        }
        self.struck[fault].hits += 1;
    }

    /// Two nodes in five, whichever.
    fn toss(&mut self) -> Vec<usize> {
        let rng = &mut self.rng;
        (0..self.nodes.len())
            .filter(|_| rng.random_bool(0.4))
            .collect()
    }

    /// The nodes that are meant, by rising index. `other` is the fault's other side.
    fn pick(&mut self, nodes: &Nodes, other: &[usize]) -> Vec<usize> {
        let all = 0..self.len();
        let free = |node: &usize| !other.contains(node);
        match nodes {
            Nodes::Index(nodes) => nodes.clone(),
            Nodes::Half => all.filter(|node| node.is_multiple_of(2)).collect(),
            Nodes::Others => {
                let mut is_free = vec![true; self.len()];
                for node in other {
                    is_free[*node] = false;
                }
                all.filter(|node| is_free[*node]).collect()
            }
            Nodes::Region(name) => {
                let place = self.regions.iter().position(|region| region == name);
                all.filter(|node| Some(self.network.region_of(*node)) == place)
                    .collect()
            }
            Nodes::Count(count) => self.draw(*count, all.filter(free).collect()),
            Nodes::Percent(percent) => {
                let count = share(self.len(), *percent);
                self.draw(count, all.filter(free).collect())
            }
            Nodes::Peers(count) => {
                let peers = other.first().map(|node| &self.nodes[*node].connections);
                let peers = peers.into_iter().flatten().map(|one| one.peer());
                let peers = peers.filter(|peer| free(peer) && self.is_running(*peer));
                self.draw(*count, peers.collect())
            }
            Nodes::Strangers(count) => {
                let first = other.first().copied().unwrap_or(0);
                let strange =
                    |node: &usize| *node != first && self.connection(first, *node).is_none();
                let strangers = all.filter(free).filter(strange).collect();
                self.draw(*count, strangers)
            }
        }
    }

    /// So many out of these; the running ones first, because a fault is to hit something.
    fn draw(&mut self, count: usize, mut from: Vec<usize>) -> Vec<usize> {
        let count = count.min(from.len());
        // Fisher and Yates, written out: the crate's own may change between versions.
        for at in 0..from.len().saturating_sub(1) {
            let other = self.rng.random_range(at..from.len());
            from.swap(at, other);
        }
        from.sort_by_key(|node| !self.is_running(*node));
        from.truncate(count);
        from.sort_unstable();
        from
    }
}
