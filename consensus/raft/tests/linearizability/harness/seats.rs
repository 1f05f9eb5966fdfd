//! The servers: which process sits where, and on which disk.
//!
//! Decides what a crash and a power cut leave of a server. Never decides when they happen.

use std::{path::PathBuf, sync::Arc, time::Duration};

use consensus_core::{LogIndex, NodeId, RaftId};
use consensus_raft::{Agreement, OpenError, Settings, Timers, simulation::Process};

use super::{
    bugs::Bug,
    disk::SeatDisk,
    judge::Rule,
    machine::Book,
    network::{Post, Seat, World, lock},
};

/// How many servers there are.
pub(crate) const SEATS: usize = 5;
/// Entries between two snapshots: so few that every run has many of them.
const SNAPSHOT_EVERY_ENTRIES: u64 = 16;
/// Entries kept behind a snapshot: so few that whoever was away needs the snapshot.
const KEPT_ENTRIES: u64 = 4;
/// How long a good disk takes to sync.
pub(crate) const SYNC_TIME: (Duration, Duration) =
    (Duration::from_micros(300), Duration::from_millis(4));

/// One place in the rack.
pub(crate) struct Occupant {
    node: NodeId,
    /// The name inside Raft; a new one with every new disk.
    pub(crate) raft_id: u64,
    /// Its disk.
    pub(crate) disk: SeatDisk,
    /// What runs there.
    process: Option<Process>,
    server: Option<Agreement<Book>>,
    /// Whether a fault has this seat in its hands.
    pub(crate) held: bool,
}

/// All of them.
pub(crate) struct Seats {
    all: Vec<Occupant>,
    processes: u64,
    raft_ids: u64,
    seed: u64,
    bug: Option<Bug>,
}

impl Seats {
    /// Nobody runs yet.
    pub(crate) fn new(seed: u64, bug: Option<Bug>) -> Self {
        let occupant = |seat: usize| Occupant {
            node: node(seat),
            raft_id: seat as u64 + 1,
            disk: SeatDisk::new(seed ^ seat as u64, bug),
            process: None,
            server: None,
            held: false,
        };
        Self {
            all: (0..SEATS).map(occupant).collect(),
            processes: 0,
            raft_ids: SEATS as u64,
            seed,
            bug,
        }
    }

    /// The seat of a node.
    pub(crate) fn seat_of(&self, node: &NodeId) -> Option<Seat> {
        self.all.iter().position(|occupant| occupant.node == *node)
    }

    /// The seat of a server, if it is still the one that sits there.
    pub(crate) fn seat_of_id(&self, raft_id: RaftId) -> Option<Seat> {
        self.all
            .iter()
            .position(|occupant| occupant.raft_id == raft_id.0)
    }

    /// A seat's occupant.
    pub(crate) fn at(&mut self, seat: Seat) -> &mut Occupant {
        &mut self.all[seat]
    }

    /// A seat's server, if its process lives.
    pub(crate) fn running(&self, seat: Seat) -> Option<(u64, Agreement<Book>)> {
        let occupant = &self.all[seat];
        Some((occupant.raft_id, occupant.server.clone()?))
    }

    /// All seats whose process lives.
    pub(crate) fn alive(&self) -> Vec<Seat> {
        (0..SEATS)
            .filter(|seat| self.all[*seat].server.is_some())
            .collect()
    }

    /// All seats that no fault has in its hands.
    pub(crate) fn free(&self) -> Vec<Seat> {
        (0..SEATS).filter(|seat| !self.all[*seat].held).collect()
    }

    /// A seat's process.
    pub(crate) fn process(&self, seat: Seat) -> Option<Process> {
        self.all[seat].process.clone()
    }

    /// Who sits at `seat`.
    pub(crate) fn name(&self, seat: Seat) -> (RaftId, NodeId) {
        let occupant = &self.all[seat];
        (RaftId(occupant.raft_id), occupant.node.clone())
    }

    /// Ends a process where it stands. Its disk keeps what was written.
    pub(crate) fn kill(&mut self, seat: Seat) {
        let occupant = &mut self.all[seat];
        if let Some(process) = occupant.process.take() {
            process.kill();
        }
        occupant.server = None;
    }

    /// Puts an empty disk in; the next server is a new one.
    pub(crate) fn replace(&mut self, seat: Seat) {
        self.kill(seat);
        self.raft_ids += 1;
        let seed = self.seed ^ self.raft_ids.rotate_left(32);
        let occupant = &mut self.all[seat];
        occupant.raft_id = self.raft_ids;
        occupant.disk = SeatDisk::new(seed, self.bug);
    }

    /// Puts an empty disk in and says nothing.
    pub(crate) fn replace_disk_only(&mut self, seat: Seat) {
        self.kill(seat);
        self.processes += 1;
        self.all[seat].disk = SeatDisk::new(self.seed ^ self.processes, self.bug);
    }

    fn board(&mut self, seat: Seat) -> (Process, u64, Settings) {
        self.processes += 1;
        let seed = self.seed.wrapping_mul(31).wrapping_add(self.processes);
        let process = Process::new(seed, self.all[seat].disk.plugged())
            .with_bug(self.bug.and_then(Bug::inside))
            .with_short_log(SNAPSHOT_EVERY_ENTRIES, KEPT_ENTRIES);
        process.set_sync_time(SYNC_TIME.0, SYNC_TIME.1);
        let occupant = &mut self.all[seat];
        occupant.process = Some(process.clone());
        let settings = Settings {
            dir: PathBuf::new(),
            raft_id: RaftId(occupant.raft_id),
            node: occupant.node.clone(),
            timers: Timers::SAFE,
        };
        (process, self.processes, settings)
    }
}

/// The node at a seat.
pub(crate) fn node(seat: Seat) -> NodeId {
    let digit = char::from(b'1' + u8::try_from(seat).expect("there are few seats"));
    format!("12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfc{digit}")
        .parse()
        .expect("the name follows the rules")
}

/// Starts the server at `seat` on the disk that is there. `false`: it did not start.
pub(crate) async fn start(world: &World, seat: Seat) -> bool {
    let (process, number, settings) = lock(&world.seats).board(seat);
    world.note("start", &[seat as u64, number]);
    let carrier = Arc::new(Post {
        seat,
        process: number,
        world: world.clone(),
    });
    match Agreement::open_in(process.clone(), settings, Book::founded(), carrier).await {
        Ok(server) => {
            let published = server.published();
            let book = Arc::clone(&published.borrow().machine);
            lock(&world.judge).seen(book.applied, book.fingerprint);
            lock(&world.seats).at(seat).server = Some(server);
            true
        }
        Err(error) => {
            let story = format!("seat {seat}: {}", whole(&error));
            lock(&world.judge).violated(Rule::StoreOpens, story);
            process.kill();
            false
        }
    }
}

/// An error with what is below it.
fn whole(error: &OpenError) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |story, cause| {
        format!("{story}: {cause}")
    })
}

/// How far a seat's server has applied the log.
pub(crate) fn reached(server: &Agreement<Book>) -> LogIndex {
    server.published().borrow().index
}
