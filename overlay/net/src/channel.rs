//! The channels between two nodes, and how much each may carry.
//!
//! Decides the frame caps and the protocol names. A channel's calls and its raw streams are
//! separate libp2p streams, so that no channel waits behind another.

use libp2p::StreamProtocol;

/// What a stream between two nodes is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// Raft's votes, log entries and heartbeats.
    Raft,
    /// Raft's snapshots, apart from the heartbeats that must not wait for them.
    Snapshot,
    /// Requests to another node's daemon.
    Command,
    /// Views pushed to a node.
    Watch,
    /// Membership messages.
    Membership,
    /// Renewals and closures of leases.
    Lease,
}

const MIB: usize = 1024 * 1024;

impl Channel {
    /// Every channel.
    pub const ALL: [Self; 6] = [
        Self::Raft,
        Self::Snapshot,
        Self::Command,
        Self::Watch,
        Self::Membership,
        Self::Lease,
    ];

    /// Longest frame body.
    pub const fn frame_bytes_max(self) -> usize {
        match self {
            // A batch of log entries.
            Self::Raft => 4 * MIB,
            // The whole state of a large mesh.
            Self::Snapshot => 64 * MIB,
            // A manifest or a kubeconfig with room to spare.
            Self::Command => 8 * MIB,
            // One node's view.
            Self::Watch => 16 * MIB,
            // A digest and its records; latest wins, so frames stay small.
            Self::Membership => 64 * 1024,
            // Every lease between two nodes in one message.
            Self::Lease => 64 * 1024,
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// What a libp2p stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// Requests and answers of a channel.
    Call(Channel),
    /// Raw frames of a channel.
    Stream(Channel),
    /// Nothing: its presence tells the other side that the connection is wanted.
    Hold,
    /// A byte to and fro, on transports that do not notice a dead peer themselves.
    Pulse,
    /// A new chain of certificates, for the connection that carries it.
    Renewal,
    /// Whether the opener can be dialled.
    Reach,
}

/// Protocol names of calls, in the order of [`Channel::ALL`].
const CALL_NAMES: [&str; 6] = [
    "/shoal/1/raft/call",
    "/shoal/1/snapshot/call",
    "/shoal/1/command/call",
    "/shoal/1/watch/call",
    "/shoal/1/membership/call",
    "/shoal/1/lease/call",
];
/// Protocol names of raw streams, in the order of [`Channel::ALL`].
const STREAM_NAMES: [&str; 6] = [
    "/shoal/1/raft/stream",
    "/shoal/1/snapshot/stream",
    "/shoal/1/command/stream",
    "/shoal/1/watch/stream",
    "/shoal/1/membership/stream",
    "/shoal/1/lease/stream",
];
const HOLD_NAME: &str = "/shoal/1/hold";
const PULSE_NAME: &str = "/shoal/1/pulse";
const RENEWAL_NAME: &str = "/shoal/1/renewal";
const REACH_NAME: &str = "/shoal/1/reach";

impl Lane {
    /// Every lane a node accepts.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Channel::ALL
            .into_iter()
            .flat_map(|channel| [Self::Call(channel), Self::Stream(channel)])
            .chain([Self::Hold, Self::Pulse, Self::Renewal, Self::Reach])
    }

    /// The name negotiated on the wire.
    pub(crate) fn protocol(self) -> StreamProtocol {
        StreamProtocol::new(match self {
            Self::Call(channel) => CALL_NAMES[channel.index()],
            Self::Stream(channel) => STREAM_NAMES[channel.index()],
            Self::Hold => HOLD_NAME,
            Self::Pulse => PULSE_NAME,
            Self::Renewal => RENEWAL_NAME,
            Self::Reach => REACH_NAME,
        })
    }

    /// The lane of a negotiated name.
    pub(crate) fn from_protocol(protocol: &StreamProtocol) -> Option<Self> {
        Self::all().find(|lane| lane.protocol() == *protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_has_a_name_of_its_own() {
        for lane in Lane::all() {
            assert_eq!(Lane::from_protocol(&lane.protocol()), Some(lane));
        }
    }

    #[test]
    fn names_stand_in_the_channels_order() {
        for (place, channel) in Channel::ALL.into_iter().enumerate() {
            assert_eq!(channel.index(), place);
        }
        assert_eq!(Lane::Call(Channel::Watch).protocol(), "/shoal/1/watch/call");
    }
}
