//! Servers as simulated processes: many in one thread, on a runtime whose clock is virtual.
//!
//! Decides what is frozen by a pause and what is gone after a kill: every task that a server
//! spawned, and nothing else. Never decides when to pause or kill; the caller does, and the
//! caller owns network and disks.
//!
//! Invariants: a killed process runs no more code of its own but destructors; a paused one none
//! at all until it is resumed; every random number that Raft draws comes from the process's seed.
//!
//! Only with the feature `simulation`. No program of ours enables it for the crate that it is built
//! with: the laboratory uses these sources as a crate of their own, `simulated-raft`, so that one
//! call of cargo for both never mixes them. Outside of a process the runtime below behaves as
//! tokio's own.

pub mod clock;
#[cfg(feature = "planted-bugs")]
mod planted;
pub mod spy;
#[cfg(test)]
mod tests;
mod watch;

use std::{
    cell::RefCell,
    collections::hash_map::RandomState,
    future::Future,
    hash::BuildHasher as _,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use consensus_log::{Disk, Options};
use openraft::{AsyncRuntime, Config, OptionalSend, SnapshotPolicy};
use seeded_rand::{SeedableRng as _, rngs::Xoshiro256PlusPlus};
use tokio::task::{AbortHandle, JoinHandle};

use crate::raft_types::Tokio;

pub use self::clock::Clock;
#[cfg(feature = "planted-bugs")]
pub use self::planted::PlantedBug;
#[cfg(feature = "planted-bugs")]
pub(crate) use self::planted::{distorted, planted};

/// The size of a log's segments: so small that a short simulation fills several.
const SEGMENT_BYTES: usize = 32 * 1024;
/// Finished tasks are forgotten whenever this many more have been spawned.
const FORGET_EVERY_TASKS: usize = 256;

thread_local! {
    /// The process whose task is being polled.
    static CURRENT: RefCell<Option<Process>> = const { RefCell::new(None) };
}

/// A simulated process. Clones are the same process.
#[derive(Clone)]
pub struct Process {
    inner: Arc<Mutex<Inner>>,
    disk: Arc<dyn Disk>,
    /// Entries between two snapshots, and entries kept behind one, instead of the usual numbers.
    short_log: Option<(u64, u64)>,
    /// Its own clock; without one it goes by tokio's.
    clock: Option<Clock>,
    #[cfg(feature = "planted-bugs")]
    bug: Option<PlantedBug>,
}

struct Inner {
    life: Life,
    seed: u64,
    tasks: Vec<AbortHandle>,
    forget_at: usize,
    /// Tasks that were woken while the process was paused.
    held: Vec<Waker>,
    /// The shortest and the longest time that the disk takes to sync.
    sync: (Duration, Duration),
    syncs: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    Paused,
    Killed,
}

impl Process {
    /// A running process on a disk that no other uses at the same time. The same seed gives the
    /// same random numbers.
    pub fn new(seed: u64, disk: Arc<dyn Disk>) -> Self {
        let inner = Inner {
            life: Life::Running,
            seed,
            tasks: Vec::new(),
            forget_at: FORGET_EVERY_TASKS,
            held: Vec::new(),
            sync: (Duration::ZERO, Duration::ZERO),
            syncs: 0,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            disk,
            short_log: None,
            clock: None,
            #[cfg(feature = "planted-bugs")]
            bug: None,
        }
    }

    /// The same with a bug planted into it.
    #[cfg(feature = "planted-bugs")]
    #[must_use]
    pub fn with_bug(self, bug: Option<PlantedBug>) -> Self {
        Self { bug, ..self }
    }

    /// The same with a snapshot every `every` entries and only `kept` entries behind it, so that a
    /// short simulation has many snapshots. Counts for servers opened afterwards.
    #[must_use]
    pub fn with_short_log(self, every: u64, kept: u64) -> Self {
        Self {
            short_log: Some((every, kept)),
            ..self
        }
    }

    /// The same with a clock of its own. Counts for tasks spawned afterwards.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self {
            clock: Some(clock),
            ..self
        }
    }

    /// Raft's configuration for this process.
    pub(crate) fn adapt(&self, config: Arc<Config>) -> Arc<Config> {
        let Some((every, kept)) = self.short_log else {
            return config;
        };
        Arc::new(Config {
            snapshot_policy: SnapshotPolicy::LogsSinceLast(every),
            max_in_snapshot_log_to_keep: kept,
            purge_batch_size: 1,
            replication_lag_threshold: every + kept,
            ..Config::clone(&config)
        })
    }

    /// Runs `work` as a task of this process. Must be called within a tokio runtime.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let inside = Inside {
            process: self.clone(),
            work: Some(Box::pin(work)),
        };
        let task = tokio::spawn(inside);
        let mut inner = self.lock();
        if inner.life == Life::Killed {
            task.abort();
        }
        inner.tasks.push(task.abort_handle());
        if inner.tasks.len() >= inner.forget_at {
            inner.tasks.retain(|task| !task.is_finished());
            inner.forget_at = inner.tasks.len() + FORGET_EVERY_TASKS;
        }
        task
    }

    /// No task of the process runs until it is resumed; time goes on without it.
    pub fn pause(&self) {
        let mut inner = self.lock();
        if inner.life == Life::Running {
            inner.life = Life::Paused;
        }
    }

    /// Lets a paused process run again; gives how many of its tasks had to wait.
    pub fn resume(&self) -> usize {
        let held = {
            let mut inner = self.lock();
            if inner.life == Life::Paused {
                inner.life = Life::Running;
            }
            std::mem::take(&mut inner.held)
        };
        let waited = held.len();
        held.into_iter().for_each(Waker::wake);
        waited
    }

    /// Ends the process where it stands.
    pub fn kill(&self) {
        let (tasks, held) = {
            let mut inner = self.lock();
            inner.life = Life::Killed;
            (
                std::mem::take(&mut inner.tasks),
                std::mem::take(&mut inner.held),
            )
        };
        tasks.iter().for_each(AbortHandle::abort);
        held.into_iter().for_each(Waker::wake);
    }

    /// From now on each sync of this process's disk takes between `min` and `max`.
    pub fn set_sync_time(&self, min: Duration, max: Duration) {
        self.lock().sync = (min, max.max(min));
    }

    /// Syncs begun so far.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// How long the sync that begins now takes.
    pub(crate) fn sync_takes(&self) -> Duration {
        let (min, max) = {
            let mut inner = self.lock();
            inner.syncs += 1;
            inner.sync
        };
        let spread_us = u64::try_from((max - min).as_micros()).unwrap_or(u64::MAX);
        min + Duration::from_micros(self.draw() % spread_us.max(1))
    }

    /// What a store is opened on.
    pub(crate) fn disk(&self) -> (Arc<dyn Disk>, Options) {
        let options = Options {
            segment_bytes: SEGMENT_BYTES,
        };
        (Arc::clone(&self.disk), options)
    }

    /// Whether it was killed.
    pub fn is_killed(&self) -> bool {
        self.lock().life == Life::Killed
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// The clock of the process whose task is being polled.
    fn current_clock() -> Option<Clock> {
        CURRENT.with_borrow(|process| process.as_ref().and_then(|process| process.clock))
    }

    /// Whether `work` may be polled now; if not yet, `waker` is woken when it may.
    fn admits(&self, waker: &Waker) -> bool {
        let mut inner = self.lock();
        match inner.life {
            Life::Running => true,
            Life::Paused => {
                inner.held.push(waker.clone());
                false
            }
            Life::Killed => false,
        }
    }

    fn draw(&self) -> u64 {
        let mut inner = self.lock();
        inner.seed = inner.seed.wrapping_add(WEYL);
        mixed(inner.seed)
    }
}

/// The odd constant of SplitMix64 (Steele, Lea and Flood 2014).
const WEYL: u64 = 0x9e37_79b9_7f4a_7c15;

fn mixed(seed: u64) -> u64 {
    let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A task of a process.
struct Inside<F> {
    process: Process,
    work: Option<Pin<Box<F>>>,
}

impl<F> Inside<F> {
    /// Runs `step` as this process, whoever was current before.
    fn as_current<T>(process: &Process, step: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(Some(process.clone()));
        let result = step();
        CURRENT.set(before);
        result
    }
}

impl<F: Future> Future for Inside<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        if !this.process.admits(context.waker()) {
            return Poll::Pending;
        }
        let Some(work) = &mut this.work else {
            return Poll::Pending;
        };
        Self::as_current(&this.process, || work.as_mut().poll(context))
    }
}

impl<F> Drop for Inside<F> {
    /// What the task owns is dropped as its process too: destructors may spawn.
    fn drop(&mut self) {
        let work = self.work.take();
        Self::as_current(&self.process, || drop(work));
    }
}

/// tokio for Raft, except that tasks of a [`Process`] belong to it and draw from its seed.
#[derive(Debug)]
pub(crate) struct Runtime(Tokio);

impl AsyncRuntime for Runtime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = clock::Instant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = Xoshiro256PlusPlus;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = watch::Orderly;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        match Process::current() {
            Some(process) => process.spawn(future),
            None => tokio::spawn(future),
        }
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        clock::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        clock::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        clock::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        clock::timeout_at(deadline, future)
    }

    fn is_panic(error: &Self::JoinError) -> bool {
        error.is_panic()
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        let seed = Process::current().map_or_else(
            // No process, no seed: as random as a hash map's order.
            || RandomState::new().hash_one(std::thread::current().id()),
            |process| process.draw(),
        );
        Xoshiro256PlusPlus::seed_from_u64(seed)
    }

    fn new(threads: usize) -> Self {
        Self(Tokio::new(threads))
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, future: F) -> T {
        self.0.block_on(future)
    }
}
