//! Where what other nodes want of this one waits for the daemon.
//!
//! Decides how much may wait; more is refused.

use std::collections::BTreeMap;

use consensus_core::NodeId;
use tokio::sync::mpsc;

use crate::{
    call::IncomingCall, channel::Channel, enrolment::EnrolmentRequest, frame::FrameStream,
};

/// Streams waiting for the daemon, per channel.
const INCOMING_STREAMS_MAX: usize = 32;
/// Requests waiting for the daemon, per channel.
const INCOMING_CALLS_MAX: usize = 128;

/// Where inbound calls and streams go.
pub(crate) struct Doors {
    pub(crate) calls: BTreeMap<Channel, mpsc::Sender<IncomingCall>>,
    pub(crate) streams: BTreeMap<Channel, mpsc::Sender<(NodeId, FrameStream)>>,
}

/// What other nodes want of this one. A channel whose receiver is dropped refuses its calls.
#[derive(Debug)]
pub struct Incoming {
    /// Requests, by channel.
    pub calls: BTreeMap<Channel, mpsc::Receiver<IncomingCall>>,
    /// Raw streams, by channel.
    pub streams: BTreeMap<Channel, mpsc::Receiver<(NodeId, FrameStream)>>,
    /// Joiners.
    pub enrolments: mpsc::Receiver<EnrolmentRequest>,
}

impl Incoming {
    /// Takes the requests of a channel; `None` if they were taken before.
    pub fn take_calls(&mut self, channel: Channel) -> Option<mpsc::Receiver<IncomingCall>> {
        self.calls.remove(&channel)
    }

    /// Takes the raw streams of a channel; `None` if they were taken before.
    pub fn take_streams(
        &mut self,
        channel: Channel,
    ) -> Option<mpsc::Receiver<(NodeId, FrameStream)>> {
        self.streams.remove(&channel)
    }
}

/// A door for each channel, and what comes in by it.
pub(crate) fn open_doors(enrolments: mpsc::Receiver<EnrolmentRequest>) -> (Doors, Incoming) {
    let mut doors = Doors {
        calls: BTreeMap::new(),
        streams: BTreeMap::new(),
    };
    let mut incoming = Incoming {
        calls: BTreeMap::new(),
        streams: BTreeMap::new(),
        enrolments,
    };
    for channel in Channel::ALL {
        let (door, calls) = mpsc::channel(INCOMING_CALLS_MAX);
        doors.calls.insert(channel, door);
        incoming.calls.insert(channel, calls);
        let (door, streams) = mpsc::channel(INCOMING_STREAMS_MAX);
        doors.streams.insert(channel, door);
        incoming.streams.insert(channel, streams);
    }
    (doors, incoming)
}
