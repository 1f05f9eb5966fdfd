//! What a client says to a `raft-member`, and what it hears.

use std::io;

/// Tag of a request: have the body agreed.
pub const PROPOSE: u8 = 1;
/// Tag of a request: say where you stand.
pub const STATUS: u8 = 2;
/// Tag of a request of another member's: a message of Raft's on its urgent lane.
pub const RAFT_RPC: u8 = 3;
/// Tag of a request of another member's: a snapshot.
pub const RAFT_SNAPSHOT: u8 = 4;

/// Tag of an answer: done; the body depends on the request.
pub const DONE: u8 = 0;
/// Tag of an answer: this member does not lead.
pub const NOT_LEADER: u8 = 1;
/// Tag of an answer: it failed, and the body says why in words.
pub const FAILED: u8 = 2;

/// Where a member stands in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The member that it takes for the leader; zero for none.
    pub leader: u64,
    /// How many voters it knows of.
    pub voters: u64,
    /// The last entry that it has applied.
    pub applied: u64,
}

impl Standing {
    /// Three numbers of eight bytes, big-endian.
    pub fn encode(&self) -> Vec<u8> {
        let numbers = [self.leader, self.voters, self.applied];
        numbers.iter().flat_map(|n| n.to_be_bytes()).collect()
    }

    /// The reverse.
    ///
    /// # Errors
    /// When these are not three numbers.
    pub fn decode(bytes: &[u8]) -> io::Result<Self> {
        let number = |at: usize| {
            let bytes = bytes.get(at..at + 8)?;
            Some(u64::from_be_bytes(bytes.try_into().ok()?))
        };
        match (number(0), number(8), number(16)) {
            (Some(leader), Some(voters), Some(applied)) => Ok(Self {
                leader,
                voters,
                applied,
            }),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}
