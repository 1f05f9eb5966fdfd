//! Calls over TCP: one request, one answer, many at once over one connection.
//!
//! A frame is its length (four bytes, big-endian), the call's id (eight bytes), a tag and a body.
//! The daemon has libp2p for this; here a group is measured by itself, without certificates and
//! encryption, as etcd's members talk in a default installation. Frames that wait share a write.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Calls waiting to be written; beyond it callers wait.
const WAITING_MAX: usize = 1024;
/// Frames in one write.
const FRAMES_PER_WRITE: usize = 64;
/// Loopback answers at once, or nobody listens.
const CONNECT_WAIT: Duration = Duration::from_millis(200);
/// Id and tag.
const HEAD_BYTES: usize = 9;
/// A batch of the largest entries fits.
const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a connection reads at once.
const READ_BYTES: usize = 64 * 1024;

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// There is no connection; nothing was sent.
    #[error("nobody listens there")]
    Unreachable,
    /// The connection broke; the call may have been carried out.
    #[error("the connection broke")]
    Broken,
}

/// A request or an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub tag: u8,
    /// What it carries.
    pub body: Vec<u8>,
}

struct Call {
    message: Message,
    reply: oneshot::Sender<Result<Message, CallError>>,
}

type UnderWay = Arc<Mutex<BTreeMap<u64, oneshot::Sender<Result<Message, CallError>>>>>;

/// The calling end. Connects when it is called, and again after a break.
#[derive(Debug, Clone)]
pub struct Caller {
    calls: mpsc::Sender<Call>,
}

impl Caller {
    /// Calls to `address`, from a task on the current runtime.
    pub fn new(address: SocketAddr) -> Self {
        let (calls, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(converse(address, waiting));
        Self { calls }
    }

    /// Sends a request and waits for its answer, without a limit.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(&self, tag: u8, body: Vec<u8>) -> Result<Message, CallError> {
        let (reply, answer) = oneshot::channel();
        let message = Message { tag, body };
        let sent = self.calls.send(Call { message, reply }).await;
        sent.map_err(|_| CallError::Unreachable)?;
        answer.await.unwrap_or(Err(CallError::Broken))
    }
}

async fn converse(address: SocketAddr, mut waiting: mpsc::Receiver<Call>) {
    let mut next_id = 0;
    while let Some(first) = waiting.recv().await {
        match timeout(CONNECT_WAIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let under_way = UnderWay::default();
                // What ended it does not matter: those who wait are told that it has ended.
                let _ended = exchange(stream, &under_way, first, &mut waiting, &mut next_id).await;
                let lost = std::mem::take(&mut *lock(&under_way));
                for reply in lost.into_values() {
                    let _ = reply.send(Err(CallError::Broken));
                }
            }
            Ok(Err(_)) | Err(_) => {
                let _ = first.reply.send(Err(CallError::Unreachable));
                while let Ok(call) = waiting.try_recv() {
                    let _ = call.reply.send(Err(CallError::Unreachable));
                }
            }
        }
    }
}

/// Writes calls and reads answers until either ends.
async fn exchange(
    stream: TcpStream,
    under_way: &UnderWay,
    first: Call,
    waiting: &mut mpsc::Receiver<Call>,
    next_id: &mut u64,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::with_capacity(READ_BYTES, reader);
    let answers = async {
        while let Some((id, message)) = read_frame(&mut reader).await? {
            let reply = lock(under_way).remove(&id);
            // A caller that gave up no longer wants to know.
            let _ = reply.map(|reply| reply.send(Ok(message)));
        }
        Ok(())
    };
    let requests = async {
        let mut calls = vec![first];
        let mut bytes = Vec::new();
        loop {
            for Call { message, reply } in calls.drain(..) {
                *next_id += 1;
                lock(under_way).insert(*next_id, reply);
                put_frame(&mut bytes, *next_id, &message);
            }
            writer.write_all(&bytes).await?;
            bytes.clear();
            if waiting.recv_many(&mut calls, FRAMES_PER_WRITE).await == 0 {
                return Ok(());
            }
        }
    };
    // Both halves end with the connection, so nothing is lost when the other is dropped.
    tokio::select! {
        ended = answers => ended,
        ended = requests => ended,
    }
}

/// Answers every request of every connection with what `answer` makes of it.
///
/// # Errors
/// When no further connection can be accepted.
pub async fn serve<A, F>(listener: TcpListener, answer: A) -> io::Result<()>
where
    A: Fn(Message) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Message> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let (answered, answers) = mpsc::channel(WAITING_MAX);
        tokio::spawn(write_answers(writer, answers));
        tokio::spawn(read_requests(reader, answered, answer.clone()));
    }
}

async fn read_requests<A, F>(
    reader: OwnedReadHalf,
    answered: mpsc::Sender<(u64, Message)>,
    answer: A,
) -> io::Result<()>
where
    A: Fn(Message) -> F,
    F: Future<Output = Message> + Send + 'static,
{
    let mut reader = BufReader::with_capacity(READ_BYTES, reader);
    while let Some((id, message)) = read_frame(&mut reader).await? {
        let answer = answer(message);
        let answered = answered.clone();
        tokio::spawn(async move {
            // The connection may have gone meanwhile.
            let _ = answered.send((id, answer.await)).await;
        });
    }
    Ok(())
}

async fn write_answers(
    mut writer: OwnedWriteHalf,
    mut answers: mpsc::Receiver<(u64, Message)>,
) -> io::Result<()> {
    let mut ready = Vec::new();
    let mut bytes = Vec::new();
    while answers.recv_many(&mut ready, FRAMES_PER_WRITE).await > 0 {
        for (id, message) in ready.drain(..) {
            put_frame(&mut bytes, id, &message);
        }
        writer.write_all(&bytes).await?;
        bytes.clear();
    }
    Ok(())
}

fn put_frame(bytes: &mut Vec<u8>, id: u64, message: &Message) {
    let length = u32::try_from(HEAD_BYTES + message.body.len()).expect("frames are small");
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.push(message.tag);
    bytes.extend_from_slice(&message.body);
}

/// The next frame, or nothing when the connection has ended between two.
async fn read_frame(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<(u64, Message)>> {
    let length = match reader.read_u32().await {
        Ok(length) => length as usize,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if !(HEAD_BYTES..=FRAME_BYTES_MAX).contains(&length) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let id = reader.read_u64().await?;
    let tag = reader.read_u8().await?;
    let mut body = vec![0; length - HEAD_BYTES];
    reader.read_exact(&mut body).await?;
    Ok(Some((id, Message { tag, body })))
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, |message| async { message }));
        address
    }

    #[tokio::test]
    async fn many_calls_at_once_get_each_its_own_answer() {
        let caller = Caller::new(echo().await);
        let calls = (0..1000_u64).map(|n| {
            let caller = caller.clone();
            async move {
                let body = n.to_be_bytes().to_vec();
                let answer = caller.call(7, body.clone()).await;
                assert_eq!(answer, Ok(Message { tag: 7, body }));
            }
        });
        futures::future::join_all(calls).await;
    }

    #[tokio::test]
    async fn nobody_there_is_said_at_once_and_somebody_later_is_found() {
        let address = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap()
        };
        let caller = Caller::new(address);
        assert_eq!(caller.call(1, vec![]).await, Err(CallError::Unreachable));
        let listener = TcpListener::bind(address).await.unwrap();
        tokio::spawn(serve(listener, |message| async { message }));
        assert!(caller.call(1, vec![]).await.is_ok());
    }

    #[tokio::test]
    async fn a_connection_that_ends_fails_the_calls_under_way() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let caller = Caller::new(listener.local_addr().unwrap());
        let closing = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut frame = [0; 4 + HEAD_BYTES];
            stream.read_exact(&mut frame).await.unwrap();
        };
        let (answer, ()) = tokio::join!(caller.call(1, vec![]), closing);
        assert_eq!(answer, Err(CallError::Broken));
    }
}
