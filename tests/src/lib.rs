//! The lab: hosts as a test sees them, made of namespaces, running the real programs.
//!
//! A [`Lab`] is one underlay network with a handful of [`Host`]s on it. Every host has its own
//! network, mount, process and host-name namespace, so that each runs its own `shoald`, its own
//! dockerd and its own `/etc`, `/run` and `/var/lib`, and none of them sees another except over
//! the wire. Nothing is simulated and nothing is put into the machine's own network namespace.
//!
//! Invariants: a lab that is dropped, also by a panic, leaves no process, mount, interface,
//! cgroup or file behind; and a lab whose test process is killed leaves nothing but its files,
//! because every host ends when the pipe to its maker closes.
#![allow(
    clippy::print_stderr,
    reason = "the harness reports to whoever reads the test's output"
)]

mod cgroups;
mod clusters;
mod daemon;
mod faults;
mod holder;
mod host;
mod image;
mod lab;
mod mesh;
mod nat;
mod observers;
mod operator;
mod process;
mod qr;
mod together;
mod turn;
mod wait;

pub use clusters::{K3S, PATIENT, budget, patient, pod};
pub use daemon::Daemon;
pub use host::{BIN_DIR, Host, LISTEN_PORT, SOCKET};
pub use image::{IMAGE, PAGE, image_tar};
pub use lab::{Lab, missing_privilege};
pub use mesh::{Mesh, Node, text};
pub use nat::{Nat, Site};
pub use observers::{Judgement, Observers};
pub use operator::{Bundle, Standing};
pub use process::{Output, Process};
pub use qr::scanned;
pub use vip_bench::Micros;
pub use wait::wait_until;
