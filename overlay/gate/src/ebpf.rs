//! The gate that knows the time: two programs on the overlay's interface, and a map of deadlines.
//!
//! Decides: what is written into the map, and that the programs stay when the daemon goes. Never:
//! whether a deadline is allowed (`decision`).
//!
//! Everything is pinned in a directory of a bpf file system: the map, so that epochs and deadlines
//! outlive the daemon, and the links, so that the programs do. An address that this host does not
//! have is not judged: a hub passes on the holder's packets. So an entry says
//! - 0: drop, the address is (or may be) here;
//! - a time: let through until then;
//! - [`ELSEWHERE`]: the address was taken away.

mod object;

use std::{
    fs, io,
    net::Ipv6Addr,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, Map, MapData},
    programs::{
        LinkOrder, SchedClassifier,
        links::FdLink,
        tc::{TcAttachOptions, TcAttachType},
    },
};
use rustix::io::Errno;

use crate::{
    mailbox::ADDRESSES_MAX,
    nftables::{Guarded, Living},
    worker::now_us,
};

/// The address is not on this host: what is passed on between peers goes through.
const ELSEWHERE: u64 = u64::MAX;

/// Deadline in nanoseconds, epoch, released.
type Entry = [u64; 3];

/// The map, and the programs that are attached where an address is held.
#[derive(Debug)]
pub(crate) struct Deadlines {
    folder: PathBuf,
    /// Says to others that somebody works with what is there.
    _lock: fs::File,
    programs: Ebpf,
    map: HashMap<MapData, [u8; 16], Entry>,
}

impl Deadlines {
    /// Loads the programs, with the map that an earlier process left in `folder`, if any. Fails
    /// where no interface takes them.
    pub(crate) fn put_up(folder: &Path) -> Result<Self, Errno> {
        // Linux before 6.6 loads them and has no place for them. Every namespace has this interface.
        SchedClassifier::query_tcx("lo", TcAttachType::Ingress)
            .map_err(|error| refused("list an interface's programs", &error))?;
        fs::create_dir_all(folder).map_err(|error| errno("make the folder", &error))?;
        let lock = lock(folder)?.ok_or(Errno::BUSY)?;
        let addresses_max = u32::try_from(ADDRESSES_MAX).unwrap_or(u32::MAX);
        let mut programs = EbpfLoader::new()
            .default_map_pin_directory(folder)
            .load(&object::object(addresses_max))
            .map_err(|error| refused("load the object", &error))?;
        for name in [object::ARRIVING, object::LEAVING] {
            program(&mut programs, name)?
                .load()
                .map_err(|error| refused("load a program", &error))?;
        }
        let map = programs.take_map(object::MAP).ok_or(Errno::NOENT)?;
        let map = HashMap::try_from(map).map_err(|error| refused("open the map", &error))?;
        Ok(Self {
            folder: folder.to_owned(),
            _lock: lock,
            programs,
            map,
        })
    }

    /// Puts the programs on an interface, before whatever else is there, and keeps them there.
    pub(crate) fn attach(&mut self, interface: &str) -> Result<(), Errno> {
        let sides = [
            (object::ARRIVING, TcAttachType::Ingress),
            (object::LEAVING, TcAttachType::Egress),
        ];
        for (name, side) in sides {
            let (_, there) = SchedClassifier::query_tcx(interface, side)
                .map_err(|error| refused("list an interface's programs", &error))?;
            if there.iter().any(|it| it.name_as_str() == Some(name)) {
                continue;
            }
            let pin = self.folder.join(format!("{name}-{interface}"));
            // What is pinned there hung on an interface of that name that is no more.
            let _ = fs::remove_file(&pin);
            let program = program(&mut self.programs, name)?;
            let first = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = program
                .attach_with_options(interface, side, first)
                .map_err(|error| refused("attach a program", &error))?;
            let link = program
                .take_link(id)
                .map_err(|error| refused("take a link", &error))?;
            let link = FdLink::try_from(link).map_err(|error| refused("take a link", &error))?;
            link.pin(&pin)
                .map_err(|error| refused("pin a link", &error))?;
        }
        Ok(())
    }

    /// Lets packets through until a time.
    pub(crate) fn open(
        &mut self,
        address: Ipv6Addr,
        epoch: u64,
        until_us: u64,
    ) -> Result<(), Errno> {
        self.write(address, [until_us.saturating_mul(1_000), epoch, 0])
    }

    /// Lets nothing through.
    pub(crate) fn close(&mut self, guarded: &Guarded) -> Result<(), Errno> {
        let released = u64::from(guarded.released);
        self.write(guarded.address, [0, guarded.epoch, released])
    }

    /// The address is no longer on this host.
    pub(crate) fn leave(&mut self, guarded: &Guarded) -> Result<(), Errno> {
        let released = u64::from(guarded.released);
        self.write(guarded.address, [ELSEWHERE, guarded.epoch, released])
    }

    pub(crate) fn forget(&mut self, address: Ipv6Addr) {
        // Not there is as well.
        let _ = self.map.remove(&address.octets());
    }

    /// What is remembered of each address, and what is still open.
    pub(crate) fn inherited(&self) -> (Vec<Guarded>, Vec<Living>) {
        let now = now_us();
        let entries = self.map.iter().flatten().map(|(octets, entry)| {
            let [until_ns, epoch, released] = entry;
            let address = Ipv6Addr::from(octets);
            let until_us = if until_ns == ELSEWHERE {
                0
            } else {
                until_ns / 1_000
            };
            let left_us = until_us.saturating_sub(now);
            let guarded = Guarded {
                address,
                epoch,
                released: released != 0,
            };
            (
                guarded,
                Living {
                    address,
                    epoch,
                    left_us,
                },
            )
        });
        let (guarded, mut living): (Vec<_>, Vec<_>) = entries.unzip();
        living.retain(|it| it.left_us > 0);
        (guarded, living)
    }

    /// The addresses that a map in `folder` knows, whoever left it there.
    pub(crate) fn left_in(folder: &Path) -> Result<Vec<Ipv6Addr>, Errno> {
        let pin = folder.join(object::MAP);
        if !pin.exists() {
            return Ok(Vec::new());
        }
        let map = MapData::from_pin(&pin).map_err(|error| refused("take a map", &error))?;
        let map: HashMap<MapData, [u8; 16], Entry> = HashMap::try_from(Map::HashMap(map))
            .map_err(|error| refused("open the map", &error))?;
        Ok(map.keys().flatten().map(Ipv6Addr::from).collect())
    }

    /// Whether a process that lives works with what is in `folder`: one of another container, where several
    /// share a bpf file system.
    pub(crate) fn are_in_use(folder: &Path) -> bool {
        folder.is_dir() && matches!(lock(folder), Ok(None))
    }

    /// Removes what is pinned in `folder`, which ends the programs. Nothing guards the addresses
    /// afterwards ([`Self::left_in`]).
    pub(crate) fn take_down(folder: &Path) -> Result<(), Errno> {
        if !folder.is_dir() {
            return Ok(());
        }
        let entries = fs::read_dir(folder).map_err(|error| errno("read the folder", &error))?;
        for entry in entries.flatten() {
            fs::remove_file(entry.path()).map_err(|error| errno("remove a pin", &error))?;
        }
        fs::remove_dir(folder).map_err(|error| errno("remove the folder", &error))
    }

    fn write(&mut self, address: Ipv6Addr, entry: Entry) -> Result<(), Errno> {
        self.map
            .insert(address.octets(), entry, 0)
            .map_err(|error| refused("write a deadline", &error))
    }
}

/// The folder, for one process at a time; none where another one has it.
fn lock(folder: &Path) -> Result<Option<fs::File>, Errno> {
    let file = fs::File::open(folder).map_err(|error| errno("open the folder", &error))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(errno("lock the folder", &error)),
    }
}

fn program<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, Errno> {
    let program = programs.program_mut(name).ok_or(Errno::NOENT)?;
    program
        .try_into()
        .map_err(|error| refused("take a program", &error))
}

/// The kernel's reason is deep inside; the log has all of it.
fn refused(action: &'static str, error: &(dyn std::error::Error + 'static)) -> Errno {
    tracing::debug!(action, ?error, "eBPF");
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(errno) = error.downcast_ref().and_then(Errno::from_io_error) {
            return errno;
        }
        source = error.source();
    }
    Errno::IO
}

fn errno(action: &'static str, error: &io::Error) -> Errno {
    tracing::debug!(action, ?error, "eBPF");
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
