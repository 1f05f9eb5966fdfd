//! The face of a replicated state, and the snapshot of it that readers get.
//!
//! Decides nothing. Never keeps a history: readers see the latest published state only.

use std::sync::Arc;

use consensus_core::LogIndex;

/// A replicated state. `apply` must be a pure function of the state, the index and the entry:
/// every server runs it on the same sequence and must end in the same state.
///
/// The state is copied once for every applied batch (the previous one may still be read), so
/// `Clone` should be cheap: keep big parts behind `Arc`.
pub trait Machine: Clone + Send + Sync + 'static {
    /// Applies one agreed entry and gives the answer for its proposer. Entries that the machine
    /// does not understand must be answered, not panicked on.
    fn apply(&mut self, index: LogIndex, entry: &[u8]) -> Vec<u8>;

    /// The whole state in a form that [`Machine::decode`] understands. Versioned by the machine.
    fn encode(&self) -> Vec<u8>;

    /// Rebuilds a state.
    ///
    /// # Errors
    /// Says in words why the bytes are no state of this machine.
    fn decode(bytes: &[u8]) -> Result<Self, String>
    where
        Self: Sized;
}

/// The replicated state as of an index.
#[derive(Debug, Clone)]
pub struct Published<M> {
    /// The last entry that was applied; zero also when nothing was applied yet.
    pub index: LogIndex,
    /// The state after that entry.
    pub machine: Arc<M>,
}
