//! What the lease protocol has written: the shell's file of records on a simulated disk.
//!
//! Decides nothing. As in shoald, writes are bundled: while one is on its way to the disk, what comes is
//! kept for the next, and each is confirmed when a file that has it was synced.

use consensus_core::{Epoch, VipId};
use consensus_lease::HolderRecord;
use simulated_raft::simulation::{Process, clock};
use tokio::sync::mpsc;

use super::{Event, host::Contents};
use crate::{agreement::world::World, random::Span};

/// Syncs of one write: of the file and of its directory.
const SYNCS: usize = 2;

/// Something that the protocol waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// A closure.
    Closure(VipId, Epoch),
    /// A holder's record.
    Held(VipId, HolderRecord),
}

/// The file, and what is on its way into it.
pub(crate) struct Records {
    world: World,
    server: usize,
    process: Process,
    events: mpsc::Sender<Event>,
    contents: Contents,
    waiting: Vec<Written>,
    is_writing: bool,
}

impl Records {
    /// What an earlier life left.
    pub(crate) fn open(
        world: &World,
        server: usize,
        process: &Process,
        events: &mpsc::Sender<Event>,
    ) -> Self {
        Self {
            world: world.clone(),
            server,
            process: process.clone(),
            events: events.clone(),
            contents: world.lock().servers.at(server).host.contents(),
            waiting: Vec::new(),
            is_writing: false,
        }
    }

    pub(crate) const fn contents(&self) -> &Contents {
        &self.contents
    }

    /// To be written.
    pub(crate) fn write(&mut self, what: Written) {
        match what {
            Written::Closure(vip, through) => {
                self.contents.closed.insert(vip, through);
            }
            Written::Held(vip, record) => {
                self.contents.held.insert(vip, record);
            }
        }
        if !self.waiting.contains(&what) {
            self.waiting.push(what);
        }
        self.begin();
    }

    /// Nobody needs it any more. It goes with the next write.
    pub(crate) fn forget_closure(&mut self, vip: VipId) {
        self.contents.closed.remove(&vip);
    }

    /// Nobody needs it any more. It goes with the next write.
    pub(crate) fn forget_held(&mut self, vip: VipId) {
        self.contents.held.remove(&vip);
    }

    /// A write is on the disk: the next may begin.
    pub(crate) fn go_on(&mut self) {
        self.is_writing = false;
        self.begin();
    }

    fn begin(&mut self) {
        if self.is_writing || self.waiting.is_empty() {
            return;
        }
        self.is_writing = true;
        let batch = std::mem::take(&mut self.waiting);
        let (world, server) = (self.world.clone(), self.server);
        let events = self.events.clone();
        let syncs: Vec<_> = {
            let mut state = world.lock();
            let state = &mut *state;
            let host = state.servers.at(server);
            host.host.write(self.contents.clone());
            let sync: Span = host.sync();
            (0..SYNCS).map(|_| sync.draw(&mut state.random)).collect()
        };
        drop(self.process.spawn(async move {
            for sync in syncs {
                clock::sleep(sync).await;
            }
            world.lock().servers.at(server).host.written();
            // Only a driver that has ended listens no more.
            drop(events.send(Event::Written(batch)).await);
        }));
    }
}
