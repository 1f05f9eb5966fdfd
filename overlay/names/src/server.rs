//! The sockets of the server.
//!
//! Decides: where it listens, and how many questions are worked on at a time; a further one is
//! dropped, and asked again by whoever waits for it. Never: listens on an address that it was not
//! given, nor on all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use overlay_core::names::Directory;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    answer::Answerer,
    forward::{Transport, read_message, write_message},
};

/// RFC 1035, section 4.2.
pub(crate) const PORT: u16 = 53;
/// Each waits for others for up to seconds, and holds a socket meanwhile.
const QUESTIONS_MAX: usize = 256;
/// A connection holds its place as long as it lives.
const CONNECTIONS_MAX: usize = 64;
/// One that asks nothing for so long is closed (RFC 7766 leaves it to the server).
const CONNECTION_IDLE: Duration = Duration::from_secs(5);
/// Nobody asks more of a resolver in one connection, one after another.
const QUESTIONS_PER_CONNECTION: usize = 64;
/// A question has one name of 255 bytes, and EDNS options.
const QUESTION_BYTES_MAX: usize = 4096;
/// After an address could not be listened on: a bridge comes up within moments.
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

/// Where the server can't listen, and why not, in words.
pub type Conditions = BTreeMap<IpAddr, String>;

/// The server's inputs.
pub struct Server {
    /// What it serves; it follows every change.
    pub service: watch::Receiver<Service>,
    /// Where it can't listen.
    pub conditions: watch::Sender<Conditions>,
    /// Ends it.
    pub stop: CancellationToken,
}

/// Everything that a listener needs.
#[derive(Clone)]
struct Shared {
    answerer: Arc<Answerer>,
    questions: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Server {
    /// Runs until it is stopped.
    pub async fn run(self) {
        let mut service = self.service.clone();
        let shared = Shared {
            answerer: Arc::new(Answerer::new(self.service.clone())),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            tasks: TaskTracker::new(),
        };
        let mut listening: BTreeMap<IpAddr, DropGuard> = BTreeMap::new();
        loop {
            let wanted = service.borrow_and_update().listen.clone();
            listening.retain(|address, _| wanted.contains(address));
            let mut conditions = Conditions::new();
            for address in wanted {
                if listening.contains_key(&address) {
                    continue;
                }
                match listen(address, &shared, &self.stop).await {
                    Ok(guard) => drop(listening.insert(address, guard)),
                    Err(error) => drop(conditions.insert(address, in_words(address, &error))),
                }
            }
            let all = conditions.is_empty();
            self.conditions.send_if_modified(|present| {
                let differs = *present != conditions;
                *present = conditions;
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

async fn listen(
    address: IpAddr,
    shared: &Shared,
    stop: &CancellationToken,
) -> io::Result<DropGuard> {
    let at = SocketAddr::new(address, PORT);
    let udp = Arc::new(UdpSocket::bind(at).await?);
    let tcp = TcpListener::bind(at).await?;
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

impl Shared {
    async fn serve_udp(self, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; QUESTION_BYTES_MAX];
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
            let Ok(place) = self.questions.clone().try_acquire_owned() else {
                continue;
            };
            let (question, socket) = (buffer[..length].to_vec(), socket.clone());
            let answerer = self.answerer.clone();
            self.tasks.spawn(async move {
                let answer = answerer.answer(&question, from.ip(), Transport::Udp).await;
                if let Some(answer) = answer {
                    // Whoever is gone needs none.
                    let _ = socket.send_to(&answer, from).await;
                }
                drop(place);
            });
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
            let Ok(place) = self.connections.clone().try_acquire_owned() else {
                continue;
            };
            let answerer = self.answerer.clone();
            self.tasks.spawn(async move {
                if let Err(error) = converse(stream, from.ip(), &answerer).await {
                    tracing::trace!(%error, %from, "a connection ended");
                }
                drop(place);
            });
        }
    }
}

async fn converse(mut stream: TcpStream, from: IpAddr, answerer: &Answerer) -> io::Result<()> {
    for _ in 0..QUESTIONS_PER_CONNECTION {
        let question = read_message(&mut stream, QUESTION_BYTES_MAX);
        let question = timeout(CONNECTION_IDLE, question).await??;
        let answer = answerer.answer(&question, from, Transport::Tcp).await;
        let Some(answer) = answer else {
            return Ok(());
        };
        let written = write_message(&mut stream, &answer);
        timeout(CONNECTION_IDLE, written).await??;
    }
    Ok(())
}
