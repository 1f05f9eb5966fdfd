//! An append-only log in segments: what Raft must not forget.
//!
//! Decides what is durable, and after a crash what was. Never decides when to sync, never starts a
//! thread and never reads a clock: its owner does. Knows indexes and nothing else about what it
//! keeps.
//!
//! Invariants:
//! - What was appended before a successful [`Log::sync`] is there after any number of crashes.
//! - What is there after opening is a prefix of what was appended, frame by frame, and is durable.
//! - After one failed call an instance writes no more: the kernel may have dropped the pages that
//!   it could not write, and would not say so twice.
//! - A frame that is not whole is cut off only where it may never have been synced; elsewhere it
//!   is [`Damage`], and nothing is changed.
//!
//! Compare Rebello et al., "Can Applications Recover from fsync Failures?" (2020), and Alagappan
//! et al., "Protocol-Aware Recovery for Consensus-Based Storage" (2018), on telling a crash from
//! corruption.

mod disk;
mod index;
mod log;
mod recovery;
pub mod simulation;
mod wire;

pub use disk::{Disk, DiskFile, RealDisk};
pub use index::Reader;
pub use log::{Log, Options};
pub use recovery::{Damage, OpenError};

/// One thing to remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    /// An entry, right after the last one.
    Entry {
        /// Its index.
        index: u64,
        /// Its content.
        bytes: &'a [u8],
    },
    /// The vote, in place of the one before.
    Vote(&'a [u8]),
    /// How far entries are agreed, in place of what was known before.
    Committed {
        /// The last agreed entry.
        index: u64,
        /// What the owner says of it.
        bytes: &'a [u8],
    },
    /// Entries from here on are gone.
    Truncate {
        /// The first that is gone.
        from: u64,
    },
    /// Entries up to here are no longer needed.
    Purge {
        /// The last that is not needed.
        upto: u64,
        /// What the owner says of it.
        bytes: &'a [u8],
    },
}

/// The newest of what there is only one of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// The vote.
    pub vote: Option<Vec<u8>>,
    /// The last entry known to be agreed: its index and what the owner said of it.
    pub committed: Option<(u64, Vec<u8>)>,
    /// The last purged entry: its index and what the owner said of it.
    pub purged: Option<(u64, Vec<u8>)>,
}
