//! A machine without Docker: this one, under overlays from which the packages are purged.
//!
//! The network is the machine's own, so that its package archive can be reached. No dockerd runs
//! in it.

use std::{
    env,
    ffi::OsStr,
    fs,
    future::Future,
    path::{Path, PathBuf},
    process::Command,
};

use super::host::{missing, run_again, skip, succeed};

/// Set for the copy that runs inside: where its files are.
const INSIDE: &str = "SHOAL_TEST_BARE_DIR";
/// What packages write to.
const WRITTEN: [&str; 6] = [
    "/usr",
    "/etc",
    "/var/lib/dpkg",
    "/var/lib/apt",
    "/var/cache",
    "/var/log",
];

/// Runs the body of the test of that name where Docker is not installed.
pub(crate) fn without_docker<F: Future<Output = ()>>(test: &str, body: impl FnOnce(PathBuf) -> F) {
    let no_apt = || (!Path::new("/usr/bin/apt-get").exists()).then(|| "no apt-get".to_owned());
    if let Some(reason) = missing().or_else(no_apt) {
        return skip(test, &reason);
    }
    let Some(directory) = env::var_os(INSIDE) else {
        return run_again(test, INSIDE, &[]);
    };
    prepare(&directory);
    if !fetch_packages() {
        eprintln!("SKIPPED {test}: the package archive cannot be reached");
        return;
    }
    succeed("dpkg", &["--purge", "docker.io", "containerd", "runc"]);
    // This machine's own policy would hide whether shoal's works.
    let _ = fs::remove_file("/usr/sbin/policy-rc.d");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(body(Path::new(&directory).join("shoal")));
}

fn prepare(directory: &OsStr) {
    for lower in WRITTEN {
        let name = lower.replace('/', "-");
        let upper = Path::new(directory).join(format!("upper{name}"));
        let work = Path::new(directory).join(format!("work{name}"));
        fs::create_dir_all(&upper).unwrap();
        fs::create_dir_all(&work).unwrap();
        let options = format!(
            "lowerdir={lower},upperdir={},workdir={}",
            upper.display(),
            work.display()
        );
        succeed(
            "mount",
            &["-t", "overlay", "-o", &options, "overlay", lower],
        );
    }
    succeed("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
}

/// Into apt's cache, from which the product then installs.
fn fetch_packages() -> bool {
    let fetched = Command::new("apt-get")
        .args(["-q", "-y", "--download-only", "--reinstall", "install"])
        .args(["docker.io", "containerd", "runc"])
        .output()
        .unwrap();
    fetched.status.success()
}
