//! The overlay's interface on this host: WireGuard device, addresses, routes.
//!
//! Decides nothing about the mesh: [`overlay_core::peers::plan`] says which steps an interface
//! needs, this crate observes and takes them. What it does decide is local to the host: whether
//! the kernel or a process of its own carries the packets ([`bring_up`]), and whether such a
//! process is running already and is taken over with its sessions.
//!
//! Entry points: [`bring_up`] and [`Interface`] for the daemon, [`run_device`] for the process
//! that is a userspace device, [`covering_route`] beside them. Which packets the host takes and passes
//! on is the packet filter's part (`overlay-filter`).
//!
//! Never: forgets a session that it could keep, writes a private key anywhere but into the
//! device, touches a link, route or table that it did not make.

mod adopt;
mod backend;
mod buffers;
mod datagrams;
mod device;
#[doc(hidden)]
pub mod fuzzing;
mod interface;
mod kernel;
mod key;
mod keyring;
mod link;
mod overlap;
mod process;
mod train;
mod tun;
mod uapi;
mod written;

pub use adopt::{BringUpError, InterfaceSettings, bring_up};
pub use backend::Backend;
pub use device::{DeviceError, DeviceSettings, run_device};
pub use interface::{ApplyError, Interface, ObserveError, PeerStats};
pub use key::{KeyError, PrivateKey, generate_key, load_or_create_private_key};
pub use keyring::Keyring;
pub use link::LinkError;
pub use overlap::{CoveringRoute, PrefixOverlapError, check_overlap, covering_route};
