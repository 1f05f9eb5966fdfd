//! The group's members: who founds it, how a new server takes a dead one's place, and how servers
//! become agents and servers again.
//!
//! Decides the order of the steps, as an operator of a mesh has them made: a new server learns first
//! and votes when it has caught up; the dead one leaves before; who is a server no more votes in Raft
//! as long as a lease rests on it. Each step is tried until it is done.

use std::{collections::BTreeSet, future::Future};

use consensus_core::{self as mesh, Agreed, NodeId, RaftId, VipId, VirtualIp};
use futures::future::join_all;
use simulated_raft::{Agreement, ChangeError, Removed, Role};

use super::{
    ledger::{self, Ledger},
    servers::start,
    world::{World, pause},
};
use crate::{node::node_id, timeline::Happening};

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

/// Makes servers agents: they follow, hold what they hold, and vote no more, neither for leases nor in
/// Raft. Gives how many leases had rested on them, for each of them.
pub(crate) async fn retire(world: &World, servers: &[usize]) -> u64 {
    let names: Vec<NodeId> = servers.iter().copied().map(node_id).collect();
    let resting = |agreed: &Agreed| {
        let leases = agreed.virtual_ips.values();
        let on = |vip: &VirtualIp| names.iter().filter(|node| vip.lease_uses(node)).count() as u64;
        leases.map(on).sum::<u64>()
    };
    let before = until_agreed(world, |agreed| Some(resting(agreed))).await;
    set_roles(world, servers, mesh::Role::Agent).await;
    until_agreed(world, |agreed| (resting(agreed) == 0).then_some(())).await;
    for server in servers {
        world.lock().servers.at(*server).is_retired = true;
    }
    revote(world).await;
    before
}

/// Makes them servers again.
pub(crate) async fn reinstate(world: &World, servers: &[usize]) {
    set_roles(world, servers, mesh::Role::Server).await;
    for server in servers {
        world.lock().servers.at(*server).is_retired = false;
    }
    revote(world).await;
}

/// Waits until what the leader has agreed says something.
async fn until_agreed<T>(world: &World, says: impl Fn(&Agreed) -> Option<T>) -> T {
    loop {
        let agreed = world.lock().servers.agreed();
        if let Some(said) = agreed.as_deref().and_then(&says) {
            return said;
        }
        pause(RETRY_US).await;
    }
}

/// All at once, so that one change of a lease's voters has several of them to exchange.
async fn set_roles(world: &World, servers: &[usize], role: mesh::Role) {
    let each: Vec<_> = servers
        .iter()
        .map(|server| set_role(world, *server, role))
        .collect();
    join_all(each).await;
}

async fn set_role(world: &World, server: usize, role: mesh::Role) {
    let (me, servers) = (node_id(server), world.lock().servers.len());
    let has_it = |agreed: &Agreed| agreed.nodes.get(&me).map(|node| node.role) == Some(role);
    while !until_agreed(world, |agreed| Some(has_it(agreed))).await {
        let entry = ledger::role(world.request(), server, role, servers);
        // Refused or not, and by a leader of how long ago, the state tells.
        drop(on_leader(world, |leader| async move { leader.propose(entry).await }).await);
        pause(RETRY_US).await;
    }
}

/// Makes those Raft's voters who are servers. One change after the other, for each follows from who
/// is a server then.
async fn revote(world: &World) {
    while std::mem::replace(&mut world.lock().servers.is_revoting, true) {
        pause(RETRY_US).await;
    }
    let voters = {
        let mut state = world.lock();
        let all = 0..state.servers.len();
        let mut retired = |index: &usize| state.servers.at(*index).is_retired;
        all.filter(|index| !retired(index)).collect::<Vec<_>>()
    };
    let voters = ids(world, |index| voters.contains(&index));
    loop {
        // A leader that votes no more would lead on, as a learner that nobody obeys in leases.
        while is_led_by_an_agent(world) {
            drop(on_leader(world, |leader| async move { leader.hand_over().await }).await);
            pause(RETRY_US).await;
        }
        if vote(world, &voters, Removed::BecomeLearners).await && !is_led_by_an_agent(world) {
            break;
        }
        pause(RETRY_US).await;
    }
    world.lock().servers.is_revoting = false;
}

fn is_led_by_an_agent(world: &World) -> bool {
    let mut state = world.lock();
    let leader = state.servers.leader();
    leader.is_some_and(|leader| state.servers.at(leader).is_retired)
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
