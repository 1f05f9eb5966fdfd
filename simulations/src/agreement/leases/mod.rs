//! Leases of virtual IPs, and the membership, in each simulated server beside Raft.
//!
//! Decides nothing: it drives the real holder, voter, coordinator and membership as shoald's
//! `mesh::lease` does, with simulated letters, disks, clocks and kernels. What is agreed and who leads
//! come from the server's own Raft, whom it hears from its own membership.
//!
//! Differs from the shell in this: who leads is looked at every 5 ms and with everything that
//! happens, for two waiters on one of tokio's watches are woken in an order of chance.

mod gates;
mod host;
mod mail;
mod members;
mod proposals;
mod records;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use consensus_core::{Agreed, Epoch, LogIndex, NodeId, Time, VipId};
use consensus_lease::{
    Assignment, Assignments, Coordinator, CoordinatorOutput, Holder, HolderOutput, Life, Majority,
    Message, Timings, Voter, VoterOutput, candidates, wire::v1,
};
use rand::Rng;
use simulated_raft::{
    Agreement, RaftStatus,
    simulation::{Process, clock},
};
use tokio::sync::{mpsc, watch};

pub(crate) use self::{
    gates::Gates,
    host::{BootClock, Host},
};
use self::{
    gates::{GateThread, Order},
    mail::{Letter, MAILBOX_LETTERS, Mail},
    members::Members,
    proposals::{Proposal, Proposals},
    records::{Records, Written},
};
use super::{ledger::Ledger, servers::patience, world::World};
use crate::random::as_micros;

/// Orders and confirmations on their way between the tasks of one process.
const EVENTS: usize = 256;
/// With nothing due: the next look at who leads.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What the parts of a process tell the driver.
pub(crate) enum Event {
    /// These are on the disk.
    Written(Vec<Written>),
    /// This gate was shut by order.
    Shut(VipId, Epoch),
    /// A proposal has come to something.
    Proposed(u64),
}

/// The machines of one process, and what connects them to the world.
struct Driver {
    world: World,
    server: usize,
    me: NodeId,
    clock: BootClock,
    status: watch::Receiver<RaftStatus>,
    holder: Holder,
    voter: Voter,
    coordinator: Coordinator,
    members: Members,
    /// From one of the three to another.
    own: VecDeque<Message>,
    records: Records,
    gates: mpsc::Sender<Order>,
    proposals: Proposals,
    agreed: Arc<Agreed>,
    /// Whether fitness is to be judged anew.
    stale: bool,
}

/// Gives a server that has just started its driver, if there are virtual IPs at all.
pub(crate) fn start(world: &World, server: usize, process: &Process, handle: &Agreement<Ledger>) {
    if !world.lock().servers.has_leases() {
        return;
    }
    let (mailbox, inbox) = mpsc::channel(MAILBOX_LETTERS);
    let (events, told) = mpsc::channel(EVENTS);
    let (gates, orders) = mpsc::channel(EVENTS);
    let driver = Driver::new(world, server, process, handle, &events, gates);
    let rate_ppm = world.lock().servers.at(server).rate_ppm();
    let thread = GateThread::new(world, server, rate_ppm, driver.clock, &events);
    drop(process.spawn(thread.run(orders)));
    world.lock().servers.at(server).host.mailbox = Some(mailbox);
    drop(process.spawn(driver.run(handle.clone(), inbox, told)));
}

/// A process ends whose host has power: its connections are closed.
pub(crate) fn hang_up(world: &World, server: usize) {
    let servers = {
        let state = world.lock();
        if state.servers.has_leases() {
            state.servers.len()
        } else {
            0
        }
    };
    for peer in (0..servers).filter(|peer| *peer != server) {
        world.post(server, peer, Letter::Closed);
    }
}

impl Driver {
    fn new(
        world: &World,
        server: usize,
        process: &Process,
        handle: &Agreement<Ledger>,
        events: &mpsc::Sender<Event>,
        gates: mpsc::Sender<Order>,
    ) -> Self {
        let timings = Timings::REAL;
        let agreed = Arc::clone(&handle.published().borrow().machine.mesh.agreed);
        let (me, clock, life, seed, profile) = {
            let mut state = world.lock();
            let (life, seed) = (state.random.random(), state.random.random());
            let profile = state.servers.profile();
            let clock = state.servers.boot_clock(server, world);
            (state.servers.name(server).1, clock, life, seed, profile)
        };
        let now = clock.now();
        let records = Records::open(world, server, process, events);
        let found = records.contents();
        let driver = Self {
            server,
            holder: Holder::new(me.clone(), Life(life), timings, found.held.clone()),
            voter: Voter::new(me.clone(), timings, found.closed.clone(), now),
            coordinator: Coordinator::new(me.clone(), timings, true),
            members: Members::start(world, server, &agreed, seed, now),
            own: VecDeque::new(),
            records,
            gates,
            proposals: Proposals::new(world, server, process, handle, events, patience(profile)),
            status: handle.status(),
            world: world.clone(),
            me,
            clock,
            agreed,
            stale: true,
        };
        #[cfg(feature = "planted-bugs")]
        let driver = driver.with_bug();
        driver
    }

    #[cfg(feature = "planted-bugs")]
    fn with_bug(mut self) -> Self {
        let bug = self.world.lock().servers.bug;
        if let Some(bug) = bug {
            self.holder.plant(bug);
            self.voter.plant(bug);
        }
        self
    }

    async fn run(
        mut self,
        handle: Agreement<Ledger>,
        mut inbox: mpsc::Receiver<Mail>,
        mut events: mpsc::Receiver<Event>,
    ) {
        let mut published = handle.published();
        published.mark_changed();
        loop {
            self.judge();
            self.carry_out().await;
            let wait = self.wait();
            // Every arm is cancel-safe: channels and watches keep what was not taken.
            tokio::select! {
                biased;
                Ok(()) = published.changed() => {
                    let (index, agreed) = {
                        let now = published.borrow_and_update();
                        (now.index, Arc::clone(&now.machine.mesh.agreed))
                    };
                    self.learn(index, agreed);
                }
                Some(event) = events.recv() => self.confirm(event),
                Some((from, letter)) = inbox.recv() => {
                    self.receive(from, letter);
                    // What else is there counts before silence is judged.
                    while let Ok((from, letter)) = inbox.try_recv() {
                        self.receive(from, letter);
                    }
                }
                () = clock::sleep(wait) => self.fire(),
            }
        }
    }

    fn now(&self) -> Time {
        self.clock.now()
    }

    /// Takes a newer state.
    fn learn(&mut self, revision: LogIndex, agreed: Arc<Agreed>) {
        let is_same = Arc::ptr_eq(&self.agreed, &agreed) && !self.stale;
        self.agreed = agreed;
        let (at, assignments) = (self.now(), assignments(&self.agreed));
        self.holder.handle_assignments(revision, &assignments, at);
        self.voter.handle_assignments(revision, &assignments, at);
        if !is_same {
            // A wish that this state has fulfilled must not be held against the new holder.
            self.coordinator.forget_wishes();
            self.stale = true;
        }
        self.coordinator
            .handle_assignments(revision, &assignments, at);
        for (vip, through) in &self.records.contents().closed {
            self.coordinator.handle_closed_here(*vip, *through);
        }
    }

    /// Who leads, who votes and who is fit.
    fn judge(&mut self) {
        let news = self.status.has_changed().unwrap_or(false);
        if !news && !std::mem::take(&mut self.stale) {
            return;
        }
        self.stale = false;
        let at = self.now();
        let status = self.status.borrow_and_update().clone();
        // Without a majority nothing that it had closed could be given to anybody.
        let leads = status.leads();
        self.coordinator.handle_leadership(leads, at);
        if !leads {
            return;
        }
        self.coordinator.handle_majority(majority(&status, at));
        // A server that has not caught up would acknowledge nothing.
        let voting: BTreeSet<NodeId> = status.voters.values().cloned().collect();
        let wanted = self.agreed.lease_voters_wanted(&voting);
        self.coordinator.handle_voters_wanted(wanted, at);
        let alive = self.members.alive(&self.agreed);
        for (vip, row) in &self.agreed.virtual_ips {
            let (list, wanted) = candidates(&self.agreed, row, &alive);
            self.coordinator.handle_candidates(*vip, list, wanted, at);
        }
    }

    fn receive(&mut self, from: usize, letter: Letter) {
        let now = self.now();
        if let Letter::Lease(bytes) = &letter {
            let message = v1::decode(bytes).expect("what a core sends, a core can read");
            let node = crate::node::node_id(from);
            self.dispatch(&node, &message);
        }
        self.members.receive(from, letter, now);
    }

    fn dispatch(&mut self, from: &NodeId, message: &Message) {
        let orders = matches!(message, Message::Close { .. } | Message::LetGo { .. });
        let agreed = &self.agreed;
        let serves = || agreed.servers().any(|(id, _)| id == from) || agreed.lease_uses(from);
        if orders && !serves() {
            return;
        }
        let at = self.now();
        self.holder.handle_message(from, message, at);
        self.voter.handle_message(from, message, at);
        self.coordinator.handle_message(from, message, at);
    }

    fn confirm(&mut self, event: Event) {
        let at = self.now();
        match event {
            Event::Written(batch) => {
                for what in batch {
                    match what {
                        Written::Closure(vip, through) => {
                            self.voter.handle_persisted(vip, through, at);
                        }
                        Written::Held(vip, record) => {
                            self.holder.handle_persisted(vip, record, at);
                        }
                    }
                }
                self.records.go_on();
            }
            Event::Shut(vip, epoch) => self.holder.handle_gate_shut(vip, epoch, at),
            Event::Proposed(number) => self.proposals.forget(number),
        }
    }

    fn fire(&mut self) {
        let at = self.now();
        self.holder.handle_timeout(at);
        self.voter.handle_timeout(at);
        self.coordinator.handle_timeout(at);
        self.members.fire(at);
    }

    /// How long until something is due.
    fn wait(&self) -> Duration {
        let all = [
            self.holder.poll_timeout(),
            self.voter.poll_timeout(),
            self.coordinator.poll_timeout(),
            Some(self.members.due()),
        ];
        let first = all.into_iter().flatten().min();
        let now = self.now();
        first.map_or(LOOK_AGAIN, |due| due.since(now).min(LOOK_AGAIN))
    }

    /// Carries out everything that the machines want, until they want nothing more.
    async fn carry_out(&mut self) {
        self.stale |= self.members.carry_out();
        loop {
            while let Some(output) = self.holder.poll_output() {
                self.for_holder(output).await;
            }
            while let Some(output) = self.voter.poll_output() {
                self.for_voter(output);
            }
            while let Some(output) = self.coordinator.poll_output() {
                self.for_coordinator(output);
            }
            let Some(message) = self.own.pop_front() else {
                return;
            };
            let me = self.me.clone();
            self.dispatch(&me, &message);
        }
    }

    fn send(&mut self, to: &NodeId, message: Message) {
        if matches!(message, Message::Close { .. }) {
            self.world.lock().evidence.closing();
        }
        if *to == self.me {
            self.own.push_back(message);
            return;
        }
        let to = self.world.lock().servers.of_node(to);
        if let Some(to) = to {
            self.world.post(self.server, to, Letter::lease(&message));
        }
    }

    async fn for_holder(&mut self, output: HolderOutput) {
        match output {
            HolderOutput::Send { to, message } => self.send(&to, message),
            HolderOutput::Gate(order) => {
                let row = self.agreed.virtual_ips.get(&order.vip);
                let profile = row.map(|row| row.profile).unwrap_or_default();
                let taken = self.gates.send((order, profile)).await;
                debug_assert!(taken.is_ok(), "driver and thread end together");
            }
            HolderOutput::Persist { vip, record } => self.records.write(Written::Held(vip, record)),
            HolderOutput::ForgetRecord { vip } => self.records.forget_held(vip),
            HolderOutput::ProposeRelease { vip, epoch } => {
                let mut alive = self.members.alive(&self.agreed);
                alive.remove(&self.me);
                let row = self.agreed.virtual_ips.get(&vip);
                let to = row.and_then(|row| self.agreed.heir(row, &alive));
                let release = Proposal::Release { epoch, to };
                self.proposals.make(&self.me, vip, release);
            }
            HolderOutput::ProposeStable {
                vip,
                epoch,
                voters_since: since,
            } => {
                let stable = Proposal::Stable { epoch, since };
                self.proposals.make(&self.me, vip, stable);
            }
        }
    }

    fn for_voter(&mut self, output: VoterOutput) {
        match output {
            VoterOutput::Send { to, message } => self.send(&to, message),
            VoterOutput::PersistClosure { vip, through } => {
                self.coordinator.handle_closed_here(vip, through);
                self.records.write(Written::Closure(vip, through));
            }
            VoterOutput::ForgetClosure { vip } => self.records.forget_closure(vip),
            VoterOutput::Renewed { vip, epoch } => {
                let now = self.now();
                self.coordinator.handle_renewed(vip, epoch, now);
            }
        }
    }

    fn for_coordinator(&mut self, output: CoordinatorOutput) {
        let (vip, proposal) = match output {
            CoordinatorOutput::Send { to, message } => return self.send(&to, message),
            CoordinatorOutput::ProposeAssign {
                vip,
                after,
                to,
                closed_by,
                reason: _,
            } => {
                let assign = Proposal::Assign {
                    after,
                    to,
                    closed_by,
                };
                (vip, assign)
            }
            CoordinatorOutput::ProposeJoint {
                vip,
                epoch,
                voters_since: since,
                new,
            } => {
                self.world.lock().evidence.changing();
                (vip, Proposal::Joint { epoch, since, new })
            }
            CoordinatorOutput::ProposeStable {
                vip,
                epoch,
                voters_since: since,
            } => (vip, Proposal::Stable { epoch, since }),
            CoordinatorOutput::NoCandidate { vip, .. } => {
                let name = self
                    .agreed
                    .virtual_ips
                    .get(&vip)
                    .map(|row| row.name.clone());
                let what = format!("nobody may take {}", name.unwrap_or_default());
                let now = self.world.now();
                let mut state = self.world.lock();
                let happening = crate::timeline::Happening::Suspicion;
                return state.evidence.tell(now, happening, what);
            }
        };
        self.proposals.make(&self.me, vip, proposal);
    }
}

/// Up to when a leader hears a majority, on its host's clock.
fn majority(status: &RaftStatus, now: Time) -> Majority {
    match status.majority_ago() {
        Some(ago) if !status.is_alone() => {
            let sent = now.as_micros().saturating_sub(as_micros(ago));
            Majority::Answered(Time::from_micros(sent))
        }
        Some(_) | None => Majority::Alone,
    }
}

/// What the state says of every lease.
fn assignments(agreed: &Agreed) -> Assignments {
    let rows = agreed.virtual_ips.iter();
    rows.map(|(vip, row)| {
        let assignment = Assignment {
            holder: row.holder.clone(),
            epoch: row.epoch,
            voters: row.voters.clone(),
            voters_since: row.voters_since,
            profile: row.profile,
        };
        (*vip, assignment)
    })
    .collect()
}
