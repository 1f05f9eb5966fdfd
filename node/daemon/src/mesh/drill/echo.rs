//! ICMPv6 echo (RFC 4443, 4) from one address of this machine to another.
//!
//! An echo needs no service at its destination: whoever holds the address answers, and no rate limit
//! of the kernel's counts replies. The source is given, not chosen: on its holder the kernel would
//! choose the virtual address itself, which is another machine's a moment later.

use std::{
    io,
    net::{Ipv6Addr, SocketAddrV6},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::OwnedFd,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, ipproto, recv,
        send, socket_with,
    },
};

const ECHO_REQUEST: u8 = 128;
const ECHO_REPLY: u8 = 129;
/// Type, code, checksum, identifier, sequence number.
const HEADER_BYTES: usize = 8;
/// Tells replies of this socket from those of others, behind the header.
const MARK_BYTES: usize = 16;
/// Longer packets are none of ours.
const RECEIVED_BYTES_MAX: usize = 256;

/// Where echoes go out and come back.
pub(crate) struct Echo {
    socket: OwnedFd,
    mark: [u8; MARK_BYTES],
    sequence: u16,
}

impl Echo {
    /// Between these two addresses.
    pub(crate) fn open(from: Ipv6Addr, to: Ipv6Addr, mark: [u8; MARK_BYTES]) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let open = |kind| socket_with(AddressFamily::INET6, kind, flags, Some(ipproto::ICMPV6));
        // A process without CAP_NET_RAW may still have ping sockets.
        let socket = match open(SocketType::RAW) {
            Err(Errno::PERM | Errno::ACCESS) => open(SocketType::DGRAM)?,
            other => other?,
        };
        bind(&socket, &SocketAddrV6::new(from, 0, 0, 0))?;
        // Nobody else's packets then come in.
        connect(&socket, &SocketAddrV6::new(to, 0, 0, 0))?;
        Ok(Self {
            socket,
            mark,
            sequence: 0,
        })
    }

    /// Sends one. One that cannot be sent is one that is not answered.
    pub(crate) fn send(&mut self) {
        let mut packet = [0; HEADER_BYTES + MARK_BYTES];
        packet[0] = ECHO_REQUEST;
        // The kernel sums up; a ping socket has an identifier of its own.
        packet[4..6].copy_from_slice(&self.mark[..2]);
        packet[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        packet[HEADER_BYTES..].copy_from_slice(&self.mark);
        self.sequence = self.sequence.wrapping_add(1);
        let _ = send(&self.socket, &packet, SendFlags::empty());
    }

    /// Waits so long for something to come in.
    pub(super) fn wait(&self, most: Duration) {
        let mut sockets = [PollFd::new(&self.socket, PollFlags::IN)];
        let most = Timespec {
            tv_sec: i64::try_from(most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(most.subsec_nanos()),
        };
        // A signal is a reason to look, too.
        let _ = poll(&mut sockets, Some(&most));
    }

    /// How many answers have come in.
    pub(super) fn answers(&self) -> u64 {
        let mut answers = 0;
        let mut packet = [0; RECEIVED_BYTES_MAX];
        loop {
            match recv(&self.socket, &mut packet, RecvFlags::empty()) {
                Ok((bytes, _)) => answers += u64::from(self.is_answer(&packet[..bytes])),
                Err(Errno::AGAIN) => return answers,
                // Word of a router or of this machine that an echo went nowhere: told once each.
                Err(_) => {}
            }
        }
    }

    fn is_answer(&self, packet: &[u8]) -> bool {
        packet.first() == Some(&ECHO_REPLY) && packet.get(HEADER_BYTES..) == Some(&self.mark[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_there_answers_and_only_this_sockets_answers_count() {
        let here = Ipv6Addr::LOCALHOST;
        let mut echo = Echo::open(here, here, [7; 16]).expect("tests run as root");
        let other = Echo::open(here, here, [8; 16]).expect("tests run as root");
        echo.send();
        echo.send();
        let mut answers = 0;
        for _ in 0..1000 {
            echo.wait(Duration::from_millis(10));
            answers += echo.answers();
            if answers == 2 {
                break;
            }
        }
        assert_eq!(answers, 2);
        assert_eq!(other.answers(), 0);
    }

    #[test]
    fn a_source_that_is_not_this_machines_is_refused() {
        let elsewhere = "2001:db8::1".parse().unwrap();
        assert!(Echo::open(elsewhere, Ipv6Addr::LOCALHOST, [0; 16]).is_err());
    }
}
