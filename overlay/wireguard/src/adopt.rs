//! Bringing the interface up: which backend carries it, and what is taken over from before.
//!
//! Decides: the kernel's WireGuard where the kernel has it, else a device process. A link that is
//! there already is adopted together with its sessions if it is one of those two; anything else
//! under that name is refused and left alone.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use rustix::{io::Errno, process::Pid};
use tracing::info;

use crate::{
    backend::{Backend, DeviceChange},
    device::ExitReason,
    interface::Interface,
    key::PrivateKey,
    link::{Link, LinkError, LinkKind, Links},
    process::{DeviceProcess, StartError},
    written::WrittenEndpoints,
};

/// The kernel's limit (IFNAMSIZ) without its terminating zero.
const NAME_BYTES_MAX: usize = 15;

/// IPv6 is switched off on links with a smaller MTU (RFC 8200, section 5).
const MTU_MIN: u32 = 1280;

/// What [`bring_up`] needs to know.
#[derive(Debug, Clone)]
pub struct InterfaceSettings {
    /// The interface's name, at most 15 bytes.
    pub name: String,
    /// The node's key.
    pub private_key: PrivateKey,
    /// UDP port of the device.
    pub listen_port: u16,
    /// MTU in bytes, at least 1280.
    pub mtu: u32,
    /// Where pidfile, log and written endpoints are kept; lost at reboot, as the device is.
    pub run_folder: PathBuf,
    /// Program and first arguments of a device process; it is given `--interface NAME --pidfile
    /// PATH` and must call [`crate::run_device`].
    pub device_command: Vec<OsString>,
}

impl InterfaceSettings {
    /// `shoal-wireguard-device`, if it lies beside this program, and otherwise this very program,
    /// run as `PROGRAM wireguard-device`. Both are the same device; the former is smaller.
    pub fn own_device_command() -> Vec<OsString> {
        let own = std::env::current_exe().ok();
        let beside = own.and_then(|own| device_program(own.parent()?));
        beside.map_or_else(
            || vec!["/proc/self/exe".into(), "wireguard-device".into()],
            |program| vec![program.into()],
        )
    }
}

fn device_program(folder: &Path) -> Option<PathBuf> {
    let program = folder.join("shoal-wireguard-device");
    program.is_file().then_some(program)
}

/// Why the interface is not up.
#[derive(Debug, thiserror::Error)]
pub enum BringUpError {
    /// The name cannot be an interface's.
    #[error("{0:?} cannot be the name of an interface")]
    InvalidName(String),
    /// The MTU is too small for IPv6.
    #[error("an MTU of {0} is too small for IPv6")]
    MtuTooSmall(u32),
    /// A link of that name exists and is not WireGuard.
    #[error("the interface {0} exists and is not shoal's")]
    NameTaken(String),
    /// The process may not create a TUN device.
    #[error("the TUN device for {interface} cannot be created: permission denied ({detail})")]
    TunPermission {
        /// The interface.
        interface: String,
        /// What the device process said.
        detail: String,
    },
    /// The kernel has no WireGuard and there is no /dev/net/tun.
    #[error("the kernel has no WireGuard, and /dev/net/tun is missing ({detail})")]
    TunMissing {
        /// What the device process said.
        detail: String,
    },
    /// The device process did not come up.
    #[error("the device process of {interface} ended before it was ready: {detail}")]
    DeviceDied {
        /// The interface.
        interface: String,
        /// What the device process said.
        detail: String,
    },
    /// The device process did not answer in time.
    #[error("the device process of {0} did not answer")]
    DeviceSilent(String),
    /// The device process could not be started or stopped.
    #[error("the device process of {interface} cannot be {action}")]
    Process {
        /// The interface.
        interface: String,
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Another program listens on the UDP port.
    #[error("the UDP port {0} is taken")]
    PortTaken(u16),
    /// The device did not take key and port.
    #[error("the device {interface} cannot be configured")]
    Configure {
        /// The interface.
        interface: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The folder for the device's files cannot be made.
    #[error("the folder {path} cannot be made")]
    RunFolder {
        /// The folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A request about the link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl BringUpError {
    /// Stable name of the failure.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidName(_) => "InterfaceNameInvalid",
            Self::MtuTooSmall(_) => "MtuTooSmall",
            Self::NameTaken(_) => "InterfaceNameTaken",
            Self::TunPermission { .. } => "TunPermissionError",
            Self::TunMissing { .. } => "TunMissingError",
            Self::DeviceDied { .. } => "WireguardDeviceDied",
            Self::DeviceSilent(_) => "WireguardDeviceSilent",
            Self::Process { .. } => "WireguardDeviceProcessError",
            Self::PortTaken(_) => "ListenPortTaken",
            Self::Configure { .. } => "WireguardConfigureError",
            Self::RunFolder { .. } => "RunFolderError",
            Self::Link(error) => error.code(),
        }
    }

    /// What the operator can do.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::InvalidName(_) => "use 1 to 15 letters, digits, '-', '_' or '.'",
            Self::MtuTooSmall(_) => "set an MTU of at least 1280; 1420 suits most networks",
            Self::NameTaken(_) => "choose another interface name, or remove that interface",
            Self::TunPermission { .. } => {
                "run shoald as root or with CAP_NET_ADMIN; in a container, also pass the device \
                 /dev/net/tun"
            }
            Self::TunMissing { .. } => {
                "load the kernel module wireguard or tun; in a container, pass the device \
                 /dev/net/tun"
            }
            Self::DeviceDied { .. } | Self::DeviceSilent(_) => {
                "the device's log lies in shoald's run folder"
            }
            Self::Process { .. } => "check that the shoald program and its run folder are intact",
            Self::PortTaken(_) => {
                "choose another listen port, or stop the program that has it (`ss -ulpn`)"
            }
            Self::Configure { .. } => "`wg show` tells whether the device answers",
            Self::RunFolder { .. } => "check that the folder's parent is writable by root",
            Self::Link(error) => error.hint(),
        }
    }
}

/// Brings the interface up, or takes it over if it is up. Key and port are then as in `settings`;
/// everything else is left to the plan. A second call with the same settings changes nothing.
pub async fn bring_up(settings: InterfaceSettings) -> Result<Interface, BringUpError> {
    check(&settings)?;
    fs::create_dir_all(&settings.run_folder).map_err(|source| BringUpError::RunFolder {
        path: settings.run_folder.clone(),
        source,
    })?;
    let links = Links::open()?;
    let process = DeviceProcess::new(&settings.name, &settings.run_folder);
    let mut written = WrittenEndpoints::load(&settings.run_folder, &settings.name);
    let found = links.find(&settings.name).await?;
    let adopted = match found {
        Some(link) => adopt(&settings, &process, &written, link).await?,
        None => None,
    };
    let backend = match adopted {
        Some(backend) => backend,
        None => {
            written.begin().map_err(|source| BringUpError::RunFolder {
                path: settings.run_folder.clone(),
                source,
            })?;
            create(&settings, &links, &process).await?
        }
    };
    let name = settings.name.clone();
    let configured = configure(&settings, backend).await;
    allow_ipv6(&name);
    let public_key = settings.private_key.public();
    let interface = Interface::new(name, backend, public_key, links, process, written);
    if let Err(error) = configured {
        // A device made in vain goes again; one that was there keeps its sessions.
        if adopted.is_none() {
            let _ = interface.down().await;
        }
        return Err(error);
    }
    info!(
        interface = settings.name,
        ?backend,
        adopted = adopted.is_some(),
        "overlay interface has its device"
    );
    Ok(interface)
}

fn check(settings: &InterfaceSettings) -> Result<(), BringUpError> {
    let name = &settings.name;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let valid = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.chars().all(plain)
        && name.chars().any(|c| c != '.');
    if !valid {
        return Err(BringUpError::InvalidName(name.clone()));
    }
    if settings.mtu < MTU_MIN {
        return Err(BringUpError::MtuTooSmall(settings.mtu));
    }
    Ok(())
}

/// Takes over a link that is there: `None` when its device was stuck and is gone now.
async fn adopt(
    settings: &InterfaceSettings,
    process: &DeviceProcess,
    written: &WrittenEndpoints,
    link: Link,
) -> Result<Option<Backend>, BringUpError> {
    let taken = || BringUpError::NameTaken(settings.name.clone());
    let backend = match link.kind {
        LinkKind::Wireguard => Backend::Kernel,
        LinkKind::Tun => Backend::Userspace,
        LinkKind::Other => return Err(taken()),
    };
    match backend.get(&settings.name).await {
        Ok(state) => {
            let own_key = state.public_key == Some(settings.private_key.public());
            let ours = own_key || written.has_begun();
            if ours {
                Ok(Some(backend))
            } else {
                Err(taken())
            }
        }
        Err(_) => {
            let pid = process.find_mute().ok_or_else(taken)?;
            stop(process, pid).await?;
            Ok(None)
        }
    }
}

async fn create(
    settings: &InterfaceSettings,
    links: &Links,
    process: &DeviceProcess,
) -> Result<Backend, BringUpError> {
    let refused = match links.create_wireguard(&settings.name).await {
        Ok(()) => return Ok(Backend::Kernel),
        // Without permission the device process fails as well, and says of what.
        Err(error) if without_wireguard(&error) => error,
        Err(error) => return Err(error.into()),
    };
    // A device whose link was deleted may be about to leave.
    if let Some(pid) = process.find().await.or_else(|| process.find_mute()) {
        stop(process, pid).await?;
    }
    let started = process.start(&settings.device_command).await;
    started.map_err(|error| {
        let error = start_error(&settings.name, error);
        let kernel_has_it = refused.errno() != Some(Errno::OPNOTSUPP);
        if kernel_has_it && matches!(error, BringUpError::TunMissing { .. }) {
            // TUN would not be needed; what was refused first is what is missing.
            return refused.into();
        }
        error
    })?;
    Ok(Backend::Userspace)
}

fn without_wireguard(error: &LinkError) -> bool {
    matches!(
        error.errno(),
        Some(Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS)
    )
}

async fn stop(process: &DeviceProcess, pid: Pid) -> Result<(), BringUpError> {
    process
        .stop(pid)
        .await
        .map_err(|source| BringUpError::Process {
            interface: process.interface.clone(),
            action: "stopped",
            source,
        })
}

fn start_error(interface: &str, error: StartError) -> BringUpError {
    let interface = interface.to_owned();
    match error {
        StartError::NotStarted(source) => BringUpError::Process {
            interface,
            action: "started",
            source,
        },
        StartError::Silent => BringUpError::DeviceSilent(interface),
        StartError::Died { reason, detail } => match reason {
            ExitReason::TunPermission => BringUpError::TunPermission { interface, detail },
            ExitReason::TunMissing => BringUpError::TunMissing { detail },
            ExitReason::InterfaceBusy => BringUpError::NameTaken(interface),
            ExitReason::Other => BringUpError::DeviceDied { interface, detail },
        },
    }
}

/// Gives the device its key and port, and only what differs: a new key ends every session, a new
/// port moves the socket.
async fn configure(settings: &InterfaceSettings, backend: Backend) -> Result<(), BringUpError> {
    let failed = |source: io::Error| {
        if source.kind() == io::ErrorKind::AddrInUse {
            return BringUpError::PortTaken(settings.listen_port);
        }
        BringUpError::Configure {
            interface: settings.name.clone(),
            source,
        }
    };
    let state = backend.get(&settings.name).await.map_err(failed)?;
    let same_key = state.public_key == Some(settings.private_key.public());
    let same_port = state.listen_port == Some(settings.listen_port);
    if same_key && same_port {
        return Ok(());
    }
    let change = DeviceChange {
        private_key: (!same_key).then(|| settings.private_key.clone()),
        listen_port: (!same_port).then_some(settings.listen_port),
        peers: Vec::new(),
    };
    backend.set(&settings.name, &change).await.map_err(failed)
}

/// Hosts that switch IPv6 off for new links must not switch it off here. Where this cannot be
/// written, adding the address fails and says so.
fn allow_ipv6(interface: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    if fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
        let _ = fs::write(&path, "0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_the_kernel_would_refuse_is_refused_before_anything_is_made() {
        for name in ["", "a-name-of-16-char", "shoal 0", "a/b", "..", "ü"] {
            let error = bring_up(settings(name)).await.unwrap_err();
            assert_eq!(error.code(), "InterfaceNameInvalid", "{name}");
        }
        assert!(check(&settings("exactly-15-char")).is_ok());
    }

    #[test]
    fn the_small_device_program_is_taken_where_it_lies_beside_ours() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(device_program(folder.path()), None);
        let program = folder.path().join("shoal-wireguard-device");
        fs::create_dir(&program).unwrap();
        assert_eq!(
            device_program(folder.path()),
            None,
            "a folder is no program"
        );
        fs::remove_dir(&program).unwrap();
        fs::write(&program, "").unwrap();
        assert_eq!(device_program(folder.path()), Some(program));
    }

    #[tokio::test]
    async fn an_mtu_that_ends_ipv6_is_refused() {
        let mut settings = settings("shoal0");
        settings.mtu = 1279;
        let error = bring_up(settings).await.unwrap_err();
        assert_eq!(error.code(), "MtuTooSmall");
    }

    fn settings(name: &str) -> InterfaceSettings {
        InterfaceSettings {
            name: name.to_owned(),
            private_key: crate::generate_key(),
            listen_port: 51820,
            mtu: 1420,
            run_folder: "/nonexistent".into(),
            device_command: InterfaceSettings::own_device_command(),
        }
    }
}
