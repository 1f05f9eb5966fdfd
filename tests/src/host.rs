//! One machine of the lab: its namespaces, its disk, its plug.

use std::{
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::Value;

use crate::{
    cgroups,
    daemon::Daemon,
    holder::Holder,
    lab::lock,
    process::{Output, Process},
};

/// Where hosts see the programs under test, wherever the build directory is.
pub const BIN_DIR: &str = "/run/lab/bin";
/// Where a host's `shoald` listens for its operator.
pub const SOCKET: &str = "/run/shoal/shoald.sock";
/// Where a host's `shoald` listens for its peers, on UDP and TCP.
pub const LISTEN_PORT: u16 = 7440;

/// Where a host's `shoald` keeps what must survive.
pub(crate) const DATA_DIR: &str = "/var/lib/shoal";
/// What programs take for the time, relative to the machine's, in the lab's shared directory.
pub(crate) const CLOCK_FILE: &str = "clock";

/// No single command of a test takes longer.
const RUN_DEADLINE: Duration = Duration::from_secs(90);
/// But for those that wait for the end of what they ask for: a drain, a round of upgrades.
const PATIENT_DEADLINE: Duration = Duration::from_secs(300);

/// What programs find as PATH: the programs under test first.
const PATH: &str = "/run/lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// All that programs in a host inherit from the test's environment.
const PASSED_ON: [&str; 2] = ["RUST_LOG", "RUST_BACKTRACE"];

/// What a host is made from.
pub(crate) struct Plan {
    pub(crate) name: String,
    /// From 1, the last part of its underlay addresses.
    pub(crate) number: usize,
    pub(crate) lab_dir: PathBuf,
    pub(crate) bin_dir: PathBuf,
    /// The first process of the switch.
    pub(crate) switch: u32,
    pub(crate) kept: bool,
    /// The library that gives programs the lab's wall clock; none where that is the machine's.
    pub(crate) clock: Option<PathBuf>,
}

/// A machine of the lab. Clones are the same machine.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
    /// How long a command may take.
    deadline: Duration,
}

struct Shared {
    plan: Plan,
    dir: PathBuf,
    /// `None` while the power is off.
    holder: Mutex<Option<Holder>>,
    /// Everything that was started in it, to be reaped when it ends.
    processes: Mutex<Vec<Process>>,
    files: AtomicU32,
}

impl Host {
    /// A machine whose power is off.
    pub(crate) fn new(plan: Plan) -> Self {
        let dir = plan.lab_dir.join(&plan.name);
        for part in [
            "etc",
            "etc-work",
            "local-bin",
            "local-bin-work",
            "var-lib/dpkg",
            "var-log",
            "tmp",
        ] {
            fs::create_dir_all(dir.join(part)).expect("the lab's directory is writable");
        }
        Self {
            deadline: RUN_DEADLINE,
            shared: Arc::new(Shared {
                plan,
                dir,
                holder: Mutex::new(None),
                processes: Mutex::default(),
                files: AtomicU32::new(0),
            }),
        }
    }

    /// The host's name, in the lab and to itself.
    pub fn name(&self) -> &str {
        &self.shared.plan.name
    }

    /// The same machine, for commands that wait for the end of what they ask for.
    pub fn patient(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            deadline: PATIENT_DEADLINE,
        }
    }

    /// Its underlay address.
    pub fn ipv4(&self) -> String {
        format!("10.77.0.{}", self.shared.plan.number)
    }

    /// Its IPv6 underlay address.
    pub fn ipv6(&self) -> String {
        format!("fd77::{:x}", self.shared.plan.number)
    }

    /// Where its `shoald` takes connections of its peers.
    pub fn listen(&self) -> String {
        format!("{}:{LISTEN_PORT}", self.ipv4())
    }

    /// Where this process finds a file of the host that is not below `/run`.
    pub fn disk(&self, path: &str) -> PathBuf {
        for (prefix, part) in [
            ("/var/lib/", "var-lib"),
            ("/var/log/", "var-log"),
            ("/tmp/", "tmp"),
            ("/usr/local/bin/", "local-bin"),
        ] {
            if let Some(rest) = path.strip_prefix(prefix) {
                return self.shared.dir.join(part).join(rest);
            }
        }
        panic!("{path} is not on the host's own disk")
    }

    /// The host's first process as seen from outside; `None` while the power is off.
    pub fn init(&self) -> Option<u32> {
        lock(&self.shared.holder).as_ref().map(Holder::init)
    }

    /// The command with which a person enters the host.
    pub fn enter_command(&self) -> String {
        let init = self.init().expect("only a running host can be entered");
        format!("nsenter --target {init} --net --mount --pid --uts env PATH={PATH}")
    }

    /// Boots the host: fresh `/run`, everything else as it was left.
    #[track_caller]
    pub fn power_on(&self) {
        let plan = &self.shared.plan;
        let mut slot = lock(&self.shared.holder);
        assert!(slot.is_none(), "{} is on already", plan.name);
        let log = self.shared.dir.join("boot.log");
        let holder = Holder::start(&self.boot_script(), &log, plan.kept);
        self.plug_in(&holder);
        *slot = Some(holder);
    }

    /// Pulls the plug: every process of the host ends at once, nothing is flushed by any of them.
    pub fn power_off(&self) {
        let Some(mut holder) = lock(&self.shared.holder).take() else {
            return;
        };
        holder.end();
        for process in lock(&self.shared.processes).drain(..) {
            process.kill9();
        }
        holder.wait();
        // The kernel takes down what a namespace held in its own time; a pulled plug is at once.
        self.switch(&format!("ip link del {} 2>/dev/null; true", self.port()));
        cgroups::remove_of_containers(&self.disk("/var/lib/docker"));
    }

    /// Cuts the host's link, both ways and silently: the interface stays up, frames are lost.
    pub fn cut(&self) {
        self.switch(&format!("bridge link set dev {} state 0", self.port()));
    }

    /// Undoes [`Self::cut`].
    pub fn heal(&self) {
        self.switch(&format!("bridge link set dev {} state 3", self.port()));
    }

    /// Starts a program; its output goes to a file of the host that a failed test shows.
    #[track_caller]
    pub fn spawn(&self, args: &[&str]) -> Process {
        let program = args[0].rsplit('/').next().unwrap_or("program");
        let log = self.shared.dir.join(format!("{program}.log"));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .expect("the lab's directory is writable");
        let errors = file.try_clone().expect("a descriptor can be doubled");
        self.start(args, &[], file, errors)
    }

    /// Runs a program to its end. It has an empty standard input and 90 s, or as [`Self::patient`] says.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Output {
        self.run_with(args, &[])
    }

    /// Runs a line of shell to its end.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Output {
        self.run(&["bash", "-c", script])
    }

    /// Runs a program with further environment variables.
    #[track_caller]
    pub fn run_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Output {
        let stdout = self.scratch_file();
        let stderr = self.scratch_file();
        let clone = |file: &File| file.try_clone().expect("a descriptor can be doubled");
        let process = self.start(args, environment, clone(&stdout), clone(&stderr));
        let output = process.finish(self.deadline, stdout, stderr);
        lock(&self.shared.processes).retain(Process::is_running);
        output
    }

    /// Runs `shoal` against the host's own daemon.
    #[track_caller]
    pub fn shoal(&self, args: &[&str]) -> Output {
        let command: Vec<&str> = ["shoal"].iter().chain(args).copied().collect();
        self.run_with(&command, &[("SHOAL_SOCKET", SOCKET)])
    }

    /// Runs `shoal … --json` and returns its answer; panics when it is refused.
    #[track_caller]
    pub fn shoal_json(&self, args: &[&str]) -> Value {
        self.shoal(&with_json(args)).ok().json()
    }

    /// Runs `shoal … --json` and returns the refusal; panics when it is not refused or says
    /// less than code, message and hint.
    #[track_caller]
    pub fn shoal_refused(&self, args: &[&str]) -> Value {
        self.shoal(&with_json(args)).refusal()
    }

    /// Starts the host's `shoald`, with further flags; returns once it takes commands.
    #[track_caller]
    pub fn daemon(&self, flags: &[&str]) -> Daemon {
        let daemon = Daemon::start(self, flags);
        daemon.wait_until_it_answers();
        daemon
    }

    /// The command line of the host's `shoald`; flags (name, value) replace its own.
    pub fn daemon_command(&self, flags: &[&str]) -> Vec<String> {
        let listen = self.listen();
        let own = [
            ["--data-dir", DATA_DIR],
            ["--socket", SOCKET],
            ["--name", self.name()],
            ["--listen", &listen],
        ];
        let own = own.iter().filter(|pair| !flags.contains(&pair[0]));
        ["shoald", "run"]
            .iter()
            .chain(own.flatten())
            .chain(flags)
            .map(ToString::to_string)
            .collect()
    }

    /// Where a program under test lies outside of the host.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.shared.plan.bin_dir.join(name)
    }

    /// All that a program of the host has logged.
    pub fn log(&self, program: &str) -> String {
        let path = self.shared.dir.join(format!("{program}.log"));
        let text = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    pub(crate) fn show_logs(&self, lines: usize) {
        let entries = fs::read_dir(&self.shared.dir).into_iter().flatten();
        let paths = entries.flatten().map(|entry| entry.path());
        // shoald has it log to a place of its own.
        let k3s = self.shared.dir.join("var-lib/shoal/k3s/k3s.log");
        for path in paths.chain([k3s]) {
            if path.extension().is_some_and(|extension| extension == "log") {
                show_tail(self.name(), &path, lines);
            }
        }
    }

    #[track_caller]
    fn start(
        &self,
        args: &[&str],
        environment: &[(&str, &str)],
        stdout: File,
        stderr: File,
    ) -> Process {
        let holder = lock(&self.shared.holder);
        let Some(holder) = holder.as_ref() else {
            panic!("{} is off and runs no {args:?}", self.name());
        };
        // The host's end of `nsenter` puts on the clock, so that nothing outside of it has it.
        let clock = self.shared.plan.clock.iter().flat_map(|library| {
            let library = format!("LD_PRELOAD={}", library.display());
            let file = format!("FAKETIME_TIMESTAMP_FILE=/run/lab/files/{CLOCK_FILE}");
            let rest = ["FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"];
            [library, file].into_iter().chain(rest.map(str::to_owned))
        });
        let mut command = holder.command("env");
        command
            .args(clock)
            .args(args)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .env_clear()
            .envs([("PATH", PATH), ("HOME", "/tmp"), ("LANG", "C.UTF-8")])
            .envs(std::env::vars().filter(|(name, _)| PASSED_ON.contains(&name.as_str())))
            .envs(environment.iter().copied());
        let child = holder.spawn(command).expect("nsenter (util-linux) runs");
        let process = Process::new(format!("{}$ {}", self.name(), args.join(" ")), child);
        lock(&self.shared.processes).push(process.clone());
        process
    }

    /// A file without a name, for one output.
    fn scratch_file(&self) -> File {
        let number = self.shared.files.fetch_add(1, Ordering::Relaxed);
        let path = self.shared.dir.join(format!("out-{number}"));
        let file = OpenOptions::new()
            .create_new(true)
            .read(true)
            .append(true)
            .open(&path)
            .expect("the lab's directory is writable");
        fs::remove_file(&path).expect("a file just made can be removed");
        file
    }

    fn port(&self) -> String {
        format!("port{}", self.shared.plan.number)
    }

    /// The mounts. `/run/lab` first: it stays visible whatever is mounted over the directory
    /// that the build or the lab lies in. `/etc` is copied where it can be no overlay, or where
    /// its owner does not exist, as in a user namespace.
    /// `/usr/local/bin` is where shoald puts a program that it was given.
    fn boot_script(&self) -> String {
        let plan = &self.shared.plan;
        format!(
            "
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p {BIN_DIR} /run/lab/disk /run/lab/files /run/lock
mount --bind '{bin}' {BIN_DIR}
mount --bind '{dir}' /run/lab/disk
mount --bind '{lab}/files' /run/lab/files
d=/run/lab/disk
if [ ! -e $d/etc-copied ] && ! {{ mount -t overlay overlay \
    -o lowerdir=/etc,upperdir=$d/etc,workdir=$d/etc-work /etc && touch /etc/hostname; }}; then
  umount /etc || true
  cp -r /etc/. $d/etc/ || true
  touch $d/etc-copied
fi
if [ -e $d/etc-copied ]; then mount --bind $d/etc /etc; fi
mount -t overlay overlay -o lowerdir=/usr/local/bin,upperdir=$d/local-bin,workdir=$d/local-bin-work \
  /usr/local/bin || mount --bind $d/local-bin /usr/local/bin
if [ -d /var/lib/dpkg ]; then mount --bind /var/lib/dpkg $d/var-lib/dpkg; fi
mount --rbind $d/var-lib /var/lib
mount --bind $d/var-log /var/log
mount --bind $d/tmp /tmp
chmod 1777 /tmp
echo {name} > /etc/hostname
echo '127.0.0.1 localhost {name}' > /etc/hosts
hostname {name}
echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6
echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
ip link set lo up
if [ -d /dev/shm ]; then mount -t tmpfs tmpfs /dev/shm; fi
if [ ! -e /dev/net/tun ]; then mkdir -p /dev/net; mknod /dev/net/tun c 10 200; fi
",
            bin = plan.bin_dir.display(),
            dir = self.shared.dir.display(),
            lab = plan.lab_dir.display(),
            name = plan.name,
        )
    }

    /// The same whenever the host is on, as a real machine's: neighbours remember it for a while.
    fn hardware_address(&self) -> String {
        format!("02:00:00:00:00:{:02x}", self.shared.plan.number)
    }

    /// A cable from the host to the switch, made in both namespaces and never seen in a third.
    fn plug_in(&self, holder: &Holder) {
        let (port, init, switch) = (self.port(), holder.init(), self.shared.plan.switch);
        ok(Command::new("ip")
            .args(["link", "add", "eth0", "address", &self.hardware_address()])
            .args(["netns", &init.to_string()])
            .args(["type", "veth", "peer", "name", &port])
            .args(["netns", &switch.to_string()]));
        self.switch(&format!(
            "ip link set {port} master br0 && ip link set {port} up"
        ));
        let script = format!(
            "ip addr add {}/24 dev eth0 && ip addr add {}/64 dev eth0 nodad && ip link set eth0 up",
            self.ipv4(),
            self.ipv6()
        );
        ok(Command::new("nsenter")
            .arg(format!("--net=/proc/{init}/ns/net"))
            .args(["bash", "-c", &script]));
    }

    fn switch(&self, script: &str) {
        ok(Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", self.shared.plan.switch))
            .args(["bash", "-c", script]));
    }
}

fn with_json<'a>(args: &[&'a str]) -> Vec<&'a str> {
    // Before a `--`, or it would belong to the container's command.
    let at = (args.iter().position(|arg| *arg == "--")).unwrap_or(args.len());
    let mut args = args.to_vec();
    args.insert(at, "--json");
    args
}

#[track_caller]
fn ok(command: &mut Command) {
    let output = command
        .output()
        .expect("the lab's tools (iproute2, util-linux) are installed");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn show_tail(host: &str, path: &Path, lines: usize) {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    if text.trim().is_empty() {
        return;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    eprintln!("--- {host}: {name}");
    let skipped = text.lines().count().saturating_sub(lines);
    for line in text.lines().skip(skipped) {
        eprintln!("{host}| {line}");
    }
}
