//! A host whose PID 1 is systemd: this machine's files under an overlay, booted in namespaces.
//!
//! Outside, [`booted`] boots it and starts this same test again in it by nsenter(1); inside, it
//! prepares the network and runs the test's body. The cgroups are a branch of the machine's own,
//! and go with the host.

use std::{
    env,
    future::Future,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::host::{DISK, Host, eventually, missing, prepare_network, runtime, skip, succeed};

/// Set for the copy that runs inside.
const INSIDE: &str = "SHOAL_TEST_BOOTED";
/// Where the test's binary is on the host.
const TEST: &str = "/shoal-test";
/// shoal's data directory lies below.
const DIRECTORY: &str = "/var/lib/shoal-test";
const SYSTEMD: &str = "/lib/systemd/systemd";

/// Boots systemd; writes its pid, as seen from outside, to `$D/pid`. What this machine happens to
/// run besides Docker would only slow the boot down or meddle with devices, and is masked.
const BOOT: &str = r#"
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  branches=/sys/fs/cgroup/; unified=1
else
  branches=/sys/fs/cgroup/*/; unified=0
fi
for branch in $branches; do
  mkdir "$branch$NAME"
  for file in cpuset.cpus cpuset.mems; do
    [ "$unified" = 1 ] || [ ! -e "$branch$NAME/$file" ] || cat "$branch$file" > "$branch$NAME/$file"
  done
  echo $$ > "$branch$NAME/cgroup.procs"
done
export unified
exec unshare --mount --propagation private --uts --ipc --net --cgroup --pid --fork --kill-child \
  sh -euc '
    read -r pid _ < /proc/self/stat
    mount -t overlay -o "lowerdir=/,upperdir=$D/upper,workdir=$D/work" overlay "$D/root"
    cp "$BINARY" "$D/root'"$TEST"'"
    disk=$D/docker pid_file=$D/pid
    cd "$D/root"
    mount -t proc proc proc
    mount -t sysfs sysfs sys
    for empty in sys/fs/cgroup run tmp dev opt; do mount -t tmpfs -o mode=755 tmpfs $empty; done
    for device in null zero full random urandom tty; do
      : > dev/$device
      mount --bind /dev/$device dev/$device
    done
    mkdir dev/pts dev/shm
    mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
    ln -s pts/ptmx dev/ptmx
    mkdir -p var/lib/docker
    mount --bind "$disk" var/lib/docker
    rm -rf usr/sbin/policy-rc.d etc/shoal var/lib/shoal
    for link in etc/systemd/system/*.wants/*; do
      case $link in */docker.*|*/containerd.*) ;; *) rm -f "$link" ;; esac
    done
    for unit in systemd-udevd.service systemd-udev-trigger.service systemd-logind.service \
      systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-modules-load.service \
      systemd-sysctl.service systemd-networkd.service systemd-resolved.service getty.target; do
      ln -sf /dev/null etc/systemd/system/$unit
    done
    hostname booted
    echo "$pid" > "$pid_file"
    pivot_root . mnt
    umount -l /mnt
    exec env -i container=shoal-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd \
      --unit=multi-user.target --log-target=journal --show-status=0 \
      systemd.unified_cgroup_hierarchy=$unified systemd.legacy_systemd_cgroup_controller=0
  ' < /dev/null
"#;

/// Runs the body of the test of that name on a host that systemd booted.
pub(crate) fn booted<F: Future<Output = ()>>(test: &str, body: impl FnOnce(Host) -> F) {
    let no_systemd = || (!Path::new(SYSTEMD).exists()).then(|| format!("{SYSTEMD} is missing"));
    if let Some(reason) = missing().or_else(no_systemd) {
        return skip(test, &reason);
    }
    if env::var_os(INSIDE).is_some() {
        let neighbour = prepare_network();
        return runtime().block_on(body(Host::new(Path::new(DIRECTORY), neighbour)));
    }
    let directory = tempfile::Builder::new()
        .prefix("shoal-booted-")
        .tempdir_in(DISK)
        .unwrap();
    let machine = Machine::boot(directory.path());
    let status = machine
        .command("/usr/bin/env")
        .arg(format!("{INSIDE}=1"))
        .args([TEST, test, "--exact", "--nocapture"])
        .status()
        .unwrap();
    if !status.success() {
        let journal = machine
            .command("journalctl")
            .args(["--no-pager", "--lines=200"])
            .output()
            .unwrap();
        eprintln!("{}", String::from_utf8_lossy(&journal.stdout));
    }
    assert!(status.success(), "{test} failed inside its host");
}

struct Machine {
    unshare: Child,
    /// As seen from outside.
    pid: Option<String>,
    cgroup: String,
}

impl Machine {
    fn boot(directory: &Path) -> Self {
        for name in ["upper", "work", "root", "docker"] {
            std::fs::create_dir(directory.join(name)).unwrap();
        }
        let name = directory.file_name().unwrap().to_str().unwrap().to_owned();
        let unshare = Command::new("sh")
            .args(["-euc", BOOT])
            .env("D", directory)
            .env("NAME", &name)
            .env("TEST", TEST)
            .env("BINARY", env::current_exe().unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut machine = Self {
            unshare,
            pid: None,
            cgroup: name,
        };
        let pid_file = directory.join("pid");
        eventually(Duration::from_secs(20), || {
            let pid = std::fs::read_to_string(&pid_file).unwrap_or_default();
            machine.pid = pid.strip_suffix('\n').map(str::to_owned);
            machine.pid.is_some()
        });
        eventually(Duration::from_secs(60), || {
            // Before it has booted there is no systemctl to be entered, or none that answers.
            let shown = machine
                .command("systemctl")
                .arg("is-system-running")
                .stderr(Stdio::null())
                .output()
                .unwrap();
            matches!(shown.stdout.trim_ascii(), b"running" | b"degraded")
        });
        machine
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--all", "--target", self.pid.as_deref().unwrap(), "--"])
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    fn branches(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = std::fs::read_dir(root).unwrap().flatten();
        hierarchies
            .map(|entry| entry.path().join(&self.cgroup))
            .chain([root.join(&self.cgroup)])
            .filter(|branch| branch.is_dir())
            .collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // With PID 1 everything ends that runs in the namespace; unshare(1) has nothing to wait for
        // then.
        if let Some(pid) = &self.pid {
            succeed("kill", &["-KILL", pid]);
        }
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let gone = || {
            self.branches().iter().all(|branch| {
                let removed = Command::new("find")
                    .arg(branch)
                    .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"])
                    .stderr(Stdio::null())
                    .status();
                removed.is_ok() && !branch.exists()
            })
        };
        eventually(Duration::from_secs(10), gone);
    }
}
