//! Drives the lease protocol of the virtual IPs: this node's holder, voter and coordinator.
//!
//! Decides nothing: it hands the three their inputs (messages, the agreed state, leadership, what the
//! disk and the kernel's gate confirm) and carries out what comes out (messages, writes, orders to
//! the gate, proposals). Time is `CLOCK_BOOTTIME`.
//!
//! Runs on a thread of its own, for what comes late here costs an address.

mod candidates;
mod gates;
mod kinds;
mod obstacles;
mod outputs;
mod proposals;
mod records;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use consensus_core::{Epoch, NodeId, Time, VipId};
use consensus_lease::{
    Assignment, Assignments, Coordinator, Holder, Life, Majority, Message, Timings, Voter,
    candidates, wire::v1,
};
use consensus_raft::RaftStatus;
use overlay_gate::GateKind;
use overlay_net::{Channel, FrameStream, Inbox, Letters, Net};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    candidates::{heard, to_hand_over},
    obstacles::Obstacles,
    records::begin_records,
};
use self::{
    gates::{GateNews, Gates},
    proposals::Proposals,
    records::{Records, Written},
};
use super::{
    MembersRx,
    proposer::{AgreementRx, Proposer},
    views::View,
};
use crate::{config::VipGate, data_dir::DataDir};

/// A lease that this node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HeldLease {
    /// Of which epoch.
    pub(crate) epoch: Epoch,
    /// Until when, on `CLOCK_BOOTTIME`.
    pub(crate) until: Time,
    /// Whether the kernel's gate lets packets through.
    pub(crate) open: bool,
    /// By what it is held; none where there is no gate any more.
    pub(crate) by: Option<GateKind>,
}

/// The leases that this node holds.
pub(crate) type HeldLeases = BTreeMap<VipId, HeldLease>;

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
    /// By what the operator wants addresses held.
    pub(crate) gate: VipGate,
    /// What the others of this daemon see of it.
    pub(crate) held: watch::Sender<HeldLeases>,
    /// What keeps this node from holding any.
    pub(crate) obstacles: watch::Sender<Obstacles>,
    /// The daemon is about to stop: what somebody else can take is let go.
    pub(crate) leaving: CancellationToken,
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
    /// The daemon is about to stop.
    leaving: bool,
    /// Whether this server led with a majority when last looked at.
    leads: bool,
}

fn now() -> Time {
    Time::from_micros(overlay_gate::now_us())
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
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
            // Not left to the last of the arms below: others may always be ready.
            if driver.due().is_zero() {
                driver.fire();
            }
            driver.carry_out(&self.held);
            let due = driver.due();
            // Every arm is cancel-safe: channels, watches and tasks keep what was not taken.
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.leaving.cancelled(), if !driver.leaving => {
                    driver.leaving = true;
                    driver.let_go(&self.members);
                }
                Ok(()) = view.changed() => {
                    let view = view.borrow_and_update().clone();
                    driver.learn(view);
                    driver.let_go(&self.members);
                    stale = true;
                }
                written = async { driver.records.as_mut().expect("asked before").written().await },
                    if driver.records.is_some() => driver.confirm(&written),
                news = driver.gates.news() => {
                    driver.heed(news, &self.held);
                    driver.let_go(&self.members);
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
        let records = match Records::open(&self.data) {
            Ok(records) => Some(records),
            Err(error) => {
                // As a server it would promise again what it had ended.
                let (reason, hint) = (error.to_string(), error.hint());
                tracing::error!(
                    reason,
                    hint,
                    "this node neither votes for virtual IPs nor holds any"
                );
                self.obstacles
                    .send_modify(|obstacles| obstacles.records = Some(reason));
                None
            }
        };
        let held = records.as_ref().map(Records::held).unwrap_or_default();
        let gates = match &records {
            Some(_) => Gates::start(self.gate, self.obstacles.clone()),
            None => Gates::none(self.obstacles.clone()),
        };
        let voter = records
            .as_ref()
            .map(|records| Voter::new(self.me.clone(), timings, records.closed(), now()));
        Driver {
            me: self.me.clone(),
            holder: Holder::new(self.me.clone(), Life(rand::random()), timings, held),
            coordinator: Coordinator::new(self.me.clone(), timings, voter.is_some()),
            voter,
            letters: Letters::new(self.net.clone(), Channel::Lease),
            own: VecDeque::new(),
            gates,
            records,
            proposals: Proposals::new(self.proposer.clone(), self.beside.clone()),
            view: self.proposer.views.view(),
            leaving: false,
            leads: false,
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

    /// Lets go what somebody else can take before this daemon stops, and everything where there is
    /// no gate to hold it with.
    fn let_go(&mut self, members: &MembersRx) {
        let agreed = self.view.agreed.clone();
        let held = if self.gates.is_gone() {
            let rows = agreed.virtual_ips.iter();
            let held = rows.filter(|(_, row)| row.is_holder(&self.me));
            held.map(|(vip, row)| (*vip, row.epoch)).collect()
        } else if self.leaving {
            let heard = heard(&agreed, &members.borrow().clone(), &self.me);
            to_hand_over(&agreed, heard, &self.me)
        } else {
            return;
        };
        for (vip, epoch) in held {
            self.holder.let_go(vip, epoch, now());
        }
    }

    fn heed(&mut self, news: GateNews, held: &watch::Sender<HeldLeases>) {
        if let GateNews::Shut(vip, epoch) = news {
            self.holder.handle_gate_shut(vip, epoch, now());
        }
        held.send_if_modified(|held| {
            let mut changed = false;
            for (vip, lease) in held {
                let open = self.gates.is_open(*vip, lease.epoch);
                changed |= std::mem::replace(&mut lease.open, open) != open;
            }
            changed
        });
    }

    /// Who leads, who votes and who is fit.
    fn judge(&mut self, members: &MembersRx, status: &RaftStatus) {
        let at = now();
        // Without a majority nothing that it had closed could be given to anybody.
        self.leads = status.leads();
        self.coordinator.handle_leadership(self.leads, at);
        if !self.leads {
            return;
        }
        self.coordinator.handle_majority(majority(status, at));
        let agreed = self.view.agreed.clone();
        let voting: BTreeSet<NodeId> = status.voters.values().cloned().collect();
        let wanted = agreed.lease_voters_wanted(&voting);
        self.coordinator.handle_voters_wanted(wanted, at);
        let heard = heard(&agreed, &members.borrow().clone(), &self.me);
        for (vip, row) in &agreed.virtual_ips {
            if let Some(voter) = &self.voter
                && voter.is_closed(*vip, row.epoch)
            {
                self.coordinator.handle_closed_here(*vip, row.epoch);
            }
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
}

/// Up to when a leader hears a majority, on the leases' clock.
fn majority(status: &RaftStatus, now: Time) -> Majority {
    match status.majority_ago() {
        Some(ago) if !status.is_alone() => {
            let sent = now.as_micros().saturating_sub(micros(ago));
            Majority::Answered(Time::from_micros(sent))
        }
        Some(_) | None => Majority::Alone,
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
