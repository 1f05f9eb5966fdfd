//! A mesh of detectors of one kind, and what they came to believe.
//!
//! Decides: the order of events. Both kinds of detector see the same faults at the same times over
//! the same links; neither is told of a connection's end.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::network::{Blow, Course, Network};

/// What a detector wants done.
pub(crate) enum Deed<L, A> {
    Send(usize, L),
    /// Wants its alarm back after so many microseconds.
    Wake(u64, A),
    /// Came to believe that the node is dead, or not dead any more.
    Believe(usize, bool),
}

/// A failure detector in one process.
pub(crate) trait Detector: Sized {
    type Letter: Clone;
    type Alarm: Clone;

    /// The process starts; it has been told who the members are, or whom to ask.
    fn start(place: Place, now_us: u64) -> (Self, Deeds<Self>);
    fn hear(&mut self, from: usize, letter: Self::Letter, now_us: u64) -> Deeds<Self>;
    fn wake(&mut self, alarm: Self::Alarm, now_us: u64) -> Deeds<Self>;
    /// Whether it counts the node among the living, be it with doubts.
    fn counts_in(&self, node: usize) -> bool;
}

pub(crate) type Deeds<D> = Vec<Deed<<D as Detector>::Letter, <D as Detector>::Alarm>>;

/// Which process it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) index: usize,
    pub(crate) nodes: usize,
    /// Counts the starts.
    pub(crate) life: u16,
    pub(crate) seed: u64,
}

#[derive(Clone)]
enum Event<L, A> {
    Arrive {
        from: usize,
        to: usize,
        life: u16,
        letter: L,
    },
    Alarm {
        node: usize,
        life: u16,
        alarm: A,
    },
    Resume(usize),
}

struct Host<D: Detector> {
    detector: D,
    life: u16,
    running: bool,
    stalled: bool,
    inbox: VecDeque<Event<D::Letter, D::Alarm>>,
}

/// A belief that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) at_us: u64,
    pub(crate) observer: usize,
    pub(crate) subject: usize,
    pub(crate) dead: bool,
    /// Whether the subject ran at that time, and could be talked to.
    pub(crate) there: bool,
}

pub(crate) struct World<D: Detector> {
    now_us: u64,
    seed: u64,
    network: Network,
    hosts: Vec<Host<D>>,
    queue: BTreeMap<(u64, u64), Event<D::Letter, D::Alarm>>,
    queued: u64,
    pub(crate) changes: Vec<Change>,
    /// Since when all running nodes count in the running ones and no others, in steps of
    /// [`LOOK_PERIOD`]; looked at after the last blow.
    pub(crate) agreed_at: Option<u64>,
}

/// How often agreement is looked for.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

impl<D: Detector> World<D> {
    /// Runs the whole course.
    pub(crate) fn run(course: &Course, seed: u64) -> Self {
        let mut world = Self {
            now_us: 1,
            seed,
            network: Network::new(course, seed),
            hosts: Vec::new(),
            queue: BTreeMap::new(),
            queued: 0,
            changes: Vec::new(),
            agreed_at: None,
        };
        let mut begun = Vec::new();
        for index in 0..course.nodes {
            let (host, deeds) = world.boot(index, course.nodes, 1);
            world.hosts.push(host);
            begun.push(deeds);
        }
        for (index, deeds) in begun.into_iter().enumerate() {
            world.perform(index, deeds);
        }
        for (at, blow) in &course.blows {
            world.run_until(us(*at));
            world.strike(*blow);
        }
        while world.now_us < us(course.end) {
            world.run_until(world.now_us + us(LOOK_PERIOD));
            if !world.is_agreed() {
                world.agreed_at = None;
            } else if world.agreed_at.is_none() {
                world.agreed_at = Some(world.now_us);
            }
        }
        world
    }

    fn boot(&self, index: usize, nodes: usize, life: u16) -> (Host<D>, Deeds<D>) {
        let place = Place {
            index,
            nodes,
            life,
            seed: self.seed,
        };
        let (detector, deeds) = D::start(place, self.now_us);
        let host = Host {
            detector,
            life,
            running: true,
            stalled: false,
            inbox: VecDeque::new(),
        };
        (host, deeds)
    }

    fn strike(&mut self, blow: Blow) {
        match blow {
            Blow::Crash(node) => self.hosts[node].running = false,
            Blow::Restart(node) => {
                let life = self.hosts[node].life + 1;
                let (host, deeds) = self.boot(node, self.hosts.len(), life);
                self.hosts[node] = host;
                self.perform(node, deeds);
            }
            Blow::Stall(node, span) => {
                self.hosts[node].stalled = true;
                self.push(us(span), Event::Resume(node));
            }
            Blow::Cut(from, to) => self.network.cut(from, to),
            Blow::Split => self.network.split(),
            Blow::Mend => self.network.mend(),
        }
    }

    fn run_until(&mut self, end_us: u64) {
        while let Some(entry) = self.queue.first_entry().filter(|e| e.key().0 <= end_us) {
            let ((at_us, _), event) = entry.remove_entry();
            self.now_us = at_us;
            self.carry_out(event);
        }
        self.now_us = self.now_us.max(end_us);
    }

    fn carry_out(&mut self, event: Event<D::Letter, D::Alarm>) {
        let (node, life) = match &event {
            Event::Arrive { to, life, .. } => (*to, *life),
            Event::Alarm { node, life, .. } => (*node, *life),
            Event::Resume(node) => {
                self.hosts[*node].stalled = false;
                // What arrived first, then the timers.
                let inbox = std::mem::take(&mut self.hosts[*node].inbox);
                let (late, mail): (Vec<_>, Vec<_>) = inbox
                    .into_iter()
                    .partition(|event| matches!(event, Event::Alarm { .. }));
                for event in mail.into_iter().chain(late) {
                    self.carry_out(event);
                }
                return;
            }
        };
        let host = &mut self.hosts[node];
        if !host.running || host.life != life {
            return;
        }
        if host.stalled {
            host.inbox.push_back(event);
            return;
        }
        let deeds = match event {
            Event::Arrive { from, letter, .. } => host.detector.hear(from, letter, self.now_us),
            Event::Alarm { alarm, .. } => host.detector.wake(alarm, self.now_us),
            Event::Resume(_) => Vec::new(),
        };
        self.perform(node, deeds);
    }

    fn perform(&mut self, node: usize, deeds: Deeds<D>) {
        for deed in deeds {
            match deed {
                Deed::Send(to, letter) => {
                    if let Some(wait) = self.network.delay_us(node, to) {
                        let life = self.hosts[to].life;
                        self.push(
                            wait,
                            Event::Arrive {
                                from: node,
                                to,
                                life,
                                letter,
                            },
                        );
                    }
                }
                Deed::Wake(wait, alarm) => {
                    let life = self.hosts[node].life;
                    self.push(wait, Event::Alarm { node, life, alarm });
                }
                Deed::Believe(subject, dead) => self.changes.push(Change {
                    at_us: self.now_us,
                    observer: node,
                    subject,
                    dead,
                    there: self.is_awake(subject) && self.network.is_open(node, subject),
                }),
            }
        }
    }

    fn push(&mut self, wait_us: u64, event: Event<D::Letter, D::Alarm>) {
        self.queued += 1;
        self.queue
            .insert((self.now_us + wait_us, self.queued), event);
    }

    fn is_awake(&self, node: usize) -> bool {
        self.hosts[node].running && !self.hosts[node].stalled
    }

    fn running(&self) -> BTreeSet<usize> {
        let running = |index: &usize| self.hosts[*index].running;
        (0..self.hosts.len()).filter(running).collect()
    }

    /// Whether every running node counts in every running one and no other.
    fn is_agreed(&self) -> bool {
        let running = self.running();
        running.iter().all(|observer| {
            let others = (0..self.hosts.len()).filter(|subject| subject != observer);
            let host = &self.hosts[*observer];
            others
                .into_iter()
                .all(|subject| host.detector.counts_in(subject) == running.contains(&subject))
        })
    }

    /// Deaths that were none: somebody came to hold a node dead that ran and could be talked to.
    pub(crate) fn false_deaths(&self) -> usize {
        let wrong = |change: &&Change| change.dead && change.there;
        self.changes.iter().filter(wrong).count()
    }
}

pub(crate) fn us(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).expect("a test does not last so long")
}
