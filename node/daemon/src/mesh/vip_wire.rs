//! What daemons ask each other about virtual IPs, inside of the Command channel's messages.
//!
//! Decides nothing.

use consensus_core::{Epoch, VipId};
use overlay_gate::GateKind;
use serde::{Deserialize, Serialize};

/// One drill, so that its observers are told to stop and no others.
pub(crate) type DrillId = [u8; 16];

/// A question about a virtual IP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum VipQuestion {
    /// Whether the asked node holds it now.
    Held {
        /// Which.
        vip: VipId,
    },
    /// Probe its address from now on, until asked what was seen. Done on a server's word.
    Observe {
        /// For which drill.
        drill: DrillId,
        /// Which.
        vip: VipId,
        /// From one probe to the next, in milliseconds.
        every_ms: u32,
        /// The observation ends by itself after so long, in milliseconds.
        at_most_ms: u32,
    },
    /// What was seen in that drill, for whoever began it. Answered when the address answers again, or after a while; the
    /// observation is over then.
    Seen {
        /// Which drill.
        drill: DrillId,
    },
    /// End at once, as if killed: a drill is to show what a dead holder costs. Obeyed by the holder
    /// of this epoch, on a server's word.
    Die {
        /// What it holds.
        vip: VipId,
        /// Since when.
        epoch: Epoch,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum VipAnswer {
    /// How the lease is; none without one.
    Held(Option<HeldHere>),
    /// The address is probed; whether it has answered.
    Observing(bool),
    /// What was seen.
    Seen(Observation),
    /// The process ends now.
    Dying,
}

/// A lease, as its holder knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldHere {
    /// Of which epoch.
    pub(crate) epoch: Epoch,
    /// How long it runs without another renewal, in milliseconds.
    pub(crate) left_ms: u64,
    /// Whether the kernel's gate lets packets through.
    pub(crate) open: bool,
    /// By what it is held.
    pub(crate) by: Option<HeldBy>,
}

/// What ends a holder's permission with its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum HeldBy {
    /// An element of nf_tables.
    Nftables,
    /// A deadline in an eBPF program.
    Ebpf,
    /// Nothing but the lifetime of the address.
    Lifetime,
}

impl HeldBy {
    /// Its name in answers; the settings have the same.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Ebpf => "ebpf",
            Self::Lifetime => "lifetime",
        }
    }
}

impl From<GateKind> for HeldBy {
    fn from(kind: GateKind) -> Self {
        match kind {
            GateKind::Nftables => Self::Nftables,
            GateKind::Ebpf => Self::Ebpf,
            GateKind::AddressLifetime => Self::Lifetime,
        }
    }
}

/// What one peer saw of an address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Observation {
    /// Probes.
    pub(crate) sent: u64,
    /// Answers.
    pub(crate) answers: u64,
    /// The longest time from one answer to the next, or to the end, in microseconds.
    pub(crate) silence_us: u64,
    /// The longest time in which the observer itself sent nothing, in microseconds: below it a
    /// silence says nothing.
    pub(crate) pause_us: u64,
    /// Whether the address answered at the end.
    pub(crate) answering: bool,
}
