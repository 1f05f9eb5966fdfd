//! What the three machines of the lease protocol want, carried out: messages, writes, orders to the
//! gate, proposals.
//!
//! Decides nothing. What one of them says to another of this node's goes straight to it.

use consensus_core::{NodeId, Time};
use consensus_lease::{CoordinatorOutput, HolderOutput, Message, Voter, VoterOutput, wire::v1};
use tokio::sync::watch;

use super::{
    Driver, HeldLease, HeldLeases, candidates, now, proposals::Proposal, records::Written,
};

impl Driver {
    /// Carries out everything that the three want, until they want nothing more.
    pub(super) fn carry_out(&mut self, held: &watch::Sender<HeldLeases>) {
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
                        let lease = HeldLease {
                            epoch: order.epoch,
                            until: Time::from_micros(order.lease_until_us),
                            open: self.gates.is_open(order.vip, order.epoch),
                            by: self.gates.kind(),
                        };
                        held.insert(order.vip, lease);
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
            HolderOutput::ProposeStable {
                vip,
                epoch,
                voters_since: since,
            } => self.proposals.make(vip, Proposal::Stable { epoch, since }),
        }
    }

    fn for_voter(&mut self, output: VoterOutput) {
        match output {
            VoterOutput::Send { to, message } => self.send(to, message),
            VoterOutput::PersistClosure { vip, through } => {
                self.coordinator.handle_closed_here(vip, through);
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
