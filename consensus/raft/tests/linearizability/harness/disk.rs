//! A server's disk: in memory, honest or not.
//!
//! Decides, with a bug planted, which syncs are lies. What a power cut leaves is decided by
//! [`SimDisk`].

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use consensus_log::{
    Disk, DiskFile,
    simulation::{Random, SimDisk},
};

use consensus_raft::simulation::PlantedBug;

use super::bugs::Bug;

/// A disk that forgets now and then does so once in so many syncs.
const FORGETS_ONE_IN: u64 = 4;

/// A drive that loses the end of the log loses so much at most: some ten writes.
const TAIL_BYTES_MAX: u64 = 2048;
/// What a segment begins with, and no drive of ours loses.
const SEGMENT_HEAD_BYTES: usize = 4096;
/// Files about which even a lying disk does not lie.
const HONEST_PREFIX: &str = "snapshot";

/// A disk.
pub(crate) struct SeatDisk {
    drive: SimDisk,
    random: Random,
    lies: Arc<Lies>,
}

/// What a lying disk leaves undone.
#[derive(Debug)]
struct Lies {
    bug: Option<Bug>,
    syncs: AtomicU64,
    /// Writes since the last sync that was asked for.
    unsynced: AtomicU64,
}

impl Lies {
    /// Whether this sync is one that is not done.
    fn this_one(&self) -> bool {
        let number = self.syncs.fetch_add(1, Ordering::Relaxed);
        match self.bug {
            Some(Bug::SyncLies) => true,
            Some(Bug::SyncLiesRarely) => number % FORGETS_ONE_IN == FORGETS_ONE_IN - 1,
            Some(_) | None => false,
        }
    }
}

impl SeatDisk {
    /// An empty one.
    pub(crate) fn new(seed: u64, bug: Option<Bug>) -> Self {
        Self {
            drive: SimDisk::new(),
            random: Random::new(seed),
            lies: Arc::new(Lies {
                bug,
                syncs: AtomicU64::new(0),
                unsynced: AtomicU64::new(0),
            }),
        }
    }

    /// What a process opens.
    pub(crate) fn plugged(&self) -> Arc<dyn Disk> {
        Arc::new(Plugged {
            drive: self.drive.clone(),
            lies: Arc::clone(&self.lies),
        })
    }

    /// Cuts the power; gives how many writes nobody had synced.
    pub(crate) fn cut_power(&mut self) -> u64 {
        self.drive.power_cut(&mut self.random);
        if self.lies.bug == Some(Bug::Inside(PlantedBug::ShortLogAccepted)) {
            // Without a drive that loses the end no log is ever too short.
            self.lose_tail().expect("the drive works");
        }
        self.lies.unsynced.swap(0, Ordering::Relaxed)
    }
}

impl SeatDisk {
    /// Wipes the end of the newest segment.
    fn lose_tail(&mut self) -> io::Result<()> {
        let names = self.drive.list()?;
        let segments = names.into_iter().filter(|name| name.starts_with("log-"));
        let Some(newest) = segments.max_by_key(|name| (name.len(), name.clone())) else {
            return Ok(());
        };
        let file = self.drive.open(&newest)?;
        let bytes = usize::try_from(file.bytes()?).map_err(io::Error::other)?;
        let mut contents = vec![0; bytes];
        file.read_at(&mut contents, 0)?;
        let Some(end) = contents.iter().rposition(|byte| *byte != 0) else {
            return Ok(());
        };
        let lost = usize::try_from(self.random.below(TAIL_BYTES_MAX)).map_err(io::Error::other)?;
        let from = end.saturating_sub(lost).max(SEGMENT_HEAD_BYTES);
        if from < end {
            let offset = u64::try_from(from).map_err(io::Error::other)?;
            file.write_at(&vec![0; end + 1 - from], offset)?;
            file.sync_data()?;
        }
        Ok(())
    }
}

/// A disk as a process sees it.
#[derive(Debug)]
struct Plugged {
    drive: SimDisk,
    lies: Arc<Lies>,
}

impl Plugged {
    fn wrapped(&self, name: &str, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        let lies = Arc::clone(&self.lies);
        // A snapshot that was not synced has a wrong checksum: too easy.
        let honest = name.starts_with(HONEST_PREFIX);
        Arc::new(PluggedFile { file, lies, honest })
    }
}

impl Disk for Plugged {
    fn list(&self) -> io::Result<Vec<String>> {
        self.drive.list()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.drive.create(name).map(|file| self.wrapped(name, file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.drive.open(name).map(|file| self.wrapped(name, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.drive.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.drive.remove(name)
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.drive.sync_dir()
    }
}

#[derive(Debug)]
struct PluggedFile {
    file: Arc<dyn DiskFile>,
    lies: Arc<Lies>,
    honest: bool,
}

impl DiskFile for PluggedFile {
    fn bytes(&self) -> io::Result<u64> {
        self.file.bytes()
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.lies.unsynced.fetch_add(1, Ordering::Relaxed);
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        if !self.honest && self.lies.this_one() {
            return Ok(());
        }
        self.lies.unsynced.store(0, Ordering::Relaxed);
        self.file.sync_data()
    }
}
