//! Answers probes at an address that this host may or may not hold, with its name and epoch.
//!
//! It is bound to the address before the host has it (IP_FREEBIND), so that answers leave from it
//! and the first probe after a move is answered already. Who connects by TCP is told the name, and
//! the connection is closed.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
use vip_bench::wire::{self, PROBE_BYTES};

/// Connections that wait to be accepted; more than any watch makes at once.
const BACKLOG: i32 = 64;

/// After a connection could not be accepted.
const RETRY: Duration = Duration::from_millis(10);

/// Answers until it is killed.
#[derive(Parser)]
struct Options {
    /// Who answers
    #[arg(long)]
    name: String,
    /// The virtual address, of either family
    #[arg(long)]
    address: IpAddr,
    /// Its port
    #[arg(long, default_value_t = 7441)]
    port: u16,
    /// A file with the epoch in which this host holds the address, read for every answer
    #[arg(long)]
    epoch_file: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let at = SocketAddr::new(options.address, options.port);
    let unbound = || format!("{at} cannot be listened at");
    let socket = UdpSocket::from(bound(at, SocketType::DGRAM).with_context(unbound)?);
    let listener = bound(at, SocketType::STREAM).with_context(unbound)?;
    listen(&listener, BACKLOG).with_context(unbound)?;
    let name = options.name.clone();
    thread::spawn(move || tell(&TcpListener::from(listener), &name));
    // One byte more, so that a longer datagram is seen to be one.
    let mut buffer = [0; PROBE_BYTES + 1];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        let epoch = options.epoch_file.as_ref().map_or(Some(0), |path| {
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        });
        if let Some(answer) = wire::answer(&buffer[..length], &options.name, epoch.unwrap_or(0)) {
            // The address may have left between probe and answer.
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// Tells everybody who connects the name.
fn tell(listener: &TcpListener, name: &str) {
    loop {
        match listener.accept() {
            // Whoever hangs up before the name has come sees that itself.
            Ok((mut stream, _)) => drop(writeln!(stream, "{name}")),
            // Out of descriptors, say: some will be free again.
            Err(_) => thread::sleep(RETRY),
        }
    }
}

fn bound(address: SocketAddr, kind: SocketType) -> anyhow::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket(family, kind, None)?;
    match address {
        SocketAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        SocketAddr::V6(_) => sockopt::set_ipv6_freebind(&socket, true)?,
    }
    // One that starts again need not wait for the connections of the last one.
    sockopt::set_socket_reuseaddr(&socket, kind == SocketType::STREAM)?;
    bind(&socket, &address)?;
    Ok(socket)
}
