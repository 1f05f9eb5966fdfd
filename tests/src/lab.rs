//! One underlay network: a switch in a namespace of its own, and the hosts plugged into it.
//!
//! The machine's own network namespace never sees a link of the lab, so its firewall (dockerd
//! sets FORWARD to DROP and sends bridged frames through iptables) cannot cut the lab apart.

use std::{
    fs,
    io::Write,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    holder::Holder,
    host::{CLOCK_FILE, Host, Plan},
    together::together,
    turn::{self, Turn},
    wait::poll,
};

/// Tells labs of one process apart.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Set where skipping a test is not allowed, as in CI.
const NO_SKIP: &str = "SHOAL_NO_SKIP";
/// Overrides where labs keep their hosts' files.
const LAB_DIR: &str = "SHOAL_LAB_DIR";
/// Overrides where the programs under test are taken from.
const BIN_DIR: &str = "SHOAL_BIN_DIR";

/// A marker file: the lab was left up on purpose.
const KEPT: &str = "kept";

/// Lines of each daemon's log that a failed test shows.
const LOG_TAIL_LINES: usize = 60;

/// File systems that overlayfs cannot use as its upper layer, or that live in memory.
const UNFIT_FILE_SYSTEMS: [i64; 2] = [0x794c_7630, 0x0102_1994];

/// How long removal waits for the kernel to give up the last mounts.
const REMOVE_DEADLINE: Duration = Duration::from_secs(10);

/// What the switch does before it holds: one bridge that forwards everything, at once.
const SWITCH: &str = "
ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
for f in /proc/sys/net/bridge/bridge-nf-call-*; do if [ -e $f ]; then echo 0 > $f; fi; done
ip link set br0 up
";

/// Hosts on one underlay network, with everything that belongs to them.
pub struct Lab {
    name: String,
    dir: PathBuf,
    bin_dir: PathBuf,
    switch: Mutex<Option<Holder>>,
    hosts: Mutex<Vec<Host>>,
    kept: bool,
    clock: Option<PathBuf>,
    turn: Turn,
}

impl Lab {
    /// A lab for a test: `None`, said loudly, where namespaces may not be made.
    ///
    /// With `SHOAL_NO_SKIP` set (CI) that is a failure instead.
    pub fn for_test(name: &str) -> Option<Self> {
        Self::for_large_test(name, turn::HOSTS)
    }

    /// The same for a test that has many hosts: fewer other labs are up meanwhile.
    pub fn for_large_test(name: &str, hosts: usize) -> Option<Self> {
        let Some(reason) = missing_privilege() else {
            return Some(Self::build(name, hosts, false));
        };
        Self::skip(name, &reason);
        None
    }

    /// A lab whose hosts have a wall clock of their own, as far from the machine's as
    /// [`Self::set_clock`] says, at first `offset_s`.
    ///
    /// Programs written in Go (dockerd, docker) ask the kernel themselves and have the machine's.
    pub fn for_test_at(name: &str, offset_s: i64) -> Option<Self> {
        if let Some(reason) = missing_privilege() {
            Self::skip(name, &reason);
            return None;
        }
        let mut lab = Self::new(name);
        lab.set_clock(offset_s);
        lab.clock = Some(clock_library());
        Some(lab)
    }

    /// Sets the wall clock of all hosts at once, seconds from the machine's. Running programs see
    /// it jump; what they measure by the monotonic clock goes on.
    pub fn set_clock(&self, offset_s: i64) {
        let (file, new) = (
            self.files().join(CLOCK_FILE),
            self.files().join("clock.new"),
        );
        fs::write(&new, format!("{offset_s:+}s\n")).expect("the lab's directory is writable");
        fs::rename(new, file).expect("the lab's directory is writable");
    }

    fn skip(name: &str, reason: &str) {
        assert!(
            std::env::var_os(NO_SKIP).is_none(),
            "{name} may not be skipped here ({NO_SKIP} is set), but {reason}"
        );
        // Not eprintln: the test runner would hide it, as the test passes.
        let _ = writeln!(std::io::stderr(), "\nSKIPPED {name}: {reason}\n");
    }

    /// A lab that vanishes when it is dropped.
    pub fn new(name: &str) -> Self {
        Self::build(name, turn::HOSTS, false)
    }

    /// A lab that stays up after this process; [`Self::teardown_command`] ends it.
    pub fn kept(name: &str) -> Self {
        Self::build(name, turn::HOSTS, true)
    }

    fn build(name: &str, hosts: usize, kept: bool) -> Self {
        let turn = Turn::wait(hosts);
        let bin_dir = bin_dir();
        let root = lab_root(&bin_dir);
        sweep(&root);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = root.join(format!("{name}-{count}.{}", std::process::id()));
        fs::create_dir_all(dir.join("files")).expect("the lab's directory can be made");
        if kept {
            fs::write(dir.join(KEPT), "").expect("the lab's directory is writable");
        }
        let switch = Holder::start(SWITCH, &dir.join("switch.log"), kept);
        Self {
            name: name.to_owned(),
            dir,
            bin_dir,
            switch: Mutex::new(Some(switch)),
            hosts: Mutex::default(),
            kept,
            clock: None,
            turn,
        }
    }

    /// A new host, powered on, with addresses `10.77.0.N` and `fd77::N` for the N-th host.
    #[track_caller]
    pub fn host(&self, name: &str) -> Host {
        let host = self.unpowered(name);
        host.power_on();
        host
    }

    /// The same with its power off. Its number is settled, so that several can then boot at once.
    #[track_caller]
    pub(crate) fn unpowered(&self, name: &str) -> Host {
        let mut hosts = lock(&self.hosts);
        assert!(
            hosts.iter().all(|host| host.name() != name),
            "there is a host {name} already"
        );
        let host = Host::new(Plan {
            name: name.to_owned(),
            number: hosts.len() + 1,
            lab_dir: self.dir.clone(),
            bin_dir: self.bin_dir.clone(),
            switch: lock(&self.switch)
                .as_ref()
                .expect("the switch runs as long as the lab")
                .init(),
            kept: self.kept,
            clock: self.clock.clone(),
        });
        hosts.push(host.clone());
        self.turn.has(hosts.len());
        host
    }

    /// A host of the underlay that is never part of a mesh.
    pub fn outside(&self) -> Host {
        self.host("outside")
    }

    /// A directory that this process and every host see; hosts see it as `/run/lab/files`.
    pub fn files(&self) -> PathBuf {
        self.dir.join("files")
    }

    /// Where the hosts' files and logs are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The command that ends a kept lab.
    pub fn teardown_command(&self) -> String {
        let hosts = lock(&self.hosts);
        let switch = lock(&self.switch);
        let inits: Vec<String> = (hosts.iter().filter_map(Host::init))
            .chain(switch.as_ref().map(Holder::init))
            .map(|init| init.to_string())
            .collect();
        format!("kill -9 {}; rm -rf {}", inits.join(" "), self.dir.display())
    }

    fn show_logs(&self) {
        eprintln!("--- lab {} failed; what its hosts logged last:", self.name);
        for host in lock(&self.hosts).iter() {
            host.show_logs(LOG_TAIL_LINES);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() {
            self.show_logs();
        } else if self.kept {
            return;
        }
        let hosts = lock(&self.hosts).clone();
        together(hosts, |host| host.power_off());
        if let Some(mut switch) = lock(&self.switch).take() {
            switch.end();
            switch.wait();
        }
        if poll(REMOVE_DEADLINE, || fs::remove_dir_all(&self.dir).ok()).is_none() {
            eprintln!("{} could not be removed", self.dir.display());
        }
    }
}

/// Why labs cannot be made here; `None` where they can.
pub fn missing_privilege() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("making hosts out of namespaces needs root".to_owned());
    }
    let tried = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "true"])
        .output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "namespaces may not be made here: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Some(format!("unshare (util-linux) does not run: {error}")),
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// libfaketime for programs with threads, which Debian's `faketime` brings.
fn clock_library() -> PathBuf {
    let places = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    places
        .map(|place| place.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
        .expect("libfaketime is installed (scripts/setup-dependencies does it)")
}

/// The directory with the programs under test: this test's own build.
fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os(BIN_DIR) {
        return dir.into();
    }
    let own = std::env::current_exe().expect("a process knows its program");
    let dir = own.parent().expect("a program lies in a directory");
    if dir.ends_with("deps") {
        dir.parent().expect("deps lies in the profile's directory")
    } else {
        dir
    }
    .to_owned()
}

/// Where hosts keep their files: a real file system, because dockerd's overlay2 needs one.
fn lab_root(bin_dir: &Path) -> PathBuf {
    if let Some(dir) = std::env::var_os(LAB_DIR) {
        return dir.into();
    }
    let fit = |dir: &Path| {
        let Ok(file) = fs::File::open(dir) else {
            return false;
        };
        rustix::fs::fstatfs(file.as_fd())
            .is_ok_and(|stat| !UNFIT_FILE_SYSTEMS.contains(&stat.f_type))
    };
    let target = bin_dir.parent().unwrap_or(bin_dir);
    if fit(target) || !fit(Path::new("/var/tmp")) {
        target.join("lab")
    } else {
        PathBuf::from("/var/tmp/shoal-lab")
    }
}

/// Removes the files of labs whose process was killed before it could.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        let owner = path.extension().and_then(|pid| pid.to_str()).unwrap_or("");
        let alive = Path::new("/proc").join(owner).exists();
        if !alive && !path.join(KEPT).exists() {
            let _ = fs::remove_dir_all(path);
        }
    }
}
