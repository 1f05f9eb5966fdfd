//! Probes on an operator's demand: one node asks another for anything at all, and takes the time.
//!
//! Decides how often and how long is asked. Membership's own probes go on meanwhile; this one tells
//! what an application would meet, over the very connection that is in use.

use std::time::{Duration, Instant};

use consensus_core::{LogIndex, NodeId};
use node_api::ApiError;
use overlay_net::{Channel, Net, Path};

use super::{
    peer_wire::{PathTaken, PeerAnswer, PeerRequest, Probed, decode, encode, misunderstood},
    proposer::Proposer,
};

/// How long an answer is waited for, a dial and a circuit through a relay included.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long the asked node is waited for, besides.
const ASKED_WITHIN: Duration = Duration::from_secs(15);

/// The way to a node that is in use.
pub(crate) fn path(net: &Net, to: &NodeId) -> Option<PathTaken> {
    let connections = net.connections();
    let table = connections.borrow();
    table.get(to).map(|connection| match &connection.path {
        Path::Direct { .. } => PathTaken::Direct,
        Path::Relayed { via } => PathTaken::Relayed(via.clone()),
    })
}

/// Probes a node from here.
pub(crate) async fn probe(net: &Net, to: &NodeId) -> Probed {
    // Answered at once by every node.
    let body = encode(&PeerRequest::Enforced { index: LogIndex(0) });
    let mut asked = Err(String::new());
    // The first one may have to dial; what is told is how far apart the two are.
    for _ in 0..2 {
        let began = Instant::now();
        let answer = net.call(to, Channel::Command, body.clone(), ANSWER_WITHIN);
        asked = match answer.await {
            Ok(_) => Ok(began.elapsed()),
            Err(error) => Err(error.to_string()),
        };
        if asked.is_err() {
            break;
        }
    }
    Probed {
        rtt_us: (asked.as_ref().ok()).map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
        path: path(net, to),
        reason: asked.err(),
    }
}

/// Has one node probe another.
pub(crate) async fn probe_from(
    proposer: &Proposer,
    from: &NodeId,
    to: &NodeId,
) -> Result<Probed, ApiError> {
    if *from == proposer.me {
        return Ok(probe(&proposer.net, to).await);
    }
    let request = encode(&PeerRequest::Probe { node: to.clone() });
    let answer = proposer
        .net
        .call(from, Channel::Command, request, ASKED_WITHIN)
        .await
        .map_err(|error| {
            let name = proposer.views.view().agreed.name_of(from);
            let message = format!("{name} does not answer, so it cannot be asked to probe");
            ApiError::new(error.code(), message, error.hint()).caused_by(&error)
        })?;
    match decode::<PeerAnswer>(&answer)?.into_result()? {
        PeerAnswer::Probed(probed) => Ok(probed),
        PeerAnswer::Applied(..)
        | PeerAnswer::NotLeader(_)
        | PeerAnswer::NoMajority { .. }
        | PeerAnswer::Enrolled(_)
        | PeerAnswer::Certificate { .. }
        | PeerAnswer::Enforced(_)
        | PeerAnswer::ReadAt(_)
        | PeerAnswer::RotationBegun(_)
        | PeerAnswer::Vip(_)
        | PeerAnswer::Cluster(_)
        | PeerAnswer::Departing
        | PeerAnswer::Failed(_) => Err(misunderstood()),
    }
}
