//! A host that systemd has booted, from inside: an interface that stands for the overlay's, and where
//! the program under test is.

use std::{
    env,
    future::Future,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use runtimes_k3s::Paths;

/// overlayfs cannot lie on overlayfs or tmpfs, so not /tmp.
pub(crate) const DISK: &str = "/var/tmp";
/// The host's address on the overlay.
pub(crate) const ADDRESS: &str = "100.96.0.1";
/// The overlay's interface.
const INTERFACE: &str = "overlay0";
/// Overrides where programs under test are taken from.
const BIN_DIR: &str = "SHOAL_BIN_DIR";

/// The host.
pub(crate) struct Host {
    pub(crate) paths: Paths,
    pub(crate) interface: &'static str,
}

impl Host {
    pub(crate) fn new(directory: &Path, interface: &'static str) -> Self {
        Self {
            interface,
            paths: Paths::under(directory),
        }
    }
}

/// Where the `k3s` under test is: beside the other programs of this build.
pub(crate) fn program() -> PathBuf {
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/debug");
    let directory = env::var_os(BIN_DIR).map_or_else(|| built.into(), PathBuf::from);
    let program = directory.join("k3s");
    assert!(
        program.is_file(),
        "{} is missing: build it first with `cargo build --workspace`",
        program.display()
    );
    program
}

/// Says loudly that a test does not run here. CI sets SHOAL_NO_SKIP, under which that is a failure.
pub(crate) fn skip(test: &str, reason: &str) {
    assert!(
        env::var_os("SHOAL_NO_SKIP").is_none(),
        "{test} cannot run: {reason}"
    );
    eprintln!("SKIPPED {test}: {reason}");
}

/// Why these tests cannot run here.
pub(crate) fn missing() -> Option<String> {
    let root = rustix::process::geteuid().is_root();
    (!root).then(|| "it needs root".to_owned())
}

/// Makes the overlay's interface; its name.
pub(crate) fn prepare_network() -> &'static str {
    for line in [
        "link set lo up".to_owned(),
        format!("link add {INTERFACE} type veth peer name other0"),
        format!("address add {ADDRESS}/32 dev {INTERFACE}"),
        format!("link set {INTERFACE} up"),
        "link set other0 up".to_owned(),
    ] {
        succeed("ip", &line.split(' ').collect::<Vec<_>>());
    }
    INTERFACE
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// Runs a program; what it printed.
pub(crate) fn succeed(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Waits for a condition; fails after the deadline.
pub(crate) fn eventually(within: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !condition() {
        assert!(
            Instant::now() < deadline,
            "did not happen within {within:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The same of one that has to be asked for.
pub(crate) async fn comes_to<F: Future<Output = bool>>(
    within: Duration,
    mut condition: impl FnMut() -> F,
) {
    let deadline = Instant::now() + within;
    while !condition().await {
        assert!(
            Instant::now() < deadline,
            "did not happen within {within:?}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
