//! What a host keeps for its virtual IPs beyond the life of a process: its clock, what the lease
//! protocol wrote, how often the daemon was started.
//!
//! Decides what a loss of power leaves: a record that was being written is there or not, whole in
//! either case, as a file that is written beside the old one and renamed; and the clock of the machine
//! begins anew. Never decides when power is lost.

use std::{collections::BTreeMap, time::Duration};

use consensus_core::{Epoch, Time, VipId};
use consensus_lease::HolderRecord;
use simulated_raft::simulation::Clock;
use tokio::sync::mpsc;

use super::mail::Mail;

/// What `CLOCK_BOOTTIME` shows when the daemon is started with the machine.
const BOOT_US: u64 = 8_000_000;

/// What the file of lease records has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// As a voter: closed through this epoch.
    pub(crate) closed: BTreeMap<VipId, Epoch>,
    /// As a holder.
    pub(crate) held: BTreeMap<VipId, HolderRecord>,
}

/// One host.
#[derive(Debug, Default)]
pub(crate) struct Host {
    /// The way to the process that runs.
    pub(crate) mailbox: Option<mpsc::Sender<Mail>>,
    /// What is on the disk.
    contents: Contents,
    /// What is on its way there.
    writing: Option<Contents>,
    /// What the host's clock counted before its last start.
    booted: Duration,
    /// Lives of the daemon, as the membership counts them.
    pub(crate) generation: u64,
    /// How far the wall clock was set.
    pub(crate) wall_ms: i64,
}

impl Host {
    /// What a process that starts finds.
    pub(crate) fn contents(&self) -> Contents {
        self.contents.clone()
    }

    /// The disk begins to write.
    pub(crate) fn write(&mut self, contents: Contents) {
        self.writing = Some(contents);
    }

    /// It has written what was begun last.
    pub(crate) fn written(&mut self) {
        if let Some(contents) = self.writing.take() {
            self.contents = contents;
        }
    }

    /// The process has ended: what it was about to write is there if `lucky`.
    pub(crate) fn ends(&mut self, lucky: bool) {
        self.mailbox = None;
        let begun = self.writing.take();
        if let Some(contents) = begun.filter(|_| lucky) {
            self.contents = contents;
        }
    }

    /// Power is back; the machine's clock shows so much since the world began, were it never off.
    pub(crate) const fn boots(&mut self, counted: Duration) {
        self.booted = counted;
    }

    /// The clock that the machine's leases go by.
    pub(crate) const fn clock(&self, clock: Clock) -> BootClock {
        BootClock {
            clock,
            booted: self.booted,
        }
    }
}

/// `CLOCK_BOOTTIME` of a host since its last start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BootClock {
    clock: Clock,
    booted: Duration,
}

impl BootClock {
    /// What it shows.
    pub(crate) fn now(&self) -> Time {
        Time::from_micros(BOOT_US) + self.clock.now().saturating_sub(self.booted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(epoch: u64) -> Contents {
        Contents {
            closed: BTreeMap::from([(VipId::from_bytes([1; 16]), Epoch(epoch))]),
            held: BTreeMap::new(),
        }
    }

    #[test]
    fn what_was_confirmed_outlives_the_process_and_what_was_begun_may() {
        for (lucky, left) in [(true, 2), (false, 1)] {
            let mut host = Host::default();
            host.write(closed(1));
            host.written();
            host.write(closed(2));
            host.ends(lucky);
            assert_eq!(host.contents(), closed(left));
        }
    }
}
