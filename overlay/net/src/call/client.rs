//! The calling side: a task per peer and channel that owns the stream.
//!
//! Decides when the stream is opened (at the first call), given up (broken, or idle for a while)
//! and how many calls may be under way.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::io::{ReadHalf, WriteHalf};
use libp2p::{PeerId, Stream};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{CallError, ENVELOPE_BYTES, STATUS_OK, STATUS_REFUSED, frame_bytes_max};
use crate::{
    channel::{Channel, Lane},
    frame::{FrameReader, FrameWriter, framed},
    peering::Order,
    refusal::Refused,
};

/// Calls under way on one stream; the listener serves fewer at once, the rest wait there.
const UNDER_WAY_MAX: usize = 256;
/// Bytes gathered before a flush, so that a burst of small calls is one packet.
const BATCH_BYTES: usize = 64 * 1024;
/// A stream without a call for so long is given back, and with it perhaps the connection.
const IDLE: Duration = Duration::from_secs(15);

/// One call, on its way to the stream.
pub(crate) struct CallRequest {
    pub(crate) body: Vec<u8>,
    pub(crate) reply: oneshot::Sender<Result<Vec<u8>, CallError>>,
}

/// The task's parts.
pub(crate) struct Caller {
    pub(crate) to: PeerId,
    pub(crate) channel: Channel,
    pub(crate) calls: mpsc::Receiver<CallRequest>,
    pub(crate) orders: mpsc::Sender<Order>,
}

type Reply = oneshot::Sender<Result<Vec<u8>, CallError>>;

/// Calls whose answers are awaited. A lock because the reading and the writing half share it;
/// never held across an await.
#[derive(Default)]
struct UnderWay {
    replies: Mutex<BTreeMap<u64, Reply>>,
    /// Whether anything was answered since last asked.
    answered: AtomicBool,
}

impl UnderWay {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Reply>> {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a call in, unless too many wait.
    fn insert(&self, id: u64, reply: Reply) -> bool {
        let mut replies = self.lock();
        if replies.len() >= UNDER_WAY_MAX {
            // Those whose callers have given up make room.
            replies.retain(|_, waiter| !waiter.is_closed());
        }
        if replies.len() >= UNDER_WAY_MAX {
            drop(replies);
            let _ = reply.send(Err(CallError::Busy));
            return false;
        }
        replies.insert(id, reply);
        true
    }
}

impl Caller {
    /// Serves calls until the stream has been idle for long or nobody can call any more.
    pub(crate) async fn run(mut self) {
        let mut next_id = 0;
        while let Ok(Some(first)) = timeout(IDLE, self.calls.recv()).await {
            match self.open().await {
                Ok(stream) => {
                    let ended = self.converse(stream, first, &mut next_id).await;
                    tracing::debug!(to = %self.to, channel = ?self.channel, ?ended, "call stream ended");
                }
                Err(error) => self.refuse_waiting(first, &error),
            }
        }
        // Calls that slipped in while the task was leaving are told so at once.
        self.calls.close();
        while let Ok(call) = self.calls.try_recv() {
            let _ = call.reply.send(Err(CallError::Busy));
        }
    }

    async fn open(&self) -> Result<Stream, CallError> {
        let (reply, stream) = oneshot::channel();
        let order = Order::Open {
            to: self.to,
            lane: Lane::Call(self.channel),
            reply,
        };
        self.orders
            .send(order)
            .await
            .map_err(|_| CallError::Stopped)?;
        match stream.await {
            Ok(result) => result.map_err(CallError::from),
            Err(_) => Err(CallError::Stopped),
        }
    }

    /// The calls that wait now would wait for the same failure again.
    fn refuse_waiting(&mut self, first: CallRequest, error: &CallError) {
        let _ = first.reply.send(Err(error.clone()));
        while let Ok(call) = self.calls.try_recv() {
            let _ = call.reply.send(Err(error.clone()));
        }
    }

    async fn converse(
        &mut self,
        stream: Stream,
        first: CallRequest,
        next_id: &mut u64,
    ) -> io::Result<()> {
        let (reader, writer) = framed(stream, frame_bytes_max(self.channel));
        let under_way = UnderWay::default();
        // Either half's end is the stream's end; both are owned here, so nothing is left behind.
        let ended = tokio::select! {
            ended = read_answers(reader, &under_way) => ended,
            ended = self.write_calls(writer, first, next_id, &under_way) => ended,
        };
        let lost = std::mem::take(&mut *under_way.lock());
        for reply in lost.into_values() {
            let _ = reply.send(Err(CallError::Lost));
        }
        ended
    }

    async fn write_calls(
        &mut self,
        mut writer: FrameWriter<WriteHalf<Stream>>,
        first: CallRequest,
        next_id: &mut u64,
        under_way: &UnderWay,
    ) -> io::Result<()> {
        let mut call = Some(first);
        loop {
            if call.is_none() {
                call = match timeout(IDLE, self.calls.recv()).await {
                    Ok(Some(call)) => Some(call),
                    Ok(None) => return writer.close().await,
                    Err(_) if under_way.answered.swap(false, Ordering::Relaxed) => continue,
                    Err(_) => return writer.close().await,
                };
            }
            while let Some(CallRequest { body, reply }) = call.take() {
                // A caller that gave up while the connection came about sends nothing.
                if !reply.is_closed() && under_way.insert(*next_id, reply) {
                    writer
                        .queue(&[&next_id.to_be_bytes(), &[0], &body])
                        .map_err(io::Error::other)?;
                    *next_id += 1;
                }
                if writer.queued_bytes() < BATCH_BYTES {
                    call = self.calls.try_recv().ok();
                }
            }
            writer.flush().await?;
        }
    }
}

async fn read_answers(
    mut reader: FrameReader<ReadHalf<Stream>>,
    under_way: &UnderWay,
) -> io::Result<()> {
    while let Some(frame) = reader.next().await? {
        let Some((id, status, body)) = split(frame) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        under_way.answered.store(true, Ordering::Relaxed);
        let Some(reply) = under_way.lock().remove(&id) else {
            continue;
        };
        let _ = reply.send(match status {
            STATUS_OK => Ok(body),
            STATUS_REFUSED => Err(CallError::Refused(refusal(&body))),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        });
    }
    Ok(())
}

/// Id, status or flags, body.
pub(crate) fn split(mut frame: Vec<u8>) -> Option<(u64, u8, Vec<u8>)> {
    let envelope: [u8; ENVELOPE_BYTES] = frame.get(..ENVELOPE_BYTES)?.try_into().ok()?;
    let (id, status) = envelope.split_at(8);
    let id = u64::from_be_bytes(id.try_into().ok()?);
    let status = status[0];
    frame.drain(..ENVELOPE_BYTES);
    Some((id, status, frame))
}

pub(crate) fn refusal(body: &[u8]) -> Refused {
    match postcard::from_bytes::<Refused>(body) {
        Ok(refused) => refused.clipped(),
        Err(_) => Refused::new("CallRefusedError", "the node refused without a reason", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_comes_apart_as_it_was_put_together() {
        let mut frame = 258_u64.to_be_bytes().to_vec();
        frame.push(1);
        frame.extend_from_slice(b"body");
        assert_eq!(split(frame), Some((258, 1, b"body".to_vec())));
        assert_eq!(split(vec![0; ENVELOPE_BYTES - 1]), None);
    }

    #[test]
    fn calls_under_way_are_bounded_and_those_given_up_make_room() {
        let under_way = UnderWay::default();
        let mut kept = Vec::new();
        for id in 0..UNDER_WAY_MAX as u64 {
            let (reply, answer) = oneshot::channel();
            assert!(under_way.insert(id, reply));
            kept.push(answer);
        }
        let (reply, mut answer) = oneshot::channel();
        assert!(!under_way.insert(1000, reply));
        assert_eq!(answer.try_recv(), Ok(Err(CallError::Busy)));
        kept.pop();
        let (reply, _answer) = oneshot::channel();
        assert!(under_way.insert(1001, reply));
    }
}
