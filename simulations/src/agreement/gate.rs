//! A simulated kernel's gate: what a lease's holder opens and what closes by itself.
//!
//! Decides when it is open, as a set of nftables with timeouts does: one element lets traffic through
//! until it expires, an arm element only allows the first opening. A refresh replaces a live element in
//! one transaction and fails when there is none, so that a process that stood still reopens nothing.
//! Never decides whether a refresh is allowed; the lease does.
//!
//! All times are the true ones of the world. A host whose clock is slow keeps an element longer: whoever
//! sets a timeout gives it as that host's clock measures it.

/// The gate of one address on one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelGate {
    open_until_us: u64,
    armed_until_us: u64,
}

impl KernelGate {
    /// Adds or renews the arm element.
    pub fn arm(&mut self, now_us: u64, timeout_us: u64) {
        self.armed_until_us = now_us + timeout_us;
    }

    /// One transaction: deletes the element that lives, be it the gate's or the arm, and adds the gate's
    /// anew. `false`: none lived, and nothing was changed.
    pub fn refresh(&mut self, now_us: u64, timeout_us: u64) -> bool {
        let lives = self.is_open(now_us) || now_us < self.armed_until_us;
        if lives {
            self.armed_until_us = 0;
            self.open_until_us = now_us + timeout_us;
        }
        lives
    }

    /// Deletes both elements.
    pub fn shut(&mut self) {
        *self = Self::default();
    }

    /// Whether it lets traffic through.
    pub const fn is_open(&self, now_us: u64) -> bool {
        now_us < self.open_until_us
    }

    /// When it closes unless it is refreshed; nothing if it is closed.
    pub fn closes_at(&self, now_us: u64) -> Option<u64> {
        self.is_open(now_us).then_some(self.open_until_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT_US: u64 = 150_000;

    #[test]
    fn a_gate_opens_only_by_a_live_arm_and_closes_by_itself() {
        let mut gate = KernelGate::default();
        assert!(!gate.refresh(10, TIMEOUT_US), "it was not armed");
        gate.arm(10, TIMEOUT_US);
        assert!(!gate.is_open(10), "an arm lets nothing through");
        assert!(gate.refresh(20, TIMEOUT_US));
        assert_eq!(gate.closes_at(20), Some(20 + TIMEOUT_US));
        assert!(gate.is_open(20 + TIMEOUT_US - 1));
        assert!(!gate.is_open(20 + TIMEOUT_US));
    }

    #[test]
    fn a_holder_that_stood_still_too_long_reopens_nothing() {
        let mut gate = KernelGate::default();
        gate.arm(0, TIMEOUT_US);
        assert!(gate.refresh(0, TIMEOUT_US));
        assert!(gate.refresh(TIMEOUT_US - 1, TIMEOUT_US));
        assert!(!gate.refresh(2 * TIMEOUT_US, TIMEOUT_US), "it had expired");
        assert!(!gate.is_open(2 * TIMEOUT_US));
    }

    #[test]
    fn what_was_shut_stays_shut() {
        let mut gate = KernelGate::default();
        gate.arm(0, TIMEOUT_US);
        assert!(gate.refresh(0, TIMEOUT_US));
        gate.arm(1, TIMEOUT_US);
        gate.shut();
        assert!(!gate.is_open(2) && !gate.refresh(2, TIMEOUT_US));
    }
}
