//! Netlink: messages are put together, sent, and answered, in the caller's thread.
//!
//! Decides: how bytes lie on the wire (netlink(7), `linux/netlink.h`). Never: waits. The kernel
//! answers a request before the system call that sends it returns, so an answer that is not there
//! does not come.

use std::io;

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::SocketAddrNetlink, recv, send, socket_with, sockopt,
    },
};

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 0x01;
/// `NLM_F_ACK`.
pub(crate) const ACK: u16 = 0x04;
/// `NLM_F_REPLACE`.
pub(crate) const REPLACE: u16 = 0x100;
/// `NLM_F_DUMP`.
const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub(crate) const APPEND: u16 = 0x800;

/// `NLMSG_ERROR`, which is also an acknowledgement.
const ERROR: u16 = 2;
/// `NLMSG_DONE`, the end of a dump.
const DONE: u16 = 3;

/// `NLA_F_NESTED`; set by us, and to be taken off what the kernel sends.
const NESTED: u16 = 0x8000;
/// The bits of an attribute's type that name it.
const ATTRIBUTE_TYPE: u16 = 0x3fff;

/// Length of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// Length of `struct nlattr`.
const ATTRIBUTE_HEADER_BYTES: usize = 4;

/// The kernel sends dumps in pieces of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Notifications of a ruleset that is replaced as a whole arrive in one burst.
const RECEIVE_QUEUE_BYTES: usize = 1024 * 1024;

/// A request, or several in a row.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    bytes: Vec<u8>,
    /// Where the last message begins.
    last: usize,
    sequence: u32,
}

impl Messages {
    /// An empty row whose first message will have the number after `sequence`.
    pub(crate) fn after(sequence: u32) -> Self {
        Self {
            bytes: Vec::with_capacity(1024),
            last: 0,
            sequence,
        }
    }

    /// Begins a message; `family` is the header that the subsystem wants after netlink's own.
    pub(crate) fn begin(&mut self, kind: u16, flags: u16, family: &[u8]) -> &mut Self {
        self.sequence = self.sequence.wrapping_add(1);
        self.last = self.bytes.len();
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(family);
        self.pad();
        self.measure();
        self
    }

    /// Adds an attribute to the last message.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.nested_as(kind, |row| row.bytes.extend(value))
    }

    /// Adds a number in network byte order, as nf_tables wants them.
    pub(crate) fn put_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Adds a large number in network byte order.
    pub(crate) fn put_be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Adds a text that ends with a zero byte.
    pub(crate) fn put_text(&mut self, kind: u16, text: &str) -> &mut Self {
        self.nested_as(kind, |row| {
            row.bytes.extend(text.as_bytes());
            row.bytes.push(0);
        })
    }

    /// Adds an attribute that consists of attributes.
    pub(crate) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) -> &mut Self {
        self.nested_as(kind | NESTED, inner)
    }

    /// Has the kernel acknowledge the last message.
    pub(crate) fn acknowledge_last(&mut self) {
        let at = self.last + 6;
        let flags = u16_at(&self.bytes, at).unwrap_or_default() | ACK;
        self.bytes[at..at + 2].copy_from_slice(&flags.to_ne_bytes());
    }

    fn nested_as(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        inner(self);
        let length = u16::try_from(self.bytes.len() - start)
            .expect("attributes here have less than a hundred bytes");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
        self.measure();
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn measure(&mut self) {
        let length = u32::try_from(self.bytes.len() - self.last)
            .expect("messages here have less than a few thousand bytes");
        self.bytes[self.last..self.last + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// One message of the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    sequence: u32,
    pub(crate) body: &'a [u8],
}

/// Cuts a datagram into messages; what is cut off ends the row.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
        let message = bytes.get(..length)?;
        let received = Received {
            kind: u16_at(message, 4)?,
            sequence: u32_at(message, 8)?,
            body: message.get(HEADER_BYTES..)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(received)
    })
}

/// The attributes in `bytes` as (type, value); what is cut off ends the row.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let attribute = bytes.get(..length)?;
        let kind = u16_at(attribute, 2)? & ATTRIBUTE_TYPE;
        let value = attribute.get(ATTRIBUTE_HEADER_BYTES..)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The value of the first attribute of a type.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// An attribute's text without the zero byte that ends it.
pub(crate) fn text(value: &[u8]) -> &str {
    let end = value.iter().position(|byte| *byte == 0);
    std::str::from_utf8(&value[..end.unwrap_or(value.len())]).unwrap_or_default()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let found = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_ne_bytes(found))
}

/// A number in the machine's byte order.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let found = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(found))
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    /// Opens a socket of `protocol` (rtnetlink for `None`) that hears the multicast `groups`.
    pub(crate) fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        // A smaller queue works too: a lost notification is seen, and answered with a look.
        let _ = sockopt::set_socket_recv_buffer_size_force(&fd, RECEIVE_QUEUE_BYTES);
        bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self {
            fd,
            sequence: 0,
            buffer: vec![0; RECEIVE_BYTES],
        })
    }

    /// An empty row of messages that continues this socket's numbers.
    pub(crate) fn compose(&self) -> Messages {
        Messages::after(self.sequence)
    }

    /// Sends a row of messages whose last asks for an acknowledgement (of a transaction, whose
    /// last but one), and says whether the kernel did what they ask.
    pub(crate) fn carry_out(&mut self, row: &Messages) -> Result<(), Errno> {
        let first = self.sequence.wrapping_add(1);
        self.send(row)?;
        let mut outcome = None;
        while let Some(length) = self.receive()? {
            for message in messages(&self.buffer[..length]) {
                let number = message.sequence.wrapping_sub(first);
                let asked = number <= row.sequence.wrapping_sub(first);
                if message.kind == ERROR && asked {
                    let code = u32_at(message.body, 0).unwrap_or_default();
                    // The first failure is the cause; later ones may follow from it.
                    outcome = match outcome {
                        Some(Err(earlier)) => Some(Err(earlier)),
                        Some(Ok(())) | None => Some(verdict(code)),
                    };
                }
            }
        }
        outcome.unwrap_or(Err(Errno::NOMSG))
    }

    /// Asks for a listing and gives each entry to `each`.
    pub(crate) fn list(
        &mut self,
        kind: u16,
        family: &[u8],
        filter: impl FnOnce(&mut Messages),
        mut each: impl FnMut(Received<'_>),
    ) -> Result<(), Errno> {
        let mut row = self.compose();
        row.begin(kind, DUMP, family);
        filter(&mut row);
        self.send(&row)?;
        loop {
            let Some(length) = self.receive()? else {
                return Err(Errno::NOMSG);
            };
            for message in messages(&self.buffer[..length]) {
                if message.sequence != row.sequence {
                    continue;
                }
                match message.kind {
                    DONE => return Ok(()),
                    ERROR => return verdict(u32_at(message.body, 0).unwrap_or_default()),
                    _ => each(message),
                }
            }
        }
    }

    /// Takes what notifications there are; `each` sees them. Says whether some were lost.
    pub(crate) fn hear(&mut self, mut each: impl FnMut(Received<'_>)) -> bool {
        let mut lost = false;
        loop {
            match self.receive() {
                Ok(Some(length)) => messages(&self.buffer[..length]).for_each(&mut each),
                Ok(None) => return lost,
                Err(Errno::NOBUFS) => lost = true,
                Err(_) => return true,
            }
        }
    }

    fn send(&mut self, row: &Messages) -> Result<(), Errno> {
        self.sequence = row.sequence;
        send(&self.fd, &row.bytes, SendFlags::empty()).map(drop)
    }

    fn receive(&mut self) -> Result<Option<usize>, Errno> {
        match recv(&self.fd, &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) => Ok(Some(length)),
            Err(Errno::AGAIN) => Ok(None),
            Err(Errno::INTR) => Ok(Some(0)),
            Err(errno) => Err(errno),
        }
    }
}

/// The kernel writes a negative error number, or zero for an acknowledgement.
fn verdict(code: u32) -> Result<(), Errno> {
    if code == 0 {
        return Ok(());
    }
    let number = i32::try_from(code.wrapping_neg()).unwrap_or_default();
    Err(Errno::from_raw_os_error(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_into_a_message_is_found_in_it() {
        let mut row = Messages::after(6);
        row.begin(20, ACK, &[1, 2, 3, 4])
            .put(1, &[9])
            .nest(2, |row| {
                row.put_text(3, "word");
            });
        row.begin(21, 0, &[]);
        let found: Vec<_> = messages(&row.bytes).collect();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].kind, found[0].sequence), (20, 7));
        assert_eq!((found[1].kind, found[1].sequence), (21, 8));
        let body = &found[0].body[4..];
        assert_eq!(attribute(body, 1), Some([9].as_slice()));
        let inner = attribute(body, 2).unwrap();
        assert_eq!(attribute(inner, 3).map(text), Some("word"));
    }

    #[test]
    fn a_message_that_is_cut_off_is_no_message() {
        let mut row = Messages::after(0);
        row.begin(20, 0, &[1, 2, 3, 4]).put(1, &[9, 9, 9, 9]);
        for length in 0..row.bytes.len() {
            assert_eq!(messages(&row.bytes[..length]).count(), 0);
        }
        let body = &row.bytes[HEADER_BYTES + 4..];
        for length in 0..body.len() {
            assert_eq!(attributes(&body[..length]).count(), 0);
        }
    }

    #[test]
    fn an_attribute_of_no_length_ends_the_row() {
        assert_eq!(attributes(&[0; 64]).count(), 0);
        assert_eq!(messages(&[0; 64]).count(), 0);
    }
}
