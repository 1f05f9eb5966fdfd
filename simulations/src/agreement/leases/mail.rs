//! Letters between daemons: leases' and the membership's.
//!
//! Decides nothing: a letter takes as long as any message between the two hosts and is lost as one.
//! Invariant: a letter that arrives was written in the wire format and read back.

use consensus_lease::{Message, wire::v1};
use overlay_core::membership;

use crate::agreement::world::World;

/// Letters that wait for a process: about what the buffers of its streams hold.
pub(crate) const MAILBOX_LETTERS: usize = 1024;

/// A letter and the host that it came from.
pub(crate) type Mail = (usize, Letter);

/// What daemons send each other.
#[derive(Debug, Clone)]
pub(crate) enum Letter {
    /// The lease protocol's, as it is on the wire.
    Lease(Vec<u8>),
    /// The membership's.
    Gossip(membership::Message),
    /// A connection is wanted.
    Dial,
    /// It is there.
    Accepted,
    /// It is gone: the process at its other end has ended.
    Closed,
    /// It is used.
    KeepAlive,
}

impl Letter {
    pub(crate) fn lease(message: &Message) -> Self {
        Self::Lease(v1::encode(message))
    }

    /// A letter of the trace.
    const fn kind(&self) -> u8 {
        match self {
            Self::Lease(_) => b'l',
            Self::Gossip(_) => b'g',
            Self::Dial | Self::Accepted | Self::Closed | Self::KeepAlive => b'c',
        }
    }
}

impl World {
    /// Sends a letter. Nobody learns whether it arrives.
    pub(crate) fn post(&self, from: usize, to: usize, letter: Letter) {
        let world = self.clone();
        // A task of nobody's: what is under way stays so whatever becomes of its sender.
        drop(tokio::spawn(async move {
            if !world.travel(from, to).await {
                return;
            }
            world.note(letter.kind(), from, to, 0);
            let mut state = world.lock();
            if let Some(mailbox) = &state.servers.at(to).host.mailbox {
                // Whoever does not read fast enough loses letters.
                drop(mailbox.try_send((from, letter)));
            }
        }));
    }
}
