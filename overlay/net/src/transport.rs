//! The transports and the gate in front of them.
//!
//! Decides their limits: stream counts, windows, timeouts. QUIC v1 (TLS 1.3 inside), TCP with
//! Noise and Yamux for networks that drop UDP, and circuits through a relay, which are encrypted
//! and gated like TCP, since a relay is trusted with nothing.

use std::{io, time::Duration};

use either::Either;
use futures::future;
use libp2p::{
    PeerId, Transport as _,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, OrTransport},
        upgrade,
    },
    noise, quic, relay, tcp, yamux,
};

use crate::{
    gate::{Gate, GateError},
    key::NodeKey,
};

/// Streams a peer may hold open on a connection: five channels with calls and a stream each, the
/// hold, room for restarts of them, and on a connection to a relay a stream for every circuit: a
/// node has some twenty neighbours.
const STREAMS_MAX: u32 = 64;
/// A dead peer is noticed after this much silence.
const IDLE_TIMEOUT_MS: u32 = 10_000;
/// Keep-alives: two may be lost before the idle timeout.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A dial that has not shaken hands by then is worth a new one.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// A circuit needs a connection to the relay first, and then four round trips over two links.
const CIRCUIT_TIMEOUT: Duration = Duration::from_secs(8);
/// Unread bytes per stream: 100 Mbit/s at 40 ms of round trip.
const STREAM_WINDOW_BYTES: u32 = 512 * 1024;
/// Unread bytes per connection: every stream may be stuck, and a heartbeat still passes.
const CONNECTION_WINDOW_BYTES: u32 = STREAMS_MAX * STREAM_WINDOW_BYTES;
/// Yamux counts both directions.
const YAMUX_STREAMS_MAX: usize = 2 * STREAMS_MAX as usize;

/// A connection of some transport.
pub(crate) type Upgraded = (PeerId, StreamMuxerBox);

/// Why a connection attempt failed below the Swarm.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttemptError {
    /// No connection came about.
    #[error(transparent)]
    Transport(io::Error),
    /// The gate did not open.
    #[error(transparent)]
    Gate(GateError),
}

/// QUIC without the gate.
pub(crate) fn quic(key: &NodeKey) -> Boxed<Upgraded> {
    let mut config = quic::Config::new(&key.keypair());
    config.handshake_timeout = HANDSHAKE_TIMEOUT;
    config.max_idle_timeout = IDLE_TIMEOUT_MS;
    config.keep_alive_interval = KEEP_ALIVE;
    config.max_concurrent_stream_limit = STREAMS_MAX;
    config.max_stream_data = STREAM_WINDOW_BYTES;
    config.max_connection_data = CONNECTION_WINDOW_BYTES;
    quic::tokio::Transport::new(config)
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
        .boxed()
}

/// TCP without the gate.
pub(crate) fn tcp(key: &NodeKey) -> Boxed<Upgraded> {
    let noise = noise::Config::new(&key.keypair()).expect("an Ed25519 key signs");
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(YAMUX_STREAMS_MAX);
    tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .upgrade(upgrade::Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux)
        .timeout(HANDSHAKE_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed()
}

/// Circuits through relays, without the gate: encrypted from end to end.
fn circuits(key: &NodeKey, transport: relay::client::Transport) -> Boxed<Upgraded> {
    let noise = noise::Config::new(&key.keypair()).expect("an Ed25519 key signs");
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(YAMUX_STREAMS_MAX);
    transport
        .upgrade(upgrade::Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux)
        .timeout(CIRCUIT_TIMEOUT)
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed()
}

/// All transports behind the gate.
pub(crate) fn gated(
    key: &NodeKey,
    gate: Gate,
    relayed: relay::client::Transport,
) -> Boxed<Upgraded> {
    let direct = OrTransport::new(quic(key), tcp(key)).map(|either, _| match either {
        future::Either::Left(upgraded) | future::Either::Right(upgraded) => upgraded,
    });
    // Circuits first: the others would take a circuit's address for its relay's.
    OrTransport::new(circuits(key, relayed), direct)
        .map(|either, _| match either {
            future::Either::Left(upgraded) | future::Either::Right(upgraded) => upgraded,
        })
        .and_then(move |upgraded, point| gate.pass(upgraded, point))
        .map_err(|error| match error {
            Either::Left(
                Either::Left(source) | Either::Right(Either::Left(source) | Either::Right(source)),
            ) => AttemptError::Transport(source),
            Either::Right(refused) => AttemptError::Gate(refused),
        })
        .boxed()
}
