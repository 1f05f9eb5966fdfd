//! The simulated network: who can reach whom, how long it takes, what gets lost or doubled.
//!
//! Decides the fate of each message from the seed. Never looks into one, but shows each to the
//! judge. A cut swallows messages as a real one does; a request that arrived is handled even if
//! its sender has died since.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use consensus_core::NodeId;
use consensus_raft::{Carrier, CarrierError, Lane, simulation::spy};
use futures::future::BoxFuture;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep};

use super::{judge::Judge, seats::Seats};

/// A place in the rack, counted from 0. Its server and its disk may be replaced.
pub(crate) type Seat = usize;

/// How long a message takes when nothing is wrong.
const DELAY_US: (u64, u64) = (100, 4_000);
/// A snapshot takes longer.
const SNAPSHOT_DELAY_US: (u64, u64) = (2_000, 30_000);
/// Requests are delivered twice so often, in 1,000.
const DOUBLED_PERMILLE: u32 = 5;
/// A doubled request comes so much later, at most.
const DOUBLED_AFTER_US: u64 = 400_000;

/// The network's condition.
#[derive(Debug)]
pub(crate) struct Weather {
    random: ChaCha8Rng,
    /// From whom to whom nothing gets through.
    pub(crate) cuts: BTreeSet<(Seat, Seat)>,
    /// Messages lost, in 1,000.
    pub(crate) lost_permille: u32,
    /// Every message takes so many times its time.
    pub(crate) slower: u64,
    /// What the faults call the cut under way, for counting.
    pub(crate) cut_kind: &'static str,
}

/// A digest of everything that happened, in order and with its time.
#[derive(Debug)]
pub(crate) struct Trace {
    begun: Instant,
    hash: u64,
    events: u64,
    /// The events themselves, if anybody wants to read them.
    lines: Option<Vec<String>>,
}

impl Trace {
    /// Notes an event.
    pub(crate) fn note(&mut self, what: &str, numbers: &[u64]) {
        let us = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let bytes = what.bytes().map(u64::from);
        for value in bytes.chain([us]).chain(numbers.iter().copied()) {
            self.hash = (self.hash ^ value)
                .wrapping_mul(0x0100_0000_01b3)
                .rotate_left(23);
        }
        self.events += 1;
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{us:>10} us  {what} {numbers:?}"));
        }
    }

    /// From now on keeps the events themselves.
    pub(crate) fn keep(&mut self) {
        self.lines = Some(Vec::new());
    }

    /// The events, if they were kept.
    pub(crate) fn lines(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }

    /// The digest and the number of events.
    pub(crate) fn digest(&self) -> (u64, u64) {
        (self.hash, self.events)
    }
}

/// What all parts of one simulated world share.
#[derive(Clone)]
pub(crate) struct World {
    /// The network.
    pub(crate) weather: Arc<Mutex<Weather>>,
    /// The servers.
    pub(crate) seats: Arc<Mutex<Seats>>,
    /// The judge.
    pub(crate) judge: Arc<Mutex<Judge>>,
    /// The trace.
    pub(crate) trace: Arc<Mutex<Trace>>,
}

/// Locks; everything runs in one thread, so nobody ever waits.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// A world in good condition.
    pub(crate) fn new(seed: u64, seats: Seats, judge: Judge) -> Self {
        let weather = Weather {
            random: ChaCha8Rng::seed_from_u64(seed),
            cuts: BTreeSet::new(),
            lost_permille: 0,
            slower: 1,
            cut_kind: "",
        };
        let trace = Trace {
            begun: Instant::now(),
            hash: seed,
            events: 0,
            lines: None,
        };
        Self {
            weather: Arc::new(Mutex::new(weather)),
            seats: Arc::new(Mutex::new(seats)),
            judge: Arc::new(Mutex::new(judge)),
            trace: Arc::new(Mutex::new(trace)),
        }
    }

    /// Notes an event in the trace.
    pub(crate) fn note(&self, what: &str, numbers: &[u64]) {
        lock(&self.trace).note(what, numbers);
    }

    /// Counts something that happened.
    pub(crate) fn count(&self, what: &'static str) {
        lock(&self.judge).count(what);
    }

    /// Waits as long as a message from `from` to `to` takes; `false` if it does not get there.
    pub(crate) async fn travel(&self, from: Seat, to: Seat, lane: Lane) -> bool {
        let (delay, lost) = {
            let mut weather = lock(&self.weather);
            let (min, max) = match lane {
                Lane::Rpc => DELAY_US,
                Lane::Snapshot => SNAPSHOT_DELAY_US,
            };
            let us = weather.random.random_range(min..max) * weather.slower;
            let permille = weather.lost_permille;
            let lost = permille > 0 && weather.random.random_range(0..1000) < permille;
            (Duration::from_micros(us), lost)
        };
        sleep(delay).await;
        if lost {
            self.count("message lost");
            return false;
        }
        let cut = {
            let weather = lock(&self.weather);
            weather
                .cuts
                .contains(&(from, to))
                .then_some(weather.cut_kind)
        };
        if let Some(kind) = cut {
            self.count(kind);
        }
        cut.is_none()
    }

    /// The time after which a request comes a second time, if it does.
    fn doubled(&self) -> Option<Duration> {
        let mut weather = lock(&self.weather);
        let doubled = weather.random.random_range(0..1000) < DOUBLED_PERMILLE;
        doubled.then(|| Duration::from_micros(weather.random.random_range(0..DOUBLED_AFTER_US)))
    }
}

/// One server's way to the others.
pub(crate) struct Post {
    /// Where it sits.
    pub(crate) seat: Seat,
    /// Which process it is, over all seats and restarts.
    pub(crate) process: u64,
    /// The world.
    pub(crate) world: World,
}

impl Carrier for Post {
    fn call(
        &self,
        to: &NodeId,
        lane: Lane,
        body: Vec<u8>,
        _: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, CarrierError>> {
        let (world, from, process) = (self.world.clone(), self.seat, self.process);
        let to = lock(&world.seats).seat_of(to);
        Box::pin(async move {
            let Some(to) = to else {
                return Err(CarrierError::Unreachable("no such node".to_owned()));
            };
            exchange(world, process, from, to, lane, body).await
        })
    }
}

async fn exchange(
    world: World,
    process: u64,
    from: Seat,
    to: Seat,
    lane: Lane,
    body: Vec<u8>,
) -> Result<Vec<u8>, CarrierError> {
    world.note("sent", &[process, to as u64, body.len() as u64]);
    if let Some(request) = spy::request(&body) {
        lock(&world.judge).sent(process, &request);
    }
    if !world.travel(from, to, lane).await {
        return std::future::pending().await;
    }
    if let Some(later) = world.doubled() {
        let (world, body) = (world.clone(), body.clone());
        tokio::spawn(async move {
            sleep(later).await;
            world.count("request doubled");
            drop(deliver(&world, to, lane, body).await);
        });
    }
    // A task of nobody's: what has arrived is handled whatever becomes of its sender.
    let delivered = {
        let world = world.clone();
        tokio::spawn(async move { deliver(&world, to, lane, body).await })
    };
    let reply = delivered
        .await
        .unwrap_or_else(|error| Err(CarrierError::Broken(error.to_string())));
    if !world.travel(to, from, lane).await {
        return std::future::pending().await;
    }
    world.note("answered", &[process, to as u64]);
    reply
}

/// Hands a request to whoever sits there now.
async fn deliver(
    world: &World,
    to: Seat,
    lane: Lane,
    body: Vec<u8>,
) -> Result<Vec<u8>, CarrierError> {
    let Some((raft_id, server)) = lock(&world.seats).running(to) else {
        return Err(CarrierError::Unreachable("connection refused".to_owned()));
    };
    let request = spy::request(&body);
    let arrived = lock(&world.judge).tick();
    let reply = server
        .handle(lane, body)
        .await
        .map_err(|error| CarrierError::Broken(error.to_string()))?;
    if lane == Lane::Snapshot {
        world.count("message of a snapshot");
    }
    if let (Some(request), Some(answer)) = (request, spy::reply(&reply)) {
        lock(&world.judge).replied(raft_id, &request, arrived, answer);
    }
    Ok(reply)
}
