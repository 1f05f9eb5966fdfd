//! What was seen of virtual IPs in a run.
//!
//! Decides what counts as a failover: a gate is opened in a newer epoch than the last one. Its outage is
//! the true time in which nobody's gate was open. Never interferes with the run.

use consensus_core::{Epoch, NodeId, Time, VipId};

use super::{
    evidence::Evidence,
    invariants::{
        one_gate::{Ended, OneGate},
        one_holder::OneHolder,
    },
};
use crate::{distribution::Distribution, node::node_id, timeline::Happening};

/// Everything seen of them.
#[derive(Debug, Default)]
pub(crate) struct VirtualIps {
    /// From the last gate's end to the first opening in the next epoch.
    pub(crate) outages: Distribution,
    /// The same where the epoch went on: its holder was late.
    pub(crate) lapses: Distribution,
    /// Closes that were sent.
    pub(crate) closes: u64,
    /// Changes of voters that were proposed.
    pub(crate) changes: u64,
    one_gate: OneGate,
    one_holder: OneHolder,
}

impl Evidence {
    /// A server has applied that this is an epoch's holder.
    pub(crate) fn assigned(&mut self, at: Time, vip: VipId, epoch: Epoch, holder: Option<&NodeId>) {
        match self.vips.one_holder.assigned(vip, epoch, holder) {
            Ok(false) => {}
            Ok(true) => {
                let holder =
                    holder.and_then(|holder| (0..).map(node_id).position(|id| id == *holder));
                let holder = holder.map_or("nobody".to_owned(), |index| format!("server {index}"));
                let what = format!("epoch {epoch} of {} is for {holder}", short(vip));
                self.tell(at, Happening::Leader, what);
            }
            Err(detail) => self.judge("one_holder", at, Err(detail)),
        }
    }

    /// A kernel has opened its gate, or refreshed it.
    pub(crate) fn gate_opened(&mut self, at: Time, vip: VipId, by: (usize, Epoch), until_us: u64) {
        let (server, epoch) = by;
        let held = self.vips.one_holder.opened(vip, epoch, &node_id(server));
        self.judge("one_holder", at, held);
        let until = Time::from_micros(until_us);
        let (nobody, what) = match self.vips.one_gate.opened(at, vip, by, until) {
            Err(detail) => return self.judge("one_gate", at, Err(detail)),
            Ok(Ended::Nothing) => return,
            Ok(Ended::Lapse(nobody)) => {
                self.vips.lapses.add(nobody);
                (nobody, "again")
            }
            Ok(Ended::Outage(nobody)) => {
                self.vips.outages.add(nobody);
                (nobody, "first")
            }
        };
        let what = format!(
            "server {server} opens its gate of {} in epoch {epoch} {what}, after {} ms",
            short(vip),
            nobody.as_millis()
        );
        self.tell(at, Happening::Trust, what);
    }

    /// A gate is shut before its time.
    pub(crate) fn gate_shut(&mut self, at: Time, vip: VipId, server: usize) {
        self.vips.one_gate.shut(at, vip, server);
    }

    /// A coordinator asks a voter to close.
    pub(crate) const fn closing(&mut self) {
        self.vips.closes += 1;
    }

    /// A coordinator wants a lease's voters changed.
    pub(crate) const fn changing(&mut self) {
        self.vips.changes += 1;
    }

    /// Those that were ever held.
    pub(crate) fn virtual_ips(&self) -> impl Iterator<Item = VipId> {
        self.vips.one_gate.virtual_ips()
    }
}

fn short(vip: VipId) -> String {
    vip.to_string().chars().take(4).collect()
}
