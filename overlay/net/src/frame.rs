//! Length-prefixed frames over a libp2p stream.
//!
//! Decides how long a frame may be. Four bytes of big-endian length, then the body.
//!
//! Invariants: both halves are cancel-safe (a dropped `next` loses nothing, a dropped `send`
//! leaves its rest to the next `send`), so that a stream can never lose its frame boundaries; memory
//! is given to a frame as its bytes arrive, not on the word of its length.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
    future::poll_fn,
    io::{ReadHalf, WriteHalf},
};

use crate::channel::Channel;

const HEADER_BYTES: usize = 4;
/// Memory given to a frame before its bytes arrive.
const BODY_BYTES_AT_ONCE: usize = 64 * 1024;
/// A buffer that grew beyond this for one frame is given back afterwards.
const BUFFER_BYTES_KEPT: usize = 64 * 1024;

/// Why a frame could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The frame is longer than its channel allows.
    #[error("a frame of {bytes} bytes exceeds the channel's {max}")]
    TooLarge {
        /// Its length.
        bytes: usize,
        /// The channel's limit.
        max: usize,
    },
    /// The stream or its connection has ended.
    #[error("the stream has ended")]
    Ended(#[source] io::Error),
}

impl StreamError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "StreamFrameTooLargeError",
            Self::Ended(_) => "StreamEndedError",
        }
    }
}

/// Reads frames.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    io: R,
    bytes_max: usize,
    header: [u8; HEADER_BYTES],
    header_filled: usize,
    body: Vec<u8>,
    body_filled: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(io: R, bytes_max: usize) -> Self {
        Self {
            io,
            bytes_max,
            header: [0; HEADER_BYTES],
            header_filled: 0,
            body: Vec::new(),
            body_filled: 0,
        }
    }

    /// Changes the limit for the frames to come.
    pub(crate) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// The next frame; `Ok(None)` when the other side has closed between frames.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Vec<u8>>>> {
        while self.header_filled < HEADER_BYTES {
            let rest = &mut self.header[self.header_filled..];
            match ready!(Pin::new(&mut self.io).poll_read(cx, rest))? {
                0 if self.header_filled == 0 => return Poll::Ready(Ok(None)),
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                read => self.header_filled += read,
            }
        }
        let length = usize::try_from(u32::from_be_bytes(self.header)).unwrap_or(usize::MAX);
        if length > self.bytes_max {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a frame of {length} bytes exceeds {}", self.bytes_max),
            )));
        }
        while self.body_filled < length {
            if self.body_filled == self.body.len() {
                let grown = (self.body.len() * 2).max(BODY_BYTES_AT_ONCE).min(length);
                self.body.resize(grown, 0);
            }
            let rest = &mut self.body[self.body_filled..];
            match ready!(Pin::new(&mut self.io).poll_read(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                read => self.body_filled += read,
            }
        }
        self.header_filled = 0;
        self.body_filled = 0;
        Poll::Ready(Ok(Some(std::mem::take(&mut self.body))))
    }
}

/// Writes frames.
#[derive(Debug)]
pub(crate) struct FrameWriter<W> {
    io: W,
    bytes_max: usize,
    buffer: Vec<u8>,
    written: usize,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub(crate) fn new(io: W, bytes_max: usize) -> Self {
        Self {
            io,
            bytes_max,
            buffer: Vec::new(),
            written: 0,
        }
    }

    /// Changes the limit for the frames to come.
    pub(crate) fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Puts a frame made of several parts behind what is still to be written.
    pub(crate) fn queue(&mut self, parts: &[&[u8]]) -> Result<(), StreamError> {
        let bytes = parts.iter().map(|part| part.len()).sum();
        let max = self.bytes_max;
        let length = u32::try_from(bytes)
            .ok()
            .filter(|_| bytes <= max)
            .ok_or(StreamError::TooLarge { bytes, max })?;
        self.buffer.reserve(HEADER_BYTES + bytes);
        self.buffer.extend_from_slice(&length.to_be_bytes());
        for part in parts {
            self.buffer.extend_from_slice(part);
        }
        Ok(())
    }

    /// How much waits to be written.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.buffer.len() - self.written
    }

    /// Writes everything queued.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() {
            let rest = &self.buffer[self.written..];
            match ready!(Pin::new(&mut self.io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.written = 0;
        self.buffer.clear();
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = Vec::new();
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Tells the other side that no frame follows.
    pub(crate) async fn close(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.io.close().await
    }
}

/// Splits a stream into a reader and a writer of frames.
pub(crate) fn framed<S: AsyncRead + AsyncWrite + Unpin>(
    io: S,
    bytes_max: usize,
) -> (FrameReader<ReadHalf<S>>, FrameWriter<WriteHalf<S>>) {
    let (reader, writer) = io.split();
    (
        FrameReader::new(reader, bytes_max),
        FrameWriter::new(writer, bytes_max),
    )
}

/// A bidirectional stream of frames to another node. Dropping it ends it.
pub struct FrameStream {
    sender: FrameSender,
    receiver: FrameReceiver,
}

/// The sending half of a [`FrameStream`].
pub struct FrameSender {
    channel: Channel,
    writer: FrameWriter<WriteHalf<libp2p::Stream>>,
}

/// The receiving half of a [`FrameStream`].
pub struct FrameReceiver {
    channel: Channel,
    reader: FrameReader<ReadHalf<libp2p::Stream>>,
}

impl FrameStream {
    pub(crate) fn new(stream: libp2p::Stream, channel: Channel) -> Self {
        let (reader, writer) = framed(stream, channel.frame_bytes_max());
        Self {
            sender: FrameSender { channel, writer },
            receiver: FrameReceiver { channel, reader },
        }
    }

    /// Sends a frame and flushes it. Cancel-safe: what a dropped call has not written goes first
    /// at the next one.
    pub async fn send(&mut self, frame: Vec<u8>) -> Result<(), StreamError> {
        self.sender.send(frame).await
    }

    /// The next frame; `None` once the stream has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.receiver.next().await
    }

    /// Both halves, for two tasks.
    pub fn split(self) -> (FrameSender, FrameReceiver) {
        (self.sender, self.receiver)
    }
}

impl FrameSender {
    /// Sends a frame and flushes it. Cancel-safe: what a dropped call has not written goes first
    /// at the next one.
    pub async fn send(&mut self, frame: Vec<u8>) -> Result<(), StreamError> {
        // A caller that keeps dropping its sends must not pile frames up.
        if self.writer.queued_bytes() > 0 {
            self.writer.flush().await.map_err(StreamError::Ended)?;
        }
        self.writer.queue(&[&frame])?;
        self.writer.flush().await.map_err(StreamError::Ended)
    }

    /// Tells the other side that no frame follows.
    pub async fn close(&mut self) -> Result<(), StreamError> {
        self.writer.close().await.map_err(StreamError::Ended)
    }
}

impl FrameReceiver {
    /// The next frame; `None` once the stream has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        match self.reader.next().await {
            Ok(frame) => frame,
            Err(error) => {
                tracing::debug!(channel = ?self.channel, %error, "frame stream ended");
                None
            }
        }
    }
}

impl fmt::Debug for FrameStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameStream({:?})", self.sender.channel)
    }
}

impl fmt::Debug for FrameSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameSender({:?})", self.channel)
    }
}

impl fmt::Debug for FrameReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameReceiver({:?})", self.channel)
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, executor::block_on, io::Cursor};

    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let mut writer = FrameWriter::new(Vec::new(), 1 << 20);
        let long = vec![7; 300_000];
        for frame in [&b"one"[..], b"", &long] {
            writer.queue(&[frame]).unwrap();
        }
        block_on(writer.flush()).unwrap();
        let mut reader = FrameReader::new(Cursor::new(writer.io), 1 << 20);
        assert_eq!(block_on(reader.next()).unwrap().unwrap(), b"one");
        assert_eq!(block_on(reader.next()).unwrap().unwrap(), b"");
        assert_eq!(block_on(reader.next()).unwrap().unwrap(), long);
        assert!(block_on(reader.next()).unwrap().is_none());
    }

    #[test]
    fn a_frame_over_the_cap_is_refused_on_both_sides() {
        let mut writer = FrameWriter::new(Vec::new(), 3);
        let error = writer.queue(&[b"ab", b"cd"]).unwrap_err();
        assert_eq!(error.code(), "StreamFrameTooLargeError");
        let mut reader = FrameReader::new(Cursor::new(vec![0, 0, 0, 4, 1, 2, 3, 4]), 3);
        assert!(block_on(reader.next()).is_err());
    }

    #[test]
    fn a_promised_length_takes_no_memory_before_its_bytes_arrive() {
        let mut reader = FrameReader::new(Cursor::new(vec![0x03, 0, 0, 0, 1]), 64 << 20);
        assert!(block_on(reader.next()).is_err());
        assert!(reader.body.capacity() <= BODY_BYTES_AT_ONCE);
    }

    /// Gives its bytes one by one, pending in between.
    struct Trickle(Vec<u8>, bool);

    impl AsyncRead for Trickle {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            self.1 = !self.1;
            if self.1 || self.0.is_empty() {
                return Poll::Pending;
            }
            buf[0] = self.0.remove(0);
            Poll::Ready(Ok(1))
        }
    }

    #[test]
    fn a_dropped_read_loses_nothing() {
        let mut reader = FrameReader::new(Trickle(vec![0, 0, 0, 2, 8, 9], false), 16);
        let frame = (0..32).find_map(|_| reader.next().now_or_never());
        assert_eq!(frame.unwrap().unwrap().unwrap(), [8, 9]);
    }
}
