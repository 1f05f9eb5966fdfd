//! The clients: writes and linearizable reads at a steady rate, whatever becomes of earlier ones.
//!
//! Decides whom to ask: the server that acknowledged last, unless it does not run or was silent for
//! longer than a leader may be; then anybody. Never tells more to the evidence than a client knows: an attempt that was
//! given up may still be carried out.

use std::time::Duration;

use consensus_core::NodeId;
use rand::Rng;
use simulated_raft::{Agreement, ProposeError, Role};
use tokio::{task::JoinSet, time::timeout};

use super::{
    evidence::Attempt,
    ledger::{self, Ledger},
    scenario::{Profile, Scenario},
    servers::patience_us,
    world::{World, pause, span},
};
use crate::random::as_micros;

/// Between an answer that did not help and the next try; twice as long after each.
const RETRY_US: (u64, u64) = (3_000, 48_000);
/// How often it is looked whether a follower has caught up.
const CATCH_UP_US: u64 = 1_000;
/// An operation that took so many times a client's patience is left.
const PATIENCES: u64 = 10;
/// A million: microseconds in a second.
const SECOND_US: u64 = 1_000_000;

/// All operations of a run.
pub(crate) struct Clients {
    world: World,
    profile: Profile,
    work: JoinSet<()>,
}

/// Whom clients take for the leader.
#[derive(Debug, Default)]
pub(crate) struct Belief {
    leader: Option<usize>,
    since_us: u64,
    /// Who was taken for the leader in vain: others who still name it are not believed.
    stale: Option<usize>,
}

impl Belief {
    fn acknowledged(&mut self, by: usize, at_us: u64) {
        *self = Self {
            leader: Some(by),
            since_us: at_us,
            stale: None,
        };
    }

    /// Somebody said who leads.
    fn told(&mut self, leader: usize, at_us: u64) {
        if self.stale != Some(leader) {
            self.leader = Some(leader);
            self.since_us = at_us;
        }
    }

    fn doubted(&mut self, server: usize) {
        if self.leader == Some(server) {
            self.stale = self.leader.take();
        }
    }

    fn leader(&mut self, now_us: u64, silence_us: u64) -> Option<usize> {
        if now_us > self.since_us + silence_us {
            self.stale = self.leader.take().or(self.stale);
        }
        self.leader
    }
}

impl Clients {
    pub(crate) fn new(world: &World, scenario: &Scenario) -> Self {
        Self {
            world: world.clone(),
            profile: scenario.profile,
            work: JoinSet::new(),
        }
    }

    /// Begins operations until nothing more is to be asked, then sees them all end.
    pub(crate) async fn work(mut self, scenario: &Scenario, begin_us: u64) {
        let every = |rate: u32| SECOND_US.checked_div(u64::from(rate)).map(|us| us.max(1));
        let (write, read) = (
            every(scenario.load.writes_per_second),
            every(scenario.load.reads_per_second),
        );
        // Half a step apart, so that the two seldom begin at the same moment.
        let mut next_write = write.map(|every| begin_us + every);
        let mut next_read = read.map(|every| begin_us + every / 2);
        loop {
            let next = [next_write, next_read].into_iter().flatten().min();
            let Some(at_us) = next else {
                break;
            };
            self.world.until(at_us).await;
            if self.world.lock().is_closing {
                break;
            }
            if next_write == Some(at_us) {
                next_write = write.map(|every| at_us + every);
                self.work
                    .spawn(write_once(self.world.clone(), self.profile));
            }
            if next_read == Some(at_us) {
                next_read = read.map(|every| at_us + every);
                self.work.spawn(read_once(self.world.clone(), self.profile));
            }
            while self.work.try_join_next().is_some() {}
        }
        while let Some(done) = self.work.join_next().await {
            if let Err(error) = done {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// A moment after which nobody waits any longer.
fn limit_us(world: &World, profile: Profile) -> u64 {
    world.now_us() + patience_us(profile) * PATIENCES
}

/// Writes, with one server after the other.
async fn write_once(world: World, profile: Profile) {
    let limit = limit_us(&world, profile);
    let mut wait_us = RETRY_US.0;
    while world.now_us() < limit {
        let (server, handle) = whom(&world, profile);
        if let Some(handle) = handle
            && try_write(&world, profile, server, handle).await
        {
            return;
        }
        pause(wait_us).await;
        wait_us = (wait_us * 2).min(RETRY_US.1);
    }
}

/// The server to ask, and its handle if its process runs.
fn whom(world: &World, profile: Profile) -> (usize, Option<Agreement<Ledger>>) {
    let now_us = world.now_us();
    let mut state = world.lock();
    let any = state.servers.len();
    let any = state.random.random_range(0..any);
    let silence = as_micros(profile.timers().election_min);
    let server = state.servers.belief.leader(now_us, silence).unwrap_or(any);
    let handle = state.servers.running(server);
    if handle.is_none() {
        state.servers.belief.doubted(server);
    }
    (server, handle)
}

/// One attempt; `true` when it was acknowledged.
async fn try_write(
    world: &World,
    profile: Profile,
    server: usize,
    handle: Agreement<Ledger>,
) -> bool {
    let now = world.now();
    let attempt = world.lock().evidence.tries(now);
    let entry = ledger::entry(attempt.number);
    // A task of the server's: it goes on with what a client gave up on.
    let Some(process) = world.lock().servers.process(server) else {
        return false;
    };
    let work = process.spawn(async move { handle.propose(entry).await });
    let told = timeout(span(patience_us(profile)), work).await;
    let answer = told.ok().and_then(Result::ok);
    match answer {
        Some(Ok((index, _))) => {
            acknowledged(world, server, attempt, index.0);
            return true;
        }
        Some(Err(ProposeError::NotLeader { leader })) => {
            refused(world, attempt);
            believe(world, server, leader.as_ref());
        }
        Some(Err(ProposeError::NoMajority { .. } | ProposeError::Busy)) => {
            refused(world, attempt);
            world.lock().servers.belief.doubted(server);
        }
        Some(Err(
            ProposeError::OutcomeUnknown { .. }
            | ProposeError::TooLarge { .. }
            | ProposeError::Stopped(_),
        ))
        | None => {
            let mut state = world.lock();
            state.evidence.counts.unknown += 1;
            state.servers.belief.doubted(server);
        }
    }
    false
}

fn acknowledged(world: &World, server: usize, attempt: Attempt, index: u64) {
    let now = world.now();
    world.note(b'W', server, 0, index);
    let mut state = world.lock();
    state.servers.belief.acknowledged(server, now.as_micros());
    state.evidence.wrote(now, attempt, index);
}

fn refused(world: &World, attempt: Attempt) {
    let now = world.now();
    world.lock().evidence.refused(now, attempt);
}

/// Takes a server at its word about who leads.
fn believe(world: &World, server: usize, leader: Option<&NodeId>) {
    let now_us = world.now_us();
    let mut state = world.lock();
    match leader.and_then(|node| state.servers.of_node(node)) {
        Some(leader) => state.servers.belief.told(leader, now_us),
        None => state.servers.belief.doubted(server),
    }
}

/// Reads on any server, linearizably, and lets it be if that takes too long.
async fn read_once(world: World, profile: Profile) {
    let limit = limit_us(&world, profile);
    let called = world.lock().evidence.asks();
    let mut wait_us = RETRY_US.0;
    while world.now_us() < limit {
        let patience = span(patience_us(profile));
        if let Ok(Some((state, leads))) = timeout(patience, read(&world)).await {
            let now = world.now();
            world.note(b'R', usize::from(leads), 0, state.applied);
            let evidence = &mut world.lock().evidence;
            evidence.counts.follower_reads += u64::from(!leads);
            evidence.read(now, called, state.applied, state.digest);
            return;
        }
        pause(wait_us).await;
        wait_us = (wait_us * 2).min(RETRY_US.1);
    }
}

/// A state that answers a linearizable read, from any server, and whether that one leads: the leader's
/// read index, then the wait until the server has got there.
async fn read(world: &World) -> Option<(std::sync::Arc<Ledger>, bool)> {
    let (server, handle) = {
        let mut state = world.lock();
        let any = state.servers.len();
        let any = state.random.random_range(0..any);
        (any, state.servers.running(any)?)
    };
    let leads = handle.status().borrow().role == Role::Leader;
    let index = if leads {
        handle.read_index().await.ok()?
    } else {
        let leader = handle.status().borrow().leader_id?;
        let leader = world.lock().servers.of_raft_id(leader)?;
        if !world.travel(server, leader).await {
            return None;
        }
        let asked = world.lock().servers.running(leader)?;
        let index = asked.read_index().await.ok()?;
        if !world.travel(leader, server).await {
            return None;
        }
        index
    };
    // Asked again and again: several waiters on one watch are woken in an order of chance.
    loop {
        let published = handle.published();
        let now = published.borrow().clone();
        if now.index >= index {
            return Some((now.machine, leads));
        }
        pause(CATCH_UP_US).await;
    }
}

/// How long after the last operation began all have ended.
pub(crate) fn longest(profile: Profile) -> Duration {
    Duration::from_micros(patience_us(profile) * (PATIENCES + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE_US: u64 = 150_000;

    #[test]
    fn who_was_asked_in_vain_is_believed_again_only_after_an_acknowledgement() {
        let mut belief = Belief::default();
        belief.acknowledged(1, 10);
        assert_eq!(belief.leader(10 + SILENCE_US, SILENCE_US), Some(1));
        assert_eq!(belief.leader(11 + SILENCE_US, SILENCE_US), None);
        belief.told(1, 20 + SILENCE_US);
        assert_eq!(belief.leader(20 + SILENCE_US, SILENCE_US), None);
        belief.told(2, 20 + SILENCE_US);
        assert_eq!(belief.leader(20 + SILENCE_US, SILENCE_US), Some(2));
        belief.doubted(2);
        belief.acknowledged(2, 30 + SILENCE_US);
        assert_eq!(belief.leader(30 + SILENCE_US, SILENCE_US), Some(2));
    }
}
