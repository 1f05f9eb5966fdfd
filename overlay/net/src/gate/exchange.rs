//! One gate message to and fro over a substream, while its muxer is kept running.
//!
//! Decides how long messages may be. Yamux moves bytes only while the muxer itself is polled, and
//! nobody else polls it before the Swarm owns it.

use std::{future::Future, io, pin::pin, task::Poll, time::Duration};

use futures::{
    future::poll_fn,
    io::{ReadHalf, WriteHalf},
};
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox};
use serde::{Serialize, de::DeserializeOwned};

use super::GateError;
use crate::{
    frame::{FrameReader, FrameWriter, StreamError, framed},
    wire::v1::{self, Undecodable},
};

/// Longest hello or answer: four certificates of 4 KiB and a root.
pub(crate) const HELLO_BYTES_MAX: usize = 24 * 1024;
/// Longest enrolment request (a token, a certificate request, a description of the host).
pub(crate) const ENROL_REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Longest enrolment answer (certificates, the roster of a large mesh).
pub(crate) const ENROL_ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// How long a refusing side waits for the other to read its reason.
const LINGER: Duration = Duration::from_secs(1);

/// Runs `work` on a substream while the muxer below it makes progress.
pub(crate) async fn driven<T>(
    muxer: &mut StreamMuxerBox,
    work: impl Future<Output = Result<T, GateError>>,
) -> Result<T, GateError> {
    let mut work = pin!(work);
    let mut broken = None;
    poll_fn(move |cx| {
        if let Poll::Ready(result) = work.as_mut().poll(cx) {
            return Poll::Ready(result);
        }
        if broken.is_none() {
            match muxer.poll_unpin(cx) {
                // An address change, which the Swarm would only log.
                Poll::Ready(Ok(_)) => cx.waker().wake_by_ref(),
                Poll::Ready(Err(error)) => broken = Some(error),
                Poll::Pending => return Poll::Pending,
            }
        }
        // The last bytes of a closing connection may hold the answer: the work reads them first.
        match (work.as_mut().poll(cx), broken.take()) {
            (Poll::Ready(result), _) => Poll::Ready(result),
            (Poll::Pending, Some(error)) => Poll::Ready(Err(GateError::Broken(error))),
            (Poll::Pending, None) => Poll::Pending,
        }
    })
    .await
}

/// The gate's substream.
pub(crate) struct Exchange {
    reader: FrameReader<ReadHalf<SubstreamBox>>,
    writer: FrameWriter<WriteHalf<SubstreamBox>>,
}

impl Exchange {
    /// Opens the first substream.
    pub(crate) async fn open(muxer: &mut StreamMuxerBox) -> Result<Self, GateError> {
        let stream = poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = muxer.poll_unpin(cx) {
                return Poll::Ready(Err(error));
            }
            muxer.poll_outbound_unpin(cx)
        })
        .await
        .map_err(GateError::Broken)?;
        Ok(Self::new(stream))
    }

    /// Accepts the first substream.
    pub(crate) async fn accept(muxer: &mut StreamMuxerBox) -> Result<Self, GateError> {
        // `poll_inbound` drives every muxer by itself; `poll` would buffer the stream instead.
        let stream = poll_fn(|cx| muxer.poll_inbound_unpin(cx))
            .await
            .map_err(GateError::Broken)?;
        Ok(Self::new(stream))
    }

    fn new(stream: SubstreamBox) -> Self {
        // The cap of the longest message; `receive` narrows it.
        let (reader, writer) = framed(stream, ENROL_ANSWER_BYTES_MAX);
        Self { reader, writer }
    }

    pub(crate) async fn send<T: Serialize>(
        &mut self,
        message: &T,
        bytes_max: usize,
    ) -> Result<(), GateError> {
        self.send_bytes(&v1::encode(message), bytes_max).await
    }

    pub(crate) async fn send_bytes(
        &mut self,
        bytes: &[u8],
        bytes_max: usize,
    ) -> Result<(), GateError> {
        self.writer.set_bytes_max(bytes_max);
        self.writer.queue(&[bytes]).map_err(|error| match error {
            StreamError::TooLarge { .. } => GateError::Malformed("a message is too long"),
            StreamError::Ended(source) => GateError::Broken(source),
        })?;
        Ok(self.writer.flush().await?)
    }

    pub(crate) async fn receive<T: DeserializeOwned>(
        &mut self,
        bytes_max: usize,
    ) -> Result<T, GateError> {
        let bytes = self.receive_bytes(bytes_max).await?;
        v1::decode(&bytes).map_err(|error| match error {
            Undecodable::Version(version) => GateError::Version(version),
            Undecodable::Malformed => GateError::Malformed("a message cannot be decoded"),
        })
    }

    pub(crate) async fn receive_bytes(&mut self, bytes_max: usize) -> Result<Vec<u8>, GateError> {
        self.reader.set_bytes_max(bytes_max);
        self.reader
            .next()
            .await?
            .ok_or_else(|| GateError::Broken(io::ErrorKind::UnexpectedEof.into()))
    }

    /// Ends this side of the substream.
    pub(crate) async fn close(mut self) -> Result<(), GateError> {
        Ok(self.writer.close().await?)
    }

    /// Ends this side and waits until the other has read everything and closed too.
    pub(crate) async fn linger(mut self) -> Result<(), GateError> {
        self.writer.close().await?;
        let _ = tokio::time::timeout(LINGER, self.reader.next()).await;
        Ok(())
    }
}
