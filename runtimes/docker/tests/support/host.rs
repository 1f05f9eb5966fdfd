//! A host of its own: network, mount and process namespaces, ended with everything in them.
//!
//! A test calls [`inside`]. Outside, that starts this same test again under unshare(1) and waits;
//! inside, it prepares the host and runs the test's body. Default paths are used throughout: /etc
//! is an overlay, /run and /opt are empty, /var/lib/docker is a directory on a real disk.

use std::{
    env, fs,
    future::Future,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use consensus_core::{Time, WallMs};
use runtimes_core::{
    docker::{Desired, Listen, Observed, Phase, Plan, Step, plan},
    retries::Retries,
};
use runtimes_docker::{DockerRuntime, Paths, Settings, StepError};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::ca::Ca;

/// Set for the copy that runs inside: where its files are.
const INSIDE: &str = "SHOAL_TEST_HOST_DIR";
/// overlayfs cannot lie on overlayfs or tmpfs, so not /tmp.
pub(crate) const DISK: &str = "/var/tmp";

/// The host's overlay addresses.
pub(crate) fn listen() -> Listen {
    Listen {
        ipv6: "fd00:5::1".parse().unwrap(),
        ipv4: Some("100.64.0.1".parse().unwrap()),
    }
}

/// Runs the body of the test of that name on a host of its own.
pub(crate) fn inside<F: Future<Output = ()>>(test: &str, body: impl FnOnce(Host) -> F) {
    if let Some(reason) = missing() {
        return skip(test, &reason);
    }
    match env::var_os(INSIDE) {
        Some(directory) => run_body(Path::new(&directory), body),
        None => run_again(test, INSIDE, &["--net"]),
    }
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
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    [
        "dockerd",
        "containerd",
        "iptables",
        "busybox",
        "unshare",
        "nsenter",
        "ip",
        "tar",
    ]
    .into_iter()
    .find(|program| {
        let directories = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        !directories
            .iter()
            .any(|d| Path::new(d).join(program).exists())
    })
    .map(|program| format!("{program} is not installed"))
}

/// Runs this same test in namespaces of its own, and ends everything that is left in them.
pub(crate) fn run_again(test: &str, inside: &str, namespaces: &[&str]) {
    let directory = tempfile::Builder::new()
        .prefix("shoal-docker-")
        .tempdir_in(DISK)
        .unwrap();
    let status = Command::new("unshare")
        .args(namespaces)
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["--propagation", "private"])
        .arg(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(inside, directory.path())
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed inside its host");
}

fn run_body<F: Future<Output = ()>>(directory: &Path, body: impl FnOnce(Host) -> F) {
    prepare_files(directory);
    let neighbour = prepare_network();
    runtime().block_on(body(Host::new(directory, neighbour)));
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn prepare_files(directory: &Path) {
    for name in ["etc-upper", "etc-work", "docker"] {
        fs::create_dir_all(directory.join(name)).unwrap();
    }
    let at = |name: &str| directory.join(name).display().to_string();
    let options = format!(
        "lowerdir=/etc,upperdir={},workdir={}",
        at("etc-upper"),
        at("etc-work")
    );
    succeed(
        "mount",
        &["-t", "overlay", "-o", &options, "overlay", "/etc"],
    );
    // A shoald of this machine itself is not part of the host.
    let _ = fs::remove_dir_all("/etc/shoal");
    succeed("mount", &["-t", "tmpfs", "tmpfs", "/run"]);
    succeed("mount", &["-t", "tmpfs", "tmpfs", "/opt"]);
    fs::create_dir_all("/var/lib/docker").unwrap();
    succeed("mount", &["--bind", &at("docker"), "/var/lib/docker"]);
}

/// The host's overlay interface, with a neighbour at its other end.
pub(crate) fn prepare_network() -> Child {
    let neighbour = Command::new("unshare")
        .args(["--net", "sleep", "infinity"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let pid = neighbour.id().to_string();
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    eventually(Duration::from_secs(5), || {
        fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|theirs| theirs != own)
    });
    let ip = |line: &str| succeed("ip", &line.split(' ').collect::<Vec<_>>());
    ip("link set lo up");
    ip(&format!(
        "link add overlay0 type veth peer name overlay0 netns {pid}"
    ));
    for address in ["fd00:5::1/128", "100.64.0.1/32"] {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        ip(&format!("addr add {address} dev overlay0{nodad}"));
    }
    ip("link set overlay0 up");
    ip("route add fd00:5::2 dev overlay0");
    ip("route add 100.64.0.2 dev overlay0");
    let net = format!("--net=/proc/{pid}/ns/net");
    let there = |line: &str| {
        let mut arguments = vec![net.as_str(), "ip"];
        arguments.extend(line.split(' '));
        succeed("nsenter", &arguments);
    };
    there("link set lo up");
    there("addr add fd00:5::2/128 dev overlay0 nodad");
    there("addr add 100.64.0.2/32 dev overlay0");
    there("link set overlay0 up");
    there("route add fd00:5::1 dev overlay0");
    there("route add 100.64.0.1 dev overlay0");
    neighbour
}

/// Runs a program that must succeed; returns what it printed.
pub(crate) fn succeed(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
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

/// The host from inside.
pub(crate) struct Host {
    pub(crate) data_dir: PathBuf,
    pub(crate) ca: Ca,
    neighbour: Child,
    started: Instant,
    serial: u64,
    /// When the last step began and ended, milliseconds since 1970.
    pub(crate) last_step: (u128, u128),
}

impl Host {
    pub(crate) fn new(directory: &Path, neighbour: Child) -> Self {
        Self {
            data_dir: directory.join("shoal"),
            ca: Ca::new(),
            neighbour,
            started: Instant::now(),
            serial: 1,
            last_step: (0, 0),
        }
    }

    pub(crate) fn paths(&self) -> Paths {
        Paths::under(&self.data_dir)
    }

    pub(crate) fn adapter(&self) -> DockerRuntime {
        DockerRuntime::new(self.paths(), Settings::default())
    }

    pub(crate) fn assigned(&self) -> Desired {
        Desired {
            assigned: true,
            node_name: "alpha".into(),
            listen: Some(listen()),
            certificate: None,
            overrides: Vec::new(),
            mtu: None,
            dns: None,
        }
    }

    pub(crate) fn now(&self) -> Time {
        Time::ZERO + self.started.elapsed()
    }

    pub(crate) async fn observe(&self, adapter: &mut DockerRuntime, desired: &Desired) -> Observed {
        let wall = WallMs(1);
        adapter.observe(desired, self.now(), wall).await.unwrap()
    }

    pub(crate) async fn plan(&self, adapter: &mut DockerRuntime, desired: &Desired) -> Plan {
        let observed = self.observe(adapter, desired).await;
        plan(
            desired,
            &observed,
            &adapter.paths().layout(),
            &Retries::default(),
        )
    }

    /// Goes step by step until there is none left; the steps and the last phase.
    pub(crate) async fn drive(
        &mut self,
        adapter: &mut DockerRuntime,
        desired: &mut Desired,
    ) -> Result<(Vec<String>, Phase), StepError> {
        let mut steps = Vec::new();
        loop {
            let plan = self.plan(adapter, desired).await;
            let Some(step) = plan.step else {
                return Ok((steps, plan.phase));
            };
            assert!(steps.len() < 20, "no end: {steps:?}");
            let before = unix_ms();
            let name = name_of(&step);
            if let Step::RequestCertificate { csr } = &step {
                self.serial += 1;
                desired.certificate = Some(self.ca.answer(csr, self.serial));
            }
            adapter.perform(step).await?;
            self.last_step = (before, unix_ms());
            eprintln!("  {name}: {} ms", self.last_step.1 - before);
            steps.push(name);
        }
    }

    /// The page that the neighbour gets from that address over HTTP.
    pub(crate) fn neighbour_fetches(&self, address: &str) -> Option<String> {
        let namespace = format!("/proc/{}/ns/net", self.neighbour.id());
        let address: SocketAddr = address.parse().unwrap();
        // A thread of its own: it stays in the neighbour's namespace.
        let fetch = move || -> io::Result<String> {
            let namespace = fs::File::open(namespace)?;
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            let within = Duration::from_secs(2);
            let mut stream = TcpStream::connect_timeout(&address, within)?;
            stream.set_read_timeout(Some(within))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = std::thread::spawn(fetch).join().unwrap().ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| body.to_owned())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.neighbour.kill().unwrap();
        self.neighbour.wait().unwrap();
    }
}

fn unix_ms() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis()
}

fn name_of(step: &Step) -> String {
    let text = format!("{step:?}");
    text.split([' ', '(', '{']).next().unwrap().to_owned()
}

/// Living processes of this host whose program has one of these names.
pub(crate) fn processes(programs: &[&str]) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    // "self" and "thread-self" are there too: the latter has the test's name.
    let numbered = |name: &std::ffi::OsStr| name.as_encoded_bytes()[0].is_ascii_digit();
    entries
        .filter(|entry| numbered(&entry.file_name()))
        .filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok())
        .filter(|status| !status.contains("State:\tZ") || !status.contains("Threads:\t1\n"))
        .filter_map(|status| Some(status.lines().next()?.strip_prefix("Name:\t")?.to_owned()))
        .filter(|name| programs.iter().any(|program| name.starts_with(program)))
        .collect()
}
