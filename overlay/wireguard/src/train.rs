//! Consecutive segments of one TCP connection, joined to one frame for the kernel.
//!
//! The kernel takes 40 segments in one frame through its network stack for little more than the
//! price of one. Decides: what may be joined. The rules are those of the kernel's own receive
//! offload (`tcp_gro_receive`) and of wireguard-go's `tun/offload_linux.go`: same addresses, ports,
//! options, acknowledgement and window, sequence numbers without a gap, all of one size but the
//! last, no flag but ACK, and PSH on the last.
//!
//! Never: joins a segment whose checksum is wrong, as the frame gets a new one that is right.
//! Never: holds anything but TCP data that others are likely to follow.

use tun_rs::{
    VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_LEN, VirtioNetHdr, checksum,
};

/// The flag of a frame whose checksum is still to be computed (linux/virtio_net.h).
pub(crate) const NEEDS_CHECKSUM: u8 = 1;

/// The length field of an IP packet has 16 bits.
const FRAME_BYTES_MAX: usize = 65_535;

const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const TCP_HEADER_BYTES_MIN: usize = 20;
const PROTOCOL_TCP: u8 = 6;
const FLAG_PSH: u8 = 0x08;
const FLAG_ACK: u8 = 0x10;
/// Of the TCP header.
const CHECKSUM_OFFSET: u16 = 16;

/// One frame in the making.
#[derive(Default)]
pub(crate) struct Train {
    /// The virtio header and the packet; empty when there is none.
    frame: Vec<u8>,
    /// Of the first packet, if others may be joined to it.
    shape: Option<Shape>,
    segments: usize,
    /// Bytes of payload of every segment but the last.
    segment_bytes: usize,
    next_sequence: u32,
    first_is_checked: bool,
    is_complete: bool,
}

/// Where things are in a TCP segment with data.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    is_v6: bool,
    ip_bytes: usize,
    /// IP and TCP.
    header_bytes: usize,
}

impl Train {
    /// Takes the packet as the first or next of the frame. When it says no, the frame must be
    /// written and cleared first.
    pub(crate) fn offer(&mut self, packet: &[u8]) -> bool {
        if self.frame.is_empty() {
            self.begin(packet);
            return true;
        }
        self.shape
            .is_some_and(|shape| self.follows(shape, packet) && self.append(shape, packet))
    }

    /// Nothing can be joined any more: the frame should be written now.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frame.is_empty()
    }

    /// The frame as the TUN device takes it, with the virtio header.
    pub(crate) fn frame(&mut self) -> &[u8] {
        if self.segments > 1
            && let Some(shape) = self.shape
        {
            self.seal(shape);
        }
        &self.frame
    }

    pub(crate) fn clear(&mut self) {
        self.frame.clear();
        self.shape = None;
        self.segments = 0;
    }

    fn begin(&mut self, packet: &[u8]) {
        self.frame.resize(VIRTIO_NET_HDR_LEN, 0);
        self.frame.extend_from_slice(packet);
        self.shape = Shape::of(packet);
        self.segments = 1;
        self.first_is_checked = false;
        self.is_complete = true;
        if let Some(shape) = self.shape {
            let tcp = &packet[shape.ip_bytes..];
            self.segment_bytes = packet.len() - shape.header_bytes;
            self.next_sequence = sequence(tcp).wrapping_add(length_u32(self.segment_bytes));
            self.is_complete = tcp[13] & FLAG_PSH != 0 || self.is_full();
        }
    }

    fn is_full(&self) -> bool {
        self.frame.len() - VIRTIO_NET_HDR_LEN + self.segment_bytes > FRAME_BYTES_MAX
    }

    fn follows(&self, shape: Shape, packet: &[u8]) -> bool {
        if self.is_complete || Shape::of(packet) != Some(shape) {
            return false;
        }
        let payload_bytes = packet.len() - shape.header_bytes;
        let first = &self.frame[VIRTIO_NET_HDR_LEN..];
        let same = |from: usize, to: usize| first[from..to] == packet[from..to];
        let same_ip = if shape.is_v6 {
            // All but the length.
            same(0, 4) && same(6, 40)
        } else {
            // All but length, identification and checksum.
            same(0, 2) && same(6, 10) && same(12, 20)
        };
        let (ip, end) = (shape.ip_bytes, shape.header_bytes);
        // All but sequence number, flags (where only PSH may differ) and checksum.
        let same_tcp = same(ip, ip + 4)
            && same(ip + 8, ip + 13)
            && same(ip + 14, ip + 16)
            && same(ip + 18, end);
        same_ip
            && same_tcp
            && payload_bytes <= self.segment_bytes
            && sequence(&packet[ip..]) == self.next_sequence
    }

    fn append(&mut self, shape: Shape, packet: &[u8]) -> bool {
        if !self.first_is_checked {
            self.first_is_checked = shape.is_intact(&self.frame[VIRTIO_NET_HDR_LEN..]);
        }
        if !self.first_is_checked || !shape.is_intact(packet) {
            return false;
        }
        let payload = &packet[shape.header_bytes..];
        let flags = packet[shape.ip_bytes + 13];
        self.frame.extend_from_slice(payload);
        self.frame[VIRTIO_NET_HDR_LEN + shape.ip_bytes + 13] |= flags;
        self.segments += 1;
        self.next_sequence = self.next_sequence.wrapping_add(length_u32(payload.len()));
        self.is_complete =
            payload.len() < self.segment_bytes || flags & FLAG_PSH != 0 || self.is_full();
        true
    }

    /// Lengths and checksums of the whole; the kernel computes TCP's when somebody asks for it.
    fn seal(&mut self, shape: Shape) {
        let (virtio, packet) = self.frame.split_at_mut(VIRTIO_NET_HDR_LEN);
        let total = packet.len();
        if shape.is_v6 {
            packet[4..6].copy_from_slice(&length_u16(total - IPV6_HEADER_BYTES).to_be_bytes());
        } else {
            packet[2..4].copy_from_slice(&length_u16(total).to_be_bytes());
            packet[10..12].fill(0);
            let sum = !checksum(&packet[..IPV4_HEADER_BYTES], 0);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        let pseudo = checksum(&[], shape.pseudo_header(packet));
        let at = shape.ip_bytes + usize::from(CHECKSUM_OFFSET);
        packet[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        let header = VirtioNetHdr {
            flags: NEEDS_CHECKSUM,
            gso_type: if shape.is_v6 {
                VIRTIO_NET_HDR_GSO_TCPV6
            } else {
                VIRTIO_NET_HDR_GSO_TCPV4
            },
            hdr_len: length_u16(shape.header_bytes),
            gso_size: length_u16(self.segment_bytes),
            csum_start: length_u16(shape.ip_bytes),
            csum_offset: CHECKSUM_OFFSET,
        };
        header
            .encode(virtio)
            .expect("the frame starts with room for the header");
    }
}

impl Shape {
    /// Of a TCP segment that carries data and nothing out of the ordinary.
    fn of(packet: &[u8]) -> Option<Self> {
        let is_v6 = packet.first()? >> 4 == 6;
        let ip_bytes = if is_v6 {
            let payload = usize::from(read_u16(packet, 4)?);
            let fits = payload + IPV6_HEADER_BYTES == packet.len();
            (fits && packet[6] == PROTOCOL_TCP).then_some(IPV6_HEADER_BYTES)?
        } else {
            let total = usize::from(read_u16(packet, 2)?);
            let fits = total == packet.len() && total >= IPV4_HEADER_BYTES && packet[0] == 0x45;
            let is_fragment = read_u16(packet, 6)? & 0x3fff != 0;
            (fits && !is_fragment && packet[9] == PROTOCOL_TCP).then_some(IPV4_HEADER_BYTES)?
        };
        let tcp = &packet[ip_bytes..];
        if tcp.len() < TCP_HEADER_BYTES_MIN {
            return None;
        }
        let header_bytes = ip_bytes + usize::from(tcp[12] >> 4) * 4;
        let is_plain = tcp[12] & 0x0f == 0 && tcp[13] & !FLAG_PSH == FLAG_ACK;
        (is_plain && header_bytes >= ip_bytes + TCP_HEADER_BYTES_MIN && header_bytes < packet.len())
            .then_some(Self {
                is_v6,
                ip_bytes,
                header_bytes,
            })
    }

    /// Sum over the pseudo header (RFC 793, RFC 8200), not folded.
    fn pseudo_header(self, packet: &[u8]) -> u64 {
        let addresses = if self.is_v6 {
            &packet[8..40]
        } else {
            &packet[12..20]
        };
        let length = u64::try_from(packet.len() - self.ip_bytes).expect("a packet is short");
        tun_rs::checksum_no_fold(addresses, u64::from(PROTOCOL_TCP) + length)
    }

    fn is_intact(self, packet: &[u8]) -> bool {
        // A sum over data with its right checksum has all bits set.
        let ip_is_intact = self.is_v6 || checksum(&packet[..IPV4_HEADER_BYTES], 0) == u16::MAX;
        ip_is_intact && checksum(&packet[self.ip_bytes..], self.pseudo_header(packet)) == u16::MAX
    }
}

fn read_u16(packet: &[u8], at: usize) -> Option<u16> {
    let bytes = packet.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn sequence(tcp: &[u8]) -> u32 {
    u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]])
}

fn length_u16(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("a frame has at most 65535 bytes")
}

fn length_u32(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a frame has at most 65535 bytes")
}

#[cfg(test)]
mod tests {
    use tun_rs::gso_split;

    use super::*;

    const MSS: usize = 1368;

    /// One large segment as the kernel gives it, without the virtio header.
    fn large(is_v6: bool, payload_bytes: usize) -> (Vec<u8>, VirtioNetHdr) {
        let payload: Vec<u8> = (0..=250).cycle().take(payload_bytes).collect();
        let mut packet = if is_v6 {
            let mut ip = vec![0x60, 0, 0, 0, 0, 0, 6, 64];
            ip.extend([0xfd; 16]);
            ip.extend([0xfe; 16]);
            ip
        } else {
            let mut ip = vec![0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0];
            ip.extend([10, 1, 1, 1, 10, 1, 1, 2]);
            ip
        };
        let ip_bytes = packet.len();
        packet.extend([0x9c, 0x40, 0x14, 0x51]); // ports
        packet.extend(u32::MAX.to_be_bytes()); // a sequence number that wraps
        packet.extend([0, 0, 0, 9, 0x80, 0x18, 1, 0xf5, 0, 0, 0, 0]); // ACK, PSH
        packet.extend([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]); // time stamps
        let header_bytes = packet.len();
        packet.extend(payload);
        let header = VirtioNetHdr {
            flags: NEEDS_CHECKSUM,
            gso_type: if is_v6 {
                VIRTIO_NET_HDR_GSO_TCPV6
            } else {
                VIRTIO_NET_HDR_GSO_TCPV4
            },
            hdr_len: length_u16(header_bytes),
            gso_size: length_u16(MSS),
            csum_start: length_u16(ip_bytes),
            csum_offset: CHECKSUM_OFFSET,
        };
        (packet, header)
    }

    fn segments(is_v6: bool, payload_bytes: usize) -> Vec<Vec<u8>> {
        let (mut packet, header) = large(is_v6, payload_bytes);
        let mut bufs = vec![vec![0; 2000]; 64];
        let mut sizes = vec![0; 64];
        let number = gso_split(&mut packet, header, &mut bufs, &mut sizes, 0, is_v6)
            .expect("a sound frame can be split");
        bufs.truncate(number);
        for (buf, size) in bufs.iter_mut().zip(sizes) {
            buf.truncate(size);
        }
        bufs
    }

    fn join(segments: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut train = Train::default();
        for segment in segments {
            if !train.offer(segment) {
                frames.push(train.frame().to_vec());
                train.clear();
                assert!(train.offer(segment), "an empty train takes anything");
            }
            if train.is_complete() {
                frames.push(train.frame().to_vec());
                train.clear();
            }
        }
        if !train.is_empty() {
            frames.push(train.frame().to_vec());
        }
        frames
    }

    #[test]
    fn joining_gives_back_what_was_split_in_both_families() {
        for is_v6 in [false, true] {
            for bytes in [2 * MSS, 2 * MSS + 1, 40 * MSS, 40 * MSS + 700] {
                let split = segments(is_v6, bytes);
                assert_eq!(split.len(), bytes.div_ceil(MSS));
                let frames = join(&split);
                assert_eq!(frames.len(), 1, "{bytes} bytes, IPv6: {is_v6}");
                let (before, _) = large(is_v6, bytes);
                let header = VirtioNetHdr::decode(&frames[0]).expect("there is a header");
                assert_eq!(usize::from(header.gso_size), MSS);
                let mut packet = frames[0][VIRTIO_NET_HDR_LEN..].to_vec();
                assert_eq!(packet.len(), before.len());
                assert_eq!(
                    packet[usize::from(header.hdr_len)..],
                    before[usize::from(header.hdr_len)..]
                );
                // Lengths and checksums: split again, every segment is what it was.
                let mut bufs = vec![vec![0; 2000]; 64];
                let mut sizes = vec![0; 64];
                let number = gso_split(&mut packet, header, &mut bufs, &mut sizes, 0, is_v6)
                    .expect("the frame is sound");
                let again: Vec<_> = (0..number).map(|i| bufs[i][..sizes[i]].to_vec()).collect();
                assert_eq!(again, split);
            }
        }
    }

    #[test]
    fn a_gap_another_order_or_another_connection_ends_the_frame() {
        let whole = segments(false, 6 * MSS);
        let gap: Vec<_> = [0, 1, 3, 4, 5].map(|i| whole[i].clone()).into();
        assert_eq!(join(&gap).len(), 2);
        let swapped: Vec<_> = [0, 2, 1, 3].map(|i| whole[i].clone()).into();
        assert_eq!(join(&swapped).len(), 4);
        let mut other = whole.clone();
        for segment in &mut other[3..] {
            segment[20] ^= 1; // the port, and the checksum with it
            segment[36] ^= 1;
        }
        assert!(join(&other).len() > 1);
    }

    #[test]
    fn a_segment_with_a_wrong_checksum_stays_alone_and_wrong() {
        for damaged in 0..4 {
            let mut whole = segments(false, 4 * MSS);
            let last = whole[damaged].len() - 1;
            whole[damaged][last] ^= 0x40;
            let frames = join(&whole);
            let alone = frames
                .iter()
                .find(|frame| frame[VIRTIO_NET_HDR_LEN..] == whole[damaged][..])
                .expect("the damaged segment is passed on as it came");
            assert_eq!(alone[..VIRTIO_NET_HDR_LEN], [0; VIRTIO_NET_HDR_LEN]);
        }
    }

    #[test]
    fn what_nobody_follows_is_not_held() {
        let mut train = Train::default();
        let pushed = segments(true, 100).remove(0);
        let ack = &pushed[..72];
        let garbage = [0x45, 0, 0];
        for packet in [&pushed[..], ack, &garbage, &[]] {
            assert!(train.offer(packet));
            assert!(train.is_complete());
            assert_eq!(train.frame()[VIRTIO_NET_HDR_LEN..], *packet);
            train.clear();
            assert!(train.is_empty());
        }
    }

    #[test]
    fn a_frame_never_outgrows_its_length_field() {
        let mut whole = segments(false, 46 * MSS);
        for segment in &mut whole {
            // No PSH anywhere: nothing but the length ends it.
            if segment[33] & FLAG_PSH != 0 {
                segment[33] &= !FLAG_PSH;
                let sum = u16::from_be_bytes([segment[36], segment[37]]) + u16::from(FLAG_PSH);
                segment[36..38].copy_from_slice(&sum.to_be_bytes());
            }
        }
        let more = whole.clone();
        let frames = join(&[whole, more].concat());
        assert!(
            frames
                .iter()
                .all(|frame| frame.len() <= FRAME_BYTES_MAX + VIRTIO_NET_HDR_LEN)
        );
    }

    #[test]
    fn any_bytes_are_taken_without_harm() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut train = Train::default();
        let template = segments(false, 3 * MSS);
        for _ in 0..20_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let [.., which, at, value, length] = state.to_le_bytes().map(usize::from);
            let mut packet = template[which % 3].clone();
            packet[at % 60] = value.to_le_bytes()[0];
            packet.truncate(length * 5 % (packet.len() + 1));
            if !train.offer(&packet) {
                assert!(!train.frame().is_empty());
                train.clear();
                assert!(train.offer(&packet));
            }
        }
    }
}
