//! The simulated world of a group of servers, as all its parts share it.
//!
//! Decides: what time it is. One microsecond of the world is one millisecond of tokio's paused clock,
//! because that is as fine as tokio's timers are. Everything runs in one thread.
//!
//! Invariants: everything random comes out of one generator with the run's seed; nothing is ordered by
//! a hash table or an address; nobody waits while holding the lock.

use std::{
    cell::RefCell,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use consensus_core::{RequestId, Time, WallMs};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use simulated_raft::simulation::Clock;
use tokio::time::Instant;

use super::{
    evidence::Evidence,
    leases::Gates,
    ledger,
    network::Network,
    scenario::{Leases, Scenario},
    servers::Servers,
};
use crate::trace::Trace;

/// So much of tokio's time is one unit of the world's.
pub(crate) const STRETCH: u32 = 1000;

thread_local! {
    /// The world of this thread's run: replicated states are also made by decoding, and tell it what
    /// they apply.
    static CURRENT: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// A handle on the world. Clones are the same world.
#[derive(Clone)]
pub(crate) struct World {
    begun: Instant,
    state: Arc<Mutex<State>>,
}

/// Everything in it.
pub(crate) struct State {
    pub(crate) random: ChaCha8Rng,
    pub(crate) network: Network,
    pub(crate) servers: Servers,
    pub(crate) gates: Gates,
    pub(crate) leases: Option<Leases>,
    pub(crate) evidence: Evidence,
    pub(crate) trace: Trace,
    /// What each fault hit, in the scenario's order.
    pub(crate) hits: Vec<u64>,
    /// Events noted so far.
    pub(crate) events: u64,
    /// Whether clients ask for nothing more.
    pub(crate) is_closing: bool,
}

impl World {
    /// A world in good condition in which nobody runs. Must be called within its runtime.
    pub(crate) fn new(scenario: &Scenario, seed: u64) -> Self {
        let state = State {
            random: ChaCha8Rng::seed_from_u64(seed),
            network: Network::new(scenario, seed),
            servers: Servers::new(scenario, seed),
            gates: Gates::default(),
            leases: scenario.leases,
            evidence: Evidence::default(),
            trace: Trace::default(),
            hits: vec![0; scenario.faults.len()],
            events: 0,
            is_closing: false,
        };
        Self {
            begun: Instant::now(),
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// From now on this is the world of this thread.
    pub(crate) fn enter(&self) {
        CURRENT.set(Some(self.clone()));
    }

    /// The thread's run is over.
    pub(crate) fn leave() {
        CURRENT.set(None);
    }

    /// Lets the world of this thread, if there is one, note something.
    pub(crate) fn current(note: impl FnOnce(&Self)) {
        CURRENT.with_borrow(|world| world.as_ref().map(note));
    }

    /// What there is. Nobody else runs in this thread, so nobody ever waits.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds since the world began.
    pub(crate) fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The same as a time.
    pub(crate) fn now(&self) -> Time {
        Time::from_micros(self.now_us())
    }

    /// What a server's wall clock shows.
    pub(crate) fn wall(&self, server: usize) -> WallMs {
        let passed_ms = self.now_us() / 1000;
        let set_ms = self.lock().servers.at(server).host.wall_ms;
        WallMs((ledger::NOW.0 + passed_ms).saturating_add_signed(set_ms))
    }

    /// The name of a command that is no client's.
    pub(crate) fn request(&self) -> RequestId {
        let drawn: u128 = self.lock().random.random();
        RequestId::from_bytes((drawn | ledger::NO_CLIENTS).to_be_bytes())
    }

    /// The clock of a host that runs at this rate.
    pub(crate) fn clock(&self, rate_ppm: u32) -> Clock {
        Clock::new(self.begun, STRETCH, rate_ppm)
    }

    /// Adds an event to the trace: what, who, with whom, and what else tells it apart.
    pub(crate) fn note(&self, kind: u8, node: usize, other: usize, detail: u64) {
        let at_us = self.now_us();
        let mut state = self.lock();
        state.trace.note(at_us, kind, node, other, detail);
        state.events += 1;
    }

    /// Waits until the world's time is `at_us`.
    pub(crate) async fn until(&self, at_us: u64) {
        tokio::time::sleep_until(self.begun + span(at_us)).await;
    }
}

/// Waits so many microseconds of the world.
pub(crate) async fn pause(us: u64) {
    tokio::time::sleep(span(us)).await;
}

/// So many microseconds of the world, by tokio's clock.
pub(crate) const fn span(us: u64) -> Duration {
    Duration::from_micros(us.saturating_mul(STRETCH as u64))
}
