//! What the thread knows of one address besides what `decision` does.
//!
//! Decides: how often neighbours are told.

use std::net::Ipv6Addr;

use crate::{advertisement, decision::Decision, events::GateStatus, nftables::Guarded};

/// One address.
#[derive(Debug)]
pub(super) struct Vip {
    pub(super) decision: Decision,
    /// Whether the kernel keeps packets from it while it is closed. Before, it is put on no interface.
    pub(super) guarded: bool,
    /// The interface that was given the address.
    pub(super) interface: Option<String>,
    /// When the kernel was last asked to give the address a lifetime, and when it last did.
    pub(super) address_put_us: u64,
    pub(super) address_given_us: u64,
    /// The link to advertise on, and how often still.
    pub(super) neighbours: Option<(u32, [u8; 6])>,
    pub(super) advertisements_left: u8,
    /// Not before then: the kernel refused.
    pub(super) retry_us: u64,
    /// What was last reported as refused, so that it is said once.
    pub(super) complaint: Option<(u64, &'static str)>,
    pub(super) since_us: u64,
}

impl Vip {
    pub(super) fn new(decision: Decision, now: u64) -> Self {
        Self {
            decision,
            guarded: false,
            interface: None,
            address_put_us: 0,
            // Of one that is taken over, as well as is known.
            address_given_us: now,
            neighbours: None,
            advertisements_left: 0,
            retry_us: 0,
            complaint: None,
            since_us: now,
        }
    }

    pub(super) fn remembered(&self, address: Ipv6Addr) -> Guarded {
        let (epoch, released) = self.decision.memory();
        Guarded {
            address,
            epoch,
            released,
        }
    }

    pub(super) fn status(&self) -> GateStatus {
        GateStatus {
            interface: self.interface.clone(),
            epoch: self.decision.memory().0,
            open: self.decision.open_epoch().is_some(),
            since_us: self.since_us,
        }
    }

    /// Tells the neighbours, where there are any, once more.
    pub(super) fn advertise(&mut self, address: Ipv6Addr) {
        let Some((index, hardware)) = self.neighbours else {
            return;
        };
        if self.advertisements_left == 0 {
            return;
        }
        self.advertisements_left -= 1;
        if let Err(errno) = advertisement::send(index, hardware, address) {
            tracing::debug!(%address, %errno, "no neighbour advertisement");
        }
    }
}
