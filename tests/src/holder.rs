//! Keeps the namespaces of one host alive, and ends everything in them.
//!
//! A host's first process is a shell that prepares the mounts and then waits for its standard
//! input to close. Ending it ends, in the kernel, every process of the host, and with them the
//! mounts and interfaces; so there is nothing to search for and nothing that can be forgotten.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::wait::poll;

/// Mounts take milliseconds; this long only a machine that is out of something.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// Everything that `unshare` separates. Not the cgroups: dockerd needs the hierarchy as it is.
const NAMESPACES: [&str; 6] = [
    "--net",
    "--mount",
    "--pid",
    "--uts",
    "--fork",
    "--propagation=private",
];

/// The namespaces of one host.
#[derive(Debug)]
pub(crate) struct Holder {
    /// `unshare`, whose only child is the host's first process.
    unshare: Child,
    init: u32,
}

impl Holder {
    /// Makes the namespaces and runs `script` in them, which says `ready` and then holds.
    ///
    /// With `kept` they outlive this process and end with a `kill -9` of [`Self::init`].
    pub(crate) fn start(script: &str, log: &Path, kept: bool) -> Self {
        let hold = if kept {
            "exec </dev/null; while :; do sleep 86400 & wait $!; done"
        } else {
            "read -r _"
        };
        let script = format!("set -eu\n{script}\necho ready\nexec >/dev/null\n{hold} || true\n");
        let errors = fs::File::create(log).expect("the lab's directory is writable");
        let mut unshare = Command::new("unshare")
            .args(NAMESPACES)
            .args(["bash", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .spawn()
            .expect("unshare (util-linux) is installed");
        let mut line = String::new();
        let stdout = unshare.stdout.take().expect("stdout is piped");
        let read = BufReader::new(stdout).read_line(&mut line);
        if read.is_err() || line.trim() != "ready" {
            let _ = unshare.kill();
            let _ = unshare.wait();
            let said = fs::read_to_string(log).unwrap_or_default();
            panic!("the namespaces of a host could not be made: {said}");
        }
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let (init, _) = poll(START_DEADLINE, || {
            fs::read_to_string(&children).ok()?.trim().parse().ok()
        })
        .expect("unshare has forked the first process of the host");
        Self { unshare, init }
    }

    /// The host's first process, as seen from outside.
    pub(crate) fn init(&self) -> u32 {
        self.init
    }

    /// A command that runs in the namespaces, once spawned by [`Self::spawn`].
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        for namespace in ["net", "mount=mnt", "uts"] {
            let (option, file) = namespace.split_once('=').unwrap_or((namespace, namespace));
            command.arg(format!("--{option}=/proc/{}/ns/{file}", self.init));
        }
        command.arg("--").arg(program).process_group(0);
        command
    }

    /// Starts a command as a process of the host.
    ///
    /// `nsenter --pid` would fork and so stand between us and the program: signals and exit
    /// codes would be its own. Instead a thread that ends with this call takes on the process
    /// namespace, which only concerns the children it makes.
    pub(crate) fn spawn(&self, mut command: Command) -> std::io::Result<Child> {
        let namespace = fs::File::open(format!("/proc/{}/ns/pid", self.init))?;
        thread::scope(|scope| {
            let spawner = scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
                command.spawn()
            });
            spawner.join().expect("spawning does not panic")
        })
    }

    /// Ends every process of the host at once, as pulling the plug does.
    pub(crate) fn end(&mut self) {
        if let (Ok(None), Some(init)) = (
            self.unshare.try_wait(),
            i32::try_from(self.init).ok().and_then(Pid::from_raw),
        ) {
            // `unshare` is there and has not reaped it, so the number is still the host's.
            let _ = kill_process(init, Signal::KILL);
        }
    }

    /// Waits until the last process is gone. Children of ours in the host must be reaped before.
    pub(crate) fn wait(&mut self) {
        let _ = self.unshare.wait();
    }
}
