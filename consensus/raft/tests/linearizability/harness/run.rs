//! One run: a group is founded, clients work while everything goes wrong, all is repaired, and
//! what happened is judged.
//!
//! Decides how long each part takes, in virtual time. First safety under faults, then liveness
//! without them.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use consensus_core::RaftId;
use consensus_raft::{Agreement, Removed, Role};
use tokio::{
    runtime::Builder,
    time::{Instant, sleep, timeout},
};

use super::{
    bugs::Bug,
    clients::{CLIENTS, Client, Shared, read_all},
    faults::{Fate, clear, leader},
    judge::{Counts, Judge, Rule, Violation},
    machine::{self, Book},
    network::{World, lock},
    seats::{SEATS, Seats, reached, start},
};

/// How long clients work and faults strike.
const STORM: Duration = Duration::from_secs(8);
/// How long the group may take to be whole again.
const CALM: Duration = Duration::from_secs(60);
/// How often it is asked whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What became of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Its seed.
    pub(crate) seed: u64,
    /// Broken rules; none if all is well.
    pub(crate) violations: Vec<Violation>,
    /// What happened how often.
    pub(crate) counts: Counts,
    /// A digest of all events with their times, and how many there were.
    pub(crate) trace: (u64, u64),
    /// The events themselves, if they were kept.
    pub(crate) events: Vec<String>,
}

/// Runs a seed, with a bug or without.
pub(crate) fn run(seed: u64, bug: Option<Bug>) -> Outcome {
    run_telling(seed, bug, false)
}

/// The same, and keeps all events if `tell`.
pub(crate) fn run_telling(seed: u64, bug: Option<Bug>, tell: bool) -> Outcome {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without threads and sockets can always be made");
    let outcome = runtime.block_on(live(seed, bug, tell));
    // Tasks of the world may hold each other; they end with the runtime.
    drop(runtime);
    outcome
}

async fn live(seed: u64, bug: Option<Bug>, tell: bool) -> Outcome {
    let world = World::new(seed, Seats::new(seed, bug), Judge::new(bug));
    machine::watched_by(&world.judge);
    if tell {
        lock(&world.trace).keep();
    }
    let history = Shared::new(Mutex::default());
    if found(&world).await {
        storm(&world, &history, seed).await;
        calm(&world, &history, seed).await;
    } else {
        let story = "the group could not be founded".to_owned();
        lock(&world.judge).violated(Rule::Recovers, story);
    }
    lock(&history).judge(&mut lock(&world.judge));
    let judge = std::mem::take(&mut *lock(&world.judge));
    let (trace, events) = {
        let mut trace = lock(&world.trace);
        (trace.digest(), trace.lines())
    };
    for seat in 0..SEATS {
        lock(&world.seats).kill(seat);
    }
    Outcome {
        seed,
        violations: judge.violations,
        counts: judge.counts,
        trace,
        events,
    }
}

/// Five voters.
async fn found(world: &World) -> bool {
    for seat in 0..SEATS {
        start(world, seat).await;
    }
    let Some((_, first)) = lock(&world.seats).running(0) else {
        return false;
    };
    if first.found().await.is_err() {
        return false;
    }
    let mut status = first.status();
    if status
        .wait_for(|status| status.role == Role::Leader)
        .await
        .is_err()
    {
        return false;
    }
    let members: Vec<_> = (0..SEATS)
        .map(|seat| lock(&world.seats).name(seat))
        .collect();
    for (id, node) in &members[1..] {
        // The leader's first entry may not be agreed yet.
        while first.add_learner(*id, node.clone()).await.is_err() {
            sleep(LOOK_EVERY).await;
        }
    }
    let voters = members.into_iter().map(|(id, _)| id).collect();
    first.change_voters(voters, Removed::Leave).await.is_ok()
}

async fn storm(world: &World, history: &Shared, seed: u64) {
    let end = Instant::now() + STORM;
    let fate = |salt: u64| Fate::new(world, seed.wrapping_mul(8).wrapping_add(salt), end);
    let mut work = tokio::task::JoinSet::new();
    work.spawn(fate(1).weather());
    work.spawn(fate(2).outages());
    work.spawn(fate(3).disks());
    work.spawn(fate(4).members());
    for number in 0..CLIENTS {
        work.spawn(Client::new(number, seed, world, history).work(end));
    }
    while let Some(done) = work.join_next().await {
        if let Err(error) = done {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Repairs everything, waits until the group is whole, cuts everybody's power once more, waits
/// again, and has every object read.
async fn calm(world: &World, history: &Shared, seed: u64) {
    clear(world);
    for seat in 0..SEATS {
        if let Some(process) = lock(&world.seats).process(seat) {
            process.resume();
        }
    }
    revive(world).await;
    let mut recovered = timeout(CALM, whole(world)).await.is_ok();
    if recovered {
        for seat in 0..SEATS {
            let mut seats = lock(&world.seats);
            seats.kill(seat);
            seats.at(seat).disk.cut_power();
        }
        revive(world).await;
        recovered = timeout(CALM, whole(world)).await.is_ok()
            && read_all(world, history, seed, Instant::now() + CALM).await;
    }
    if !recovered {
        let story = format!("nobody leads all, or not all follow, {CALM:?} after the last fault");
        lock(&world.judge).violated(Rule::Recovers, story);
    }
    for seat in 0..SEATS {
        if let Some((_, server)) = lock(&world.seats).running(seat) {
            look_at(world, &server);
        }
    }
}

/// Starts whoever does not run.
async fn revive(world: &World) {
    for seat in 0..SEATS {
        if lock(&world.seats).running(seat).is_none() {
            start(world, seat).await;
        }
    }
}

/// Waits until there is a leader, every member has applied what is agreed, and all know the same
/// members.
async fn whole(world: &World) {
    while !is_whole(world).await {
        sleep(LOOK_EVERY).await;
    }
}

async fn is_whole(world: &World) -> bool {
    let Some((_, leader)) = leader(world) else {
        return false;
    };
    let Ok(index) = leader.read_index().await else {
        return false;
    };
    let status = leader.status().borrow().clone();
    let seats = lock(&world.seats);
    let level = |id: &RaftId| {
        let server = seats.seat_of_id(*id).and_then(|seat| seats.running(seat));
        server.is_some_and(|(_, server)| {
            let members = server.status().borrow().voters.clone();
            reached(&server) >= index && members == status.voters
        })
    };
    status.voters.keys().all(level)
}

fn look_at(world: &World, server: &Agreement<Book>) {
    let status = server.status().borrow().clone();
    let mut judge = lock(&world.judge);
    if let Some(failure) = status.failure {
        judge.violated(Rule::RaftRuns, failure);
    }
    let published = server.published();
    let book = Arc::clone(&published.borrow().machine);
    judge.seen(book.applied, book.fingerprint);
}

/// What a reader of a failure needs: the broken rules, and how to see the run again.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}:", self.seed)?;
        for violation in &self.violations {
            writeln!(f, "  {violation}")?;
        }
        write!(
            f,
            "  again: cargo run -p consensus-raft --features planted-bugs --example linearizability \
             -- --seed {}",
            self.seed
        )
    }
}
