//! Commands that the lease protocol wants agreed.
//!
//! Decides, as in shoald: one of a kind for a virtual IP at a time; the protocol asks again until the
//! state shows what it asked for. Whoever does not lead asks whom it takes for the leader.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem::Discriminant,
    time::Duration,
};

use consensus_core::{Command, Envelope, Epoch, LogIndex, NodeId, VipId, wire::v1};
use simulated_raft::{
    Agreement,
    simulation::{Process, clock},
};
use tokio::sync::mpsc;

use super::Event;
use crate::agreement::{ledger::Ledger, world::World};

/// Between two looks for a leader.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What is proposed of one virtual IP.
#[derive(Debug, Clone)]
pub(crate) enum Proposal {
    /// This node has let go.
    Release { epoch: Epoch, to: Option<NodeId> },
    /// Somebody else is next.
    Assign {
        after: Epoch,
        to: Option<NodeId>,
        closed_by: BTreeSet<NodeId>,
    },
    /// The lease is to rest on another set too.
    Joint {
        epoch: Epoch,
        since: LogIndex,
        new: BTreeSet<NodeId>,
    },
    /// The lease rests on both.
    Stable { epoch: Epoch, since: LogIndex },
}

/// What is being proposed.
pub(crate) struct Proposals {
    world: World,
    server: usize,
    process: Process,
    handle: Agreement<Ledger>,
    events: mpsc::Sender<Event>,
    patience: Duration,
    number: u64,
    under_way: BTreeMap<u64, (VipId, Discriminant<Proposal>)>,
}

impl Proposals {
    pub(crate) fn new(
        world: &World,
        server: usize,
        process: &Process,
        handle: &Agreement<Ledger>,
        events: &mpsc::Sender<Event>,
        patience: Duration,
    ) -> Self {
        Self {
            world: world.clone(),
            server,
            process: process.clone(),
            handle: handle.clone(),
            events: events.clone(),
            patience,
            number: 0,
            under_way: BTreeMap::new(),
        }
    }

    /// Proposes it, unless the same is being proposed.
    pub(crate) fn make(&mut self, me: &NodeId, vip: VipId, proposal: Proposal) {
        let key = (vip, std::mem::discriminant(&proposal));
        if self.under_way.values().any(|other| *other == key) {
            return;
        }
        self.number += 1;
        let number = self.number;
        self.under_way.insert(number, key);
        let entry = v1::encode(&Envelope {
            request: self.world.request(),
            actor: me.clone(),
            operator: None,
            time: self.world.wall(self.server),
            command: command(vip, proposal),
        });
        let (world, server) = (self.world.clone(), self.server);
        let (handle, events) = (self.handle.clone(), self.events.clone());
        let patience = self.patience;
        drop(self.process.spawn(async move {
            let agreed = clock::timeout(patience, agree(&world, server, handle, entry)).await;
            world.note(b'p', server, 0, u64::from(agreed.is_ok()));
            // Only a driver that has ended listens no more.
            drop(events.send(Event::Proposed(number)).await);
        }));
    }

    /// It is under way no more.
    pub(crate) fn forget(&mut self, number: u64) {
        self.under_way.remove(&number);
    }
}

/// Has an entry agreed by whoever leads; ends when it is answered, whatever the answer.
async fn agree(world: &World, server: usize, handle: Agreement<Ledger>, entry: Vec<u8>) {
    let status = handle.status();
    let leader = loop {
        let leader = status.borrow().leader_id;
        let leader = leader.and_then(|id| world.lock().servers.of_raft_id(id));
        if let Some(leader) = leader {
            break leader;
        }
        clock::sleep(LOOK_AGAIN).await;
    };
    if leader == server {
        drop(handle.propose(entry).await);
        return;
    }
    if !world.travel(server, leader).await {
        return std::future::pending().await;
    }
    let asked = {
        let state = world.lock();
        let process = state.servers.process(leader);
        process.zip(state.servers.running(leader))
    };
    let Some((process, asked)) = asked else {
        return std::future::pending().await;
    };
    drop(
        process
            .spawn(async move { drop(asked.propose(entry).await) })
            .await,
    );
    if !world.travel(leader, server).await {
        std::future::pending::<()>().await;
    }
}

fn command(vip: VipId, proposal: Proposal) -> Command {
    match proposal {
        Proposal::Release { epoch, to } => Command::ReleaseVip {
            vip,
            epoch,
            to,
            reason: "its holder let go".into(),
        },
        Proposal::Assign {
            after,
            to,
            closed_by,
        } => Command::AssignVip {
            vip,
            after,
            to,
            closed_by,
            reason: "its lease is closed".into(),
        },
        Proposal::Joint { epoch, since, new } => Command::BeginLeaseVoters {
            vip,
            epoch,
            since,
            new,
        },
        Proposal::Stable { epoch, since } => Command::FinishLeaseVoters { vip, epoch, since },
    }
}
