//! The handle on the gate's thread.
//!
//! Decides: which line of defence this kernel offers. Never: opens or closes anything itself.

use std::{
    collections::BTreeMap,
    io,
    net::Ipv6Addr,
    path::PathBuf,
    sync::{Arc, mpsc::sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    address::Addresses,
    ebpf::Deadlines,
    events::{GateEvent, GateStatus},
    mailbox::Mailbox,
    nftables::{Table, lacks_the_parts},
    order::{GateKind, GateOrder, InvalidOrder},
    passage::{Kernel, Line},
    priority::Priority,
    worker::Worker,
};

/// Events that wait for somebody to take them.
const EVENTS_MAX: usize = 256;
/// How often a table that somebody owns is asked for again, and the pause between: a daemon that has just
/// ended owns it as long as a program that it was starting has a copy of its socket.
const OWNER_TRIES: usize = 20;
const OWNER_PAUSE: Duration = Duration::from_millis(50);
/// Names of nf_tables tables may be longer; this keeps them readable.
const TABLE_BYTES_MAX: usize = 32;

/// How the gate is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateConfig {
    /// Name of the nf_tables table, in the family inet.
    pub table: String,
    /// Keep the process's memory from being swapped out, once it was touched.
    pub lock_memory: bool,
    /// Own the table where the kernel can do that (Linux 6.9), so that nobody else changes or
    /// flushes it.
    pub own_table: bool,
    /// The kinds of gate to try, the best first. The lifetime of the address is there always.
    pub kinds: Vec<GateKind>,
    /// Folder of a bpf file system where [`GateKind::Ebpf`] keeps what outlives the daemon.
    pub bpf_folder: PathBuf,
}

impl Default for GateConfig {
    fn default() -> Self {
        Self {
            table: "shoal_gate".to_owned(),
            lock_memory: true,
            own_table: true,
            kinds: vec![GateKind::Nftables],
            bpf_folder: PathBuf::from("/sys/fs/bpf/shoal_gate"),
        }
    }
}

/// The gate cannot be had, or does not answer.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// Another process's gate works on this host.
    #[error("another process owns the table {0}")]
    Owned(String),
    /// Not a name for a table.
    #[error("{0:?} cannot name a table")]
    InvalidTable(String),
    /// The kernel refused to set the gate up.
    #[error("the kernel refused the gate: {}", io::Error::from(*.0))]
    Refused(Errno),
    /// The thread did not start.
    #[error("the gate's thread did not start")]
    Thread(#[source] io::Error),
    /// The thread is gone.
    #[error("the gate's thread has ended")]
    Ended,
    /// An order is impossible.
    #[error("the order is invalid")]
    Order(#[from] InvalidOrder),
    /// More addresses, or more waiting, than there is room for.
    #[error("the gate has no room for more")]
    Full,
}

impl GateError {
    /// Stable name of the failure.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Owned(_) => "GateOwnedError",
            Self::InvalidTable(_) => "GateTableInvalidError",
            Self::Refused(Errno::PERM | Errno::ACCESS) => "NetAdminPermissionError",
            Self::Refused(_) => "GateRefusedError",
            Self::Thread(_) | Self::Ended => "GateThreadError",
            Self::Order(error) => error.code(),
            Self::Full => "GateFullError",
        }
    }

    /// What the operator can do.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Owned(_) => "stop the other shoald on this host",
            Self::InvalidTable(_) => "use letters, digits and '_', at most 32",
            Self::Refused(_) => "run shoald as root or with CAP_NET_ADMIN",
            Self::Thread(_) | Self::Ended => "restart shoald; the address has closed by itself",
            Self::Order(_) => "correct the virtual address's network and times",
            Self::Full => "spread the virtual addresses over more nodes",
        }
    }
}

impl From<Errno> for GateError {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

/// The gate of this host. Dropping it ends its thread; what is open then closes by itself.
#[derive(Debug)]
pub struct Gate {
    mailbox: Arc<Mailbox>,
    thread: Option<JoinHandle<()>>,
    status: watch::Receiver<BTreeMap<Ipv6Addr, GateStatus>>,
    kind: GateKind,
    owned: bool,
    priority: Priority,
}

impl Gate {
    /// Sets the gate up in the caller's network namespace, adopts what an earlier process left
    /// open, and starts the thread.
    pub fn start(config: &GateConfig) -> Result<(Self, mpsc::Receiver<GateEvent>), GateError> {
        let line = put_up(config)?;
        let owned = matches!(&line, Line::Nftables(table) if table.is_owned());
        let mut addresses = Addresses::open().map_err(|error| errno(&error))?;
        take_down_others(config, &line, &mut addresses)?;
        let mailbox = Arc::new(Mailbox::new()?);
        let (events, taken) = mpsc::channel(EVENTS_MAX);
        let (said, status) = watch::channel(BTreeMap::new());
        let kernel = Kernel::new(line, addresses);
        let kind = kernel.kind();
        let worker = Worker::adopt(kernel, Arc::clone(&mailbox), events, said)?;
        let (granted, grant) = sync_channel(1);
        let lock_memory = config.lock_memory;
        let thread = thread::Builder::new()
            .name("vip-gate".to_owned())
            .spawn(move || worker.run(lock_memory, &granted))
            .map_err(GateError::Thread)?;
        let priority = grant.recv().map_err(|_| GateError::Ended)?;
        tracing::info!(kind = kind.in_words(), owned, ?priority, "the gate stands");
        let gate = Self {
            mailbox,
            thread: Some(thread),
            status,
            kind,
            owned,
            priority,
        };
        Ok((gate, taken))
    }

    /// Which line of defence the kernel offers.
    pub fn kind(&self) -> GateKind {
        self.kind
    }

    /// Whether the kernel keeps everybody else from changing the gate's rules. Otherwise a flush is
    /// noticed and repaired within milliseconds.
    pub fn owns_its_table(&self) -> bool {
        self.owned
    }

    /// What the thread was granted.
    pub fn priority(&self) -> &Priority {
        &self.priority
    }

    /// How things are with each address; changes with each opening and closing. Closed once the
    /// thread has ended.
    pub fn status(&self) -> watch::Receiver<BTreeMap<Ipv6Addr, GateStatus>> {
        self.status.clone()
    }

    /// Leaves the latest order for an address: its present lease. Never waits for the thread.
    pub fn order(&self, order: GateOrder) -> Result<(), GateError> {
        order.check()?;
        self.alive()?;
        let address = order.address;
        let room = self.mailbox.leave(address, |letter| letter.order(order));
        if room { Ok(()) } else { Err(GateError::Full) }
    }

    /// Closes an address at once, if `epoch` or an earlier one is open, and gives these epochs up
    /// for good. Answers when the kernel has closed it, with the time.
    pub async fn close(&self, address: Ipv6Addr, epoch: u64) -> Result<u64, GateError> {
        let answer = self.ask_to_close(address, epoch)?;
        Ok(answer.await.map_err(|_| GateError::Ended)??)
    }

    /// [`Self::close`] for a thread that may wait.
    pub fn close_blocking(&self, address: Ipv6Addr, epoch: u64) -> Result<u64, GateError> {
        let answer = self.ask_to_close(address, epoch)?;
        Ok(answer.blocking_recv().map_err(|_| GateError::Ended)??)
    }

    fn ask_to_close(
        &self,
        address: Ipv6Addr,
        epoch: u64,
    ) -> Result<oneshot::Receiver<Result<u64, Errno>>, GateError> {
        self.alive()?;
        let (waiting, answer) = oneshot::channel();
        let mut taken = false;
        let room = self.mailbox.leave(address, |letter| {
            taken = letter.release(epoch, waiting);
        });
        if room && taken {
            Ok(answer)
        } else {
            Err(GateError::Full)
        }
    }

    /// Closes an address that is no longer this host's to hold, and forgets it.
    pub fn forget(&self, address: Ipv6Addr) -> Result<(), GateError> {
        self.alive()?;
        let room = self.mailbox.leave(address, crate::mailbox::Letter::forget);
        if room { Ok(()) } else { Err(GateError::Full) }
    }

    fn alive(&self) -> Result<(), GateError> {
        if self.mailbox.has_ended() {
            Err(GateError::Ended)
        } else {
            Ok(())
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.mailbox.stop();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has closed nothing; the kernel does.
            let _ = thread.join();
        }
    }
}

/// The first of the kinds that this kernel offers.
fn put_up(config: &GateConfig) -> Result<Line, GateError> {
    let name = &config.table;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.len() > TABLE_BYTES_MAX || !name.chars().all(plain) {
        return Err(GateError::InvalidTable(name.clone()));
    }
    for kind in &config.kinds {
        let found = match kind {
            GateKind::Nftables => put_up_table(config)?,
            GateKind::Ebpf => match Deadlines::put_up(&config.bpf_folder) {
                Ok(deadlines) => Some(Line::Ebpf(Box::new(deadlines))),
                Err(errno) => {
                    tracing::warn!(%errno, "there is no eBPF gate to be had");
                    None
                }
            },
            GateKind::AddressLifetime => Some(Line::Lifetime),
        };
        if let Some(line) = found {
            return Ok(line);
        }
    }
    Ok(Line::Lifetime)
}

fn put_up_table(config: &GateConfig) -> Result<Option<Line>, GateError> {
    let name = &config.table;
    let put_up = || {
        if config.own_table {
            Table::put_up(name)
        } else {
            Table::put_up_unowned(name)
        }
    };
    let mut table = put_up();
    for _ in 0..OWNER_TRIES {
        if !matches!(table, Err(Errno::PERM)) {
            break;
        }
        thread::sleep(OWNER_PAUSE);
        table = put_up();
    }
    match table {
        Ok(table) => Ok(Some(Line::Nftables(table))),
        Err(errno) if lacks_the_parts(errno) => Ok(None),
        Err(Errno::PERM) if may_administer() => Err(GateError::Owned(name.clone())),
        Err(errno) => Err(GateError::Refused(errno)),
    }
}

/// Whether EPERM means that somebody else owns the table.
fn may_administer() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
}

/// Takes down what a gate of another kind has left here: as nobody opens it any more, it would drop
/// the packets of whatever this one opens.
fn take_down_others(
    config: &GateConfig,
    line: &Line,
    addresses: &mut Addresses,
) -> Result<(), GateError> {
    if !matches!(line, Line::Ebpf(_)) {
        take_down_deadlines(config, addresses)?;
    }
    match line {
        Line::Nftables(_) => Ok(()),
        Line::Ebpf(_) | Line::Lifetime => take_down_table(config, addresses),
    }
}

/// Takes down what a gate that no longer runs has left, of whichever kind.
pub fn uninstall(config: &GateConfig) -> Result<(), GateError> {
    let mut addresses = Addresses::open().map_err(|error| errno(&error))?;
    take_down_deadlines(config, &mut addresses)?;
    take_down_table(config, &mut addresses)
}

/// The addresses go first: nothing guards them afterwards. What a process that lives works with stays.
fn take_down_deadlines(config: &GateConfig, addresses: &mut Addresses) -> Result<(), GateError> {
    if Deadlines::are_in_use(&config.bpf_folder) {
        return Ok(());
    }
    addresses.take_everywhere(&Deadlines::left_in(&config.bpf_folder)?)?;
    Ok(Deadlines::take_down(&config.bpf_folder)?)
}

/// The addresses go first, as above. From Linux 6.9 on refused where a process lives that works with it; so
/// its owner takes it down, and no other socket: a program that is just being started has copies of ours,
/// and what they own stays owned until it runs.
fn take_down_table(config: &GateConfig, addresses: &mut Addresses) -> Result<(), GateError> {
    if Table::adopt(&config.table)?.is_none() {
        return Ok(());
    }
    let Some(Line::Nftables(mut table)) = put_up_table(config)? else {
        return Ok(());
    };
    let guarded = table.guarded()?;
    let guarded: Vec<_> = guarded.iter().map(|guarded| guarded.address).collect();
    addresses.take_everywhere(&guarded)?;
    Ok(table.end()?)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
