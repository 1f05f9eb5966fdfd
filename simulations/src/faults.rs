//! What can go wrong in the world.
//!
//! Decides nothing; [`World::strike`](crate::World::strike) carries it out.

use std::time::Duration;

/// One disturbance, or the end of one. Nodes are named by their index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The host loses power: peers notice nothing but silence.
    Crash(usize),
    /// The process is killed, the host lives: peers see their connections close.
    Kill(usize),
    /// A crashed or killed node starts again with the next generation.
    Restart(usize),
    /// The node says goodbye and ends.
    Leave(usize),
    /// The process stands still; what arrives meanwhile waits.
    Stall(usize, Duration),
    /// Nothing gets from any of the first to any of the second any more.
    CutOneWay(Vec<usize>, Vec<usize>),
    /// Nothing passes between the two groups any more.
    CutBothWays(Vec<usize>, Vec<usize>),
    /// Whatever was cut between the two groups passes again.
    Mend(Vec<usize>, Vec<usize>),
    /// All cuts end.
    MendAll,
    /// Every link loses this many of a thousand messages from now on.
    LosePermille(u32),
}
