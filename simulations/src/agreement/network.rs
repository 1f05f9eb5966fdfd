//! The simulated network between servers: how long a message takes, and what gets lost.
//!
//! Decides the fate of each message from the run's generator. A cut swallows messages as a real one
//! does, those under way too; a request that arrived is handled even if its sender has ended since. A
//! host without power is silent, an ended process on a living host refuses.

use std::time::Duration;

use consensus_core::NodeId;
use futures::future::BoxFuture;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use simulated_raft::{Carrier, CarrierError, Lane, simulation::spy};
use tokio::sync::oneshot;

use super::{
    scenario::Scenario,
    servers::Power,
    world::{World, pause},
};
use crate::random::{Jitter, Span, as_micros, mix};

/// Parts of a million.
const MILLION: u32 = 1_000_000;

/// What a fault does to the messages from some servers to others.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Effect {
    Cut,
    Loss(u32),
    Delay(Span),
}

#[derive(Debug)]
struct Mark {
    fault: usize,
    /// One bit for each server.
    from: u64,
    to: u64,
    effect: Effect,
}

/// All links.
#[derive(Debug)]
pub(crate) struct Network {
    servers: usize,
    /// Each directed link has its own.
    latency_us: Vec<u64>,
    jitter: Jitter,
    loss_ppm: u32,
    marks: Vec<Mark>,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It arrives after so many microseconds.
    Arrives(u64),
    /// It is lost after so many.
    Lost(u64),
}

impl Network {
    pub(crate) fn new(scenario: &Scenario, seed: u64) -> Self {
        let servers = scenario.servers;
        let key = mix(seed ^ 0x11e7);
        let latency = |link: usize| scenario.link.latency.fixed(key ^ link as u64);
        Self {
            servers,
            latency_us: (0..servers * servers).map(latency).collect(),
            jitter: scenario.link.jitter,
            loss_ppm: scenario.link.loss_ppm,
            marks: Vec::new(),
        }
    }

    /// From now on messages from `from` to `to` suffer this, until the fault is over.
    pub(crate) fn mark(&mut self, fault: usize, from: &[usize], to: &[usize], effect: Effect) {
        let (from, to) = (bits(from), bits(to));
        self.marks.push(Mark {
            fault,
            from,
            to,
            effect,
        });
    }

    /// The fault is over.
    pub(crate) fn unmark(&mut self, fault: usize) {
        self.marks.retain(|mark| mark.fault != fault);
    }

    fn marks(&self, from: usize, to: usize) -> impl Iterator<Item = &Mark> {
        let meets = move |mark: &&Mark| mark.from >> from & 1 == 1 && mark.to >> to & 1 == 1;
        self.marks.iter().filter(meets)
    }

    fn fate(&self, from: usize, to: usize, random: &mut ChaCha8Rng, hits: &mut [u64]) -> Fate {
        let mut us = self.latency_us[from * self.servers + to] + self.jitter.draw(random);
        let mut lost = draws(random, self.loss_ppm);
        for mark in self.marks(from, to) {
            match mark.effect {
                Effect::Cut => {}
                Effect::Loss(ppm) => {
                    if draws(random, ppm) {
                        lost = true;
                        hits[mark.fault] += 1;
                    }
                }
                Effect::Delay(by) => {
                    us += as_micros(by.draw(random));
                    hits[mark.fault] += 1;
                }
            }
        }
        if lost {
            Fate::Lost(us)
        } else {
            Fate::Arrives(us)
        }
    }

    /// The fault that lets nothing through from `from` to `to`, if one does.
    fn cut(&self, from: usize, to: usize) -> Option<usize> {
        let mut marks = self.marks(from, to);
        let cut = marks.find(|mark| matches!(mark.effect, Effect::Cut));
        cut.map(|mark| mark.fault)
    }
}

fn draws(random: &mut ChaCha8Rng, ppm: u32) -> bool {
    ppm > 0 && random.random_range(0..MILLION) < ppm
}

fn bits(servers: &[usize]) -> u64 {
    servers.iter().fold(0, |bits, server| bits | 1 << server)
}

impl World {
    /// Waits as long as a message from `from` to `to` takes; `false` if it does not get there.
    pub(crate) async fn travel(&self, from: usize, to: usize) -> bool {
        let fate = {
            let mut state = self.lock();
            let state = &mut *state;
            let fate = state
                .network
                .fate(from, to, &mut state.random, &mut state.hits);
            state.evidence.messages += 1;
            fate
        };
        let (Fate::Arrives(us) | Fate::Lost(us)) = fate;
        pause(us).await;
        let mut state = self.lock();
        if let Some(fault) = state.network.cut(from, to) {
            state.hits[fault] += 1;
            return false;
        }
        matches!(fate, Fate::Arrives(_))
    }
}

/// One server's way to the others.
pub(crate) struct Post {
    /// Whose.
    pub(crate) server: usize,
    /// Which process it is, over all servers and starts.
    pub(crate) process: u64,
    /// Where.
    pub(crate) world: World,
}

type Answer = Result<Vec<u8>, CarrierError>;

impl Carrier for Post {
    fn call(
        &self,
        to: &NodeId,
        lane: Lane,
        body: Vec<u8>,
        _: Duration,
    ) -> BoxFuture<'static, Answer> {
        let (world, from, process) = (self.world.clone(), self.server, self.process);
        let to = self.world.lock().servers.of_node(to);
        let (answer, answered) = oneshot::channel();
        // A task of nobody's: what is under way stays so whatever becomes of its sender.
        drop(tokio::spawn(async move {
            let Some(to) = to else {
                let nobody = CarrierError::Unreachable("no such node".to_owned());
                drop(answer.send(Err(nobody)));
                return;
            };
            if let Some(told) = exchange(&world, process, (from, to), lane, body).await {
                // Whoever no longer waits needs no answer.
                drop(answer.send(told));
            }
        }));
        Box::pin(async move {
            match answered.await {
                Ok(told) => told,
                // It is lost: the caller's own limit ends its waiting.
                Err(_) => std::future::pending().await,
            }
        })
    }
}

/// A request and its answer; nothing if either is lost.
async fn exchange(
    world: &World,
    process: u64,
    (from, to): (usize, usize),
    lane: Lane,
    body: Vec<u8>,
) -> Option<Answer> {
    let request = spy::request(&body);
    world.note(b'M', from, to, body.len() as u64);
    if let Some(spy::Request::Append { ballot, .. }) = &request {
        let now = world.now();
        world.lock().evidence.leads(now, from, *ballot, process);
    }
    if !world.travel(from, to).await {
        return None;
    }
    let (handle, arrived) = {
        let mut state = world.lock();
        let handle = match state.servers.at(to).power() {
            Power::Off => return None,
            Power::Ended => None,
            Power::On(handle) => Some(handle),
        };
        (handle, state.evidence.arrives())
    };
    let told = match handle {
        None => Err(CarrierError::Unreachable("connection refused".to_owned())),
        Some((raft_id, handle)) => match handle.handle(lane, body).await {
            Ok(reply) => {
                if let (Some(request), Some(answer)) = (&request, spy::reply(&reply)) {
                    let now = world.now();
                    let evidence = &mut world.lock().evidence;
                    evidence.answered(now, raft_id, request, arrived, answer);
                }
                Ok(reply)
            }
            Err(error) => Err(CarrierError::Broken(error.to_string())),
        },
    };
    if !world.travel(to, from).await {
        return None;
    }
    world.note(
        b'A',
        from,
        to,
        told.as_ref().map_or(0, |reply| reply.len() as u64),
    );
    Some(told)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_cut_holds_in_its_direction_until_its_fault_is_over() {
        let mut network = Network::new(&Scenario::calm("cut", 3), 1);
        network.mark(4, &[0], &[1, 2], Effect::Cut);
        assert_eq!(network.cut(0, 1), Some(4));
        assert_eq!(network.cut(1, 0), None);
        assert_eq!(network.cut(1, 2), None);
        network.unmark(4);
        assert_eq!(network.cut(0, 1), None);
    }

    #[test]
    fn a_link_takes_its_own_time_and_loses_what_a_fault_says() {
        let mut network = Network::new(&Scenario::calm("loss", 3), 1);
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut hits = vec![0];
        let fate = network.fate(0, 1, &mut random, &mut hits);
        assert!(matches!(fate, Fate::Arrives(100..=2500)), "{fate:?}");
        network.mark(0, &[0], &[1], Effect::Loss(MILLION));
        let fate = network.fate(0, 1, &mut random, &mut hits);
        assert!(matches!(fate, Fate::Lost(_)), "{fate:?}");
        assert_eq!(hits, [1]);
    }
}
