//! The kernel's switches of forwarding.
//!
//! Decides: on goes what a host has to forward by, and nothing more where the switch of one interface
//! is enough (IPv4). Switching IPv6 on makes Linux ignore router advertisements: interfaces that
//! follow them go on doing so. Never: switches forwarding off.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::host::Host;

/// Where the kernel's network settings are.
const SETTINGS: &str = "/proc/sys/net";
/// The switches of IPv4 and IPv6.
const FORWARDING: [&str; 2] = ["ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"];

/// A setting cannot be changed.
#[derive(Debug, thiserror::Error)]
#[error("the kernel setting {path:?} cannot be changed, so this node does not forward")]
pub struct SwitchError {
    path: PathBuf,
    source: io::Error,
}

/// Whether this host needs the switch of IPv4 for all interfaces, and that of IPv6.
pub(crate) fn needed(host: &Host) -> [bool; 2] {
    // Between peers it is enough that the interface itself forwards IPv4.
    let beyond = host.overlays.iter().any(|overlay| !overlay.lan.is_empty());
    let ipv6 = host.overlays.iter().any(|overlay| overlay.forwards_ipv6());
    [beyond || !host.bridges.is_empty(), ipv6]
}

/// Whether a family is forwarded now.
pub(crate) fn is_on(family: usize) -> bool {
    let path = Path::new(SETTINGS).join(FORWARDING[family]);
    fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}

/// Switches on what is needed. An interface that is not up yet has no switch.
pub(crate) fn switch_on(host: &Host) -> Result<(), SwitchError> {
    for overlay in host
        .overlays
        .iter()
        .filter(|overlay| host.forwards_ipv4(overlay))
    {
        let own = format!("ipv4/conf/{}", overlay.interface);
        if Path::new(SETTINGS).join(&own).exists() {
            set(&format!("{own}/forwarding"), "1")?;
            set(&format!("{own}/send_redirects"), "0")?;
        }
    }
    let [ipv4, ipv6] = needed(host);
    if ipv4 && !is_on(0) {
        set(FORWARDING[0], "1")?;
    }
    if ipv6 && !is_on(1) {
        keep_advertisements()?;
        set(FORWARDING[1], "1")?;
    }
    Ok(())
}

/// Interfaces that follow router advertisements go on doing so on a router (ip-sysctl, accept_ra).
fn keep_advertisements() -> Result<(), SwitchError> {
    let folder = Path::new(SETTINGS).join("ipv6/conf");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path().join("accept_ra");
        if fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1") {
            write(path, "2")?;
        }
    }
    Ok(())
}

fn set(setting: &str, value: &str) -> Result<(), SwitchError> {
    let path = Path::new(SETTINGS).join(setting);
    match fs::read_to_string(&path) {
        Ok(text) if text.trim() == value => Ok(()),
        Ok(_) | Err(_) => write(path, value),
    }
}

fn write(path: PathBuf, value: &str) -> Result<(), SwitchError> {
    fs::write(&path, value).map_err(|source| SwitchError { path, source })
}
