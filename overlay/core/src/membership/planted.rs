//! Bugs that a test of the tests can switch on in one core.
//!
//! Decides nothing. Without the feature `planted-bugs` no core can have one, and the compiler
//! removes what asks for it.

/// A departure from the protocol that whole meshes must be seen to suffer from.
#[cfg_attr(
    not(feature = "planted-bugs"),
    expect(unreachable_pub, reason = "made and public with the feature alone")
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PlantedBug {
    /// An accused node does not raise its incarnation.
    NoRefutation,
    /// Three confirmations are waited for, however few observers live that could give them.
    StaticConfirmations,
    /// An accusation counts although its accuser has not signed it.
    UnsignedAccusationCounted,
    /// An accusation counts although its accuser does not observe the accused.
    NonObserverCounted,
    /// A record counts although its subject has not signed it.
    UnsignedRecordCounted,
    /// Who died or left is forgotten after five seconds.
    TombstoneDroppedEarly,
    /// Records are ordered by their version alone, whatever life they are from.
    GenerationIgnored,
    /// A helper's NACK counts as its silence.
    NackIgnored,
    /// However badly a node fares, it never slows down.
    LocalHealthOff,
    /// A mass of suspicions does not stop automatic pruning.
    NoFreeze,
    /// Digests are neither sent nor answered.
    DigestRepairOff,
    /// A member that is accused is not told so by those that talk to it.
    NoBuddy,
    /// No helper is asked before a silent member is suspected.
    NoIndirectProbes,
    /// A process that stood still judges others by what it missed.
    StallUnnoticed,
}

#[cfg(feature = "planted-bugs")]
impl PlantedBug {
    /// Every bug there is.
    pub const ALL: [Self; 14] = [
        Self::NoRefutation,
        Self::StaticConfirmations,
        Self::UnsignedAccusationCounted,
        Self::NonObserverCounted,
        Self::UnsignedRecordCounted,
        Self::TombstoneDroppedEarly,
        Self::GenerationIgnored,
        Self::NackIgnored,
        Self::LocalHealthOff,
        Self::NoFreeze,
        Self::DigestRepairOff,
        Self::NoBuddy,
        Self::NoIndirectProbes,
        Self::StallUnnoticed,
    ];
}
