//! The answering side: a task per inbound call stream.
//!
//! Decides how many requests of a stream are served at once. Requests beyond that are not read,
//! which slows the caller down.

use std::io;

use consensus_core::NodeId;
use futures::{
    StreamExt as _,
    io::{ReadHalf, WriteHalf},
    stream::FuturesUnordered,
};
use libp2p::Stream;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{IncomingCall, STATUS_OK, STATUS_REFUSED, frame_bytes_max, split};
use crate::{
    channel::Channel,
    frame::{FrameReader, FrameWriter, framed},
    refusal::Refused,
};

/// Requests of one stream served at once.
const SERVED_AT_ONCE: usize = 64;
/// Bytes gathered before a flush.
const BATCH_BYTES: usize = 64 * 1024;

type Reply = Result<Vec<u8>, Refused>;

/// A request handed over, its answer awaited.
struct Awaited {
    id: u64,
    answer: oneshot::Receiver<Reply>,
}

/// Serves a stream until it ends.
pub(crate) async fn serve(
    stream: Stream,
    from: NodeId,
    channel: Channel,
    calls: mpsc::Sender<IncomingCall>,
) {
    let (reader, writer) = framed(stream, frame_bytes_max(channel));
    let places = Semaphore::new(SERVED_AT_ONCE);
    let (awaited, awaiting) = mpsc::channel(SERVED_AT_ONCE);
    // Either half's end is the stream's end.
    let ended = tokio::select! {
        ended = read_requests(reader, &from, &calls, &places, awaited) => ended,
        ended = write_answers(writer, awaiting, &places, channel) => ended,
    };
    tracing::debug!(%from, ?channel, ?ended, "inbound call stream ended");
}

async fn read_requests(
    mut reader: FrameReader<ReadHalf<Stream>>,
    from: &NodeId,
    calls: &mpsc::Sender<IncomingCall>,
    places: &Semaphore,
    awaited: mpsc::Sender<Awaited>,
) -> io::Result<()> {
    loop {
        let place = places.acquire().await.map_err(io::Error::other)?;
        let Some(frame) = reader.next().await? else {
            break;
        };
        let Some((id, _, body)) = split(frame) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        place.forget();
        let (reply, answer) = oneshot::channel();
        let call = IncomingCall {
            from: from.clone(),
            body,
            reply,
        };
        // When nobody serves the channel, the dropped reply becomes a refusal.
        let _ = calls.send(call).await;
        let _ = awaited.send(Awaited { id, answer }).await;
    }
    // The caller sends no more but still hears what it has asked.
    drop(awaited);
    std::future::pending().await
}

async fn write_answers(
    mut writer: FrameWriter<WriteHalf<Stream>>,
    mut awaiting: mpsc::Receiver<Awaited>,
    places: &Semaphore,
    channel: Channel,
) -> io::Result<()> {
    let mut pending = FuturesUnordered::new();
    let mut open = true;
    loop {
        // Both arms are cancel-safe: a channel and a set of futures keep what was not taken.
        let (id, reply) = tokio::select! {
            next = awaiting.recv(), if open => {
                match next {
                    Some(Awaited { id, answer }) => pending.push(async move { (id, answer.await) }),
                    None => open = false,
                }
                continue;
            }
            Some(done) = pending.next() => done,
            else => return writer.close().await,
        };
        places.add_permits(1);
        queue_answer(&mut writer, id, reply, channel)?;
        // Answers that are ready too share the flush.
        while writer.queued_bytes() < BATCH_BYTES {
            match futures::FutureExt::now_or_never(pending.next()) {
                Some(Some((id, reply))) => {
                    places.add_permits(1);
                    queue_answer(&mut writer, id, reply, channel)?;
                }
                Some(None) | None => break,
            }
        }
        writer.flush().await?;
    }
}

fn queue_answer(
    writer: &mut FrameWriter<WriteHalf<Stream>>,
    id: u64,
    reply: Result<Reply, oneshot::error::RecvError>,
    channel: Channel,
) -> io::Result<()> {
    let (status, body) = match reply {
        Ok(Ok(body)) if body.len() <= channel.frame_bytes_max() => (STATUS_OK, body),
        Ok(Ok(body)) => refused(&Refused::new(
            "CallAnswerTooLargeError",
            format!(
                "an answer of {} bytes is too long for its channel",
                body.len()
            ),
            "",
        )),
        Ok(Err(refusal)) => refused(&refusal),
        Err(_) => refused(&Refused::new(
            "CallUnservedError",
            "the node does not serve this request now",
            "",
        )),
    };
    writer
        .queue(&[&id.to_be_bytes(), &[status], &body])
        .map_err(io::Error::other)
}

fn refused(refusal: &Refused) -> (u8, Vec<u8>) {
    let body = postcard::to_stdvec(refusal).expect("three texts serialize");
    (STATUS_REFUSED, body)
}
