//! Drives the lease protocol of the virtual IPs: this node's holder, voter and coordinator.
//!
//! Decides nothing: it hands the three their inputs (messages, the agreed state, leadership, what the
//! disk and the kernel's gate confirm) and carries out what comes out (messages, writes, orders to
//! the gate, proposals). Time is `CLOCK_BOOTTIME`.
//!
//! Runs on a thread of its own, for what comes late here costs an address.

mod candidates;
mod gates;
mod proposals;
mod records;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use consensus_core::{Epoch, NodeId, Time, VipId};
use consensus_lease::{
    Assignment, Assignments, Coordinator, CoordinatorOutput, Holder, HolderOutput, Life, Message,
    Timings, Voter, VoterOutput, wire::v1,
};
use consensus_raft::{RaftStatus, Role};
use overlay_net::{Channel, FrameStream, Inbox, Letters, Net};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use self::{
    candidates::{candidates, heard},
    gates::Gates,
    proposals::{Proposal, Proposals},
    records::{Records, Written},
};
use super::{
    MembersRx,
    proposer::{AgreementRx, Proposer},
    views::View,
};
use crate::data_dir::DataDir;

/// The leases that this node holds: the epoch, and until when on `CLOCK_BOOTTIME`.
pub(crate) type HeldLeases = BTreeMap<VipId, (Epoch, Time)>;

/// Where closures and what was held rest.
const RECORDS_FILE: &str = "leases.bin";
/// Messages handed in between two looks at everything else.
const MESSAGES_AT_ONCE: usize = 256;
/// With nothing due: the next look at who leads and who is alive.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What the task works with.
pub(crate) struct Leases {
    pub(crate) me: NodeId,
    pub(crate) net: Net,
    pub(crate) data: Arc<DataDir>,
    pub(crate) proposer: Proposer,
    pub(crate) members: MembersRx,
    /// Streams that other nodes open for their letters.
    pub(crate) streams: mpsc::Receiver<(NodeId, FrameStream)>,
    /// What the others of this daemon see of it.
    pub(crate) held: watch::Sender<HeldLeases>,
    /// Why this host can hold none, if so.
    pub(crate) gateless: watch::Sender<Option<String>>,
    /// Where commands are given, beside everything else.
    pub(crate) beside: Handle,
    pub(crate) stop: CancellationToken,
}

/// The three machines, and what connects them to the world.
struct Driver {
    me: NodeId,
    holder: Holder,
    /// None where its closures cannot be read: it could take back what it had closed.
    voter: Option<Voter>,
    coordinator: Coordinator,
    letters: Letters,
    /// From one of the three to another.
    own: VecDeque<Message>,
    records: Option<Records>,
    gates: Gates,
    proposals: Proposals,
    view: Arc<View>,
}

fn now() -> Time {
    Time::from_micros(overlay_gate::now_us())
}

/// What this node's Raft says of itself; where it has none, nothing for ever.
fn raft_status(agreement: &mut AgreementRx) -> watch::Receiver<RaftStatus> {
    let raft = agreement.borrow_and_update();
    raft.as_ref().map_or_else(
        || watch::channel(RaftStatus::default()).1,
        |raft| raft.status(),
    )
}

fn decode(letter: &[u8]) -> Result<Message, String> {
    v1::decode(letter).map_err(|error| format!("{}: {error}", error.code()))
}

impl Leases {
    /// Runs until cancelled. A gate that is open then runs out with its lease, unless the daemon is
    /// back before.
    pub(crate) async fn run(mut self) {
        let mut driver = self.driver();
        let mut inbox = Inbox::new(decode);
        let mut view = self.proposer.views.watch_at_once();
        let mut agreement = self.proposer.agreement.clone();
        let mut members = self.members.clone();
        view.mark_changed();
        let mut stale = true;
        let mut status = raft_status(&mut agreement);
        loop {
            // What changes later than this look is seen as changed below, whatever comes first.
            if std::mem::take(&mut stale) {
                members.mark_unchanged();
                let status = status.borrow_and_update().clone();
                driver.judge(&self.members, &status);
                driver.carry_out(&self.held);
            }
            for _ in 0..MESSAGES_AT_ONCE {
                let Some((from, message)) = inbox.try_next() else {
                    break;
                };
                driver.dispatch(&from, &message);
            }
            driver.carry_out(&self.held);
            let due = driver.due();
            // Every arm is cancel-safe: channels, watches and tasks keep what was not taken.
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                Ok(()) = view.changed() => {
                    let view = view.borrow_and_update().clone();
                    driver.learn(view);
                    stale = true;
                }
                written = async { driver.records.as_mut().expect("asked before").written().await },
                    if driver.records.is_some() => driver.confirm(&written),
                (vip, epoch) = driver.gates.shut() => {
                    driver.holder.handle_gate_shut(vip, epoch, now());
                }
                key = driver.proposals.ended() => driver.proposals.forget(key),
                Some((from, stream)) = self.streams.recv() => inbox.accept(from, stream),
                Some((from, message)) = inbox.next() => driver.dispatch(&from, &message),
                Ok(()) = status.changed() => stale = true,
                Ok(()) = agreement.changed() => {
                    status = raft_status(&mut agreement);
                    stale = true;
                }
                Ok(()) = members.changed() => stale = true,
                () = sleep(due) => driver.fire(),
            }
        }
    }

    fn driver(&self) -> Driver {
        let timings = Timings::REAL;
        let path = self.data.root().join(RECORDS_FILE);
        let records = match Records::open(path.clone()) {
            Ok(records) => Some(records),
            Err(error) => {
                // As a server it would promise again what it had ended.
                tracing::error!(
                    %error,
                    path = %path.display(),
                    "this node neither votes for virtual IPs nor holds any: demote and remove it, \
                     delete the file and join anew"
                );
                None
            }
        };
        let held = records.as_ref().map(Records::held).unwrap_or_default();
        let gates = match &records {
            Some(_) => Gates::start(),
            None => Err("what it held before cannot be read".to_owned()),
        };
        let gates = gates.unwrap_or_else(|reason| {
            self.gateless.send_replace(Some(reason));
            Gates::none()
        });
        let voter = records
            .as_ref()
            .map(|records| Voter::new(timings, records.closed(), now()));
        Driver {
            me: self.me.clone(),
            holder: Holder::new(self.me.clone(), Life(rand::random()), timings, held),
            voter,
            coordinator: Coordinator::new(timings),
            letters: Letters::new(self.net.clone(), Channel::Lease),
            own: VecDeque::new(),
            gates,
            records,
            proposals: Proposals::new(self.proposer.clone(), self.beside.clone()),
            view: self.proposer.views.view(),
        }
    }
}

impl Driver {
    /// Takes a newer view.
    fn learn(&mut self, view: Arc<View>) {
        let (revision, at) = (view.revision, now());
        let agreed = assignments(&view);
        self.view = view;
        self.gates.learn(&self.view.agreed, &self.me);
        if self.records.is_some() {
            self.holder.handle_assignments(revision, &agreed, at);
        }
        if let Some(voter) = &mut self.voter {
            voter.handle_assignments(revision, &agreed, at);
        }
        // A wish that this view has fulfilled must not be held against the new holder.
        self.coordinator.forget_wishes();
        self.coordinator.handle_assignments(revision, &agreed, at);
    }

    /// Who leads, who votes and who is fit.
    fn judge(&mut self, members: &MembersRx, status: &RaftStatus) {
        let at = now();
        let leads = status.role == Role::Leader && status.failure.is_none();
        self.coordinator.handle_leadership(leads, at);
        if !leads {
            return;
        }
        let agreed = self.view.agreed.clone();
        // A server that has not caught up would acknowledge nothing.
        let votes = |id: &NodeId| status.voters.values().any(|voter| voter == id);
        let servers = agreed.servers().map(|(id, _)| id.clone()).filter(votes);
        self.coordinator.handle_voters_wanted(servers.collect(), at);
        let heard = heard(&agreed, &members.borrow().clone(), &self.me);
        for (vip, row) in &agreed.virtual_ips {
            let (list, wanted) = candidates(&agreed, row, &heard);
            self.coordinator.handle_candidates(*vip, list, wanted, at);
        }
    }

    fn dispatch(&mut self, from: &NodeId, message: &Message) {
        let orders = matches!(message, Message::Close { .. } | Message::LetGo { .. });
        let agreed = &self.view.agreed;
        // One that is a server no more leads on as long as a lease keeps it in the group.
        let serves = || agreed.servers().any(|(id, _)| id == from) || agreed.lease_uses(from);
        if orders && !serves() {
            tracing::warn!(from = from.short(), "no server, and orders a lease closed");
            return;
        }
        let at = now();
        self.holder.handle_message(from, message, at);
        if let Some(voter) = &mut self.voter {
            voter.handle_message(from, message, at);
        }
        self.coordinator.handle_message(from, message, at);
    }

    fn confirm(&mut self, written: &[Written]) {
        for what in written {
            match what {
                Written::Closure(vip, through) => {
                    if let Some(voter) = &mut self.voter {
                        voter.handle_persisted(*vip, *through, now());
                    }
                }
                Written::Held(vip, record) => {
                    self.holder.handle_persisted(*vip, *record, now());
                }
            }
        }
    }

    fn fire(&mut self) {
        let at = now();
        self.holder.handle_timeout(at);
        if let Some(voter) = &mut self.voter {
            voter.handle_timeout(at);
        }
        self.coordinator.handle_timeout(at);
    }

    /// How long until something is due.
    fn due(&self) -> Duration {
        let voter = self.voter.as_ref().and_then(Voter::poll_timeout);
        let three = [
            self.holder.poll_timeout(),
            voter,
            self.coordinator.poll_timeout(),
        ];
        let first = three.into_iter().flatten().min();
        first.map_or(LOOK_AGAIN, |due| due.since(now()).min(LOOK_AGAIN))
    }

    /// Carries out everything that the three want, until they want nothing more.
    fn carry_out(&mut self, held: &watch::Sender<HeldLeases>) {
        loop {
            while let Some(output) = self.holder.poll_output() {
                self.for_holder(output, held);
            }
            while let Some(output) = self.voter.as_mut().and_then(Voter::poll_output) {
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

    fn send(&mut self, to: NodeId, message: Message) {
        if to == self.me {
            self.own.push_back(message);
        } else {
            self.letters.post(to, v1::encode(&message));
        }
    }

    fn for_holder(&mut self, output: HolderOutput, held: &watch::Sender<HeldLeases>) {
        match output {
            HolderOutput::Send { to, message } => self.send(to, message),
            HolderOutput::Gate(order) => {
                held.send_modify(|held| {
                    if order.is_shut() {
                        held.remove(&order.vip);
                    } else {
                        let until = Time::from_micros(order.lease_until_us);
                        held.insert(order.vip, (order.epoch, until));
                    }
                });
                self.gates.order(order);
            }
            HolderOutput::Persist { vip, record } => self.write(Written::Held(vip, record)),
            HolderOutput::ForgetRecord { vip } => {
                if let Some(records) = &mut self.records {
                    records.forget_held(vip);
                }
            }
            HolderOutput::ProposeRelease { vip, epoch } => {
                self.proposals.make(vip, Proposal::Release { epoch });
            }
        }
    }

    fn for_voter(&mut self, output: VoterOutput) {
        match output {
            VoterOutput::Send { to, message } => self.send(to, message),
            VoterOutput::PersistClosure { vip, through } => {
                self.write(Written::Closure(vip, through));
            }
            VoterOutput::ForgetClosure { vip } => {
                if let Some(records) = &mut self.records {
                    records.forget_closure(vip);
                }
            }
            VoterOutput::Renewed { vip, epoch } => {
                self.coordinator.handle_renewed(vip, epoch, now());
            }
        }
    }

    fn for_coordinator(&mut self, output: CoordinatorOutput) {
        match output {
            CoordinatorOutput::Send { to, message } => self.send(to, message),
            CoordinatorOutput::ProposeAssign {
                vip,
                after,
                to,
                closed_by,
                reason,
            } => {
                let reason = candidates::in_words(&reason);
                let proposal = Proposal::Assign {
                    after,
                    to,
                    closed_by,
                    reason,
                };
                self.proposals.make(vip, proposal);
            }
            CoordinatorOutput::ProposeJoint {
                vip,
                epoch,
                voters_since: since,
                new,
            } => self
                .proposals
                .make(vip, Proposal::Joint { epoch, since, new }),
            CoordinatorOutput::ProposeStable {
                vip,
                epoch,
                voters_since,
            } => {
                let since = voters_since;
                self.proposals.make(vip, Proposal::Stable { epoch, since });
            }
            CoordinatorOutput::NoCandidate {
                vip,
                reason,
                rejected,
            } => {
                let name = self.view.agreed.virtual_ips.get(&vip);
                tracing::warn!(
                    vip = name.map(|row| row.name.as_str()),
                    reason = candidates::in_words(&reason),
                    ?rejected,
                    "a virtual IP ought to move, and nobody may take it"
                );
            }
        }
    }

    fn write(&mut self, what: Written) {
        if let Some(records) = &mut self.records {
            records.write(what);
        }
    }
}

/// What the state says of every lease.
fn assignments(view: &View) -> Assignments {
    let rows = view.agreed.virtual_ips.iter();
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
