//! The group's members: who founds it, and how a new server takes a dead one's place.
//!
//! Decides the order of the steps, as an operator of a mesh has them made: a new server learns first
//! and votes when it has caught up; the dead one leaves before. Each step is tried until it is done.

use std::{collections::BTreeSet, future::Future};

use consensus_core::{RaftId, VipId};
use simulated_raft::{Agreement, ChangeError, Removed, Role};

use super::{
    ledger::{self, Ledger},
    servers::start,
    world::{World, pause},
};
use crate::timeline::Happening;

/// Between two tries of a step.
const RETRY_US: u64 = 20_000;

/// Starts everybody and makes them one group of voters. Ends only when that is done.
pub(crate) async fn found(world: &World) {
    let servers = world.lock().servers.len();
    for server in 0..servers {
        start(world, server).await;
    }
    let first = world.lock().servers.running(0);
    let Some(first) = first else {
        // It is told why it did not start.
        return std::future::pending().await;
    };
    while first.found().await.is_err() {
        pause(RETRY_US).await;
    }
    for server in 1..servers {
        add(world, server).await;
    }
    let all = ids(world, |_| true);
    while !vote(world, &all, Removed::Leave).await {
        pause(RETRY_US).await;
    }
    make_virtual_ips(world).await;
    let now = world.now();
    let what = format!("{servers} servers are a group");
    world.lock().evidence.tell(now, Happening::Process, what);
}

/// Makes the scenario's virtual IPs and waits until each is held.
async fn make_virtual_ips(world: &World) {
    let (leases, servers) = {
        let state = world.lock();
        (state.leases, state.servers.len())
    };
    let Some(leases) = leases else { return };
    for number in 0..leases.virtual_ips {
        let entry = ledger::virtual_ip(world.request(), number, &leases, servers);
        loop {
            let entry = entry.clone();
            let made = on_leader(world, |leader| async move { leader.propose(entry).await }).await;
            if let Some(Ok(_)) = made {
                break;
            }
            pause(RETRY_US).await;
        }
    }
    while !are_held(world) {
        pause(RETRY_US).await;
    }
}

/// Whether every virtual IP's gate is open.
pub(crate) fn are_held(world: &World) -> bool {
    let now_us = world.now_us();
    let state = world.lock();
    let Some(leases) = state.leases else {
        return true;
    };
    let known: Vec<_> = state.evidence.virtual_ips().collect();
    let open = |vip: &VipId| state.gates.open_at(now_us, *vip).is_some();
    known.len() == leases.virtual_ips && known.iter().all(open)
}

/// The server at `server` never comes back: a new one with an empty disk takes its place.
pub(crate) async fn replace(world: &World, server: usize) {
    let old = world.lock().servers.replace(server);
    let rest = ids(world, |index| index != server);
    while !vote(world, &rest, Removed::Leave).await {
        pause(RETRY_US).await;
    }
    let what = format!("server {server}, known as {}, is removed for good", old.0);
    let now = world.now();
    world.lock().evidence.tell(now, Happening::Process, what);
    start(world, server).await;
    add(world, server).await;
    let all = ids(world, |_| true);
    while !vote(world, &all, Removed::Leave).await {
        pause(RETRY_US).await;
    }
    let what = format!("server {server} votes again, under another name");
    let now = world.now();
    world.lock().evidence.tell(now, Happening::Process, what);
}

/// The Raft ids of all servers that `wanted` names.
fn ids(world: &World, wanted: impl Fn(usize) -> bool) -> BTreeSet<RaftId> {
    let state = world.lock();
    let named = (0..state.servers.len()).filter(|index| wanted(*index));
    named.map(|index| state.servers.name(index).0).collect()
}

async fn add(world: &World, server: usize) {
    let (id, node) = world.lock().servers.name(server);
    loop {
        let node = node.clone();
        let added = on_leader(
            world,
            |leader| async move { leader.add_learner(id, node).await },
        );
        if let Some(Ok(()) | Err(ChangeError::NotCaughtUp(_))) = added.await {
            return;
        }
        pause(RETRY_US).await;
    }
}

/// Asks the leader to make these the voters; `true` when they are.
async fn vote(world: &World, voters: &BTreeSet<RaftId>, removed: Removed) -> bool {
    let voters = voters.clone();
    let change =
        |leader: Agreement<Ledger>| async move { leader.change_voters(voters, removed).await };
    matches!(on_leader(world, change).await, Some(Ok(())))
}

/// Has the leader do something, in its own process: how long ago it heard of the others is told by that
/// one's clock. Nothing if nobody leads, or the process ends over it.
async fn on_leader<T, F>(world: &World, work: impl FnOnce(Agreement<Ledger>) -> F) -> Option<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let work = {
        let state = world.lock();
        let leader = state.servers.leader()?;
        let (handle, process) = (
            state.servers.running(leader)?,
            state.servers.process(leader)?,
        );
        process.spawn(work(handle))
    };
    work.await.ok()
}

/// Whether somebody leads, a majority confirms it, and every server has applied all that was agreed
/// and knows the same voters: all of them. Whoever a fault ended for good is not asked.
pub(crate) async fn is_whole(world: &World) -> bool {
    let read = |leader: Agreement<Ledger>| async move { leader.read_index().await };
    let Some(Ok(index)) = on_leader(world, read).await else {
        return false;
    };
    if !are_held(world) {
        return false;
    }
    let mut state = world.lock();
    let mut all = 0..state.servers.len();
    all.all(|server| {
        if state.servers.at(server).down > 0 {
            // For good: nobody will start it.
            return true;
        }
        let Some(handle) = state.servers.running(server) else {
            return false;
        };
        let (id, _) = state.servers.name(server);
        let reached = handle.published().borrow().index >= index;
        let status = handle.status();
        let status = status.borrow();
        let works = matches!(status.role, Role::Leader | Role::Follower);
        reached
            && works
            && status.voters.len() == state.servers.len()
            && status.voters.contains_key(&id)
    })
}
