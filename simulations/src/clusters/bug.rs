//! Bugs that a test of the tests can switch on.
//!
//! Decides nothing. Each one stands at the border of a core: it shows the core, or the world, something
//! else than what is the case, as the core would see it without the rule that is broken.

/// A departure from the protocol that the laboratory must be seen to catch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlantedBug {
    /// A founder whose disk was lost founds again, though others are in the cluster.
    FoundsAgain,
    /// A token is taken for whatever stay the node is in now.
    AttemptIgnored,
    /// What was installed is forgotten in a restart of shoald, and installed again.
    InstallForgotten,
    /// A token that was taken is not written down before K3s is started with it: a restart in between
    /// makes secrets anew.
    SecretsMadeAnew,
    /// A token is issued for a name that the cluster still knows from before.
    NamesNotForgotten,
    /// What an earlier stay left on the host is not taken off.
    NothingCleaned,
    /// A word of an earlier stay counts.
    ReportsOfEarlierStays,
    /// Who does not answer for a moment takes on a change though it is another one's turn.
    ChangedOutOfTurn,
}

impl PlantedBug {
    /// Every one there is.
    pub const ALL: [Self; 8] = [
        Self::FoundsAgain,
        Self::AttemptIgnored,
        Self::InstallForgotten,
        Self::SecretsMadeAnew,
        Self::NamesNotForgotten,
        Self::NothingCleaned,
        Self::ReportsOfEarlierStays,
        Self::ChangedOutOfTurn,
    ];
}
