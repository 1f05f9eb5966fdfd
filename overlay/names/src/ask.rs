//! Asking other hosts for their containers.
//!
//! Decides: how long they are waited for, and what is believed of each: addresses of its own subnet.
//! Never: sends a question elsewhere than into the overlay's interface, or takes an answer from
//! elsewhere. WireGuard vouches for the sender's address there.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use overlay_core::names::{Names, OtherHost, question};
use tokio::{
    net::UdpSocket,
    time::{Instant, timeout_at},
};

use crate::{
    recent::Said,
    server::PORT,
    wire::{self, Told},
};

/// A round trip inside the overlay takes milliseconds, by a hub at the other end of the world half a
/// second. Whoever asked waits four seconds (Docker's resolver) or five (resolv.conf(5)).
const ANSWERS_WITHIN: Duration = Duration::from_millis(600);
/// A datagram or its answer may be lost, or wait for WireGuard's handshake: it is sent once more.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// A network of more Docker hosts is asked in part.
const HOSTS_MAX: usize = 512;
/// More than any answer of ours has.
const MESSAGE_BYTES_MAX: usize = 1232;

/// A host that has not answered yet.
struct Waiting {
    host: OtherHost,
    id: u16,
    name: String,
    bytes: Vec<u8>,
}

/// Asks all these hosts of a network for their containers of that name.
pub(crate) async fn ask(names: &Names, hosts: &[OtherHost], container: &str) -> Said {
    let mut waiting = questions(names, hosts, container);
    let some_are_left = waiting.len() < hosts.len();
    let mut said = Said::default();
    match exchange(&names.interface, &mut waiting, &mut said).await {
        Ok(()) => {}
        // The interface is not up, or the machine has no socket left.
        Err(error) => tracing::debug!(%error, container, "other hosts could not be asked"),
    }
    said.some_are_silent = some_are_left || !waiting.is_empty();
    said
}

fn questions(names: &Names, hosts: &[OtherHost], container: &str) -> BTreeMap<Ipv4Addr, Waiting> {
    let hosts = hosts.iter().take(HOSTS_MAX);
    hosts
        .filter_map(|host| {
            let name = question(names, names.host_at(host.address)?, container);
            let id = rand::random();
            let bytes = wire::question(id, &name)?;
            let waiting = Waiting {
                host: *host,
                id,
                name,
                bytes,
            };
            Some((host.address, waiting))
        })
        .collect()
}

async fn exchange(
    interface: &str,
    waiting: &mut BTreeMap<Ipv4Addr, Waiting>,
    said: &mut Said,
) -> io::Result<()> {
    if waiting.is_empty() {
        return Ok(());
    }
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.bind_device(Some(interface.as_bytes()))?;
    let begun = Instant::now();
    for until in [begun + AGAIN_AFTER, begun + ANSWERS_WITHIN] {
        for question in waiting.values() {
            let to = (question.host.address, PORT);
            // One that cannot be reached now is silent.
            let _ = socket.send_to(&question.bytes, to).await;
        }
        let mut buffer = [0; MESSAGE_BYTES_MAX];
        while !waiting.is_empty() {
            let Ok(received) = timeout_at(until, socket.recv_from(&mut buffer)).await else {
                break;
            };
            let (length, from) = received?;
            take(&buffer[..length], from, waiting, said);
        }
    }
    Ok(())
}

/// Takes an answer from a host that is waited for.
fn take(
    bytes: &[u8],
    from: SocketAddr,
    waiting: &mut BTreeMap<Ipv4Addr, Waiting>,
    said: &mut Said,
) {
    let IpAddr::V4(address) = from.ip() else {
        return;
    };
    let Some(asked) = waiting.get(&address).filter(|_| from.port() == PORT) else {
        return;
    };
    let subnet = asked.host.subnet;
    match wire::told(bytes, asked.id, &asked.name) {
        None => return,
        Some(Told::Nothing) => {}
        Some(Told::Addresses(addresses)) => {
            let its_own = addresses.into_iter().filter(|ip| subnet.contains(*ip));
            said.addresses.extend(its_own);
        }
    }
    waiting.remove(&address);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Asked, Outcome};

    fn host(last: u8) -> OtherHost {
        OtherHost {
            address: Ipv4Addr::new(100, 96, 0, last),
            subnet: format!("10.43.{last}.0/24").parse().unwrap(),
        }
    }

    fn names() -> Names {
        Names {
            network: "blue".into(),
            node: "n1".into(),
            hosts: [("n2".into(), host(2)), ("n3".into(), host(3))].into(),
            ..Names::default()
        }
    }

    fn answer(asked: &Waiting, address: &str) -> Vec<u8> {
        let addresses = [address.parse().unwrap()].into();
        let question = Asked::decode(&asked.bytes).unwrap();
        question.answer(&Outcome::Addresses(addresses)).unwrap()
    }

    #[test]
    fn a_host_is_believed_about_its_own_subnet_and_nobody_answers_for_another() {
        let names = names();
        let hosts: Vec<_> = names.hosts.values().copied().collect();
        let mut waiting = questions(&names, &hosts, "web");
        assert_eq!(waiting.len(), 2);
        let mut said = Said::default();
        let n3 = answer(&waiting[&host(3).address], "10.43.3.2");
        let stranger = SocketAddr::from((Ipv4Addr::new(100, 96, 0, 9), PORT));
        let second = SocketAddr::from((host(2).address, PORT));
        let other_port = SocketAddr::from((host(3).address, 5353));
        for from in [stranger, second, other_port] {
            take(&n3, from, &mut waiting, &mut said);
        }
        assert_eq!((waiting.len(), said.addresses.len()), (2, 0));
        let third = SocketAddr::from((host(3).address, PORT));
        take(&n3, third, &mut waiting, &mut said);
        let elsewhere = answer(&waiting[&host(2).address], "10.43.3.9");
        take(&elsewhere, second, &mut waiting, &mut said);
        assert!(waiting.is_empty());
        assert_eq!(said.addresses, ["10.43.3.2".parse().unwrap()].into());
    }
}
