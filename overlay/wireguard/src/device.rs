//! The userspace device: one process per interface that carries the packets where the kernel has
//! no WireGuard. It outlives the daemon that started it, and with it every session.
//!
//! gotatun does the protocol (WireGuard whitepaper); this file gives it a TUN device and a socket
//! that move packets in bulk, and serves the configuration protocol on the usual Unix socket. gotatun's own server is not used: it
//! removes and adds a peer that changes, and the session is lost.
//!
//! Order at start: TUN first, which the kernel gives to one process only, then pidfile and socket,
//! so that a second device never unlinks the socket of a living one.
//!
//! Never: configures a link, an address or a route. Never exits because a client misbehaves.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use gotatun::{
    device::{
        Device, Error as GotatunError, Peer,
        configure::{DeviceRead, DeviceWrite, PeerStats},
        uapi::command::{Set, SetPeer, SetUnset},
    },
    x25519::{PublicKey, StaticSecret},
};
use rustix::io::Errno;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use zeroize::Zeroizing;

use crate::{
    buffers::Progress,
    datagrams::Sockets,
    key::hex,
    tun::{self, FromKernel, ToKernel},
    uapi::{SOCKET_FOLDER, socket_path},
};

/// One thread encrypts while the other decrypts; more would only cost memory on small hosts.
const WORKER_THREADS: usize = 2;

/// A client on the same host sends its request at once; one that does not must not keep the
/// others waiting.
const REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// Largest request that is read; a thousand peers with twenty prefixes each are 1 MB.
const REQUEST_BYTES_MAX: u64 = 16 << 20;

/// How nice the device's threads are: ten times the weight of an ordinary one (sched(7)). The kernel
/// moves packets before it runs any program; a device that waits its turn among all others is silent
/// for seconds on a host that is busy. Not more than that, for a flood of packets must leave something
/// to those who have to read them.
const NICE: i32 = -10;
/// Where sessions share the processors, this is the weight of the device's own (sched(7)).
const SESSION_NICE: &str = "/proc/self/autogroup";

type Transports = (Sockets, ToKernel, FromKernel);
type Tunnel = Device<Transports>;

/// What a device process is told on its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSettings {
    /// The interface to create.
    pub interface: String,
    /// Where the process writes its id, and what it removes on leaving.
    pub pidfile: PathBuf,
}

/// Why a device process ended.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The process may not create a TUN device.
    #[error("the TUN device cannot be created: permission denied")]
    TunPermission(#[source] io::Error),
    /// This kernel or container has no /dev/net/tun.
    #[error("the TUN device cannot be created: /dev/net/tun is missing")]
    TunMissing(#[source] io::Error),
    /// The interface exists and belongs to someone else.
    #[error("the interface name is taken")]
    InterfaceBusy(#[source] io::Error),
    /// The device could not be set up or did not go on.
    #[error("the userspace device cannot {action}")]
    Failed {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The interface was deleted under the device.
    #[error("the interface was deleted")]
    InterfaceDeleted,
}

/// Exit statuses start above those of sysexits.h (64 to 78) and below the shell's (126).
const EXIT_TUN_PERMISSION: u8 = 81;
const EXIT_TUN_MISSING: u8 = 82;
const EXIT_INTERFACE_BUSY: u8 = 83;
const EXIT_FAILED: u8 = 84;
const EXIT_INTERFACE_DELETED: u8 = 85;

/// What an exit status says about a device that did not come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitReason {
    TunPermission,
    TunMissing,
    InterfaceBusy,
    Other,
}

impl ExitReason {
    pub(crate) fn from_status(status: Option<i32>) -> Self {
        match status.and_then(|status| u8::try_from(status).ok()) {
            Some(EXIT_TUN_PERMISSION) => Self::TunPermission,
            Some(EXIT_TUN_MISSING) => Self::TunMissing,
            Some(EXIT_INTERFACE_BUSY) => Self::InterfaceBusy,
            Some(_) | None => Self::Other,
        }
    }
}

impl DeviceError {
    /// The status with which the process must exit: the daemon that started it reads the reason
    /// from there.
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::TunPermission(_) => EXIT_TUN_PERMISSION,
            Self::TunMissing(_) => EXIT_TUN_MISSING,
            Self::InterfaceBusy(_) => EXIT_INTERFACE_BUSY,
            Self::Failed { .. } => EXIT_FAILED,
            Self::InterfaceDeleted => EXIT_INTERFACE_DELETED,
        }
    }

    fn failed(
        action: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Failed {
            action,
            source: source.into(),
        }
    }
}

/// Runs the device until it is told to stop (SIGTERM, SIGINT) or cannot go on. Leaves the caller's
/// session. Must be called before the process has a tokio runtime; the process exits with
/// [`DeviceError::exit_status`] on failure, having written the failure to its standard error.
///
/// The standard error is a file that nobody rotates: the process must install no tracing
/// subscriber, as gotatun reports single packets.
pub fn run_device(settings: &DeviceSettings) -> Result<(), DeviceError> {
    // Fails only for a process that leads a group already, such as one started from a shell; that
    // one is not to be detached.
    let _ = rustix::process::setsid();
    take_precedence();
    end_at_a_panic();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(|error| DeviceError::failed("start its threads", error))?;
    let result = runtime.block_on(serve(settings));
    if let Err(error) = &result {
        report(error);
    }
    result
}

/// Where the host does not grant it, or does not know sessions, the device is an ordinary process. Threads
/// that are started from here on are as nice as this one.
fn take_precedence() {
    let _ = rustix::process::setpriority_process(None, NICE);
    let _ = fs::write(SESSION_NICE, NICE.to_string());
}

/// A task that panics would leave one direction deaf, in a device that answers its socket. The daemon
/// starts another where the process ends.
fn end_at_a_panic() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        std::process::abort();
    }));
}

/// The standard error is the device's log, which the daemon quotes when the device dies early.
fn report(error: &DeviceError) {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr(), "{text}");
}

async fn serve(settings: &DeviceSettings) -> Result<(), DeviceError> {
    let progress = Progress::default();
    // gotatun tells of ends too, but also where it only gave its tasks another key or port, whenever
    // one of them ends before the other.
    let ended = Arc::clone(&progress.ended);
    let (to_kernel, from_kernel) = tun::open(&settings.interface, &progress).map_err(tun_error)?;
    let tunnel = gotatun::device::build()
        .with_udp(Sockets::new(progress))
        .with_ip_pair(to_kernel, from_kernel)
        .build()
        .await
        .map_err(|error| DeviceError::failed("be assembled", error))?;
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|error| DeviceError::failed("listen for signals", error))?;
    let mut interrupt = signal(SignalKind::interrupt())
        .map_err(|error| DeviceError::failed("listen for signals", error))?;
    let socket = socket_path(&settings.interface);
    write_pid(&settings.pidfile)
        .map_err(|error| DeviceError::failed("write its pidfile", error))?;
    let listener =
        listen(&socket).map_err(|error| DeviceError::failed("open its socket", error))?;

    let result = loop {
        // Every arm is cancel-safe: a connection is taken or not, a signal is counted or not, and
        // a fatal error stays readable.
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    answer(&tunnel, stream).await;
                }
            }
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            () = ended.notified() => break Err(DeviceError::InterfaceDeleted),
        }
    };
    // The files may be a successor's by now: it has the link as soon as this one lost it.
    if fs::read_to_string(&settings.pidfile).is_ok_and(|text| text == pid_line()) {
        let _ = fs::remove_file(&socket);
        let _ = fs::remove_file(&settings.pidfile);
    }
    tunnel.stop().await;
    result
}

fn tun_error(source: io::Error) -> DeviceError {
    match Errno::from_io_error(&source) {
        Some(Errno::PERM | Errno::ACCESS) => DeviceError::TunPermission(source),
        Some(Errno::NOENT | Errno::NODEV | Errno::NXIO) => DeviceError::TunMissing(source),
        Some(Errno::BUSY | Errno::INVAL | Errno::EXIST) => DeviceError::InterfaceBusy(source),
        Some(_) | None => DeviceError::failed("open its TUN device", source),
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(SOCKET_FOLDER)?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    // Whoever connects may read the private key.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn write_pid(path: &Path) -> io::Result<()> {
    let staged = path.with_extension("pid.new");
    fs::write(&staged, pid_line())?;
    fs::rename(staged, path)
}

fn pid_line() -> String {
    format!("{}\n", std::process::id())
}

/// Answers one request. A client that goes away or dawdles loses its answer, nothing else.
async fn answer(tunnel: &Tunnel, mut stream: UnixStream) {
    let conversation = async {
        let request = read_request(&mut stream).await?;
        let reply = match request.strip_prefix("get=1\n") {
            Some(_) => tunnel.read(describe).await,
            None => match configure(tunnel, &request).await {
                Ok(()) => Zeroizing::new("errno=0\n\n".to_owned()),
                Err(errno) => Zeroizing::new(format!("errno={}\n\n", errno.raw_os_error())),
            },
        };
        stream.write_all(reply.as_bytes()).await
    };
    let _ = timeout(REQUEST_WITHIN, conversation).await;
}

/// Reads up to the empty line that ends a request.
async fn read_request(stream: &mut UnixStream) -> io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::new());
    let mut limited = stream.take(REQUEST_BYTES_MAX);
    while !bytes.ends_with(b"\n\n") {
        if limited.read_buf(&mut *bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Zeroizing::new(text.to_owned()))
}

async fn describe(device: &DeviceRead<'_, Transports>) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::new());
    if let Some(key) = device.private_key() {
        let bytes = Zeroizing::new(key.to_bytes());
        text.push_str(&format!("private_key={}\n", hex(&bytes).as_str()));
    }
    text.push_str(&format!("listen_port={}\n", device.listen_port()));
    for peer in device.peers().await {
        describe_peer(&mut text, &peer);
    }
    text.push_str("errno=0\n\n");
    text
}

fn describe_peer(text: &mut String, PeerStats { peer, stats, .. }: &PeerStats) {
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        text.push_str(&format!("{key}={value}\n"));
    };
    line("public_key", &hex(peer.public_key.as_bytes()).as_str());
    if let Some(endpoint) = peer.endpoint {
        line("endpoint", &endpoint);
    }
    if let Some(interval) = peer.keepalive {
        line("persistent_keepalive_interval", &interval);
    }
    for prefix in &peer.allowed_ips {
        line("allowed_ip", prefix);
    }
    let handshake = stats.last_handshake.and_then(|age| {
        let at = SystemTime::now().checked_sub(age)?;
        at.duration_since(SystemTime::UNIX_EPOCH).ok()
    });
    if let Some(at) = handshake {
        line("last_handshake_time_sec", &at.as_secs());
        line("last_handshake_time_nsec", &at.subsec_nanos());
    }
    line("rx_bytes", &stats.rx_bytes);
    line("tx_bytes", &stats.tx_bytes);
}

/// A request's meaning. gotatun cuts keys by bytes, and would cut a letter of several in two.
pub(crate) fn parse(request: &str) -> Option<Set> {
    request.is_ascii().then(|| request.parse().ok()).flatten()
}

async fn configure(tunnel: &Tunnel, request: &str) -> Result<(), Errno> {
    let set = parse(request).ok_or(Errno::INVAL)?;
    tunnel
        .write(async |device| apply(device, set).await)
        .await
        .map_err(|error| {
            if let GotatunError::Bind(source, _) = error {
                return Errno::from_io_error(&source).unwrap_or(Errno::IO);
            }
            Errno::IO
        })?
}

async fn apply(device: &mut DeviceWrite<'_, Transports>, set: Set) -> Result<(), Errno> {
    // gotatun panics when a device without a key opens its socket or gets a peer.
    if device.private_key().is_none() && set.private_key.is_none() {
        return Err(Errno::NOKEY);
    }
    if set.replace_peers {
        device.clear_peers();
    }
    if let Some(port) = set.listen_port {
        device.set_listen_port(port);
    }
    if let Some(key) = set.private_key {
        device.set_private_key(StaticSecret::from(key.0)).await;
    }
    for peer in set.peers {
        apply_peer(device, peer).await;
    }
    Ok(())
}

async fn apply_peer(device: &mut DeviceWrite<'_, Transports>, change: SetPeer) {
    let key = PublicKey::from(change.peer.public_key.0);
    if change.remove {
        device.remove_peer(&key).await;
        return;
    }
    let wanted = change.peer;
    let existed = device
        .modify_peer(&key, |peer| {
            if change.replace_allowed_ips {
                peer.clear_allowed_ips();
            }
            peer.add_allowed_ips(wanted.allowed_ip.iter().copied());
            if let Some(endpoint) = wanted.endpoint {
                peer.set_endpoint(Some(endpoint));
            }
            if let Some(interval) = wanted.persistent_keepalive_interval {
                peer.set_keepalive(Some(interval).filter(|interval| *interval != 0));
            }
            match &wanted.preshared_key {
                Some(SetUnset::Set(secret)) => peer.set_preshared_key(Some(secret.0)),
                Some(SetUnset::Unset) => peer.set_preshared_key(None),
                None => {}
            }
        })
        .await;
    if existed || change.update_only {
        return;
    }
    let mut peer = Peer::new(key).with_allowed_ips(wanted.allowed_ip);
    peer.endpoint = wanted.endpoint;
    peer.keepalive = wanted
        .persistent_keepalive_interval
        .filter(|interval| *interval != 0);
    if let Some(SetUnset::Set(secret)) = wanted.preshared_key {
        peer.preshared_key = Some(secret.0);
    }
    device.add_peer(peer);
}
