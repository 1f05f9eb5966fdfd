//! A disk in memory that forgets, tears and fails.
//!
//! Decides, from a seed, what a power cut leaves. Never keeps what a real disk might lose: what
//! was synced stays, everything else may go.
//!
//! - Each write that was not synced is kept, lost, or kept in part: sector by sector, in any
//!   order, and one of its sectors torn at any byte. A file's size follows what was kept.
//! - Each change of names that was not synced is kept or lost, in any combination.
//! - A failed write may have written a part. After a failed sync what it should have made durable
//!   is lost, though it can be read until the power cut and no later sync complains: so does ext4
//!   (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).
//! - Handles from before a power cut are dead.
//!
//! It has no clock: whoever drives it decides how long a call takes.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{Disk, DiskFile};

/// What a drive writes at once.
const SECTOR_BYTES: usize = 512;

/// A sequence of numbers that looks random and is the same for the same seed (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// What is to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The call that fails, counted from 1 when the disk was made.
    pub call: u64,
    /// How it fails.
    pub kind: FaultKind,
    /// Whether calls like it fail from then on, until [`SimDisk::repair`].
    pub lasting: bool,
}

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// `EIO`.
    Broken,
    /// `ENOSPC`; a lasting one spares what needs no space: reads, removals, and writes into what
    /// a file already has.
    Full,
}

impl FaultKind {
    fn error(self) -> io::Error {
        /// Numbers of Linux, as in `errno.h`.
        const EIO: i32 = 5;
        const ENOSPC: i32 = 28;
        io::Error::from_raw_os_error(match self {
            Self::Broken => EIO,
            Self::Full => ENOSPC,
        })
    }
}

/// The disk. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<Content>,
    /// Names as a program sees them, and as the drive has them.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    changes: Vec<Change>,
    /// Power cuts so far; a handle belongs to one time between two.
    life: u64,
    calls: u64,
    syncs: u64,
    fault: Option<Fault>,
    faulted: bool,
    lies: bool,
}

/// A change of names that was not synced.
#[derive(Debug, Clone)]
enum Change {
    Created {
        name: String,
        file: usize,
    },
    Renamed {
        from: String,
        to: String,
        file: usize,
    },
    Removed {
        name: String,
        file: usize,
    },
}

#[derive(Debug, Default)]
struct Content {
    /// What a program reads.
    cached: Vec<u8>,
    /// What the drive has.
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

/// What a call needs, to tell which of them a full disk refuses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Space,
    Nothing,
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk that works.
    pub fn new() -> Self {
        Self {
            state: Arc::default(),
        }
    }

    /// Plans a fault in place of the one planned before.
    pub fn plan(&self, fault: Fault) {
        let mut state = self.lock();
        state.fault = Some(fault);
        state.faulted = false;
    }

    /// Ends a lasting fault, or calls off one that has not happened.
    pub fn repair(&self) {
        self.lock().fault = None;
    }

    /// Whether the planned fault has happened.
    pub fn faulted(&self) -> bool {
        self.lock().faulted
    }

    /// Calls so far, reads included.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// Syncs of files so far, for whoever gives each a duration.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// Cuts the power: what was not synced is kept, lost or torn as `random` says, and every open
    /// handle is dead. Gives how many writes were not synced.
    pub fn power_cut(&self, random: &mut Random) -> usize {
        let mut state = self.lock();
        let State {
            files,
            durable_names,
            changes,
            ..
        } = &mut *state;
        let kept_percent = [0, 50, 90, 100][below(random, 4)];
        for change in changes.drain(..) {
            if random.chance(kept_percent) {
                change.apply(durable_names);
            }
        }
        let mut unsynced = 0;
        for file in files {
            unsynced += file.unsynced.len();
            file.power_cut(random);
        }
        state.names = state.durable_names.clone();
        state.life += 1;
        unsynced
    }

    /// Whether syncs of files from now on say that they are done and do nothing: for tests that
    /// must notice such a disk.
    pub fn set_lying(&self, lies: bool) {
        self.lock().lies = lies;
    }

    /// Flips one bit of a file, cached and on the drive, as rot does.
    ///
    /// # Panics
    /// When there is no such file or it is not that long.
    pub fn flip(&self, name: &str, byte: usize, bit: u32) {
        let mut state = self.lock();
        let file = state.names[name];
        let Content {
            cached, durable, ..
        } = &mut state.files[file];
        cached[byte] ^= 1 << bit;
        durable[byte] ^= 1 << bit;
    }

    /// What a program reads in a file.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn contents(&self, name: &str) -> Vec<u8> {
        let state = self.lock();
        let file = state.names[name];
        state.files[file].cached.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, state: &State, file: usize) -> Arc<dyn DiskFile> {
        Arc::new(SimFile {
            disk: self.clone(),
            file,
            life: state.life,
        })
    }
}

impl State {
    /// Counts a call, and fails it if that is planned.
    fn call(&mut self, needs: Needs) -> io::Result<()> {
        self.calls += 1;
        let Some(fault) = self.fault else {
            return Ok(());
        };
        let hit = fault.kind == FaultKind::Broken || needs == Needs::Space;
        let now = self.calls == fault.call || (self.faulted && fault.lasting);
        // A full disk is noticed by the first that needs space.
        let noticed = fault.kind == FaultKind::Full && self.calls >= fault.call && !self.faulted;
        if hit && (now || noticed) {
            self.faulted = true;
            return Err(fault.kind.error());
        }
        Ok(())
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.names);
        self.changes.push(change);
    }

    fn known(&self, name: &str) -> io::Result<usize> {
        (self.names.get(name).copied()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Change {
    /// Carries out the change as far as it makes sense without those before it.
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Created { name, file } => {
                names.insert(name.clone(), *file);
            }
            Self::Renamed { from, to, file } => {
                if names.get(from) == Some(file) {
                    names.remove(from);
                }
                names.insert(to.clone(), *file);
            }
            Self::Removed { name, file } => {
                if names.get(name) == Some(file) {
                    names.remove(name);
                }
            }
        }
    }
}

impl Content {
    fn write(into: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        if into.len() < end {
            into.resize(end, 0);
        }
        into[offset..end].copy_from_slice(bytes);
    }

    fn power_cut(&mut self, random: &mut Random) {
        let kept_percent = [0, 30, 70, 95, 100][below(random, 5)];
        let writes = std::mem::take(&mut self.unsynced);
        let torn = below(random, writes.len() + 1);
        for (number, (offset, bytes)) in writes.iter().enumerate() {
            let mut at = 0;
            while at < bytes.len() {
                let sector_end = (offset + at + 1).next_multiple_of(SECTOR_BYTES) - offset;
                let mut end = sector_end.min(bytes.len());
                let next = end;
                if number == torn && random.chance(20) {
                    end = at + below(random, end - at);
                }
                if random.chance(kept_percent) {
                    Self::write(&mut self.durable, offset + at, &bytes[at..end]);
                }
                at = next;
            }
        }
        self.cached = self.durable.clone();
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.lock();
        state.call(Needs::Nothing)?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.call(Needs::Space)?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.files.push(Content::default());
        let file = state.files.len() - 1;
        state.change(Change::Created {
            name: name.to_owned(),
            file,
        });
        Ok(self.handle(&state, file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.call(Needs::Nothing)?;
        let file = state.known(name)?;
        Ok(self.handle(&state, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.call(Needs::Nothing)?;
        let file = state.known(from)?;
        state.change(Change::Renamed {
            from: from.to_owned(),
            to: to.to_owned(),
            file,
        });
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        state.call(Needs::Nothing)?;
        let file = state.known(name)?;
        state.change(Change::Removed {
            name: name.to_owned(),
            file,
        });
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.lock();
        state.call(Needs::Nothing)?;
        state.changes.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }
}

/// A handle on one file, dead after a power cut.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    file: usize,
    life: u64,
}

impl SimFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        if state.life == self.life {
            Ok(state)
        } else {
            Err(io::Error::other("the power was cut"))
        }
    }
}

impl DiskFile for SimFile {
    fn bytes(&self) -> io::Result<u64> {
        let mut state = self.state()?;
        state.call(Needs::Nothing)?;
        u64::try_from(state.files[self.file].cached.len()).map_err(io::Error::other)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        state.call(Needs::Nothing)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let content = state.files[self.file].cached.get(offset..);
        let content = content.and_then(|content| content.get(..bytes.len()));
        bytes.copy_from_slice(content.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let grows = offset + bytes.len() > state.files[self.file].cached.len();
        let needs = if grows { Needs::Space } else { Needs::Nothing };
        let result = state.call(needs);
        let written = match &result {
            Ok(()) => bytes,
            Err(_) => &bytes[..bytes.len() / 2],
        };
        let content = &mut state.files[self.file];
        Content::write(&mut content.cached, offset, written);
        content.unsynced.push((offset, written.to_vec()));
        result
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state()?;
        state.syncs += 1;
        let content = &state.files[self.file];
        let grows = content.cached.len() > content.durable.len();
        let needs = if grows { Needs::Space } else { Needs::Nothing };
        let result = state.call(needs);
        if state.lies {
            return Ok(());
        }
        let content = &mut state.files[self.file];
        let writes = std::mem::take(&mut content.unsynced);
        // A failed sync reached the drive with the first half at most.
        let reached = match &result {
            Ok(()) => writes.len(),
            Err(_) => writes.len() / 2,
        };
        for (offset, bytes) in &writes[..reached] {
            Content::write(&mut content.durable, *offset, bytes);
        }
        result
    }
}

fn below(random: &mut Random, end: usize) -> usize {
    let end = u64::try_from(end).expect("a length has at most 64 bits");
    usize::try_from(random.below(end)).expect("it is below a length")
}
