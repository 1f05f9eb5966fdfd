//! Facts about this machine.
//!
//! Decides what counts as heavyweight (SPEC 1.4): at least 4 GiB and x86-64 or 64-bit Arm.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
};

use consensus_core::NetworkProfile;

/// 4 GiB as machines sold so report it: firmware and kernel take some.
const HEAVYWEIGHT_KIB: u64 = 3_600_000;
/// `TMPFS_MAGIC` and `RAMFS_MAGIC` of statfs(2).
const MEMORY_FILE_SYSTEMS: [i64; 2] = [0x0102_1994, 0x8584_58f6];

fn memory_kib() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// What the machine can carry.
pub(crate) fn network_profile() -> NetworkProfile {
    let strong = matches!(std::env::consts::ARCH, "x86_64" | "aarch64");
    if strong && memory_kib().is_some_and(|kib| kib >= HEAVYWEIGHT_KIB) {
        NetworkProfile::Heavyweight
    } else {
        NetworkProfile::Lightweight
    }
}

/// Architecture, kernel, memory and version, for `node show`.
pub(crate) fn metadata() -> BTreeMap<String, String> {
    let uname = rustix::system::uname();
    let mut facts = BTreeMap::from([
        ("arch".to_owned(), std::env::consts::ARCH.to_owned()),
        (
            "kernel".to_owned(),
            uname.release().to_string_lossy().into_owned(),
        ),
        (
            "shoal_version".to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
        ),
    ]);
    if let Some(kib) = memory_kib() {
        facts.insert("memory_mib".to_owned(), (kib / 1024).to_string());
    }
    facts
}

/// Whether a directory is lost at reboot.
pub(crate) fn is_in_memory(dir: &Path) -> bool {
    rustix::fs::statfs(dir).is_ok_and(|stat| MEMORY_FILE_SYSTEMS.contains(&stat.f_type))
}

/// Interfaces whose addresses mean something on this host only: containers' bridges, and the
/// overlay's own, which nothing may be reached through before the overlay is up.
const LOCAL_INTERFACES: [&str; 8] = [
    "shoal-", "docker", "br-", "cni", "flannel", "podman", "veth", "virbr",
];

/// The addresses of such interfaces.
pub(crate) fn local_addresses() -> BTreeSet<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default().into_iter();
    interfaces
        .filter(|interface| {
            LOCAL_INTERFACES
                .iter()
                .any(|prefix| interface.name.starts_with(prefix))
        })
        .map(|interface| interface.ip())
        .collect()
}

/// The address from which packets to `there` would leave. Sends nothing.
pub(crate) fn source_address(there: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = if there.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(there).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
