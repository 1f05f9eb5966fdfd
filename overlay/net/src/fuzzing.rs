//! Decoders of what strangers and peers send, for the fuzz targets alone.
//!
//! Decides nothing and is no part of the interface. A decoded message is given back as the bytes
//! that it is encoded to, so that its type stays private.

use std::{collections::BTreeSet, io, net::SocketAddr};

use futures::AsyncRead;
use libp2p::Multiaddr;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    address::{multiaddr, socket_address},
    call,
    frame::{FrameReader, FrameWriter},
    peering::Transport,
    reach,
    refusal::Refused,
    wire::v1::{self, Answer, EnrolAnswer, Hello, Renewed, Undecodable},
};

/// Why bytes are no message of the gate: another version's, or `None` for no message at all.
pub type NoMessage = Option<u8>;

/// A dialer's first word.
pub fn hello(bytes: &[u8]) -> Result<Vec<u8>, NoMessage> {
    again::<Hello>(bytes)
}

/// A listener's answer to it.
pub fn answer(bytes: &[u8]) -> Result<Vec<u8>, NoMessage> {
    again::<Answer>(bytes)
}

/// A listener's answer to an enrolment.
pub fn enrol_answer(bytes: &[u8]) -> Result<Vec<u8>, NoMessage> {
    again::<EnrolAnswer>(bytes)
}

/// A chain that a connected peer goes over to.
pub fn renewed(bytes: &[u8]) -> Result<Vec<u8>, NoMessage> {
    again::<Renewed>(bytes)
}

/// A node's question whether it can be dialled.
pub fn reach_question(bytes: &[u8]) -> Result<Vec<u8>, NoMessage> {
    again::<reach::Question>(bytes)
}

/// The answer to it.
pub fn reach_answer(bytes: &[u8]) -> Result<Vec<u8>, NoMessage> {
    again::<reach::Answer>(bytes)
}

/// Where whoever asks so is dialled back, seen at this address over this transport.
pub fn dialled_back(bytes: &[u8], observed: (SocketAddr, Transport)) -> BTreeSet<SocketAddr> {
    let question = v1::decode::<reach::Question>(bytes);
    question.map_or_else(
        |_| BTreeSet::new(),
        |question| reach::to_dial(observed, &question.ports),
    )
}

/// Where a node that asked with these ports takes itself to be seen, and to be reached.
pub fn believed_reached(bytes: &[u8], ports: &[u16]) -> Option<(SocketAddr, Vec<SocketAddr>)> {
    let answer = v1::decode::<reach::Answer>(bytes).ok()?;
    let reach::Answer { observed, reached } = reach::credible(answer, ports);
    Some((observed, reached))
}

fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Result<Vec<u8>, NoMessage> {
    match v1::decode::<T>(bytes) {
        Ok(message) => Ok(v1::encode(&message)),
        Err(Undecodable::Version(version)) => Err(Some(version)),
        Err(Undecodable::Malformed) => Err(None),
    }
}

/// Every frame of a stream and how the stream ended.
pub async fn frames(
    io: impl AsyncRead + Unpin,
    bytes_max: usize,
) -> (Vec<Vec<u8>>, io::Result<()>) {
    let mut reader = FrameReader::new(io, bytes_max);
    let mut frames = Vec::new();
    loop {
        match reader.next().await {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, Ok(())),
            Err(error) => return (frames, Err(error)),
        }
    }
}

/// The bytes of a frame; `None` if it is longer than `bytes_max`.
pub async fn framed(frame: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut writer = FrameWriter::new(&mut bytes, bytes_max);
    writer.queue(&[frame]).ok()?;
    writer.flush().await.expect("a vector takes every byte");
    Some(bytes)
}

/// Id, status and body of a call's frame.
pub fn call_frame(frame: Vec<u8>) -> Option<(u64, u8, Vec<u8>)> {
    call::split(frame)
}

/// The refusal in a call's answer; one of this node's own words if there is none.
pub fn refusal(body: &[u8]) -> Refused {
    call::refusal(body)
}

/// The socket address and transport of a multiaddress's bytes, and the bytes that these two have.
pub fn address(bytes: &[u8]) -> Option<(SocketAddr, Transport, Vec<u8>)> {
    let multi = Multiaddr::try_from(bytes.to_vec()).ok()?;
    let (address, transport) = socket_address(&multi)?;
    Some((address, transport, multiaddr(address, transport).to_vec()))
}
