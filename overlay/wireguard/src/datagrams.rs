//! The tunnel's UDP socket, sending and receiving many datagrams to or from one peer in one system
//! call (UDP_SEGMENT and UDP_GRO, udp(7)). Between two such devices over a link that does not need
//! to cut them, they stay together all the way.
//!
//! Decides: which datagrams go together: consecutive, one receiver, one size but for the last.
//!
//! Never: relies on it. Where the kernel or the network card refuses, each datagram is sent alone.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::BytesMut;
use gotatun::{
    packet::{Packet, PacketBufPool},
    udp::{
        UdpRecv, UdpSend, UdpTransportFactory, UdpTransportFactoryParams,
        socket::{UdpSocket, UdpSocketFactory},
    },
};
use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
    },
};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use tokio::{io::Interest, sync::Notify};

use crate::buffers::{Buffers, Progress};

/// What Linux before 6.9 takes in one call.
const SEGMENTS_MAX: usize = 64;

/// Of all datagrams of one call: the payload of one UDP datagram over IPv6, which is the lesser.
const TOGETHER_BYTES_MAX: usize = 65_487;

/// Taken from the cipher at once; two calls' worth, so that an odd end does not cost one.
const SEND_AT_ONCE_MAX: usize = 2 * SEGMENTS_MAX;

/// The largest datagram, or many of them together.
const BUFFER_BYTES: usize = 64 << 10;

/// Between socket and cipher. What comes meanwhile waits in the socket.
const BUFFERS_MAX: usize = 12;

/// Calls per wake-up before other tasks have their turn.
const RECEIVE_AT_ONCE_MAX: usize = 16;

/// What the socket holds while the cipher is busy. Linux's own 208 KiB are but three datagrams that
/// came together, as their headers count too.
const SOCKET_BYTES: usize = 2 << 20;

/// Makes the tunnel's socket. gotatun asks for one whenever port or key change, and before its tasks
/// have let go of the last one: while the port stays they get that one again, so that a new key
/// neither finds the port taken nor loses what arrives meanwhile.
pub(crate) struct Sockets {
    sockets: UdpSocketFactory,
    open: Option<Open>,
    progress: Progress,
}

struct Open {
    port: u16,
    send: UdpSocket,
    receive: UdpSocket,
}

impl Sockets {
    pub(crate) fn new(progress: Progress) -> Self {
        Self {
            sockets: UdpSocketFactory::default(),
            open: None,
            progress,
        }
    }

    async fn open(
        &mut self,
        params: &UdpTransportFactoryParams,
    ) -> io::Result<(UdpSocket, UdpSocket)> {
        if let Some(open) = self.open.as_ref().filter(|open| open.port == params.port) {
            return Ok((open.send.clone(), open.receive.clone()));
        }
        let (send, receive) = self.sockets.bind(params).await?;
        // Beyond what the host allows everybody; what may make a TUN device may do that too. A
        // smaller one serves as well, only slower.
        let _ = set_socket_recv_buffer_size_force(&receive, SOCKET_BYTES);
        self.open = Some(Open {
            port: send.local_addr()?.port(),
            send: send.clone(),
            receive: receive.clone(),
        });
        Ok((send, receive))
    }
}

impl UdpTransportFactory for Sockets {
    type Send = Sender;
    type Recv = Receiver;

    async fn bind(
        &mut self,
        params: &UdpTransportFactoryParams,
    ) -> io::Result<(Self::Send, Self::Recv)> {
        let (send, receive) = self.open(params).await?;
        let sender = Sender {
            socket: send,
            goes_together: Arc::new(AtomicBool::new(true)),
            progress: Arc::clone(&self.progress.outward),
        };
        let receiver = Receiver {
            socket: receive,
            progress: Arc::clone(&self.progress.inward),
            ended: Arc::clone(&self.progress.ended),
        };
        Ok((sender, receiver))
    }
}

/// The sending side.
#[derive(Clone)]
pub(crate) struct Sender {
    socket: UdpSocket,
    goes_together: Arc<AtomicBool>,
    progress: Arc<Notify>,
}

impl Sender {
    async fn send_together(&self, run: &[(Packet, SocketAddr)]) -> io::Result<()> {
        let Some((first, receiver)) = run.first() else {
            return Ok(());
        };
        let size = u16::try_from(first.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let receiver = SockaddrStorage::from(*receiver);
        let socket = self.socket.socket();
        let send = || {
            let mut slices = [IoSlice::new(&[]); SEGMENTS_MAX];
            for (slice, (packet, _)) in slices.iter_mut().zip(run) {
                *slice = IoSlice::new(packet.as_ref());
            }
            let control = [ControlMessage::UdpGsoSegments(&size)];
            let flags = MsgFlags::MSG_DONTWAIT;
            let slices = &slices[..run.len()];
            sendmsg(socket.as_raw_fd(), slices, &control, flags, Some(&receiver))
                .map_err(io::Error::from)
        };
        socket.async_io(Interest::WRITABLE, send).await.map(|_| ())
    }

    async fn send_alone(&self, run: &[(Packet, SocketAddr)]) -> io::Result<()> {
        for (packet, receiver) in run {
            let socket = self.socket.socket();
            socket.send_to(packet.as_ref(), receiver).await?;
        }
        Ok(())
    }

    async fn send_run(&self, run: &[(Packet, SocketAddr)]) -> io::Result<()> {
        if run.len() < 2 || !self.goes_together.load(Ordering::Relaxed) {
            return self.send_alone(run).await;
        }
        let Err(error) = self.send_together(run).await else {
            return Ok(());
        };
        match error.raw_os_error().map(Errno::from_raw) {
            // The card cannot compute checksums, or the kernel does not know the option: for good.
            Some(Errno::EIO | Errno::EOPNOTSUPP | Errno::ENOPROTOOPT) => {
                self.goes_together.store(false, Ordering::Relaxed);
                self.send_alone(run).await
            }
            // Larger than the path takes without fragments: of this peer only.
            Some(Errno::EINVAL | Errno::EMSGSIZE) => self.send_alone(run).await,
            Some(_) | None => Err(error),
        }
    }
}

/// How many of the first packets go together.
fn run_length(packets: &[(Packet, SocketAddr)]) -> usize {
    let Some((first, receiver)) = packets.first() else {
        return 0;
    };
    let (mut number, mut bytes) = (1, first.len());
    for (packet, to) in packets.iter().skip(1) {
        bytes += packet.len();
        let fits = number < SEGMENTS_MAX && bytes <= TOGETHER_BYTES_MAX;
        if to != receiver || packet.len() > first.len() || packet.is_empty() || !fits {
            break;
        }
        number += 1;
        if packet.len() < first.len() {
            break;
        }
    }
    number
}

impl UdpSend for Sender {
    type SendManyBuf = ();

    async fn send_to(&self, packet: Packet, receiver: SocketAddr) -> io::Result<()> {
        let socket = self.socket.socket();
        let sent = socket.send_to(packet.as_ref(), receiver).await;
        self.progress.notify_one();
        sent.map(|_| ())
    }

    fn max_number_of_packets_to_send(&self) -> usize {
        SEND_AT_ONCE_MAX
    }

    async fn send_many_to(
        &self,
        (): &mut (),
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        let mut rest = &packets[..];
        while !rest.is_empty() {
            let (run, others) = rest.split_at(run_length(rest));
            // What cannot be sent to one peer must not keep others' packets back.
            let _ = self.send_run(run).await;
            rest = others;
        }
        packets.clear();
        self.progress.notify_one();
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Option<SocketAddr>> {
        self.socket.local_addr().map(Some)
    }

    fn set_fwmark(&self, mark: u32) -> io::Result<()> {
        self.socket.set_fwmark(mark)
    }
}

/// The receiving side.
pub(crate) struct Receiver {
    socket: UdpSocket,
    progress: Arc<Notify>,
    ended: Arc<Notify>,
}

/// Where datagrams are received into.
pub(crate) struct Inbox {
    buffers: Buffers,
    /// Of the last call, when what came was copied.
    unused: Option<BytesMut>,
    control: Vec<u8>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            buffers: Buffers::new(BUFFERS_MAX, BUFFER_BYTES),
            unused: None,
            control: cmsg_space!(i32),
        }
    }
}

/// What one call received.
struct Received {
    bytes: usize,
    /// Of each datagram but the last, when there are several.
    segment: Option<usize>,
    from: SocketAddr,
}

fn receive(socket: &UdpSocket, into: &mut [u8], control: &mut [u8]) -> io::Result<Received> {
    let mut slices = [IoSliceMut::new(into)];
    let fd = socket.socket().as_raw_fd();
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(fd, &mut slices, Some(control), flags)?;
    let segment = message.cmsgs()?.find_map(|control| {
        let ControlMessageOwned::UdpGroSegments(bytes) = control else {
            return None;
        };
        usize::try_from(bytes).ok().filter(|bytes| *bytes > 0)
    });
    let from = message.address.and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::from(*v4));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from(*v6)))
    });
    let mut from = from.ok_or(io::ErrorKind::InvalidData)?;
    // One socket for both families gives IPv4 addresses as mapped ones.
    from.set_ip(from.ip().to_canonical());
    Ok(Received {
        bytes: message.bytes,
        segment: segment.filter(|segment| *segment < message.bytes),
        from,
    })
}

impl Inbox {
    fn take(&mut self, buffer: BytesMut, it: &Received, packets: &mut Vec<(Packet, SocketAddr)>) {
        let Some(segment) = it.segment else {
            // One datagram does not keep a whole buffer.
            let copy = BytesMut::from(&buffer[..it.bytes]);
            packets.push((Packet::from_bytes(copy), it.from));
            self.unused = Some(buffer);
            return;
        };
        let mut rest = buffer;
        rest.truncate(it.bytes);
        while !rest.is_empty() {
            let datagram = rest.split_to(segment.min(rest.len()));
            packets.push((Packet::from_bytes(datagram), it.from));
        }
    }
}

impl UdpRecv for Receiver {
    type RecvManyBuf = Inbox;

    async fn recv_from(&mut self, pool: &mut PacketBufPool) -> io::Result<(Packet, SocketAddr)> {
        self.socket.recv_from(pool).await
    }

    async fn recv_many_from(
        &mut self,
        inbox: &mut Inbox,
        _pool: &mut PacketBufPool,
        packets: &mut Vec<(Packet, SocketAddr)>,
    ) -> io::Result<()> {
        let socket = &self.socket;
        let mut buffer = match inbox.unused.take() {
            Some(buffer) => buffer,
            None => inbox.buffers.next(BUFFER_BYTES, &self.progress).await,
        };
        let read = || receive(socket, &mut buffer, &mut inbox.control);
        let first = socket.socket().async_io(Interest::READABLE, read).await;
        // gotatun receives no more after an error.
        let first = first.inspect_err(|_| self.ended.notify_one())?;
        inbox.take(buffer, &first, packets);
        for _ in 1..RECEIVE_AT_ONCE_MAX {
            let unused = inbox.unused.take();
            let Some(mut buffer) = unused.or_else(|| inbox.buffers.try_next(BUFFER_BYTES)) else {
                break;
            };
            let read = || receive(socket, &mut buffer, &mut inbox.control);
            match socket.socket().try_io(Interest::READABLE, read) {
                Ok(more) => inbox.take(buffer, &more, packets),
                // An error comes again with the next call.
                Err(_) => {
                    inbox.unused = Some(buffer);
                    break;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(sizes: &[(usize, u16)]) -> Vec<(Packet, SocketAddr)> {
        let packet = |size| Packet::from_bytes(BytesMut::zeroed(size));
        let to = |port| SocketAddr::from(([127, 0, 0, 1], port));
        sizes
            .iter()
            .map(|&(size, port)| (packet(size), to(port)))
            .collect()
    }

    #[test]
    fn packets_go_together_while_receiver_and_size_are_the_same() {
        let cases: &[(&[(usize, u16)], usize)] = &[
            (&[], 0),
            (&[(100, 1)], 1),
            (&[(100, 1), (100, 1), (100, 2)], 2),
            (&[(100, 1), (100, 1), (60, 1), (60, 1)], 3),
            (&[(60, 1), (100, 1)], 1),
            (&[(1452, 1); 60], 45),
            (&[(100, 1); 100], SEGMENTS_MAX),
        ];
        for (sizes, expected) in cases {
            assert_eq!(run_length(&packets(sizes)), *expected, "{sizes:?}");
        }
    }

    async fn socket() -> (Sender, Receiver, SocketAddr) {
        let params = UdpTransportFactoryParams {
            addr: None,
            port: 0,
            fwmark: None,
        };
        let (sender, receiver) = Sockets::new(Progress::default())
            .bind(&params)
            .await
            .expect("any port is free");
        let port = sender.socket.local_addr().expect("it is bound").port();
        (sender, receiver, SocketAddr::from(([127, 0, 0, 1], port)))
    }

    #[tokio::test]
    async fn what_was_sent_together_arrives_in_order_and_apart() {
        let (sender, mut receiver, to) = socket().await;
        let mut sent = Vec::new();
        for number in 0..100_u8 {
            let size = if number % 10 == 9 { 300 } else { 1000 };
            let mut bytes = BytesMut::zeroed(size);
            bytes[0] = number;
            sent.push((Packet::from_bytes(bytes), to));
        }
        sender
            .send_many_to(&mut (), &mut sent)
            .await
            .expect("it is sent");
        assert!(sent.is_empty());
        let (mut inbox, mut received) = (Inbox::default(), Vec::new());
        let mut pool = PacketBufPool::new(1);
        while received.len() < 100 {
            receiver
                .recv_many_from(&mut inbox, &mut pool, &mut received)
                .await
                .expect("it is received");
        }
        for (number, (packet, from)) in (0..100_u8).zip(&received) {
            assert_eq!(packet[0], number);
            assert_eq!(packet.len(), if number % 10 == 9 { 300 } else { 1000 });
            assert_eq!(*from, to, "the sender is named by its IPv4 address");
        }
    }

    #[tokio::test]
    async fn a_datagram_too_large_for_a_buffer_of_gotatun_is_whole() {
        let (sender, mut receiver, to) = socket().await;
        let mut sent = packets(&[(60_000, to.port())]);
        sender
            .send_many_to(&mut (), &mut sent)
            .await
            .expect("it is sent");
        let (mut inbox, mut received) = (Inbox::default(), Vec::new());
        let mut pool = PacketBufPool::new(1);
        receiver
            .recv_many_from(&mut inbox, &mut pool, &mut received)
            .await
            .expect("it is received");
        assert_eq!(received[0].0.len(), 60_000);
    }
}
