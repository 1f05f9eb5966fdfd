//! When certificates begin, end and are renewed.
//!
//! Decides lifetimes and the moment of renewal. X.509 counts whole seconds (RFC 5280, 4.1.2.5);
//! so does every period here, and what is reported is what the certificate says.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use consensus_core::WallMs;
use time::OffsetDateTime;

/// A root outlives machines.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * DAY_SECS);
/// An intermediate ends soon after its server is gone, yet bridges a long weekend without a leader.
pub const INTERMEDIATE_LIFETIME: Duration = Duration::from_secs(7 * DAY_SECS);
/// A leaf: a day, so that what is forgotten ends by itself.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(DAY_SECS);
/// The longest an operator's leaf may be asked for: a person renews by hand.
pub const OPERATOR_LIFETIME_MAX: Duration = Duration::from_secs(90 * DAY_SECS);

const DAY_SECS: u64 = 86_400;
/// Clocks of machines differ; a certificate is valid a little before it was made.
const BACKDATE: Duration = Duration::from_secs(600);
/// The last second an X.509 date can name: 9999-12-31 23:59:59.
const SECONDS_MAX: u64 = 253_402_300_799;
/// Renewal is spread this far to either side, in thousandths of the lifetime.
const JITTER_PERMILLE: u64 = 50;

/// A point of the system's clock as wall time; before 1970 counts as 1970.
pub fn wall(time: SystemTime) -> WallMs {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    WallMs(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A certificate's first and last moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// It is not valid before.
    pub not_before: WallMs,
    /// It is not valid after.
    pub not_after: WallMs,
}

impl Validity {
    /// From a little before `now` for `lifetime`, in whole seconds.
    pub(crate) fn starting(now: WallMs, lifetime: Duration) -> Self {
        let begin = now.0.saturating_sub(millis(BACKDATE));
        let end = now.0.saturating_add(millis(lifetime));
        Self {
            not_before: whole_seconds(begin),
            not_after: whole_seconds(end),
        }
    }

    /// The part of it that lies within another's.
    pub(crate) fn within(self, other: Self) -> Self {
        Self {
            not_before: self.not_before.max(other.not_before),
            not_after: self.not_after.min(other.not_after),
        }
    }

    /// Whether it holds at that moment.
    pub fn contains(self, at: WallMs) -> bool {
        self.not_before <= at && at <= self.not_after
    }
}

/// When to renew: two thirds into the lifetime, up to 5 % of the lifetime earlier or later, as
/// the serial number has it, so that a mesh made at once does not renew at once.
pub fn renew_at(not_before: WallMs, not_after: WallMs, serial: &str) -> WallMs {
    let lifetime = not_after.0.saturating_sub(not_before.0);
    let hash = blake3::hash(serial.as_bytes());
    let spread = u64::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]));
    // 0 ..= 2 · JITTER_PERMILLE thousandths, less JITTER_PERMILLE: both sides alike.
    let offset = u128::from(lifetime) * u128::from(2 * JITTER_PERMILLE) * u128::from(spread)
        / (1000 * u128::from(u16::MAX));
    let offset = u64::try_from(offset).unwrap_or(u64::MAX);
    let earliest = lifetime / 3 * 2 - lifetime / 1000 * JITTER_PERMILLE;
    WallMs(
        not_before
            .0
            .saturating_add(earliest)
            .saturating_add(offset)
            .min(not_after.0),
    )
}

/// For rcgen.
pub(crate) fn date(at: WallMs) -> OffsetDateTime {
    let seconds = (at.0 / 1000).min(SECONDS_MAX);
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Seconds since 1970; dates before count as 1970.
pub(crate) fn from_seconds(seconds: i64) -> WallMs {
    WallMs(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn whole_seconds(at_ms: u64) -> WallMs {
    WallMs((at_ms / 1000).min(SECONDS_MAX) * 1000)
}
