//! The mesh's connections: who is let in, and how bytes travel between nodes.
//!
//! A thin shell over libp2p (QUIC, with TCP + Noise + Yamux as the fallback). It decides three
//! things: whether a peer's certificate admits it (the gate in front of the Swarm, by
//! [`Credentials`]), which of several connections to a peer is used, and when to dial again. It never
//! decides who is a member, who leads or what a message means.
//!
//! Invariants:
//! - The Swarm never sees a connection whose peer has not shown a valid certificate of this mesh.
//! - A joiner sends its token only after the listener has proved to belong to the expected root.
//! - A channel never waits for another channel: each has streams of its own.
//! - Every queue, frame, stream count and pending handshake has a limit.

mod address;
mod behaviour;
mod call;
mod certificate;
mod channel;
mod discovery;
mod doors;
mod enrolment;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod key;
mod letters;
mod listen;
pub mod membership;
mod net;
mod peering;
mod reach;
mod refusal;
mod streams;
mod transport;
mod unkept;
mod watchdog;
mod ways;
mod wire;

pub use call::{CallError, IncomingCall};
pub use certificate::Credentials;
pub use channel::Channel;
pub use discovery::discover;
pub use doors::Incoming;
pub use enrolment::{Anchor, EnrolError, EnrolmentRequest, enrol};
pub use frame::{FrameReceiver, FrameSender, FrameStream, StreamError};
pub use gate::GateError;
pub use key::{KeyError, NodeKey};
pub use letters::{Decode, Inbox, Letters};
pub use listen::ListenError;
pub use net::{Net, RESERVATION, Settings};
pub use peering::{Connection, Path, Transport};
pub use refusal::Refused;
pub use ways::{Reachability, Ways};
