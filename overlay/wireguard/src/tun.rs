//! The TUN device with segmentation offload: the kernel hands over and takes up to 64 KiB of a TCP
//! connection (or of a UDP socket that sends in bulk) in one piece.
//!
//! Decides: how a large frame is cut into the packets of the tunnel, and when packets out of the
//! tunnel, joined by [`Train`], are written: as soon as nothing can follow, and otherwise when the
//! tasks that were ready have had their turn.
//!
//! Never: configures the link. Never ends the device because of one frame: only a device that is
//! gone does.

use std::{
    convert::Infallible,
    fs, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::BytesMut;
use gotatun::{
    packet::{Ip, Packet, PacketBufPool},
    tun::{IpRecv, IpSend, MtuWatcher},
};
use rustix::io::Errno;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::sleep,
};
use tun_rs::{
    AsyncDevice, DeviceBuilder, VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_LEN, VirtioNetHdr,
    checksum, gso_split,
};

use crate::{
    buffers::{Buffers, Progress},
    train::{NEEDS_CHECKSUM, Train},
};

/// The largest frame: an IP packet with the header that tells its segments.
const FRAME_BYTES: usize = VIRTIO_NET_HDR_LEN + 65_535;

/// A frame of 64 KiB cut into packets of 1280 bytes and more, each with headers of its own.
const BUFFER_BYTES: usize = 72 << 10;

/// Between device and cipher. With fewer the cipher runs dry while the next frame is cut; each
/// takes the time of one large frame.
const BUFFERS_MAX: usize = 6;

/// WireGuard pads packets to multiples of this; with the room behind it, in place.
const PADDING: usize = 16;

/// The MTU changes when the daemon says so; a packet that is too large for a moment is fragmented.
const MTU_LOOK_EVERY: Duration = Duration::from_secs(3);

const TUN_NODE: &str = "/dev/net/tun";

const UDP_HEADER_BYTES: usize = 8;

/// `gso_type` of a frame that is one packet (linux/virtio_net.h).
const ONE_PACKET: u8 = 0;

/// Both ends of a new TUN device: to the kernel, and from it. Its link is down.
pub(crate) fn open(name: &str, progress: &Progress) -> io::Result<(ToKernel, FromKernel)> {
    // tun-rs would make a device node where the host was given none.
    if !fs::exists(TUN_NODE)? {
        return Err(Errno::NOENT.into());
    }
    let device = DeviceBuilder::new()
        .name(name)
        .offload(true)
        .inherit_enable_state()
        .build_async()?;
    let device = Arc::new(device);
    let to = ToKernel::new(Arc::clone(&device), progress);
    let from = FromKernel::new(device, progress)?;
    Ok((to, from))
}

/// Ends its task when it is dropped.
struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Packets that leave the host by the tunnel.
pub(crate) struct FromKernel {
    device: Arc<AsyncDevice>,
    frame: Vec<u8>,
    buffers: Buffers,
    sizes: Vec<usize>,
    packets: Vec<Packet<Ip>>,
    progress: Arc<Notify>,
    ended: Arc<Notify>,
    mtu: watch::Receiver<u16>,
    _mtu_look: Running,
}

impl FromKernel {
    fn new(device: Arc<AsyncDevice>, progress: &Progress) -> io::Result<Self> {
        let (tell, mtu) = watch::channel(device.mtu()?);
        let looked_at = Arc::downgrade(&device);
        let look = async move || -> Option<Infallible> {
            loop {
                sleep(MTU_LOOK_EVERY).await;
                let now = looked_at.upgrade()?.mtu().ok()?;
                tell.send_if_modified(|mtu| std::mem::replace(mtu, now) != now);
            }
        };
        let mtu_look = Running(tokio::spawn(async move {
            look().await;
        }));
        Ok(Self {
            device,
            frame: vec![0; FRAME_BYTES],
            buffers: Buffers::new(BUFFERS_MAX, BUFFER_BYTES),
            sizes: Vec::new(),
            packets: Vec::new(),
            progress: Arc::clone(&progress.outward),
            ended: Arc::clone(&progress.ended),
            mtu,
            _mtu_look: mtu_look,
        })
    }

    /// Cuts a frame of several segments. A frame that makes no sense is dropped.
    async fn cut(&mut self, mut header: VirtioNetHdr, length: usize) {
        let frame = &mut self.frame[VIRTIO_NET_HDR_LEN..length];
        let Some(plan) = Cut::of(&mut header, frame) else {
            return;
        };
        let length = plan.stride * plan.segments;
        let mut buffer = self.buffers.next(length, &self.progress).await;
        let mut rooms: Vec<&mut [u8]> = buffer.chunks_mut(plan.stride).collect();
        self.sizes.clear();
        self.sizes.resize(rooms.len(), 0);
        let cut = gso_split(frame, header, &mut rooms, &mut self.sizes, 0, plan.is_v6);
        for size in self.sizes.iter().take(cut.unwrap_or(0)) {
            let mut packet = buffer.split_to(plan.stride);
            packet.truncate(*size);
            self.packets
                .extend(Packet::from_bytes(packet).try_into_ip());
        }
    }
}

/// How a frame falls into packets.
#[derive(Debug, PartialEq, Eq)]
struct Cut {
    is_v6: bool,
    segments: usize,
    /// From the start of one packet to the start of the next.
    stride: usize,
}

impl Cut {
    /// Corrects the length of the headers on the way: the kernel gives that of the first packet
    /// as a whole when it forwards.
    fn of(header: &mut VirtioNetHdr, frame: &[u8]) -> Option<Self> {
        let transport = usize::from(header.csum_start);
        let header_bytes = if header.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 {
            transport + UDP_HEADER_BYTES
        } else {
            transport + usize::from(frame.get(transport + 12)? >> 4) * 4
        };
        header.hdr_len = u16::try_from(header_bytes).ok()?;
        let payload = frame.len().checked_sub(header_bytes)?;
        let segment = usize::from(header.gso_size).min(payload);
        (segment > 0).then(|| Self {
            is_v6: frame[0] >> 4 == 6,
            segments: payload.div_ceil(segment),
            stride: (header_bytes + segment).next_multiple_of(PADDING),
        })
    }
}

/// The kernel left the sum over the pseudo header in the checksum's place.
fn complete_checksum(packet: &mut [u8], header: VirtioNetHdr) {
    let start = usize::from(header.csum_start);
    let at = start + usize::from(header.csum_offset);
    if at + 2 > packet.len() {
        return;
    }
    // In UDP, no bits at all would say that there is no checksum.
    let sum = match !checksum(&packet[start..], 0) {
        0 => u16::MAX,
        sum => sum,
    };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

impl IpRecv for FromKernel {
    async fn recv<'a>(
        &'a mut self,
        _pool: &mut PacketBufPool,
    ) -> io::Result<impl Iterator<Item = Packet<Ip>> + 'a> {
        self.packets.clear();
        let length = self.device.recv(&mut self.frame).await;
        let length = length.inspect_err(|error| tell_if_gone(error, &self.ended))?;
        let Ok(header) = VirtioNetHdr::decode(&self.frame[..length]) else {
            return Ok(self.packets.drain(..));
        };
        if header.gso_type != ONE_PACKET {
            self.cut(header, length).await;
            return Ok(self.packets.drain(..));
        }
        let frame = &mut self.frame[VIRTIO_NET_HDR_LEN..length];
        if header.flags & NEEDS_CHECKSUM != 0 {
            complete_checksum(frame, header);
        }
        let mut packet = BytesMut::with_capacity(frame.len().next_multiple_of(PADDING));
        packet.extend_from_slice(frame);
        self.packets
            .extend(Packet::from_bytes(packet).try_into_ip());
        Ok(self.packets.drain(..))
    }

    fn mtu(&self) -> MtuWatcher {
        self.mtu.clone().into()
    }
}

/// Packets that come out of the tunnel to this host.
pub(crate) struct ToKernel {
    shared: Arc<Outlet>,
    _late: Running,
}

struct Outlet {
    device: Arc<AsyncDevice>,
    /// Both the task that adds packets and the one that writes what is left; neither holds it
    /// across an await.
    train: Mutex<Train>,
    has_begun: Notify,
    progress: Arc<Notify>,
    ended: Arc<Notify>,
}

impl ToKernel {
    fn new(device: Arc<AsyncDevice>, progress: &Progress) -> Self {
        let shared = Arc::new(Outlet {
            device,
            train: Mutex::default(),
            has_begun: Notify::new(),
            progress: Arc::clone(&progress.inward),
            ended: Arc::clone(&progress.ended),
        });
        let outlet = Arc::clone(&shared);
        let late = Running(tokio::spawn(async move {
            loop {
                outlet.has_begun.notified().await;
                // To the end of the queue: whoever has more of the same is before us.
                tokio::task::yield_now().await;
                // Whoever sends the next packet sees that the device is gone.
                let _ = outlet.write(&mut outlet.lock());
            }
        }));
        Self {
            shared,
            _late: late,
        }
    }
}

impl Outlet {
    fn lock(&self) -> MutexGuard<'_, Train> {
        // A half-made frame is at worst one that the kernel refuses.
        self.train.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, packet: &[u8]) -> io::Result<()> {
        let mut train = self.lock();
        if !train.offer(packet) {
            self.write(&mut train)?;
            train.offer(packet);
        }
        if train.is_complete() {
            return self.write(&mut train);
        }
        self.has_begun.notify_one();
        Ok(())
    }

    /// Writing into a TUN device never waits: the kernel takes a frame or drops it.
    fn write(&self, train: &mut Train) -> io::Result<()> {
        if train.is_empty() {
            return Ok(());
        }
        let written = self.device.try_send(train.frame());
        train.clear();
        self.progress.notify_one();
        match written {
            Err(error) if is_gone(&error) => {
                self.ended.notify_one();
                Err(error)
            }
            // A frame that the kernel refuses is lost like one on the way.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

impl IpSend for ToKernel {
    async fn send(&mut self, packet: Packet<Ip>) -> io::Result<()> {
        self.shared.take(packet.into_bytes().as_ref())
    }
}

fn tell_if_gone(error: &io::Error, ended: &Notify) {
    if is_gone(error) {
        ended.notify_one();
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::BADF | Errno::BADFD | Errno::NODEV)
    )
}

#[cfg(test)]
mod tests {
    use tun_rs::VIRTIO_NET_HDR_GSO_TCPV6;

    use super::*;

    fn tcp_frame(payload: usize) -> (VirtioNetHdr, Vec<u8>) {
        let mut frame = vec![0; 40 + 32 + payload];
        frame[0] = 0x60;
        frame[52] = 0x80;
        let header = VirtioNetHdr {
            gso_type: VIRTIO_NET_HDR_GSO_TCPV6,
            // As the kernel says it when it forwards.
            hdr_len: 1400,
            gso_size: 1348,
            csum_start: 40,
            csum_offset: 16,
            ..VirtioNetHdr::default()
        };
        (header, frame)
    }

    #[test]
    fn every_packet_has_room_for_its_padding() {
        let (mut header, frame) = tcp_frame(3 * 1348 + 1);
        let cut = Cut::of(&mut header, &frame).expect("it can be cut");
        assert_eq!(header.hdr_len, 72);
        let expected = Cut {
            is_v6: true,
            segments: 4,
            stride: 1424,
        };
        assert_eq!(cut, expected);
    }

    #[test]
    fn the_largest_frame_fits_a_buffer_down_to_the_least_mtu_of_ipv6() {
        let (mut header, frame) = tcp_frame(65_535 - 72);
        header.gso_size = 1280 - 72;
        let cut = Cut::of(&mut header, &frame).expect("it can be cut");
        assert!(cut.segments * cut.stride <= BUFFER_BYTES);
    }

    #[test]
    fn frames_that_make_no_sense_are_not_cut() {
        let (header, frame) = tcp_frame(5000);
        for broken in [
            VirtioNetHdr {
                gso_size: 0,
                ..header
            },
            VirtioNetHdr {
                csum_start: u16::MAX,
                ..header
            },
            VirtioNetHdr {
                csum_start: 5060,
                ..header
            },
        ] {
            assert_eq!(Cut::of(&mut { broken }, &frame), None);
        }
        assert_eq!(Cut::of(&mut { header }, &frame[..72]), None, "no payload");
        assert_eq!(Cut::of(&mut { header }, &[]), None);
    }
}
