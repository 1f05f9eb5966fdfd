//! Everything there is in a run: the log, the machines, the daemons on them, and what is due when.
//!
//! Decides: the order of events. What each of them does is said in the files beside this one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv6Addr,
    time::Duration,
};

use consensus_core::{ClusterId, Command, Envelope, RequestId, Time};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use runtimes_core::{
    k3s::{Desired, Step},
    retries::Retries,
};

use super::{
    bug::PlantedBug,
    host::{Host, Piece},
    invariants::Witness,
    kubernetes::Kubernetes,
    mesh::{Log, View},
    outcome::Counts,
    scenario::Scenario,
    shoald::Report,
};
use crate::{
    invariants::Violation,
    queue::{Next, Queue},
    random::{Span, as_micros},
    timeline::{Happening, Line},
    trace::Trace,
};

/// Lines of one story; nobody reads more.
const LINES_MAX: usize = 400;

/// Which of a node's two conversations with the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Talk {
    /// What it says of itself, in order.
    Reports,
    /// What it does for its cluster.
    Hosting,
}

/// Something that is due.
#[derive(Debug)]
pub(super) enum Event {
    /// A command reaches the log.
    Arrive {
        envelope: Box<Envelope>,
        answer_to: Option<(usize, u64, Talk)>,
    },
    /// Its answer reaches who sent it.
    Answered {
        node: usize,
        boot: u64,
        talk: Talk,
        request: RequestId,
    },
    /// Nobody has answered it.
    Resend {
        node: usize,
        boot: u64,
        talk: Talk,
        request: RequestId,
    },
    /// A node learns what is agreed.
    Seen { node: usize, boot: u64, view: View },
    /// A step takes no longer.
    StepOver { node: usize, boot: u64, number: u64 },
    /// What a server does for its cluster takes no longer.
    ChoreOver { node: usize, boot: u64, number: u64 },
    /// A daemon looks again.
    Wake { node: usize, boot: u64, number: u64 },
    /// A K3s tries to come up.
    Rise { node: usize, process: u64 },
    /// The operator wants something.
    Wish,
    /// Something breaks.
    Strike,
    /// A daemon, or its machine, starts again.
    Start { node: usize },
}

/// A step under way.
#[derive(Debug)]
pub(super) struct Busy {
    pub(super) number: u64,
    pub(super) step: Step,
    pub(super) pieces: Vec<Piece>,
}

/// A command on its way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) envelope: Envelope,
    pub(super) tries: u32,
}

/// What a server does for its cluster.
#[derive(Debug)]
pub(super) struct Chore {
    pub(super) number: u64,
    pub(super) command: Command,
}

/// The daemon of a node; all of it but the view ends with its process.
#[derive(Debug)]
pub(super) struct Shoald {
    /// Tells one process from the next.
    pub(super) boot: u64,
    pub(super) runs: bool,
    pub(super) ended_us: u64,
    pub(super) view: View,
    pub(super) retries: Retries,
    pub(super) before: Option<Desired>,
    pub(super) told: Option<(Report, u64)>,
    pub(super) reports: VecDeque<Command>,
    pub(super) report: Option<Flight>,
    pub(super) hosting: Option<Flight>,
    pub(super) busy: Option<Busy>,
    pub(super) chore: Option<Chore>,
    pub(super) probed_since_us: Option<u64>,
    pub(super) wake: u64,
    /// Whether shoald was started again since its K3s was installed: what a planted bug forgets.
    pub(super) forgot: bool,
}

/// Everything.
pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) bug: Option<PlantedBug>,
    pub(super) rng: ChaCha8Rng,
    pub(super) queue: Queue<Event>,
    pub(super) now_us: u64,
    pub(super) trace: Trace,
    pub(super) counts: Counts,
    pub(super) log: Log,
    pub(super) kubernetes: Kubernetes,
    pub(super) hosts: Vec<Host>,
    pub(super) nodes: Vec<Shoald>,
    /// Whose API an address is, also of clusters that are no more.
    pub(super) addresses: BTreeMap<Ipv6Addr, ClusterId>,
    pub(super) witness: Witness,
    /// Nothing can be installed until then.
    pub(super) no_source_until_us: u64,
    /// Until when the K3s of each node does not answer, though it is up.
    pub(super) silent_until_us: Vec<u64>,
    /// Faults and wishes are over.
    pub(super) is_calm: bool,
    pub(super) removed: BTreeSet<usize>,
    broken: Option<Violation>,
    story: Vec<Line>,
    fresh: u64,
}

impl World {
    pub(super) fn new(scenario: &Scenario, seed: u64, bug: Option<PlantedBug>) -> Self {
        let log = Log::founded(scenario.nodes, bug);
        let shoald = |_| Shoald {
            boot: 0,
            runs: false,
            ended_us: 0,
            view: log.view(),
            retries: Retries::default(),
            before: None,
            told: None,
            reports: VecDeque::new(),
            report: None,
            hosting: None,
            busy: None,
            chore: None,
            probed_since_us: None,
            wake: 0,
            forgot: false,
        };
        let nodes = (0..scenario.nodes).map(shoald).collect();
        let mut world = Self {
            scenario: scenario.clone(),
            bug,
            rng: ChaCha8Rng::seed_from_u64(seed),
            queue: Queue::default(),
            now_us: 0,
            trace: Trace::default(),
            counts: Counts::default(),
            kubernetes: Kubernetes::default(),
            hosts: vec![Host::default(); scenario.nodes],
            nodes,
            log,
            addresses: BTreeMap::new(),
            witness: Witness::default(),
            no_source_until_us: 0,
            silent_until_us: vec![0; scenario.nodes],
            is_calm: false,
            removed: BTreeSet::new(),
            broken: None,
            story: Vec::new(),
            fresh: 0,
        };
        for node in 0..scenario.nodes {
            world.start(node);
        }
        world
    }

    /// Runs until then, or until an invariant broke.
    pub(super) fn run_until(&mut self, end_us: u64) {
        while self.broken.is_none()
            && let Some((at_us, next)) = self.queue.pop_until(end_us)
        {
            self.now_us = at_us;
            match next {
                Next::Event(event) => self.handle(event),
                Next::Timer(_) => {}
            }
        }
        self.now_us = self.now_us.max(end_us);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive {
                envelope,
                answer_to,
            } => self.arrive(&envelope, answer_to),
            Event::Answered {
                node,
                boot,
                talk,
                request,
            } => self.if_runs(node, boot, |world| world.answered(node, talk, request)),
            Event::Resend {
                node,
                boot,
                talk,
                request,
            } => self.if_runs(node, boot, |world| world.resend(node, talk, request)),
            Event::Seen { node, boot, view } => {
                self.if_runs(node, boot, |world| world.seen(node, view));
            }
            Event::StepOver { node, boot, number } => {
                self.if_runs(node, boot, |world| world.step_over(node, number));
            }
            Event::ChoreOver { node, boot, number } => {
                self.if_runs(node, boot, |world| world.chore_over(node, number));
            }
            Event::Wake { node, boot, number } => {
                self.if_runs(node, boot, |world| world.wake(node, number));
            }
            Event::Rise { node, process } => self.rise(node, process),
            Event::Wish => self.wish(),
            Event::Strike => self.strike(),
            Event::Start { node } => self.start(node),
        }
    }

    /// What was meant for a process that has ended reaches nobody.
    fn if_runs(&mut self, node: usize, boot: u64, act: impl FnOnce(&mut Self)) {
        if self.nodes[node].runs && self.nodes[node].boot == boot {
            act(self);
        }
    }

    pub(super) fn now(&self) -> Time {
        Time::from_micros(self.now_us)
    }

    /// A number that was not there before.
    pub(super) const fn fresh(&mut self) -> u64 {
        self.fresh += 1;
        self.fresh
    }

    pub(super) fn after(&mut self, span: Duration, event: Event) {
        self.queue.push(self.now_us + as_micros(span), event);
    }

    pub(super) fn after_some(&mut self, span: Span, event: Event) {
        let wait = span.draw(&mut self.rng);
        self.after(wait, event);
    }

    /// Whether something of so many in a hundred happens.
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        percent > 0 && self.rng.random_range(0..100) < percent
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.rng.random_range(0..limit.max(1))
    }

    pub(super) fn note(&mut self, kind: u8, node: usize, detail: u64) {
        self.trace.note(self.now_us, kind, node, 0, detail);
    }

    pub(super) fn tell_story(&mut self, happening: Happening, what: String) {
        if self.story.len() < LINES_MAX {
            self.story.push(Line {
                at_ms: self.now_us / 1000,
                happening,
                what,
            });
        }
    }

    /// Keeps the first broken invariant.
    pub(super) fn judge(&mut self, invariant: &'static str, held: Result<(), String>) {
        let at = self.now();
        if let Err(detail) = held {
            self.broken.get_or_insert(Violation {
                invariant,
                at,
                detail,
            });
        }
    }

    pub(super) const fn broken(&self) -> Option<&Violation> {
        self.broken.as_ref()
    }

    pub(super) fn take_story(&mut self) -> Vec<Line> {
        std::mem::take(&mut self.story)
    }
}
