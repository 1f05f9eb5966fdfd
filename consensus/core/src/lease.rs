//! The vocabulary of virtual IPs' leases: what the state writes and the lease protocol reads.
//!
//! Decides: which acknowledgements are a majority, and how long everything of a lease lasts.
//! Never: who holds what; the state says that, and the lease protocol keeps it true.
//! Invariants, checked by the compiler for each profile: a lease outlives two gates, the margin
//! and the renewals that may be lost; a gate outlives several renewals; a voter's promise
//! outlives the lease it was given for on a clock that runs slower by the permitted drift.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{InvalidId, NodeId, ids::random_id};

random_id!(
    /// One virtual IP; made out of the log entry that creates it, and never used again.
    VipId,
    "virtual IP id"
);

/// How often a virtual IP has been given to a holder; only rises.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The one after it.
    ///
    /// # Panics
    /// After 2^64 assignments.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(
            self.0
                .checked_add(1)
                .expect("no one moves a VIP 2^64 times"),
        )
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who renews and who closes an epoch: written in the state beside it, learned together with it
/// and never apart from it.
///
/// Not whatever membership a node believes in: a removed voter that has not heard of its removal
/// would go on acknowledging, outside every new majority. So a set changes in two steps, and each
/// question below is asked of the set that is *written*. The state notes beside it the log index
/// of the command that wrote it (`voters_since`): that names a phase, so that a late report of an
/// earlier joint phase cannot end a later one, and a holder can tell which of two sets is older.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LeaseVoters {
    /// One set, for both questions.
    Stable(BTreeSet<NodeId>),
    /// On the way from one set to another.
    Joint {
        /// The set that closes until the phase has ended.
        old: BTreeSet<NodeId>,
        /// The set that takes over.
        new: BTreeSet<NodeId>,
    },
}

impl LeaseVoters {
    /// Everyone to whom renewals and closes are sent.
    pub fn everyone(&self) -> BTreeSet<NodeId> {
        match self {
            Self::Stable(set) => set.clone(),
            Self::Joint { old, new } => old.union(new).cloned().collect(),
        }
    }

    /// Whether these acknowledgements carry a lease.
    ///
    /// In the joint phase they must be a majority of both sets: of the old one, because a close
    /// still asks that; of the new one, because soon a close asks only that.
    pub fn renewal_majority(&self, acks: &BTreeSet<NodeId>) -> bool {
        match self {
            Self::Stable(set) => majority(set, acks),
            Self::Joint { old, new } => majority(old, acks) && majority(new, acks),
        }
    }

    /// Whether these closures end the epoch for good.
    ///
    /// In the joint phase a majority of the *old* set decides, and alone: the holder may not know
    /// of the phase yet and rest on a majority of the old set, which one of the new would miss.
    pub fn close_majority(&self, closed: &BTreeSet<NodeId>) -> bool {
        match self {
            Self::Stable(set) => majority(set, closed),
            Self::Joint { old, .. } => majority(old, closed),
        }
    }

    /// The set that the next epoch begins with: an epoch that ended in the joint phase has left
    /// the old set behind.
    pub const fn successor(&self) -> &BTreeSet<NodeId> {
        match self {
            Self::Stable(set) | Self::Joint { new: set, .. } => set,
        }
    }
}

/// More than half of a set. Nobody is a majority of nobody.
fn majority(set: &BTreeSet<NodeId>, votes: &BTreeSet<NodeId>) -> bool {
    let counted = set.intersection(votes).count();
    counted * 2 > set.len()
}

/// How far two machines' clocks may run apart, in millionths: half a percent. Quartz and NTP's
/// slewing together stay below 0.06 %; the rest is for hypervisors.
pub const CLOCK_DRIFT_PPM: u64 = 5_000;

/// Who needs what: speed on a quiet local network, or patience.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub enum LeaseProfile {
    /// Machines that are not overloaded, milliseconds apart.
    Lan,
    /// Machines that are busy: stalls of a seventh of a second cost nobody the address.
    #[default]
    Safe,
    /// Sites that are tens or hundreds of milliseconds apart, with losses in bursts.
    Wan,
    /// Machines whose kernel has no nf_tables: the address's own lifetime, counted in seconds, has to
    /// do as a gate.
    Slow,
}

/// What a profile's name must be.
const PROFILE_RULE: &str = "one of lan, safe, wan and slow";

impl LeaseProfile {
    /// Every profile.
    pub const ALL: [Self; 4] = [Self::Lan, Self::Safe, Self::Wan, Self::Slow];

    /// Its name in commands, files and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Safe => "safe",
            Self::Wan => "wan",
            Self::Slow => "slow",
        }
    }

    /// The profile of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.as_str() == name)
    }

    /// Its durations.
    pub const fn timing(self) -> LeaseTiming {
        match self {
            Self::Lan => LAN,
            Self::Safe => SAFE,
            Self::Wan => WAN,
            Self::Slow => SLOW,
        }
    }
}

impl fmt::Display for LeaseProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for LeaseProfile {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Self::from_name(text).ok_or_else(|| InvalidId {
            what: "lease profile",
            text: text.to_owned(),
            rule: PROFILE_RULE,
        })
    }
}

/// The durations of a lease, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseTiming {
    /// R: the holder asks for a renewal so often.
    pub renew_every_us: u64,
    /// L: a renewal carries the lease so long, counted from when it was sent.
    pub lease_us: u64,
    /// T: an element of the kernel's gate lives so long.
    pub gate_us: u64,
    /// delta: what the kernel's timers and our reading of the clock may differ by.
    pub margin_us: u64,
}

impl LeaseTiming {
    /// L(1+rho): a voter that acknowledged helps nobody else for so long after it received.
    pub const fn promise_us(self) -> u64 {
        drifted(self.lease_us)
    }

    /// 2T + delta: with less than this left of the lease the gate is not refreshed.
    pub const fn refresh_left_us(self) -> u64 {
        2 * self.gate_us + self.margin_us
    }

    /// How long a holder may go unheard before it is closed out: three renewals.
    pub const fn missed_us(self) -> u64 {
        RENEWALS_MISSED * self.renew_every_us
    }

    /// Whether these durations keep the promises of this module's header.
    pub const fn sound(self) -> bool {
        let lost = RENEWALS_LOST * self.renew_every_us;
        self.renew_every_us > 0
            && self.margin_us >= TIMER_LATENESS_US + CLOCK_READING_US
            && self.lease_us >= self.refresh_left_us() + lost
            && self.gate_us >= 2 * self.renew_every_us
            && self.missed_us() < self.lease_us
            && self.promise_us() > self.lease_us
    }
}

/// The kernel counts an element's life in ticks, and may end it two ticks late: 20 ms where it ticks
/// 100 times a second. (Usual are 250 and 1,000.)
const TIMER_LATENESS_US: u64 = 20_000;

/// For reading the clock and for rounding. (What stalls for longer is what the gate's elements are
/// for.)
const CLOCK_READING_US: u64 = 5_000;

/// A renewal may fail twice in a row, and the gate of a live holder still never lapses.
pub const RENEWALS_LOST: u64 = 2;

/// A leader that has missed three closes: one may be lost, and one late.
pub const RENEWALS_MISSED: u64 = 3;

/// A span on one clock that covers `us` on another that runs slower by the permitted drift,
/// rounded up.
pub const fn drifted(us: u64) -> u64 {
    us + (us * CLOCK_DRIFT_PPM).div_ceil(1_000_000)
}

/// Outage of about 390 ms when the holder vanishes: L, less half a renewal, and one commit. The gate
/// lives as long as L leaves room for with two renewals lost.
const LAN: LeaseTiming = LeaseTiming {
    renew_every_us: 40_000,
    lease_us: 400_000,
    gate_us: 140_000,
    margin_us: 25_000,
};

/// A full processor or a slow disk stalls a process for some hundred milliseconds now and then.
/// With 350 ms of gate and four renewals to spare such a stall goes unnoticed; the price is an
/// outage of about a second.
const SAFE: LeaseTiming = LeaseTiming {
    renew_every_us: 100_000,
    lease_us: 1_200_000,
    gate_us: 350_000,
    margin_us: 25_000,
};

/// A round trip takes up to 300 ms and losses last for half a second: a renewal counts from when
/// it was sent, so its way there and back is missing from every lease.
const WAN: LeaseTiming = LeaseTiming {
    renew_every_us: 250_000,
    lease_us: 3_500_000,
    gate_us: 1_000_000,
    margin_us: 50_000,
};

/// A lifetime of two seconds may last for three (`overlay_gate`), so T is three seconds: an address
/// that is held by its lifetime alone keeps the same rule as an element of nf_tables. L leaves room for
/// two lost renewals and for a third one that is acknowledged late; the price is an outage of some
/// eight seconds.
const SLOW: LeaseTiming = LeaseTiming {
    renew_every_us: 500_000,
    lease_us: 8_000_000,
    gate_us: 3_000_000,
    margin_us: 50_000,
};

/// The longest round trip that a profile reckons with.
const ROUND_TRIP_US: u64 = 300_000;

const _: () = {
    assert!(LAN.sound() && SAFE.sound() && WAN.sound() && SLOW.sound());
    assert!(LAN.lease_us < SAFE.lease_us && SAFE.lease_us < WAN.lease_us);
    assert!(WAN.lease_us < SLOW.lease_us);
    // When the third renewal is acknowledged, the two before it being lost, 2T + delta are left: what
    // the kernel counts in seconds is never left without its next second for that.
    let third = (RENEWALS_LOST + 1) * SLOW.renew_every_us + ROUND_TRIP_US;
    assert!(SLOW.lease_us >= SLOW.refresh_left_us() + third);
    // Rounded up: a promise is never shorter than L(1+rho).
    assert!(drifted(1) == 2 && drifted(200) == 201 && drifted(400_000) == 402_000);
};

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(numbers: &[u8]) -> BTreeSet<NodeId> {
        let node = |n: &u8| {
            let letter = char::from(b'a' + n);
            let text = format!("12D3KooW{}", letter.to_string().repeat(44));
            text.parse().unwrap()
        };
        numbers.iter().map(node).collect()
    }

    #[test]
    fn more_than_half_is_a_majority_and_half_is_not() {
        let voters = LeaseVoters::Stable(nodes(&[1, 2, 3, 4]));
        assert!(!voters.renewal_majority(&nodes(&[1, 2])));
        assert!(voters.renewal_majority(&nodes(&[1, 2, 4])));
        assert!(!voters.close_majority(&nodes(&[1, 2, 5, 6])));
        assert!(voters.close_majority(&nodes(&[1, 2, 3, 9])));
        assert!(!LeaseVoters::Stable(nodes(&[])).close_majority(&nodes(&[1])));
    }

    #[test]
    fn in_the_joint_phase_a_renewal_needs_both_sets_and_a_close_the_old_one() {
        let voters = LeaseVoters::Joint {
            old: nodes(&[1, 2, 3]),
            new: nodes(&[3, 4, 5]),
        };
        assert!(!voters.renewal_majority(&nodes(&[1, 2])));
        assert!(!voters.renewal_majority(&nodes(&[3, 4, 5])));
        assert!(voters.renewal_majority(&nodes(&[1, 3, 4])));
        assert!(voters.close_majority(&nodes(&[1, 2])));
        assert!(!voters.close_majority(&nodes(&[3, 4, 5])));
        assert_eq!(voters.everyone(), nodes(&[1, 2, 3, 4, 5]));
        assert_eq!(voters.successor(), &nodes(&[3, 4, 5]));
    }

    #[test]
    fn profiles_are_known_by_their_names() {
        for profile in LeaseProfile::ALL {
            assert_eq!(profile.as_str().parse(), Ok(profile));
        }
        assert_eq!(LeaseProfile::from_name("LAN"), None);
    }

    #[test]
    fn virtual_ip_ids_are_hexadecimal_and_epochs_only_rise() {
        let id = VipId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(Epoch(1).next() > Epoch(1));
    }
}
