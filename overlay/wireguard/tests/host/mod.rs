//! A host in a box: network and mount namespaces of its own, a daemon stand-in inside.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Returns from the test, loudly, when it cannot run.
macro_rules! root_or_say_so {
    () => {
        if !host::may_run() {
            return;
        }
    };
}
pub(crate) use root_or_say_so;

/// Whether namespaces can be made here. CI sets SHOAL_NO_SKIP, under which not running is failing.
pub(crate) fn may_run() -> bool {
    let uid = Command::new("id").arg("-u").output().unwrap();
    let root = uid.stdout == b"0\n";
    if !root {
        assert!(
            std::env::var_os("SHOAL_NO_SKIP").is_none(),
            "this test needs root"
        );
        eprintln!("SKIPPED: this test makes network namespaces and needs root");
    }
    root
}

/// Waits until `met`, and fails naming what was waited for.
#[track_caller]
pub(crate) fn until(what: &str, met: impl FnMut() -> bool) {
    until_within(Duration::from_secs(20), what, met);
}

#[track_caller]
fn until_within(patience: Duration, what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !met() {
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process that holds namespaces open until it is dropped.
struct Anchor(Child);

impl Anchor {
    fn new() -> Self {
        let child = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "sh", "-c"])
            .arg(
                "mount -t tmpfs none /run && ip link set lo up && echo ready > /run/ready && \
                 exec sleep infinity",
            )
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let anchor = Self(child);
        until("namespaces are ready", || {
            anchor
                .command("test -e /run/ready && mountpoint -q /run")
                .status()
                .unwrap()
                .success()
        });
        anchor
    }

    /// A shell command inside.
    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--net", "--mount", "--target", &self.0.id().to_string()])
            .args(["sh", "-c", script])
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn shell(&self, script: &str) -> String {
        let output = self.command(script).output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A bridge in a namespace of its own that joins the hosts.
pub(crate) struct Underlay(Anchor);

impl Underlay {
    pub(crate) fn new() -> Self {
        let anchor = Anchor::new();
        anchor.shell(
            "ip link add bridge type bridge && ip addr add 192.0.2.254/24 dev bridge && \
             ip link set bridge up",
        );
        Self(anchor)
    }

    /// The host 192.0.2.`node`, 2001:db8::`node`, whose overlay addresses will be fd5a::`node` and
    /// 10.90.0.`node`.
    pub(crate) fn host(&self, node: u8) -> Host {
        let anchor = Anchor::new();
        self.0.shell(&format!(
            "ip link add port{node} type veth peer name underlay netns {} && \
             ip link set port{node} master bridge up",
            anchor.0.id()
        ));
        anchor.shell(&format!(
            "ip addr add 192.0.2.{node}/24 dev underlay && \
             ip addr add 2001:db8::{node}/64 dev underlay nodad && ip link set underlay up"
        ));
        let mut host = Host {
            node,
            anchor,
            daemon: None,
            public_key: String::new(),
        };
        // The bridge forwards a while after the port has come up; a handshake that is lost
        // meanwhile is tried again after five seconds only.
        until("the underlay is joined", || {
            host.shell_status("ping -c 1 -W 1 192.0.2.254")
        });
        host.start_daemon();
        host
    }
}

struct Daemon {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// One host.
pub(crate) struct Host {
    node: u8,
    anchor: Anchor,
    daemon: Option<Daemon>,
    pub(crate) public_key: String,
}

impl Host {
    pub(crate) fn start_daemon(&mut self) {
        self.start_daemon_under("");
    }

    /// Starts the stand-in by `wrapper`, a program that executes its arguments.
    pub(crate) fn start_daemon_under(&mut self, wrapper: &str) {
        let script = format!("exec {wrapper} {}", stand_in().display());
        let mut process = self
            .anchor
            .command(&script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        self.daemon = Some(Daemon {
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()),
            process,
        });
    }

    /// Kills the stand-in as a crash would.
    pub(crate) fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.process.kill().unwrap();
        daemon.process.wait().unwrap();
    }

    /// Sends a line and gives the answer, whatever it is.
    #[track_caller]
    pub(crate) fn ask_any(&mut self, line: &str) -> String {
        let daemon = self.daemon.as_mut().unwrap();
        writeln!(daemon.input, "{line}").unwrap();
        let mut answer = String::new();
        daemon.output.read_line(&mut answer).unwrap();
        answer.trim_end_matches('\n').to_owned()
    }

    /// Sends a line that must succeed.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> String {
        let answer = self.ask_any(line);
        let rest = answer.strip_prefix("ok ");
        rest.unwrap_or_else(|| panic!("{line}: {answer}"))
            .to_owned()
    }

    /// Brings the interface up with this host's addresses; gives its public key.
    #[track_caller]
    pub(crate) fn bring_up(&mut self) -> String {
        let answer = self.ask("up shoal0 51820 /run/shoal");
        let (backend, key) = answer.split_once(' ').unwrap();
        assert!(["Userspace", "Kernel"].contains(&backend), "{answer}");
        self.public_key = key.to_owned();
        let node = self.node;
        for line in [
            format!("address fd5a::{node}"),
            format!("address 10.90.0.{node}"),
            "route fd5a::/64".to_owned(),
            "route 10.90.0.0/16".to_owned(),
        ] {
            self.ask(&line);
        }
        self.public_key.clone()
    }

    /// When the last handshake with the peer was, since 1970.
    #[track_caller]
    pub(crate) fn handshake(&mut self, key: &str) -> Duration {
        let peers = self.ask("peers");
        let peer = peers.split(' ').find_map(|peer| peer.strip_prefix(key));
        let fields = peer.unwrap_or_else(|| panic!("{key} in {peers}"));
        let at = fields[1..].split(',').next().unwrap().parse().unwrap();
        assert_ne!(at, 0, "there was a handshake");
        Duration::from_nanos(at)
    }

    /// Whether there was no handshake with the peer since `before`. The device knows a handshake's
    /// age, its time therefore varies by what two readings of clocks differ.
    #[track_caller]
    pub(crate) fn in_session_since(&mut self, before: Duration, key: &str) -> bool {
        self.handshake(key).abs_diff(before) < Duration::from_millis(100)
    }

    /// Gives this host the address fd5a::f:1 behind the daemon's back.
    #[track_caller]
    pub(crate) fn add_vip(&self) {
        self.shell("ip -6 addr add fd5a::f:1/128 dev shoal0 nodad");
        until("the kernel has entered the address", || {
            self.shell_status("ip -6 route show table local | grep -q fd5a::f:1")
        });
    }

    pub(crate) fn device_pid(&self) -> String {
        self.shell("cat /run/shoal/shoal0.pid")
    }

    #[track_caller]
    pub(crate) fn shell(&self, script: &str) -> String {
        self.anchor.shell(script)
    }

    pub(crate) fn shell_status(&self, script: &str) -> bool {
        let output = self.anchor.command(script).output().unwrap();
        output.status.success()
    }

    #[track_caller]
    pub(crate) fn ping(&self, address: &str, count: u32, interval_s: f32) -> Pinged {
        self.start_ping(address, count, interval_s).finish()
    }

    pub(crate) fn start_ping(&self, address: &str, count: u32, interval_s: f32) -> Ping {
        let script = format!("exec ping -n -c {count} -i {interval_s} -W 2 {address}");
        let process = self
            .anchor
            .command(&script)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Ping(process)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Devices outlive the stand-in, as they are meant to.
        self.shell_status("kill $(cat /run/*/*.pid)");
        if self.daemon.is_some() {
            self.kill_daemon();
        }
    }
}

/// A ping that runs.
pub(crate) struct Ping(Child);

impl Ping {
    pub(crate) fn finish(self) -> Pinged {
        Pinged(self.0.wait_with_output().unwrap())
    }
}

/// What a ping said.
pub(crate) struct Pinged(Output);

impl Pinged {
    #[track_caller]
    pub(crate) fn expect_no_loss(&self) {
        let text = String::from_utf8_lossy(&self.0.stdout);
        assert!(text.contains(" 0% packet loss"), "{text}{:?}", self.0);
    }

    /// The share of packets without an answer.
    #[track_caller]
    pub(crate) fn lost_percent(&self) -> f64 {
        let text = String::from_utf8_lossy(&self.0.stdout);
        let (before, _) = text.split_once("% packet loss").unwrap();
        let number = before.rsplit(' ').next().unwrap();
        number.parse().unwrap()
    }
}

/// Cargo builds examples beside the tests when it tests the whole package, and only then.
pub(crate) fn stand_in() -> PathBuf {
    // A guest has it beside the test, and no sources.
    let in_guest = PathBuf::from("/stand-in");
    if in_guest.exists() {
        return in_guest;
    }
    let test = std::env::current_exe().unwrap();
    let folder = test.ancestors().nth(2).unwrap();
    let program = folder.join("examples/overlay-host");
    let built = program.metadata().and_then(|data| data.modified());
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let changed = std::fs::read_dir(sources)
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().modified().unwrap())
        .max()
        .unwrap();
    assert!(
        built.is_ok_and(|built| built >= changed),
        "{} is missing or stale: run `cargo build -p overlay-wireguard --examples`",
        program.display()
    );
    program
}
