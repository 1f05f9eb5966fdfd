//! Faults that a test puts into a running stand-in, by files in one directory.
//!
//! They are for tests alone: nothing that a product could give as a flag, a setting or a variable
//! of the environment turns any of them. Each is looked at anew whenever it matters.

use std::{fs, path::PathBuf, time::Duration};

/// Where the files lie. Hosts of a lab have a `/run` of their own each.
const DIR: &str = "/run/k3s-stand-in";

fn path(name: &str) -> PathBuf {
    PathBuf::from(DIR).join(name)
}

fn content(name: &str) -> Option<String> {
    let text = fs::read_to_string(path(name)).ok()?;
    Some(text.trim().to_owned())
}

/// `fail-readyz`: /readyz answers 500.
pub(crate) fn fail_readyz() -> bool {
    path("fail-readyz").exists()
}

/// `hang-api`: requests are taken and never answered.
pub(crate) fn hang_api() -> bool {
    path("hang-api").exists()
}

/// `fail-start`: `k3s server` and `k3s agent` end with these words.
pub(crate) fn fail_start() -> Option<String> {
    content("fail-start")
}

/// `start-delay-ms`: so long between start and the first open port.
pub(crate) fn start_delay() -> Duration {
    let milliseconds = content("start-delay-ms").and_then(|text| text.parse().ok());
    Duration::from_millis(milliseconds.unwrap_or(0))
}

/// `not-ready`: this node's kubelet reports itself not ready, for this reason.
pub(crate) fn not_ready() -> Option<String> {
    content("not-ready")
}

/// `stuck-pods`: pods whose names begin like one of these lines never end.
pub(crate) fn stuck(pod: &str) -> bool {
    let lines = content("stuck-pods").unwrap_or_default();
    lines
        .lines()
        .any(|line| !line.is_empty() && pod.starts_with(line))
}

/// `no-network`: no interface, route or mount is made, and no process stands for a pod.
pub(crate) fn no_network() -> bool {
    path("no-network").exists()
}
