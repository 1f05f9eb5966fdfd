//! The simulated world: hosts, links, time.
//!
//! Decides: the order of events. What a shell does with a core's outputs is `shell`, connections
//! are `connections`, disturbances are `strike`.
//!
//! Invariants: time is whole microseconds and moves only by events; everything random comes out of
//! one generator with the run's seed; nothing is ordered by a hash table or by an address.

use std::{hint::black_box, sync::Arc, time::Duration};

use consensus_core::{NodeId, Time};
use overlay_core::membership::{
    Condition, Known, Membership, Message, Record, Rings, Seat, Settings, SignedRecord,
    SimulatedKeys,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    clock::{Clocks, LocalClock},
    connections::{Ends, IDLE_CHECK_PERIOD},
    history::History,
    network::Network,
    node::{Node, node_id},
    queue::{Next, Queue},
    random::{as_micros, mix},
    scenario::Scenario,
    strike::{Step, Struck},
    trace::Trace,
};

/// Processes start within this time of each other.
const START_SPREAD_US: u64 = 500_000;

/// Something due at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Start {
        node: usize,
    },
    Resume {
        node: usize,
    },
    Arrive {
        from: usize,
        to: usize,
        /// The life of the receiver that it was sent to.
        boot: u64,
        message: Message,
    },
    Dial {
        from: usize,
        to: usize,
        boot: u64,
    },
    Connected {
        ends: Ends,
    },
    Closed {
        at: usize,
        peer: usize,
    },
    IdleCheck,
    Fault {
        fault: usize,
        step: Step,
    },
}

/// What all cores of a mesh have in common.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) seed: u64,
    pub(crate) settings: Arc<Settings>,
    pub(crate) clocks: Clocks,
    /// The agreed set; all cores share it.
    pub(crate) rings: Arc<Rings>,
    /// What a mesh that has long been running knows of everybody; none if it begins anew.
    pub(crate) known: Option<Known>,
    /// What is wrong with every core.
    #[cfg(feature = "planted-bugs")]
    pub(crate) bug: Option<overlay_core::membership::planted::PlantedBug>,
}

impl Mesh {
    pub(crate) fn clock(&self, index: usize) -> LocalClock {
        LocalClock::draw(self.clocks, mix(self.seed ^ 0xc10c) ^ index as u64)
    }

    /// What a node says of itself when it starts.
    fn record(id: &NodeId, index: usize, generation: u64) -> Record {
        let host = u8::try_from(index % 250).unwrap_or(0) + 1;
        let rack = u8::try_from(index / 250).unwrap_or(u8::MAX);
        Record {
            node: id.clone(),
            generation,
            version: 0,
            addresses: vec![([10, 0, rack, host], 4001).into()],
            wireguard: Vec::new(),
            relays: Vec::new(),
            unreachable: Vec::new(),
            forwards: false,
        }
    }

    /// A process that knows nobody yet.
    pub(crate) fn core(
        &self,
        id: &NodeId,
        index: usize,
        generation: u64,
        boot: u64,
        local: Time,
    ) -> Membership {
        let seed = mix(self.seed ^ (index as u64) << 20 ^ boot);
        let keys = Arc::new(SimulatedKeys(id.clone()));
        let record = Self::record(id, index, generation);
        let core = Membership::new(record, keys, Arc::clone(&self.settings), seed, local);
        #[cfg(feature = "planted-bugs")]
        let core = self.plant(core);
        core
    }

    #[cfg(feature = "planted-bugs")]
    fn plant(&self, mut core: Membership) -> Membership {
        if let Some(bug) = self.bug {
            core.plant(bug);
        }
        core
    }

    /// Everybody's first words.
    fn first_records(count: usize) -> Vec<Arc<SignedRecord>> {
        let record = |index| {
            let id = node_id(index);
            let keys = SimulatedKeys(id.clone());
            SignedRecord::sign(Self::record(&id, index, 1), &keys)
        };
        (0..count).map(record).collect()
    }
}

/// Everything simulated.
#[derive(Debug)]
pub struct World {
    pub(crate) now_us: u64,
    pub(crate) rng: ChaCha8Rng,
    pub(crate) mesh: Mesh,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    /// The regions' names, in the order of the network's places.
    pub(crate) regions: Vec<String>,
    pub(crate) queue: Queue<Event>,
    pub(crate) struck: Vec<Struck>,
    pub(crate) history: History,
    pub(crate) trace: Trace,
}

impl World {
    /// A mesh whose processes are about to start, and what will strike it.
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        let now_us = 1;
        let count = scenario.nodes;
        let rings = Arc::new(Rings::new(&(0..count).map(node_id).collect(), seed));
        let mesh = Mesh {
            seed,
            settings: Arc::new(scenario.settings.clone()),
            clocks: scenario.clocks,
            known: scenario.starts_warm().then(|| {
                let records = Mesh::first_records(count);
                Known::new(Arc::clone(&rings), &records, Time::ZERO)
            }),
            rings,
            #[cfg(feature = "planted-bugs")]
            bug: None,
        };
        let nodes = (0..count).map(|index| Node::new(index, &mesh, now_us));
        let mut world = Self {
            now_us,
            rng: ChaCha8Rng::seed_from_u64(seed),
            network: Network::new(scenario, seed),
            regions: scenario
                .topology
                .regions
                .iter()
                .map(|region| region.name.clone())
                .collect(),
            nodes: nodes.collect(),
            mesh,
            queue: Queue::default(),
            struck: scenario.faults.iter().cloned().map(Struck::new).collect(),
            history: History::default(),
            trace: Trace::default(),
        };
        for node in 0..count {
            let wait = Duration::from_micros(world.rng.random_range(0..START_SPREAD_US));
            world.schedule(wait, Event::Start { node });
        }
        for (fault, struck) in scenario.faults.iter().enumerate() {
            let step = Step::Begin;
            world.schedule(scenario.calm + struck.at, Event::Fault { fault, step });
        }
        world.schedule(IDLE_CHECK_PERIOD, Event::IdleCheck);
        world
    }

    /// The present.
    pub const fn now(&self) -> Time {
        Time::from_micros(self.now_us)
    }

    /// How many hosts there are.
    pub const fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no host at all.
    pub const fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// What happened.
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// What struck, and what it hit.
    pub fn struck(&self) -> &[Struck] {
        &self.struck
    }

    /// Equal for equal histories.
    pub fn fingerprint(&self) -> String {
        self.trace.fingerprint()
    }

    /// How many events were ever scheduled.
    pub const fn events(&self) -> u64 {
        self.queue.scheduled()
    }

    /// Whether the host's process runs, be it standing still.
    pub fn is_running(&self, node: usize) -> bool {
        self.nodes[node].running
    }

    /// Whether both processes run and messages pass between them in both directions.
    pub fn can_talk(&self, a: usize, b: usize) -> bool {
        let awake = self.nodes[a].is_awake() && self.nodes[b].is_awake();
        awake && self.network.is_open_both_ways(a, b)
    }

    /// Since when both processes run without a break and could talk, as far as is remembered; `None`
    /// when they cannot.
    pub(crate) fn talking_since(&self, a: usize, b: usize) -> Option<u64> {
        if !self.can_talk(a, b) {
            return None;
        }
        let process = |node: usize| {
            let node = &self.nodes[node];
            node.started_us.max(node.resumed_us)
        };
        let mended = self.network.mended_at(a, b).unwrap_or(0);
        Some(process(a).max(process(b)).max(mended))
    }

    /// The core of a host.
    pub fn core(&self, node: usize) -> &Membership {
        &self.nodes[node].core
    }

    /// What one host believes of another.
    pub fn belief(&self, observer: usize, subject: usize) -> Condition {
        if observer == subject {
            return Condition::Alive;
        }
        self.nodes[observer].core.condition(Seat::at(subject))
    }

    /// Whether the clocks of this world are anything but its own time.
    pub fn clocks_are_off(&self) -> bool {
        self.nodes.iter().any(|node| node.clock.is_off())
    }

    /// Carries out everything that is due by `end`.
    pub fn run_until(&mut self, end: Time) {
        let end_us = end.as_micros();
        while let Some((at_us, next)) = self.queue.pop_until(end_us) {
            self.now_us = at_us;
            if self.queue.wants_announcing() {
                self.approach();
            }
            match next {
                Next::Timer(node) => self.fire_timer(node),
                Next::Event(event) => self.carry_out(event),
            }
        }
        self.now_us = self.now_us.max(end_us);
    }

    /// Looks at the hosts that will be needed next. They lie scattered over more memory than any cache
    /// holds, and several can be fetched in the time of one.
    fn approach(&mut self) {
        self.queue.announce();
        let [soon, later] = self.queue.announced();
        let ends = |next: Next<&Event>| match next {
            Next::Timer(node) => Some((node, node)),
            Next::Event(Event::Arrive { from, to, .. }) => Some((*from, *to)),
            Next::Event(_) => None,
        };
        for (from, to) in later.filter_map(ends) {
            black_box(self.nodes[to].glance() + self.nodes[from].boot);
        }
        for (from, to) in soon.filter_map(ends) {
            black_box(self.nodes[to].look(from));
        }
    }

    pub(crate) fn schedule(&mut self, wait: Duration, event: Event) {
        self.queue.push(self.now_us + as_micros(wait), event);
    }

    fn carry_out(&mut self, event: Event) {
        match event {
            Event::Arrive { to, .. } | Event::Closed { at: to, .. } => self.hand_in(to, event),
            Event::Start { node } => self.start(node),
            Event::Resume { node } => self.resume(node),
            Event::Dial { from, to, boot } => self.dial(from, to, boot),
            Event::IdleCheck => self.close_idle(),
            Event::Connected { ends } => self.establish(ends),
            Event::Fault { fault, step } => self.strike(fault, step),
        }
    }

    /// How long ago something was, in the world's time.
    pub(crate) fn age(&self, since_us: u64) -> Duration {
        Duration::from_micros(self.now_us.saturating_sub(since_us))
    }
}
