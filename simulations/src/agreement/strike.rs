//! How faults are carried out.
//!
//! Decides whom a fault meets each time it comes, and what counts as having hit something. When a fault
//! is over, its marks are off the network and whoever it ended has been started, unless another fault
//! still holds it.

use std::time::Duration;

use rand::Rng;
use simulated_raft::Agreement;
use tokio::time::timeout;

use super::{
    fault::{Disk, Fault, MOMENT_WITHIN, Moment, Target, What},
    invariants::progress,
    leases,
    ledger::Ledger,
    network::Effect,
    operator,
    servers::start,
    world::{State, World, pause, span},
};
use crate::{
    random::{Span, as_micros},
    timeline::Happening,
};

/// How long a fault that is meant for the leader waits for one.
const LEADER_WAIT_US: u64 = 5_000_000;
/// How often it looks.
const LEADER_LOOK_US: u64 = 5_000;

/// How often a fault looks whether its moment has come.
const MOMENT_LOOK_US: u64 = 500;
/// The middle of a close on a LAN: its voters' promises and a bit more.
const CLOSE_TAKES: Span = Span::micros(0, 450_000);
/// The middle of a change of a lease's voters: two commits, of which whoever follows hears with the
/// next heartbeat, a renewal and a write.
const JOINT_TAKES: Span = Span::micros(0, 150_000);
/// Servers are agents, or agents servers, within so long, whatever strikes meanwhile.
const CHANGE_WITHIN: Duration = Duration::from_secs(30);

/// One fault of a run.
pub(crate) struct Strike {
    pub(crate) world: World,
    pub(crate) place: usize,
    pub(crate) fault: Fault,
}

impl Strike {
    /// Carries out the fault, as often as it comes; the calm ends at `calm_us`.
    pub(crate) async fn carry_out(self, calm_us: u64) {
        self.world.until(calm_us + as_micros(self.fault.at)).await;
        for time in 0..self.fault.times {
            if time > 0 {
                let wait = {
                    let mut state = self.world.lock();
                    self.fault.every.draw(&mut state.random)
                };
                pause(as_micros(wait)).await;
            }
            if self.moment().await {
                self.come().await;
            }
        }
    }

    /// Waits for what the fault waits for; gives whether it came.
    async fn moment(&self) -> bool {
        let Some(moment) = self.fault.on else {
            return true;
        };
        let takes = match moment {
            Moment::Close => CLOSE_TAKES,
            Moment::Joint => JOINT_TAKES,
        };
        let limit_us = self.world.now_us() + as_micros(MOMENT_WITHIN);
        let before = self.seen(moment);
        while self.seen(moment) == before {
            if self.world.now_us() >= limit_us {
                return false;
            }
            pause(MOMENT_LOOK_US).await;
        }
        let wait = {
            let random = &mut self.world.lock().random;
            takes.draw(random)
        };
        pause(as_micros(wait)).await;
        true
    }

    /// How often such a moment has come so far.
    fn seen(&self, moment: Moment) -> u64 {
        let vips = &self.world.lock().evidence.vips;
        match moment {
            Moment::Close => vips.closes,
            Moment::Joint => vips.changes,
        }
    }

    async fn come(&self) {
        match &self.fault.what {
            What::Crash { targets, disk } => self.end_for_a_while(targets, *disk, true).await,
            What::Kill { targets, disk } => self.end_for_a_while(targets, *disk, false).await,
            What::Stall { targets } => self.stall(targets).await,
            What::SlowDisk { targets, sync } => self.slow(targets, *sync).await,
            What::CutOneWay { from, to } => self.mark(from, to, Effect::Cut, false).await,
            What::Cut { from, to } => self.mark(from, to, Effect::Cut, true).await,
            What::Loss { from, to, ppm } => self.mark(from, to, Effect::Loss(*ppm), true).await,
            What::Delay { from, to, by } => self.mark(from, to, Effect::Delay(*by), true).await,
            What::ClockStep { targets, by } => self.set_clocks(targets, *by).await,
            What::Retire { targets } => self.retire(targets).await,
            What::RollingRestart {
                targets,
                down,
                pause: rest,
            } => {
                for server in self.pick(targets, &[]).await {
                    self.end(server, false);
                    pause(as_micros(*down)).await;
                    self.begin(server, Disk::Kept).await;
                    pause(as_micros(*rest)).await;
                }
            }
        }
    }

    /// Waits until the fault is over.
    async fn last(&self) {
        let lasts = {
            let random = &mut self.world.lock().random;
            self.fault.lasts.unwrap_or_default().draw(random)
        };
        pause(as_micros(lasts)).await;
    }

    async fn end_for_a_while(&self, targets: &Target, disk: Disk, power: bool) {
        let targets = self.pick(targets, &[]).await;
        for server in &targets {
            self.end(*server, power);
        }
        if self.fault.lasts.is_none() {
            return;
        }
        self.last().await;
        for server in targets {
            self.begin(server, disk).await;
        }
    }

    /// Ends a process, with its host's power or without.
    fn end(&self, server: usize, power: bool) {
        self.hit_if_leader(&[server]);
        let now = self.world.now();
        self.world.note(b'X', server, self.place, u64::from(power));
        if !power {
            leases::hang_up(&self.world, server);
        }
        let mut state = self.world.lock();
        let state = &mut *state;
        state.servers.at(server).down += 1;
        let ran = if power {
            for vip in state.gates.power_off(server) {
                state.evidence.gate_shut(now, vip, server);
            }
            state.servers.crash(server)
        } else {
            state.servers.kill(server)
        };
        if ran {
            state.hits[self.place] += 1;
            let how = if power { "loses power" } else { "is killed" };
            let what = format!("server {server} {how}");
            state.evidence.tell(now, Happening::Fault, what);
        }
    }

    /// Starts a process, unless another fault wants it down.
    async fn begin(&self, server: usize, disk: Disk) {
        let is_last = {
            let mut state = self.world.lock();
            let one = state.servers.at(server);
            one.down = one.down.saturating_sub(1);
            one.down == 0
        };
        if !is_last {
            return;
        }
        match disk {
            Disk::Kept => start(&self.world, server).await,
            Disk::Lost => operator::replace(&self.world, server).await,
        }
    }

    async fn stall(&self, targets: &Target) {
        let targets = self.pick(targets, &[]).await;
        self.hit_if_leader(&targets);
        let mut paused = Vec::new();
        for server in targets {
            self.world.note(b'P', server, self.place, 0);
            let mut state = self.world.lock();
            if let Some(process) = state.servers.process(server) {
                process.pause();
                state.servers.at(server).still += 1;
                paused.push((server, process));
            }
        }
        self.last().await;
        for (server, process) in paused {
            self.world.note(b'G', server, self.place, 0);
            let mut state = self.world.lock();
            let one = state.servers.at(server);
            one.still = one.still.saturating_sub(1);
            if one.still == 0 {
                state.hits[self.place] += process.resume() as u64;
            }
        }
    }

    async fn set_clocks(&self, targets: &Target, by: Span) {
        for server in self.pick(targets, &[]).await {
            let mut state = self.world.lock();
            let state = &mut *state;
            let by_ms = i64::try_from(by.draw(&mut state.random).as_millis()).unwrap_or(i64::MAX);
            let back = state.random.random_range(0..2) == 0;
            state.servers.at(server).host.wall_ms += if back { -by_ms } else { by_ms };
            state.hits[self.place] += 1;
        }
    }

    async fn retire(&self, targets: &Target) {
        let targets = self.pick(targets, &[]).await;
        let change = operator::retire(&self.world, &targets);
        let Some(moved) = self.in_time(&targets, change).await else {
            return;
        };
        self.world.note(b'D', targets.len(), self.place, moved);
        self.world.lock().hits[self.place] += moved;
        let now = self.world.now();
        self.tell(now, format!("servers {targets:?} vote no more"));
        self.last().await;
        let change = operator::reinstate(&self.world, &targets);
        if self.in_time(&targets, change).await.is_none() {
            return;
        }
        self.world.note(b'E', targets.len(), self.place, 0);
        let now = self.world.now();
        self.tell(now, format!("servers {targets:?} vote again"));
    }

    /// What a change of who votes came to, if it came to an end in time.
    async fn in_time<T>(&self, servers: &[usize], change: impl Future<Output = T>) -> Option<T> {
        let done = timeout(span(as_micros(CHANGE_WITHIN)), change).await.ok();
        let now = self.world.now();
        let held = progress::of_change(servers, done.is_some(), CHANGE_WITHIN);
        self.world.lock().evidence.judge("progress", now, held);
        done
    }

    async fn slow(&self, targets: &Target, sync: Span) {
        let targets = self.pick(targets, &[]).await;
        let before: Vec<u64> = {
            let mut state = self.world.lock();
            let slow = |server: &usize| state.servers.set_sync(*server, Some(sync));
            targets.iter().map(slow).collect()
        };
        self.last().await;
        let mut state = self.world.lock();
        for (server, before) in targets.iter().zip(before) {
            let after = state.servers.set_sync(*server, None);
            state.hits[self.place] += after.saturating_sub(before);
        }
    }

    async fn mark(&self, from: &Target, to: &Target, effect: Effect, both_ways: bool) {
        // Whichever side stands on its own is drawn first.
        let (from, to) = if matches!(from, Target::Others) {
            let to = self.pick(to, &[]).await;
            (self.pick(from, &to).await, to)
        } else {
            let from = self.pick(from, &[]).await;
            let to = self.pick(to, &from).await;
            (from, to)
        };
        if matches!(effect, Effect::Cut) {
            self.hit_if_leader(if from.len() <= to.len() { &from } else { &to });
        }
        {
            let mut state = self.world.lock();
            state.network.mark(self.place, &from, &to, effect);
            if both_ways && from != to {
                state.network.mark(self.place, &to, &from, effect);
            }
        }
        let now = self.world.now();
        let what = format!("{} begins: {from:?} and {to:?}", self.fault.what.kind());
        self.tell(now, what);
        self.last().await;
        self.world.lock().network.unmark(self.place);
        let now = self.world.now();
        self.tell(now, format!("{} is over", self.fault.what.kind()));
    }

    fn tell(&self, now: consensus_core::Time, what: String) {
        let mut state = self.world.lock();
        state.evidence.tell(now, Happening::Fault, what);
    }

    /// Notes the blow if the leader is among them.
    fn hit_if_leader(&self, targets: &[usize]) {
        let now = self.world.now();
        let mut state = self.world.lock();
        if state
            .servers
            .leader()
            .is_some_and(|leader| targets.contains(&leader))
        {
            state.evidence.leader_hit(now);
        }
    }

    /// The servers that are meant, by rising index. `other` is the fault's other side.
    async fn pick(&self, targets: &Target, other: &[usize]) -> Vec<usize> {
        let needs_leader = matches!(
            targets,
            Target::Leader | Target::LeaderAnd(_) | Target::Followers(_) | Target::HolderAndLeader
        );
        let leader = if needs_leader {
            self.leader().await
        } else {
            None
        };
        let holders = if targets.needs_leases() {
            self.holders().await
        } else {
            Vec::new()
        };
        let mut state = self.world.lock();
        let all: Vec<usize> = (0..state.servers.len()).collect();
        let but = |gone: &[usize]| -> Vec<usize> {
            let kept = all.iter().filter(|server| !gone.contains(server));
            kept.copied().collect()
        };
        let lead: Vec<usize> = leader.into_iter().collect();
        let hold: Vec<usize> = draw(&mut state, 1, holders.clone());
        let next = || {
            hold.first()
                .and_then(|holder| state.servers.next_to(*holder))
        };
        let mut picked = match targets {
            Target::Index(indices) => indices.clone(),
            Target::All => all,
            Target::Others => but(other),
            Target::Leader => lead,
            Target::Count(count) => draw(&mut state, *count, but(other)),
            Target::Followers(count) => draw(&mut state, *count, but(&lead)),
            Target::LeaderAnd(count) => {
                let more = draw(&mut state, *count, but(&lead));
                [lead, more].concat()
            }
            Target::Holder => hold,
            Target::HolderAnd(count) => {
                let more = draw(&mut state, *count, but(&hold));
                [hold, more].concat()
            }
            Target::Idle(count) => draw(&mut state, *count, but(&holders)),
            Target::HolderAndNext => hold.iter().copied().chain(next()).collect(),
            Target::HolderAndLeader => [hold, lead].concat(),
        };
        picked.sort_unstable();
        picked.dedup();
        picked
    }

    /// Whoever holds a virtual IP; if nobody does, whoever will.
    async fn holders(&self) -> Vec<usize> {
        let limit_us = self.world.now_us() + LEADER_WAIT_US;
        loop {
            let now_us = self.world.now_us();
            let mut holders: Vec<usize> = {
                let state = self.world.lock();
                let all = state.evidence.virtual_ips();
                let open = all.filter_map(|vip| state.gates.open_at(now_us, vip));
                open.filter(|server| state.servers.running(*server).is_some())
                    .collect()
            };
            holders.sort_unstable();
            holders.dedup();
            if !holders.is_empty() || now_us >= limit_us {
                return holders;
            }
            pause(LEADER_LOOK_US).await;
        }
    }

    /// Whoever leads; if nobody does, whoever will.
    async fn leader(&self) -> Option<usize> {
        let limit_us = self.world.now_us() + LEADER_WAIT_US;
        loop {
            let leader = {
                let state = self.world.lock();
                // A leader that is not yet at work would be no blow to anybody.
                let works = |server: &usize| {
                    let handle: Option<Agreement<Ledger>> = state.servers.running(*server);
                    handle.is_some() && !state.evidence.is_leaderless()
                };
                state.servers.leader().filter(works)
            };
            if leader.is_some() || self.world.now_us() >= limit_us {
                return leader;
            }
            pause(LEADER_LOOK_US).await;
        }
    }
}

/// So many out of these; those that run first, because a fault is to hit something.
fn draw(state: &mut State, count: usize, mut from: Vec<usize>) -> Vec<usize> {
    // Fisher and Yates, written out: the crate's own may change between versions.
    for at in 0..from.len().saturating_sub(1) {
        let other = state.random.random_range(at..from.len());
        from.swap(at, other);
    }
    let alive = state.servers.alive();
    from.sort_by_key(|server| !alive.contains(server));
    from.truncate(count);
    from
}
