//! What is not the mesh's is asked of the host's own resolvers.
//!
//! Decides: whom, in which order, and whether a question has come back. One that fails or refuses is no
//! last word while there is another. An answer is passed on as it is, but for its id; one that was cut
//! short says so, and its asker comes again with a connection.
//!
//! Never: asks this server itself, should the host name it as its resolver. A resolver of the host may
//! still ask this server in turn, on this machine or in a container: a question of this machine itself,
//! or of one of its resolvers, about what is being asked already is a circle, and fails at once. Longer
//! circles end where their source has no more room (`capacity`).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use overlay_core::names::Asker;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::{
    capacity::{Capacity, OUTSIDE, Permit},
    resolvers::Resolvers,
    wire::{self, Asked, Subject},
};

/// What a message can be long.
const MESSAGE_BYTES_MAX: usize = 65_535;
/// Who asks says what he takes; a resolver that does not listen is granted some more.
const DATAGRAM_BYTES_MIN: usize = 4096;

/// How a question came, and is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// In a datagram.
    Udp,
    /// In a connection: the answer may be long.
    Tcp,
}

/// A question to be passed on.
#[derive(Clone, Copy)]
pub(crate) struct Forwarded<'a> {
    pub(crate) message: &'a [u8],
    pub(crate) asked: &'a Asked,
    pub(crate) transport: Transport,
    /// Who asked it.
    pub(crate) source: IpAddr,
    /// Where this server listens.
    pub(crate) own: &'a BTreeSet<IpAddr>,
}

/// The way to the host's resolvers.
#[derive(Debug)]
pub(crate) struct Outside {
    resolvers: Resolvers,
    capacity: Arc<Capacity>,
    /// What is being asked, and by how many; as many at most as there is room for. It is never held
    /// across a wait.
    under_way: Mutex<BTreeMap<Subject, usize>>,
}

impl Outside {
    pub(crate) fn new(resolvers: Resolvers) -> Self {
        Self {
            resolvers,
            capacity: Capacity::new(OUTSIDE),
            under_way: Mutex::default(),
        }
    }

    /// Room for a question, if there is any.
    pub(crate) fn room(&self, asker: Asker, source: IpAddr) -> Option<Permit> {
        self.capacity.take(asker, source)
    }

    /// The answer of the first resolver that knows one; else of the first that answers at all.
    pub(crate) async fn ask(&self, question: Forwarded<'_>) -> Option<Vec<u8>> {
        let id = wire::id_of(question.message)?;
        let servers = self.resolvers.of_host().await;
        let source = question.source;
        let may_come_back =
            question.own.contains(&source) || servers.iter().any(|server| server.ip() == source);
        let Some(_under_way) = self.begin(question.asked.subject(), may_come_back) else {
            tracing::debug!(%source, "the host's resolver asks what it is being asked");
            return None;
        };
        let mut at_a_loss = None;
        for server in servers {
            if question.own.contains(&server.ip()) {
                continue;
            }
            // An id of our own: whoever is to be misled must guess it, whatever the container's is.
            let asked = wire::with_id(question.message, rand::random());
            let conversation = converse(&asked, &question, server);
            match timeout(self.resolvers.answers_within, conversation).await {
                Ok(Ok(answer)) if wire::is_at_a_loss(&answer) => {
                    at_a_loss.get_or_insert(answer);
                }
                Ok(Ok(answer)) => return Some(wire::with_id(&answer, id)),
                Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver of the host fails"),
                Err(_) => tracing::debug!(%server, "a resolver of the host does not answer"),
            }
        }
        at_a_loss.map(|answer| wire::with_id(&answer, id))
    }

    /// Notes that this is being asked; not if it may have come back and is being asked already.
    fn begin(&self, subject: Subject, may_come_back: bool) -> Option<UnderWay<'_>> {
        let mut under_way = lock(&self.under_way);
        let count = under_way.entry(subject.clone()).or_default();
        if may_come_back && *count > 0 {
            return None;
        }
        *count += 1;
        drop(under_way);
        Some(UnderWay {
            outside: self,
            subject,
        })
    }
}

/// A question is being asked.
struct UnderWay<'a> {
    outside: &'a Outside,
    subject: Subject,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut under_way = lock(&self.outside.under_way);
        if let Some(count) = under_way.get_mut(&self.subject) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.subject);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn converse(
    asked: &[u8],
    question: &Forwarded<'_>,
    server: SocketAddr,
) -> io::Result<Vec<u8>> {
    match question.transport {
        Transport::Udp => {
            let bytes_max = usize::from(question.asked.payload_bytes_max());
            by_udp(asked, server, bytes_max.max(DATAGRAM_BYTES_MIN)).await
        }
        Transport::Tcp => by_tcp(asked, server).await,
    }
}

async fn by_udp(asked: &[u8], server: SocketAddr, bytes_max: usize) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(asked).await?;
    let mut buffer = vec![0; bytes_max];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if wire::id_of(&buffer[..length]) == wire::id_of(asked) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn by_tcp(asked: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, asked).await?;
    let answer = read_message(&mut stream, MESSAGE_BYTES_MAX).await?;
    match wire::id_of(&answer) == wire::id_of(asked) {
        true => Ok(answer),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A message in a connection has its length before it (RFC 1035, section 4.2.2).
pub(crate) async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await
}

/// The next message, if it is not longer than that.
pub(crate) async fn read_message(stream: &mut TcpStream, bytes_max: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > bytes_max {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
