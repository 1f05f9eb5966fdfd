//! Who answers at an address, as seen by several observers at once: what a virtual IP's clients see
//! of its moves.
//!
//! A responder on every candidate answers probes with its name and epoch ([`wire`]); a watch on
//! every observer sends one each millisecond and logs what is answered ([`log`]). Decides: when the
//! address was not served, and when it was served twice ([`judge`]), out of all observers' logs,
//! whose times are of one machine's CLOCK_MONOTONIC.
//!
//! Knows nothing of what moves the address: shoal, keepalived or an operator.

pub mod judge;
pub mod log;
pub mod wire;

/// Microseconds of CLOCK_MONOTONIC, which all processes of a machine read alike, whatever
/// namespaces they are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub u64);

impl Micros {
    /// The time now.
    pub fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        Self(seconds * 1_000_000 + nanos / 1_000)
    }

    /// Microseconds from `earlier` to this; none if it is the later one.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
