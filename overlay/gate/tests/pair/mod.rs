//! A holder and a peer: two network namespaces with one link, the stand-in of a daemon in each.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

/// Returns from the test, loudly, when it cannot run.
macro_rules! root_or_say_so {
    () => {
        if !pair::may_run() {
            return;
        }
    };
}
pub(crate) use root_or_say_so;

/// The virtual address of the tests.
pub(crate) const VIP: &str = "fd5a::f:1";
/// The interface at both ends; veth, so that it has neighbours.
pub(crate) const LINK: &str = "shoal-t";

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

/// Whatever is waited for comes within a fraction of this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `met`, and fails naming what was waited for.
#[track_caller]
pub(crate) fn until(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !met() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A network namespace, with a bpf file system of its own at /mnt, held open by a process until it is dropped.
pub(crate) struct Namespace(Child);

impl Namespace {
    pub(crate) fn new() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "sh", "-c"])
            .arg("ip link set lo up && mount -t bpf none /mnt; echo ready && exec sleep infinity")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--net", "--mount", "--target", &self.0.id().to_string()])
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// Runs a script that must succeed.
    #[track_caller]
    pub(crate) fn shell(&self, script: &str) -> String {
        let output = self.command("sh").args(["-c", script]).output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Starts something that runs until it is dropped.
    pub(crate) fn start(&self, script: &str) -> Running {
        let mut command = self.command("sh");
        Running(command.args(["-c", script]).spawn().unwrap())
    }

    /// Starts a stand-in.
    pub(crate) fn stand_in(&self) -> StandIn {
        let mut process = self
            .command(stand_in().to_str().unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        StandIn {
            input: process.stdin.take().unwrap(),
            output: BufReader::new(process.stdout.take().unwrap()),
            process,
            heard: VecDeque::new(),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A program that is killed when it is dropped.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A stand-in of the daemon.
pub(crate) struct StandIn {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Events that were told and not waited for yet.
    heard: VecDeque<String>,
}

impl StandIn {
    /// Sends a line and gives the answer, whatever it is.
    #[track_caller]
    pub(crate) fn ask_any(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    /// Sends a line that must succeed.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> String {
        let answer = self.ask_any(line);
        let rest = answer.strip_prefix("ok");
        let rest = rest.unwrap_or_else(|| panic!("{line}: {answer}"));
        rest.trim().to_owned()
    }

    /// Sends a line that must be answered with numbers.
    #[track_caller]
    pub(crate) fn numbers(&mut self, line: &str) -> Vec<u64> {
        let answer = self.ask(line);
        answer.split(' ').map(|it| it.parse().unwrap()).collect()
    }

    /// Waits until an event is told that contains all of `words`; gives those up to it. Later ones
    /// are there for the next call.
    #[track_caller]
    pub(crate) fn await_event(&mut self, words: &[&str]) -> String {
        let mut passed = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(event) = self.heard.pop_front() {
                let found = words.iter().all(|word| event.contains(word));
                passed.push(event);
                if found {
                    return passed.join(";");
                }
            }
            assert!(
                Instant::now() < deadline,
                "not within {PATIENCE:?}: an event with {words:?}; told were {passed:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
            let told = self.ask("events");
            let told = told.split(';').filter(|event| !event.is_empty());
            self.heard.extend(told.map(str::to_owned));
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let done = Command::new("kill")
            .args([&format!("-{name}"), &self.process.id().to_string()])
            .status()
            .unwrap();
        assert!(done.success());
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Kills it as a crash would, and waits for the kernel to be done with it.
    pub(crate) fn crash(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The two hosts. The peer sends the virtual address's packets to the holder, whoever holds it.
pub(crate) struct Pair {
    pub(crate) holder: Namespace,
    pub(crate) peer: Namespace,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let pair = Self {
            holder: Namespace::new(),
            peer: Namespace::new(),
        };
        pair.connect();
        pair
    }

    /// Makes the link between them, with their addresses and routes.
    pub(crate) fn connect(&self) {
        let (holder, peer) = (&self.holder, &self.peer);
        holder.shell(&format!(
            "ip link add {LINK} type veth peer name {LINK} netns {}",
            peer.id()
        ));
        for (host, number) in [(holder, 1), (peer, 2)] {
            host.shell(&format!(
                "ip addr add fd5a::{number}/64 dev {LINK} nodad && ip link set {LINK} up"
            ));
        }
        peer.shell(&format!(
            "ip -6 route add {VIP}/128 via fd5a::1 dev {LINK} && \
             until ping -c 1 -W 1 fd5a::1 >/dev/null; do :; done"
        ));
    }

    /// A holder whose gate is of the kind `how`, and an observer that asks the virtual address
    /// every millisecond.
    pub(crate) fn watched(&self, how: &str) -> (StandIn, StandIn) {
        let mut holder = self.holder.stand_in();
        holder.ask(&format!("start {how}"));
        let mut observer = self.peer.stand_in();
        observer.ask(&format!("observe {VIP}"));
        (holder, observer)
    }
}

/// What an observer saw.
pub(crate) struct Seen {
    pub(crate) answered: u64,
    /// When the last request was sent that was answered: the gate was open then or later.
    pub(crate) last_us: u64,
    pub(crate) last_asked_us: u64,
}

#[track_caller]
pub(crate) fn seen(observer: &mut StandIn) -> Seen {
    let numbers = observer.numbers("seen");
    Seen {
        answered: numbers[0],
        last_us: numbers[2],
        last_asked_us: numbers[3],
    }
}

/// Waits until the address answers requests sent from now on.
#[track_caller]
pub(crate) fn until_it_answers(observer: &mut StandIn) {
    let now = observer.numbers("now")[0];
    until("the address answers", || seen(observer).last_us > now);
}

/// Waits until enough requests sent after `from_us` went unanswered; gives what was seen by then.
#[track_caller]
pub(crate) fn until_silent(observer: &mut StandIn, from_us: u64) -> Seen {
    // An answer comes within a fraction of this.
    const SILENCE_US: u64 = 300_000;
    until("the address is silent", || {
        let seen = seen(observer);
        seen.last_asked_us > from_us.max(seen.last_us) + SILENCE_US
    });
    seen(observer)
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
    let program = folder.join("examples/gate-host");
    let built = program.metadata().and_then(|data| data.modified());
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let changed = std::fs::read_dir(sources)
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().modified().unwrap())
        .max()
        .unwrap();
    assert!(
        built.is_ok_and(|built| built >= changed),
        "{} is missing or stale: run `cargo build -p overlay-gate --examples`",
        program.display()
    );
    program
}
