//! The servers: which process runs where, and on which disk.
//!
//! Decides what the end of a process and a loss of power leave of a server. Never decides when they
//! happen.

use std::{path::PathBuf, sync::Arc, time::Duration};

use consensus_core::{Agreed, NodeId, RaftId, VirtualIp};
use consensus_log::simulation::{Random, SimDisk};
use simulated_raft::{Agreement, Role, Settings, simulation::Process};

use super::{
    invariants::store_opens,
    leases::{self, BootClock, Host},
    ledger::Ledger,
    load::Belief,
    network::Post,
    scenario::{Profile, Scenario},
    world::World,
};
use crate::{
    clock::LocalClock,
    node::node_id,
    random::{Span, as_micros, mix},
};

/// How long a good disk takes to sync: an SSD with a cache it need not flush to one that must.
const SYNC: Span = Span::micros(300, 4_000);
/// Entries between two snapshots: so few that a short run has many.
const SNAPSHOT_EVERY_ENTRIES: u64 = 256;
/// Entries kept behind a snapshot: so few that who was away for a few seconds needs the snapshot.
const KEPT_ENTRIES: u64 = 64;

/// One host.
pub(crate) struct Server {
    node: NodeId,
    /// Its name inside Raft; a new one with every new disk.
    pub(crate) raft_id: u64,
    disk: SimDisk,
    random: Random,
    rate_ppm: u32,
    sync: Span,
    process: Option<Process>,
    handle: Option<Agreement<Ledger>>,
    has_power: bool,
    /// What its virtual IPs rest on.
    pub(crate) host: Host,
    /// Whether it was made an agent: it follows and does not vote.
    pub(crate) is_retired: bool,
    /// How many faults want it down, or still.
    pub(crate) down: u32,
    pub(crate) still: u32,
}

/// What answers a message to a host.
pub(crate) enum Power {
    /// Nothing.
    Off,
    /// Its kernel: no such process.
    Ended,
    /// The server.
    On((u64, Agreement<Ledger>)),
}

/// All of them.
pub(crate) struct Servers {
    all: Vec<Server>,
    processes: u64,
    raft_ids: u64,
    seed: u64,
    profile: Profile,
    disks_lie: bool,
    virtual_ips: usize,
    /// What is wrong with every process.
    #[cfg(feature = "planted-bugs")]
    pub(crate) bug: Option<consensus_lease::planted::PlantedBug>,
    /// What clients think of them.
    pub(crate) belief: Belief,
    /// Whether somebody is about to change who votes.
    pub(crate) is_revoting: bool,
}

impl Servers {
    /// Nobody runs yet.
    pub(crate) fn new(scenario: &Scenario, seed: u64) -> Self {
        let server = |index: usize| {
            let key = mix(seed ^ 0x5eed) ^ index as u64;
            Server {
                node: node_id(index),
                raft_id: index as u64 + 1,
                disk: empty_disk(scenario.disks_lie),
                random: Random::new(key),
                rate_ppm: LocalClock::draw(scenario.clocks, key).rate_ppm(),
                sync: SYNC,
                process: None,
                handle: None,
                has_power: true,
                host: Host::default(),
                is_retired: false,
                down: 0,
                still: 0,
            }
        };
        Self {
            all: (0..scenario.servers).map(server).collect(),
            processes: 0,
            raft_ids: scenario.servers as u64,
            seed,
            profile: scenario.profile,
            disks_lie: scenario.disks_lie,
            virtual_ips: scenario.leases.map_or(0, |leases| leases.virtual_ips),
            #[cfg(feature = "planted-bugs")]
            bug: None,
            belief: Belief::default(),
            is_revoting: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn at(&mut self, index: usize) -> &mut Server {
        &mut self.all[index]
    }

    /// Whether virtual IPs are part of the run.
    pub(crate) const fn has_leases(&self) -> bool {
        self.virtual_ips > 0
    }

    pub(crate) const fn profile(&self) -> Profile {
        self.profile
    }

    /// The clock that a host's leases go by.
    pub(crate) fn boot_clock(&self, index: usize, world: &World) -> BootClock {
        let server = &self.all[index];
        server.host.clock(world.clock(server.rate_ppm))
    }

    pub(crate) fn of_node(&self, node: &NodeId) -> Option<usize> {
        self.all.iter().position(|server| server.node == *node)
    }

    pub(crate) fn of_raft_id(&self, raft_id: RaftId) -> Option<usize> {
        let is = |server: &Server| server.raft_id == raft_id.0;
        self.all.iter().position(is)
    }

    /// The server's name inside Raft and outside.
    pub(crate) fn name(&self, index: usize) -> (RaftId, NodeId) {
        let server = &self.all[index];
        (RaftId(server.raft_id), server.node.clone())
    }

    /// A server's handle, if its process runs.
    pub(crate) fn running(&self, index: usize) -> Option<Agreement<Ledger>> {
        self.all[index].handle.clone()
    }

    pub(crate) fn process(&self, index: usize) -> Option<Process> {
        self.all[index].process.clone()
    }

    /// Everybody whose process runs.
    pub(crate) fn alive(&self) -> Vec<usize> {
        let alive = |index: &usize| self.all[*index].handle.is_some();
        (0..self.all.len()).filter(alive).collect()
    }

    /// Who leads, as far as it knows itself; of several the one with the newest term.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |index: &usize| {
            let status = self.all[*index].handle.as_ref()?.status();
            let status = status.borrow();
            let is_awake = self.all[*index].still == 0;
            (status.role == Role::Leader && is_awake).then_some((status.term, *index))
        };
        let all = 0..self.all.len();
        let leaders = all.filter_map(|index| leads(&index));
        leaders.max().map(|(_, index)| index)
    }

    /// The mesh as the leader has it.
    pub(crate) fn agreed(&self) -> Option<Arc<Agreed>> {
        let published = self.running(self.leader()?)?.published();
        let agreed = Arc::clone(&published.borrow().machine.mesh.agreed);
        Some(agreed)
    }

    /// Who of those that run comes next in the order of candidates, after whoever holds.
    pub(crate) fn next_to(&self, holder: usize) -> Option<usize> {
        let (agreed, holder) = (self.agreed()?, &self.all[holder].node);
        let held = |row: &&VirtualIp| row.is_holder(holder);
        let row = agreed.virtual_ips.values().find(held)?;
        let others = row.candidates.iter().filter(|node| *node != holder);
        let mut others = others.filter_map(|node| self.of_node(node));
        others.find(|server| self.all[*server].handle.is_some())
    }

    /// Ends a process where it stands; its disk keeps what was written. Gives whether one ran.
    pub(crate) fn kill(&mut self, index: usize) -> bool {
        let server = &mut self.all[index];
        if let Some(process) = server.process.take() {
            process.kill();
            let lucky = server.random.chance(50);
            server.host.ends(lucky);
        }
        server.handle.take().is_some()
    }

    /// The same, and what was not synced is gone or torn.
    pub(crate) fn crash(&mut self, index: usize) -> bool {
        let ran = self.kill(index);
        let server = &mut self.all[index];
        server.has_power = false;
        server.disk.power_cut(&mut server.random);
        ran
    }

    /// Puts an empty disk in: the next server there is a new one. Gives the old one's id.
    pub(crate) fn replace(&mut self, index: usize) -> RaftId {
        self.raft_ids += 1;
        let server = &mut self.all[index];
        server.disk = empty_disk(self.disks_lie);
        RaftId(std::mem::replace(&mut server.raft_id, self.raft_ids))
    }

    /// From now on the disk takes this long to sync; gives how often the process synced so far.
    pub(crate) fn set_sync(&mut self, index: usize, sync: Option<Span>) -> u64 {
        let server = &mut self.all[index];
        server.sync = sync.unwrap_or(SYNC);
        let Some(process) = &server.process else {
            return 0;
        };
        process.set_sync_time(server.sync.min, server.sync.max);
        process.syncs()
    }

    /// The state that every server begins with.
    fn founded(&self) -> Ledger {
        match self.virtual_ips {
            0 => Ledger::founded(),
            _ => Ledger::of_servers(self.all.len()),
        }
    }

    fn board(&mut self, index: usize, world: &World) -> (Process, u64, Settings) {
        self.processes += 1;
        let seed = mix(self.seed ^ self.processes.rotate_left(32));
        let server = &mut self.all[index];
        let clock = world.clock(server.rate_ppm);
        let process = Process::new(seed, Arc::new(server.disk.clone()))
            .with_short_log(SNAPSHOT_EVERY_ENTRIES, KEPT_ENTRIES)
            .with_clock(clock);
        if !std::mem::replace(&mut server.has_power, true) {
            server.host.boots(clock.now());
        }
        process.set_sync_time(server.sync.min, server.sync.max);
        server.process = Some(process.clone());
        let settings = Settings {
            dir: PathBuf::new(),
            raft_id: RaftId(server.raft_id),
            node: server.node.clone(),
            timers: self.profile.timers(),
        };
        (process, self.processes, settings)
    }
}

fn empty_disk(lies: bool) -> SimDisk {
    let disk = SimDisk::new();
    disk.set_lying(lies);
    disk
}

impl Server {
    /// How many microseconds its clock counts in a second.
    pub(crate) const fn rate_ppm(&self) -> u32 {
        self.rate_ppm
    }

    /// How long its disk takes to sync.
    pub(crate) const fn sync(&self) -> Span {
        self.sync
    }

    /// What answers a message to it.
    pub(crate) fn power(&self) -> Power {
        match (&self.handle, self.has_power) {
            (_, false) => Power::Off,
            (None, true) => Power::Ended,
            (Some(handle), true) => Power::On((self.raft_id, handle.clone())),
        }
    }
}

/// Starts the server on the disk that is there.
pub(crate) async fn start(world: &World, index: usize) {
    let (process, number, settings) = {
        let mut state = world.lock();
        if state.servers.process(index).is_some() {
            return;
        }
        state.servers.board(index, world)
    };
    world.note(b'S', index, 0, number);
    let post = Arc::new(Post {
        server: index,
        process: number,
        world: world.clone(),
    });
    let founded = world.lock().servers.founded();
    let opened = Agreement::open_in(process.clone(), settings, founded, post).await;
    if process.is_killed() {
        return;
    }
    if let Ok(handle) = &opened {
        leases::start(world, index, &process, handle);
    }
    let now = world.now();
    let mut state = world.lock();
    match opened {
        Ok(handle) => {
            let ledger = Arc::clone(&handle.published().borrow().machine);
            state.evidence.seen(now, ledger.applied, ledger.digest);
            state.evidence.started(now, index);
            state.servers.at(index).handle = Some(handle);
        }
        Err(error) => {
            process.kill();
            let failed = store_opens::failed(index, &error);
            state.evidence.judge("store_opens", now, failed);
        }
    }
}

/// The longest time in which a majority decides, or a leader is elected.
pub(crate) fn patience(profile: Profile) -> Duration {
    profile.timers().election_max * 2
}

/// The same in microseconds.
pub(crate) fn patience_us(profile: Profile) -> u64 {
    as_micros(patience(profile))
}
