//! Everything that goes wrong, several things at once.
//!
//! Decides from the seed which fault strikes whom, when and for how long. Each kind is counted
//! only when it hit something: a cut that stopped a message, a power cut that took writes along.

use std::{collections::BTreeSet, time::Duration};

use consensus_core::RaftId;
use consensus_raft::{Agreement, ChangeError, Removed, Role};
use rand::{
    Rng as _, SeedableRng as _,
    seq::{IndexedRandom as _, SliceRandom as _},
};
use rand_chacha::ChaCha8Rng;
use tokio::time::{Instant, sleep};

use super::{
    bugs::Bug,
    machine::Book,
    network::{Seat, World, lock},
    seats::{SEATS, SYNC_TIME, start},
};

/// Fewer voters would make a majority of every pair.
const VOTERS_MIN: usize = 3;
/// How often a change of members is tried before it is left.
const CHANGE_TRIES: u32 = 8;

/// The source of one kind of faults.
pub(crate) struct Fate {
    world: World,
    random: ChaCha8Rng,
    end: Instant,
}

impl Fate {
    /// Strikes until `end`.
    pub(crate) fn new(world: &World, seed: u64, end: Instant) -> Self {
        Self {
            world: world.clone(),
            random: ChaCha8Rng::seed_from_u64(seed),
            end,
        }
    }

    /// Waits; `false` when it is all over.
    async fn wait(&mut self, min_ms: u64, max_ms: u64) -> bool {
        let ms = self.random.random_range(min_ms..max_ms);
        sleep(Duration::from_millis(ms)).await;
        Instant::now() < self.end
    }

    /// Cuts, losses and delays.
    pub(crate) async fn weather(mut self) {
        while self.wait(100, 1_200).await {
            match self.random.random_range(0..10) {
                0..4 => self.cut(true),
                4..7 => self.cut(false),
                7..9 => {
                    let permille = self.random.random_range(20..300);
                    lock(&self.world.weather).lost_permille = permille;
                }
                _ => {
                    let slower = self.random.random_range(4..40);
                    lock(&self.world.weather).slower = slower;
                    self.world.count("slow network");
                }
            }
            self.wait(100, 2_500).await;
            clear(&self.world);
        }
    }

    /// Separates some seats from the rest, or lets them hear nothing, or nobody hear them.
    fn cut(&mut self, both_ways: bool) {
        let mut seats: Vec<Seat> = (0..SEATS).collect();
        seats.shuffle(&mut self.random);
        let some = self.random.random_range(1..=SEATS / 2);
        let (few, many) = seats.split_at(some);
        let inward = self.random.random_bool(0.5);
        let mut weather = lock(&self.world.weather);
        weather.cut_kind = if both_ways {
            "cut both ways"
        } else {
            "cut one way"
        };
        for (one, other) in few
            .iter()
            .flat_map(|one| many.iter().map(move |other| (*one, *other)))
        {
            if both_ways || inward {
                weather.cuts.insert((other, one));
            }
            if both_ways || !inward {
                weather.cuts.insert((one, other));
            }
        }
    }

    /// Crashes, power cuts and pauses.
    pub(crate) async fn outages(mut self) {
        while self.wait(100, 1_500).await {
            match self.random.random_range(0..10) {
                0..2 => self.outage(false, 1).await,
                2..6 => {
                    let seats = self.random.random_range(1..=3);
                    self.outage(true, seats).await;
                }
                6 => {
                    self.world.count("power cut of everybody");
                    self.outage(true, SEATS).await;
                }
                _ => self.pause().await,
            }
        }
    }

    /// Takes a few free seats, the leader's rather than another.
    fn take(&mut self, count: usize) -> Vec<Seat> {
        let leader = leader(&self.world).map(|(seat, _)| seat);
        let leader_first = self.random.random_bool(0.6);
        let mut seats = lock(&self.world.seats);
        let mut free = seats.free();
        free.shuffle(&mut self.random);
        if leader_first {
            free.sort_by_key(|seat| Some(*seat) != leader);
        }
        free.truncate(count);
        for seat in &free {
            seats.at(*seat).held = true;
        }
        free
    }

    /// Ends processes where they stand; a power cut also takes what was not synced.
    async fn outage(&mut self, power: bool, count: usize) {
        let seats = self.take(count);
        let bug = lock(&self.world.judge).bug();
        for seat in &seats {
            let mut all = lock(&self.world.seats);
            all.kill(*seat);
            if power && bug == Some(Bug::OldVoterReturns) && count < SEATS {
                all.replace_disk_only(*seat);
            }
            let lost = if power {
                all.at(*seat).disk.cut_power()
            } else {
                0
            };
            drop(all);
            self.world.note("down", &[*seat as u64, u64::from(power)]);
            match (power, lost) {
                (false, _) => self.world.count("crash"),
                (true, 0) => self.world.count("power cut, nothing to take"),
                (true, _) => self.world.count("power cut that took writes"),
            }
        }
        for seat in seats {
            self.wait(5, 400).await;
            start(&self.world, seat).await;
            lock(&self.world.seats).at(seat).held = false;
        }
    }

    async fn pause(&mut self) {
        let seats = self.take(1);
        for seat in &seats {
            let process = lock(&self.world.seats).process(*seat);
            if let Some(process) = process {
                process.pause();
                self.world.note("paused", &[*seat as u64]);
                self.wait(100, 3_000).await;
                if process.resume() > 0 {
                    self.world.count("pause");
                }
            }
            lock(&self.world.seats).at(*seat).held = false;
        }
    }

    /// Disks that take their time.
    pub(crate) async fn disks(mut self) {
        while self.wait(300, 2_500).await {
            let seat = self.random.random_range(0..SEATS);
            let slow = Duration::from_millis(self.random.random_range(20..400));
            let Some(process) = lock(&self.world.seats).process(seat) else {
                continue;
            };
            let before = process.syncs();
            process.set_sync_time(slow / 4, slow);
            self.wait(200, 2_000).await;
            process.set_sync_time(SYNC_TIME.0, SYNC_TIME.1);
            if process.syncs() > before {
                self.world.count("slow disk");
            }
        }
    }

    /// Changes of members and of the leader.
    pub(crate) async fn members(mut self) {
        while self.wait(300, 1_500).await {
            let Some((seat, server)) = leader(&self.world) else {
                continue;
            };
            let status = server.status().borrow().clone();
            let voters: Vec<u64> = status.voters.keys().map(|id| id.0).collect();
            let learners: Vec<u64> = status.learners.keys().map(|id| id.0).collect();
            match self.random.random_range(0..10) {
                0..3 => {
                    let others = voters
                        .iter()
                        .filter(|id| seat_of(&self.world, **id) != Some(seat));
                    let others: Vec<_> = others.copied().collect();
                    let to = others.choose(&mut self.random).copied();
                    if let Some(to) = to
                        && server.transfer_leader(RaftId(to)).await.is_ok()
                    {
                        self.world.count("leadership transferred");
                    }
                }
                3..5 if voters.len() > VOTERS_MIN => self.demote(&server, &voters).await,
                5..8 if voters.len() > VOTERS_MIN => self.exchange(&voters).await,
                _ => {
                    if let Some(learner) = learners.choose(&mut self.random).copied() {
                        self.promote(learner).await;
                    }
                }
            }
        }
    }

    async fn demote(&mut self, leader: &Agreement<Book>, voters: &[u64]) {
        let Some(gone) = voters.choose(&mut self.random).copied() else {
            return;
        };
        let rest = ids(voters.iter().copied().filter(|id| *id != gone));
        let changed = leader.change_voters(rest, Removed::BecomeLearners).await;
        if changed.is_ok() {
            self.world.count("voter demoted");
        }
    }

    async fn promote(&mut self, learner: u64) -> bool {
        for _ in 0..CHANGE_TRIES {
            if let Some((_, leader)) = leader(&self.world) {
                let status = leader.status().borrow().clone();
                let voters = status.voters.keys().map(|id| id.0);
                let voters = ids(voters.chain([learner]));
                let changed = leader.change_voters(voters, Removed::BecomeLearners).await;
                if changed.is_ok() {
                    self.world.count("learner promoted");
                    return true;
                }
            }
            self.wait(50, 400).await;
        }
        false
    }

    /// A voter leaves for good, and a new server with an empty disk takes its place.
    async fn exchange(&mut self, voters: &[u64]) {
        let Some(gone) = voters.choose(&mut self.random).copied() else {
            return;
        };
        let Some(seat) = seat_of(&self.world, gone) else {
            return;
        };
        if std::mem::replace(&mut lock(&self.world.seats).at(seat).held, true) {
            return;
        }
        if self.leave(gone).await {
            lock(&self.world.seats).replace(seat);
            self.world.note("replaced", &[seat as u64]);
            start(&self.world, seat).await;
            let new = lock(&self.world.seats).name(seat);
            if self.join(new.0, &new.1).await && self.promote(new.0.0).await {
                self.world.count("voter replaced");
            }
        }
        lock(&self.world.seats).at(seat).held = false;
    }

    async fn leave(&mut self, gone: u64) -> bool {
        for _ in 0..CHANGE_TRIES {
            if let Some((_, leader)) = leader(&self.world) {
                let status = leader.status().borrow().clone();
                let voters = status.voters.keys().map(|id| id.0);
                let rest = ids(voters.filter(|id| *id != gone));
                let changed = leader.change_voters(rest, Removed::Leave).await;
                if changed.is_ok() {
                    return true;
                }
            }
            self.wait(50, 400).await;
        }
        false
    }

    async fn join(&mut self, id: RaftId, node: &consensus_core::NodeId) -> bool {
        for _ in 0..CHANGE_TRIES {
            if let Some((_, leader)) = leader(&self.world) {
                let added = leader.add_learner(id, node.clone()).await;
                if matches!(added, Ok(()) | Err(ChangeError::NotCaughtUp(_))) {
                    return true;
                }
            }
            self.wait(50, 400).await;
        }
        false
    }
}

/// Good weather.
pub(crate) fn clear(world: &World) {
    let mut weather = lock(&world.weather);
    weather.cuts.clear();
    weather.lost_permille = 0;
    weather.slower = 1;
}

/// Who leads, as far as it knows itself.
pub(crate) fn leader(world: &World) -> Option<(Seat, Agreement<Book>)> {
    let seats = lock(&world.seats);
    let leads = |seat: &Seat| {
        let (_, server) = seats.running(*seat)?;
        let status = server.status().borrow().clone();
        (status.role == Role::Leader).then_some((status.term, *seat, server))
    };
    let leaders = seats.alive().into_iter().filter_map(|seat| leads(&seat));
    let newest = leaders.max_by_key(|(term, ..)| *term);
    newest.map(|(_, seat, server)| (seat, server))
}

fn seat_of(world: &World, raft_id: u64) -> Option<Seat> {
    lock(&world.seats).seat_of_id(RaftId(raft_id))
}

fn ids(ids: impl Iterator<Item = u64>) -> BTreeSet<RaftId> {
    ids.map(RaftId).collect()
}
