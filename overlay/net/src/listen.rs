//! Listening: QUIC and TCP on one port, and what is wrong when that fails.
//!
//! Decides which port stands for port 0: one that is free over UDP and TCP alike.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use libp2p::{Swarm, TransportError, quic};

use crate::{
    address::multiaddr, behaviour::Behaviour, peering::Transport, transport::AttemptError,
};

/// Attempts to find a port that is free for UDP and TCP alike.
const PORT_ATTEMPTS: usize = 16;

/// Why the network does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program has the port.
    #[error("{protocol} {address} is already in use")]
    AddressInUse {
        /// Where to listen.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        protocol: &'static str,
    },
    /// The address cannot be listened on.
    #[error("{protocol} {address} cannot be listened on")]
    Unavailable {
        /// Where to listen.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl ListenError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::AddressInUse { .. } => "AddressInUseError",
            Self::Unavailable { .. } => "AddressUnavailableError",
        }
    }

    /// What to do.
    pub fn hint(&self) -> String {
        match self {
            Self::AddressInUse { address, protocol } => format!(
                "see what listens there (ss -lnp | grep :{}; {protocol}), or choose another port: another shoald may be running",
                address.port()
            ),
            Self::Unavailable { .. } => {
                "choose an address that this machine has, and a port that it may use".to_owned()
            }
        }
    }
}

/// Listens on every address; gives them back with their actual ports.
pub(crate) fn listen_on_all(
    swarm: &mut Swarm<Behaviour>,
    addresses: Vec<SocketAddr>,
) -> Result<Vec<SocketAddr>, ListenError> {
    let mut bound = Vec::new();
    for address in addresses {
        bound.push(listen_on(swarm, address)?);
    }
    Ok(bound)
}

/// Listens over both transports on one port.
fn listen_on(swarm: &mut Swarm<Behaviour>, address: SocketAddr) -> Result<SocketAddr, ListenError> {
    if address.port() != 0 {
        return listen_on_port(swarm, address);
    }
    let mut last = None;
    for _ in 0..PORT_ATTEMPTS {
        // Whatever TCP port the system gives is tried over UDP too.
        let port = TcpListener::bind(address)
            .and_then(|probe| probe.local_addr())
            .map_err(|source| ListenError::Unavailable {
                address,
                protocol: "TCP",
                source,
            })?
            .port();
        match listen_on_port(swarm, SocketAddr::new(address.ip(), port)) {
            Err(error @ ListenError::AddressInUse { .. }) => last = Some(error),
            done => return done,
        }
    }
    Err(last.unwrap_or(ListenError::AddressInUse {
        address,
        protocol: "UDP",
    }))
}

fn listen_on_port(
    swarm: &mut Swarm<Behaviour>,
    address: SocketAddr,
) -> Result<SocketAddr, ListenError> {
    let quic = swarm
        .listen_on(multiaddr(address, Transport::Quic))
        .map_err(|error| listen_error(address, "UDP", error))?;
    swarm
        .listen_on(multiaddr(address, Transport::Tcp))
        .map_err(|error| {
            swarm.remove_listener(quic);
            listen_error(address, "TCP", error)
        })?;
    Ok(address)
}

fn listen_error(
    address: SocketAddr,
    protocol: &'static str,
    error: TransportError<io::Error>,
) -> ListenError {
    let source = match error {
        TransportError::Other(error) => error,
        TransportError::MultiaddrNotSupported(_) => io::ErrorKind::Unsupported.into(),
    };
    let kind = system_kind(&source);
    if kind == io::ErrorKind::AddrInUse {
        ListenError::AddressInUse { address, protocol }
    } else {
        ListenError::Unavailable {
            address,
            protocol,
            source,
        }
    }
}

/// What the system said, under libp2p's wrappers.
fn system_kind(error: &io::Error) -> io::ErrorKind {
    let Some(inner) = error.get_ref() else {
        return error.kind();
    };
    if let Some(AttemptError::Transport(inner)) = inner.downcast_ref::<AttemptError>() {
        return system_kind(inner);
    }
    if let Some(quic::Error::Io(inner)) = inner.downcast_ref::<quic::Error>() {
        return system_kind(inner);
    }
    match inner.downcast_ref::<io::Error>() {
        Some(inner) => system_kind(inner),
        None => error.kind(),
    }
}
