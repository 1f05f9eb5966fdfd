//! The listening ports of a daemon that is no member yet.
//!
//! Decides nothing. They are held so that no other program takes them between the start and the
//! first `init` or `join`, and let go just before the network takes them.

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::{Mutex, PoisonError},
};

/// Bound and unused sockets. A lock, because letting go is done through a shared reference.
#[derive(Debug)]
pub(crate) struct HeldPorts(Mutex<Vec<(UdpSocket, TcpListener)>>);

impl HeldPorts {
    /// Binds UDP and TCP on each address, or says which one could not be bound.
    pub(crate) fn hold(addresses: &[SocketAddr]) -> Result<Self, (SocketAddr, io::Error)> {
        let bind =
            |address: &SocketAddr| Ok((UdpSocket::bind(address)?, TcpListener::bind(address)?));
        let held = addresses
            .iter()
            .map(|address| bind(address).map_err(|error| (*address, error)));
        held.collect::<Result<Vec<_>, _>>()
            .map(|sockets| Self(Mutex::new(sockets)))
    }

    /// Lets the ports go.
    pub(crate) fn release(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_port_is_taken_until_it_is_let_go() {
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let held = HeldPorts::hold(&[free]).unwrap();
        assert_eq!(HeldPorts::hold(&[free]).unwrap_err().0, free);
        held.release();
        HeldPorts::hold(&[free]).unwrap();
    }
}
