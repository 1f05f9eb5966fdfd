//! The durations of every profile, as one value.
//!
//! Decides nothing. Production has one such value, [`Timings::REAL`]; the exhaustive search counts
//! in ticks.

use consensus_core::{LeaseProfile, LeaseTiming};

/// More renewals than can be on their way at once: a lease of any profile has room for 16.
const RENEWALS_OPEN_MAX: usize = 20;

/// The lease of a holder that is cut off has ended after one; whoever can close it out has begun by
/// then. The second is for a voter that restarts.
const LEASES_WITHOUT_MAJORITY: u64 = 2;

/// Each profile's durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timings {
    /// Of [`LeaseProfile::Lan`].
    pub lan: LeaseTiming,
    /// Of [`LeaseProfile::Safe`].
    pub safe: LeaseTiming,
    /// Of [`LeaseProfile::Wan`].
    pub wan: LeaseTiming,
    /// Of [`LeaseProfile::Slow`].
    pub slow: LeaseTiming,
    /// How many renewals of one VIP a holder waits for; the oldest is given up first.
    pub renewals_open_max: usize,
    /// A holder that has asked for so many leases' time without having a majority lets go.
    pub leases_without_majority: u64,
}

impl Timings {
    /// What machines run with.
    pub const REAL: Self = Self {
        lan: LeaseProfile::Lan.timing(),
        safe: LeaseProfile::Safe.timing(),
        wan: LeaseProfile::Wan.timing(),
        slow: LeaseProfile::Slow.timing(),
        renewals_open_max: RENEWALS_OPEN_MAX,
        leases_without_majority: LEASES_WITHOUT_MAJORITY,
    };

    /// One profile's durations.
    pub const fn of(&self, profile: LeaseProfile) -> LeaseTiming {
        match profile {
            LeaseProfile::Lan => self.lan,
            LeaseProfile::Safe => self.safe,
            LeaseProfile::Wan => self.wan,
            LeaseProfile::Slow => self.slow,
        }
    }

    /// How long a holder asks without having a majority.
    pub const fn patience_us(&self, profile: LeaseProfile) -> u64 {
        (self.of(profile).lease_us).saturating_mul(self.leases_without_majority)
    }

    /// The longest promise a voter can have forgotten in a restart, whatever it was about. A close of a
    /// virtual IP waits for those of its own profile only.
    pub fn quarantine_us(&self) -> u64 {
        let promises = LeaseProfile::ALL.map(|profile| self.of(profile).promise_us());
        promises.into_iter().max().unwrap_or_default()
    }
}

const _: () = {
    let real = Timings::REAL;
    let mut next = 0;
    while next < LeaseProfile::ALL.len() {
        let timing = real.of(LeaseProfile::ALL[next]);
        // Every renewal that can still carry a lease is waited for.
        assert!(
            (timing.lease_us / timing.renew_every_us) < 20 && real.renewals_open_max == 20,
            "a lease has room for more renewals than are waited for"
        );
        next += 1;
    }
};
