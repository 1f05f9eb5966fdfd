//! What holders, voters and coordinators say to each other.
//!
//! Decides nothing. Every message may be lost, late, doubled or out of order.

use consensus_core::{Epoch, LeaseProfile, LogIndex, Time, VipId};

/// One run of a holder's daemon: a random number drawn at its start. Acknowledgements for another
/// run do not count, for `CLOCK_BOOTTIME` begins anew with each start of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life(pub u64);

/// A message carries no more VIPs; a holder of more sends several.
pub const RENEWALS_PER_MESSAGE_MAX: usize = 512;

/// One VIP in a request for renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Renewal {
    /// The virtual IP.
    pub vip: VipId,
    /// The epoch that the sender holds.
    pub epoch: Epoch,
    /// How long a promise it asks for.
    pub profile: LeaseProfile,
}

/// One VIP in an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Granted {
    /// The virtual IP.
    pub vip: VipId,
    /// The epoch that was renewed.
    pub epoch: Epoch,
}

/// A message of the lease protocol. Who sent it is known from the connection.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// From a holder to a voter: promise to help nobody else.
    Renew {
        /// The holder's present run.
        life: Life,
        /// When it was sent, on the holder's clock; names the renewal.
        sent: Time,
        /// What is to be renewed.
        renewals: Vec<Renewal>,
    },
    /// From a voter to a holder: promised, from receipt for L(1+rho).
    Ack {
        /// As in the renewal.
        life: Life,
        /// As in the renewal.
        sent: Time,
        /// What was promised; the rest was not.
        granted: Vec<Granted>,
    },
    /// From a coordinator to a voter: never acknowledge this epoch again.
    Close {
        /// The virtual IP.
        vip: VipId,
        /// The epoch to end.
        epoch: Epoch,
    },
    /// From a voter to a coordinator: the closure is durable and no promise of mine runs.
    Closed {
        /// The virtual IP.
        vip: VipId,
        /// The epoch that it is closed for.
        epoch: Epoch,
    },
    /// From a coordinator to a holder: shut the gate and ask to be released.
    LetGo {
        /// The virtual IP.
        vip: VipId,
        /// The epoch to let go.
        epoch: Epoch,
    },
    /// From a holder to every voter's coordinator: my lease rests on both sets of the joint phase
    /// that began at this index, and will never again rest on less.
    RestsOnJoint {
        /// The virtual IP.
        vip: VipId,
        /// The epoch held.
        epoch: Epoch,
        /// Which joint phase.
        voters_since: LogIndex,
    },
}
