//! Bugs that a test of the tests can switch on in one machine.
//!
//! Decides nothing. Without the feature `planted-bugs` no machine can have one, and the compiler
//! removes what asks for it.

/// A departure from the protocol that the exhaustive search must be seen to catch.
#[cfg_attr(
    not(feature = "planted-bugs"),
    allow(dead_code, reason = "some are planted in the search's own world")
)]
#[cfg_attr(
    not(feature = "planted-bugs"),
    expect(
        unreachable_pub,
        dead_code,
        reason = "made and public with the feature alone"
    )
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PlantedBug {
    /// A restarted voter answers closes at once.
    NoQuarantine,
    /// A voter answers a close before its closure is durable.
    ClosureNotDurable,
    /// A promise lasts L, not L(1+rho).
    NoDriftMargin,
    /// A voter that has closed an epoch goes on acknowledging it.
    AckAfterClose,
    /// A voter acknowledges whatever epoch the holder believes in.
    EpochIgnored,
    /// The gate is refreshed as long as the lease lasts, not only with 2T + delta left.
    GateRefreshedTooLate,
    /// Closing asks the members of now, whatever set the holder knows: no joint phase.
    MembershipOfNow,
    /// In the joint phase a close asks the new set.
    JointClosesWithNew,
    /// In the joint phase a renewal asks only the old set.
    JointRenewsWithOld,
    /// In the joint phase a renewal asks only the new set.
    JointRenewsWithNew,
    /// The joint phase ends as soon as the holder has heard of it.
    JointEndsOnSight,
    /// The holder says that its lease rests on both sets, and does not remember having said so.
    ReportNotDurable,
    /// The holder asks to be released without remembering that it let go.
    ReleaseNotDurable,
    /// The holder asks to be released while its gate may still be open.
    ReleaseBeforeShut,
    /// An acknowledgement counts from when it came, not from when the renewal was sent.
    LeaseFromReceipt,
}

#[cfg(feature = "planted-bugs")]
impl PlantedBug {
    /// Every bug there is.
    pub const ALL: [Self; 15] = [
        Self::NoQuarantine,
        Self::ClosureNotDurable,
        Self::NoDriftMargin,
        Self::AckAfterClose,
        Self::EpochIgnored,
        Self::GateRefreshedTooLate,
        Self::MembershipOfNow,
        Self::JointClosesWithNew,
        Self::JointRenewsWithOld,
        Self::JointRenewsWithNew,
        Self::JointEndsOnSight,
        Self::ReportNotDurable,
        Self::ReleaseNotDurable,
        Self::ReleaseBeforeShut,
        Self::LeaseFromReceipt,
    ];
}

/// What one machine does wrong: nothing, outside tests of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Planted {
    #[cfg(feature = "planted-bugs")]
    bug: Option<PlantedBug>,
}

impl Planted {
    /// Nothing wrong.
    pub(crate) const fn new() -> Self {
        Self {
            #[cfg(feature = "planted-bugs")]
            bug: None,
        }
    }

    /// Plants one.
    #[cfg(feature = "planted-bugs")]
    pub(crate) const fn plant(&mut self, bug: PlantedBug) {
        self.bug = Some(bug);
    }

    /// Whether this one was planted.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn has(self, bug: PlantedBug) -> bool {
        self.bug == Some(bug)
    }

    /// Whether this one was planted: never.
    #[cfg(not(feature = "planted-bugs"))]
    pub(crate) const fn has(self, _: PlantedBug) -> bool {
        false
    }
}
