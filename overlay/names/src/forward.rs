//! What is not the mesh's is asked of the host's own resolvers.
//!
//! Decides: whom, and how long they are waited for. An answer is passed on as it is, but for its id.
//! Never: asks this server itself, should the host name it as its resolver.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use crate::{resolvers, server::PORT, wire};

/// One resolver. Two are asked before Docker's own resolver gives up, after four seconds.
const ANSWER_WITHIN: Duration = Duration::from_millis(1500);
/// What a datagram can carry.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// How a question came, and is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// In a datagram.
    Udp,
    /// In a connection: the answer may be long.
    Tcp,
}

/// The answer of the first resolver that has one.
pub(crate) async fn forward(
    question: &[u8],
    transport: Transport,
    own: &BTreeSet<IpAddr>,
) -> Option<Vec<u8>> {
    let id = wire::id_of(question)?;
    for server in resolvers::of_host().await {
        if own.contains(&server) {
            continue;
        }
        // An id of our own: whoever is to be misled must guess it, whatever the container's is.
        let asked = wire::with_id(question, rand::random());
        let server = SocketAddr::new(server, PORT);
        let answered = match transport {
            Transport::Udp => timeout(ANSWER_WITHIN, by_udp(&asked, server)).await,
            Transport::Tcp => timeout(ANSWER_WITHIN, by_tcp(&asked, server)).await,
        };
        match answered {
            Ok(Ok(answer)) => return Some(wire::with_id(&answer, id)),
            Ok(Err(error)) => tracing::debug!(%server, %error, "a resolver of the host fails"),
            Err(_) => tracing::debug!(%server, "a resolver of the host does not answer"),
        }
    }
    None
}

async fn by_udp(asked: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(asked).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
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
    let answer = read_message(&mut stream, DATAGRAM_BYTES_MAX).await?;
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
