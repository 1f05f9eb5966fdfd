//! The sockets of the server.
//!
//! Decides: where it listens, and how many connections it holds. A question that can be answered at
//! once is answered where it is received; only one that waits for others has a task of its own, as
//! many as there is room for (`capacity`).
//!
//! It listens on a bridge's address also before there is the bridge (`IP_FREEBIND`, ip(7)): dockerd
//! makes it, and is told of this server when it starts. Never: listens on an address that it was not
//! given, nor on all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use overlay_core::names::Directory;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    answer::{Answerer, Reply},
    capacity::{CONNECTIONS, Capacity},
    forward::{Transport, read_message, write_message},
    resolvers::Resolvers,
};

/// RFC 1035, section 4.2.
pub(crate) const PORT: u16 = 53;
/// Connections that the kernel holds until they are looked at, which is at once.
const BACKLOG: u32 = 128;
/// One that asks nothing for so long is closed (RFC 7766 leaves it to the server).
const CONNECTION_IDLE: Duration = Duration::from_secs(5);
/// Nobody asks more of a resolver in one connection, one after another.
const QUESTIONS_PER_CONNECTION: usize = 64;
/// A question has one name of 255 bytes, and EDNS options.
const QUESTION_BYTES_MAX: usize = 4096;
/// After an address could not be listened on: whoever has it may be about to end.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// After a failure of a socket that is no single asker's.
const SOCKET_PAUSE: Duration = Duration::from_millis(100);

/// What the server serves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Service {
    /// What is known of names.
    pub directory: Arc<Directory>,
    /// Where it listens: addresses of bridges and of the overlay.
    pub listen: BTreeSet<IpAddr>,
}

/// Where the server listens. An address that it was given a moment ago is in neither.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listening {
    /// Here it does.
    pub at: BTreeSet<IpAddr>,
    /// Here it can't, and why not, in words.
    pub failed: BTreeMap<IpAddr, String>,
}

/// The server's inputs.
pub struct Server {
    /// What it serves; it follows every change.
    pub service: watch::Receiver<Service>,
    /// Where it listens.
    pub listening: watch::Sender<Listening>,
    /// Ends it.
    pub stop: CancellationToken,
}

/// Everything that a listener needs.
#[derive(Clone)]
struct Shared {
    answerer: Arc<Answerer>,
    connections: Arc<Capacity>,
    tasks: TaskTracker,
}

impl Server {
    /// Runs until it is stopped.
    pub async fn run(self) {
        let answerer = Answerer::new(self.service.clone(), Resolvers::default());
        self.serve(Shared::new(answerer), PORT).await;
    }

    async fn serve(self, shared: Shared, port: u16) {
        let mut service = self.service.clone();
        let mut guards: BTreeMap<IpAddr, DropGuard> = BTreeMap::new();
        loop {
            let wanted = service.borrow_and_update().listen.clone();
            guards.retain(|address, _| wanted.contains(address));
            let mut failed = BTreeMap::new();
            for address in wanted {
                if guards.contains_key(&address) {
                    continue;
                }
                match listen(SocketAddr::new(address, port), &shared, &self.stop) {
                    Ok(guard) => drop(guards.insert(address, guard)),
                    Err(error) => drop(failed.insert(address, in_words(address, &error))),
                }
            }
            let all = failed.is_empty();
            let at = guards.keys().copied().collect();
            let now = Listening { at, failed };
            self.listening.send_if_modified(|present| {
                let differs = *present != now;
                *present = now;
                differs
            });
            // All arms only wait; everything is looked at anew above.
            tokio::select! {
                () = self.stop.cancelled() => break,
                changed = service.changed() => if changed.is_err() { break },
                () = sleep(RETRY_PAUSE), if !all => {}
            }
        }
    }
}

fn in_words(address: IpAddr, error: &io::Error) -> String {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other kind is told as it is"
    )]
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("containers resolve no names: another program has port {PORT} of {address}")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("containers resolve no names yet: {address} is on no interface")
        }
        _ => format!("containers resolve no names: port {PORT} of {address}: {error}"),
    }
}

fn listen(at: SocketAddr, shared: &Shared, stop: &CancellationToken) -> io::Result<DropGuard> {
    let udp = Arc::new(udp_at(at)?);
    let tcp = tcp_at(at)?;
    let stop = stop.child_token();
    let (datagrams, connections) = (shared.clone(), shared.clone());
    let until = stop.clone();
    shared.tasks.spawn(async move {
        until.run_until_cancelled(datagrams.serve_udp(udp)).await;
    });
    let until = stop.clone();
    shared.tasks.spawn(async move {
        until.run_until_cancelled(connections.serve_tcp(tcp)).await;
    });
    Ok(stop.drop_guard())
}

/// A bridge has an IPv4 address. Addresses of the overlay are listened on while they are there.
fn udp_at(at: SocketAddr) -> io::Result<UdpSocket> {
    let family = match at {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
    if at.is_ipv4() {
        sockopt::set_ip_freebind(&socket, true)?;
    }
    bind(&socket, &at)?;
    UdpSocket::from_std(socket.into())
}

fn tcp_at(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = match at {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if at.is_ipv4() {
        sockopt::set_ip_freebind(&socket, true)?;
    }
    // Connections of an earlier daemon may still be ending.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

impl Shared {
    fn new(answerer: Answerer) -> Self {
        Self {
            answerer: Arc::new(answerer),
            connections: Capacity::new(CONNECTIONS),
            tasks: TaskTracker::new(),
        }
    }

    async fn serve_udp(self, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; QUESTION_BYTES_MAX];
        // From here on it can be told, without waiting, whether there is room to send.
        if let Err(error) = socket.writable().await {
            tracing::debug!(%error, "a socket for names can't be used");
        }
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // An asker that is gone says so by ICMP; it must not stop the others.
                    tracing::debug!(%error, "a datagram could not be received");
                    sleep(SOCKET_PAUSE).await;
                    continue;
                }
            };
            let question = &buffer[..length];
            match self.answerer.reply(question, from.ip(), Transport::Udp) {
                Reply::Silence => {}
                Reply::Message(answer) => send(&socket, &answer, from),
                Reply::Waits(waiting) => {
                    let (answerer, socket) = (self.answerer.clone(), socket.clone());
                    self.tasks.spawn(async move {
                        if let Some(answer) = answerer.finish(*waiting).await {
                            send(&socket, &answer, from);
                        }
                    });
                }
            }
        }
    }

    async fn serve_tcp(self, listener: TcpListener) {
        loop {
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    sleep(SOCKET_PAUSE).await;
                    continue;
                }
            };
            let source = from.ip().to_canonical();
            // Whoever is not answered, or has enough of them, is told by the end of this one.
            let asker = self.answerer.asker(source);
            let Some(permit) = asker.and_then(|asker| self.connections.take(asker, source)) else {
                continue;
            };
            let answerer = self.answerer.clone();
            self.tasks.spawn(async move {
                if let Err(error) = converse(stream, source, &answerer).await {
                    tracing::trace!(%error, %from, "a connection ended");
                }
                drop(permit);
            });
        }
    }
}

/// Whoever is gone needs no answer, and where there is no room to send it is lost, as datagrams are:
/// nobody waits for another's.
fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.try_send_to(answer, to) {
        tracing::trace!(%error, %to, "an answer could not be sent");
    }
}

async fn converse(mut stream: TcpStream, from: IpAddr, answerer: &Answerer) -> io::Result<()> {
    for _ in 0..QUESTIONS_PER_CONNECTION {
        let question = read_message(&mut stream, QUESTION_BYTES_MAX);
        let question = timeout(CONNECTION_IDLE, question).await??;
        let answer = match answerer.reply(&question, from, Transport::Tcp) {
            Reply::Silence => None,
            Reply::Message(answer) => Some(answer),
            Reply::Waits(waiting) => answerer.finish(*waiting).await,
        };
        let Some(answer) = answer else {
            return Ok(());
        };
        let written = write_message(&mut stream, &answer);
        timeout(CONNECTION_IDLE, written).await??;
    }
    Ok(())
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
