//! What arrives on a connection: the gate's messages, frames, calls, addresses, and the questions
//! whether a node can be dialled.
//!
//! Claims: a stream of frames is what a plain reading of its length prefixes gives, in whatever
//! pieces it arrives, and takes memory as its bytes arrive; a call's envelope comes apart into
//! what it was made of; a refusal's text has an end; nobody is made to dial anybody but who asks,
//! or to believe in an address that its question did not bring up.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use futures::{AsyncRead, executor::block_on};
use overlay_net::{Transport, fuzzing};

/// Longest text of a refusal, in characters, that is kept of a peer's words.
const REFUSAL_CHARS_MAX: usize = 512;

pub(crate) fn hello(data: &[u8]) {
    message(data, fuzzing::hello);
}

pub(crate) fn answer(data: &[u8]) {
    message(data, fuzzing::answer);
}

pub(crate) fn enrol_answer(data: &[u8]) {
    message(data, fuzzing::enrol_answer);
}

pub(crate) fn renewed(data: &[u8]) {
    message(data, fuzzing::renewed);
}

/// Dials that one question can bring about: three ports, and the one that was observed.
const DIALLED_MAX: usize = 4;
/// Ports that the asker asked about.
const ASKED: [u16; 2] = [7440, 7442];

pub(crate) fn reach_question(data: &[u8]) {
    message(data, fuzzing::reach_question);
    for observed in ["192.0.2.7:4000", "[2001:db8::7]:0"] {
        let observed: SocketAddr = observed.parse().expect("an address");
        for over in [Transport::Quic, Transport::Tcp] {
            let dialled = fuzzing::dialled_back(data, (observed, over));
            assert!(dialled.len() <= DIALLED_MAX);
            let own = |at: &SocketAddr| at.ip() == observed.ip() && at.port() != 0;
            assert!(dialled.iter().all(own), "somebody else is dialled");
        }
    }
}

pub(crate) fn reach_answer(data: &[u8]) {
    message(data, fuzzing::reach_answer);
    let Some((observed, reached)) = fuzzing::believed_reached(data, &ASKED) else {
        return;
    };
    assert!(reached.len() <= DIALLED_MAX);
    for at in reached {
        assert_eq!(at.ip(), observed.ip(), "somebody else is believed in");
        assert!(at.port() == observed.port() || ASKED.contains(&at.port()));
    }
}

fn message(data: &[u8], again: fn(&[u8]) -> Result<Vec<u8>, fuzzing::NoMessage>) {
    match again(data) {
        Ok(bytes) => {
            assert!(bytes.len() <= data.len(), "encoding again made it longer");
            assert_eq!(again(&bytes).as_ref(), Ok(&bytes));
            let longer = [&bytes, &[0][..]].concat();
            assert_eq!(again(&longer), Err(None), "a byte follows");
            assert!(again(&bytes[..bytes.len() - 1]).is_err());
        }
        Err(Some(version)) => {
            assert_eq!(data.first(), Some(&version));
            assert_ne!(version, 1);
        }
        Err(None) => assert!(data.first().is_none_or(|version| *version == 1)),
    }
}

/// Two bytes choose the longest frame and the pieces that arrive; the rest is the stream.
pub(crate) fn frame_stream(data: &[u8]) {
    let [limit, piece, stream @ ..] = data else {
        return;
    };
    let bytes_max = 1_usize << (limit % 24);
    let arriving = Arriving {
        stream,
        piece_bytes: usize::from(*piece).max(1),
        waits: false,
    };
    let (frames, end) = block_on(fuzzing::frames(arriving, bytes_max));
    let (expected, whole) = plainly(stream, bytes_max);
    assert!(frames == expected, "other frames than the prefixes say");
    match end {
        Ok(()) => assert!(whole),
        Err(error) => {
            assert!(!whole);
            assert!(matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
            ));
        }
    }
    let written: Vec<u8> = (frames.iter())
        .flat_map(|frame| block_on(fuzzing::framed(frame, bytes_max)).expect("it was read so"))
        .collect();
    assert!(stream.starts_with(&written), "written unlike it was read");
}

/// The frames of a stream, and whether it ends between two.
fn plainly(mut stream: &[u8], bytes_max: usize) -> (Vec<Vec<u8>>, bool) {
    let mut frames = Vec::new();
    while let Some((length, rest)) = stream.split_first_chunk() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > bytes_max || length > rest.len() {
            return (frames, false);
        }
        let (frame, rest) = rest.split_at(length);
        frames.push(frame.to_vec());
        stream = rest;
    }
    (frames, stream.is_empty())
}

/// Bytes that arrive in pieces, with a wait before each.
struct Arriving<'a> {
    stream: &'a [u8],
    piece_bytes: usize,
    waits: bool,
}

impl AsyncRead for Arriving<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.waits = !self.waits;
        if self.waits {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let bytes = self.piece_bytes.min(self.stream.len()).min(into.len());
        let (piece, rest) = self.stream.split_at(bytes);
        into[..bytes].copy_from_slice(piece);
        self.stream = rest;
        Poll::Ready(Ok(bytes))
    }
}

pub(crate) fn call_frame(data: &[u8]) {
    let Some((id, status, body)) = fuzzing::call_frame(data.to_vec()) else {
        assert!(data.len() < 9);
        return;
    };
    let again = [&id.to_be_bytes()[..], &[status], &body].concat();
    assert_eq!(again, data);
    let refused = fuzzing::refusal(&body);
    for text in [&refused.code, &refused.message, &refused.hint] {
        assert!(text.chars().count() <= REFUSAL_CHARS_MAX);
    }
}

pub(crate) fn multiaddress(data: &[u8]) {
    if let Some((address, transport, bytes)) = fuzzing::address(data) {
        let again = fuzzing::address(&bytes);
        assert_eq!(again, Some((address, transport, bytes.clone())));
        assert!(data.starts_with(&bytes), "another address than was given");
    }
}
