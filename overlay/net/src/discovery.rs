//! Where members may be found on the local network, for a machine that is no member yet.
//!
//! Decides nothing about who is a member: what is found are addresses at which somebody speaks
//! libp2p. Whoever asks there proves the other side first (`enrol`). Multicast DNS (RFC 6762;
//! libp2p specs, discovery/mdns.md).

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use futures::StreamExt as _;
use libp2p::{
    Swarm, Transport as _,
    core::{muxing::StreamMuxerBox, transport::dummy::DummyTransport},
    mdns,
    swarm::{Config, SwarmEvent},
};
use tokio::time::{Instant, timeout_at};

use crate::{address::socket_address, behaviour::lan, key::NodeKey, peering::Transport};

/// Addresses that are remembered: anybody on the network may announce some.
const FOUND_MAX: usize = 32;
/// More answers come within this of the first one.
const MORE_WITHIN: Duration = Duration::from_millis(500);

/// Looks around on the local network: until somebody was found, but no longer than `patience`.
pub async fn discover(key: &NodeKey, patience: Duration) -> BTreeSet<SocketAddr> {
    let local = key.keypair().public().to_peer_id();
    let Some(lan) = lan(local) else {
        return BTreeSet::new();
    };
    // Nothing is dialled or listened on here.
    let transport = DummyTransport::<(libp2p::PeerId, StreamMuxerBox)>::new().boxed();
    let mut swarm = Swarm::new(transport, lan, local, Config::with_tokio_executor());
    let mut found = BTreeSet::new();
    let mut until = Instant::now() + patience;
    while let Ok(event) = timeout_at(until, swarm.select_next_some()).await {
        let SwarmEvent::Behaviour(mdns::Event::Discovered(peers)) = event else {
            continue;
        };
        for (_, address) in peers {
            if let Some((at, Transport::Quic)) = socket_address(&address)
                && found.len() < FOUND_MAX
                && found.insert(at)
            {
                until = until.min(Instant::now() + MORE_WITHIN);
            }
        }
    }
    found
}
