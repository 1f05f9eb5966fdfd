//! Pods' processes, which outlive K3s.
//!
//! Decides: which are those of this host's K3s: its containerd's shims, and what runs below them. Never:
//! ends those of a K3s that runs in a container on the same host, though its paths look the same from
//! inside.
//!
//! Invariant: a shim whose program was removed meanwhile is known as well as before: by its file, which the
//! process holds.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use runtimes_host::{
    ending::{self, DoesNotEnd},
    process::Identity,
};

use super::network::{Namespace, namespace_of};

/// Containers are given that long to end, all at once.
const WITHIN: Duration = Duration::from_secs(10);

/// The device and the number of a file.
type File = (u64, u64);

/// K3s's shims, as programs.
#[derive(Debug)]
pub(super) struct Shims {
    data: PathBuf,
    files: BTreeSet<File>,
}

/// What runs in pods.
struct Pods {
    shims: Vec<Identity>,
    below: Vec<Identity>,
}

impl Shims {
    /// Those that K3s has unpacked below its data, while they are there.
    pub(super) fn below(data_dir: &Path) -> Self {
        let data = data_dir.join("data");
        let programs = entries(&data).flat_map(|unpacked| entries(&unpacked.join("bin")));
        let programs = programs.filter(|program| is_shim_of(&data, program));
        let files = programs.filter_map(|program| file_at(&program)).collect();
        Self { data, files }
    }

    /// Ends all until there are none: a pod's may come up while others are ended. In which networks they
    /// were, this host's own aside.
    pub(super) async fn end(&self) -> Result<BTreeSet<Namespace>, DoesNotEnd> {
        let mut networks = BTreeSet::new();
        loop {
            let Pods { shims, below } = self.find();
            if shims.is_empty() {
                return Ok(networks);
            }
            let all = below.iter().chain(&shims);
            networks.extend(all.filter_map(|identity| namespace_of(&identity.pid.to_string())));
            if let Some(own) = namespace_of("self") {
                networks.remove(&own);
            }
            // What runs in a pod first: its shim then ends by itself, and leaves no orphan.
            ending::end_all(&below, WITHIN).await?;
            ending::end_all(&shims, WITHIN).await?;
        }
    }

    /// The shims of K3s's own containerd and all that runs below them.
    fn find(&self) -> Pods {
        let all = processes();
        let shims = all.iter().map(|(identity, _)| *identity);
        let shims: Vec<Identity> = shims.filter(|it| self.has(it.pid)).collect();
        let mut below = Vec::new();
        let mut above: BTreeSet<u32> = shims.iter().map(|identity| identity.pid).collect();
        while !above.is_empty() {
            let children = all.iter().filter(|(_, parent)| above.contains(parent));
            let children: Vec<Identity> = children.map(|(identity, _)| *identity).collect();
            above = children.iter().map(|identity| identity.pid).collect();
            below.extend(children);
        }
        Pods { shims, below }
    }

    fn has(&self, pid: u32) -> bool {
        let process = format!("/proc/{pid}");
        // As it was called, or where it is: containerd calls it by its path, which may be a link.
        let called = fs::read(format!("{process}/cmdline")).unwrap_or_default();
        let called = called.split(|byte| *byte == 0).next().unwrap_or_default();
        let called = PathBuf::from(OsStr::from_bytes(called));
        let executed = fs::read_link(format!("{process}/exe")).unwrap_or_default();
        let named = is_shim_of(&self.data, &called) || is_shim_of(&self.data, &executed);
        named && (shares_namespaces(&process) || self.executed_by(&process))
    }

    /// Whether it is one of the very files that are, or were, here: where shoald has mounts of its own, all
    /// of the host's processes are among others, and their paths say nothing.
    fn executed_by(&self, process: &str) -> bool {
        let executed = file_at(Path::new(&format!("{process}/exe")));
        executed.is_some_and(|file| self.files.contains(&file))
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

fn file_at(path: &Path) -> Option<File> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Whether a program is a shim below K3s's unpacked data: `*/bin/containerd-shim*`, as `k3s-killall.sh`
/// has it.
fn is_shim_of(data: &Path, program: &Path) -> bool {
    let Ok(below) = program.strip_prefix(data) else {
        return false;
    };
    let parts: Vec<_> = below.iter().map(OsStr::to_string_lossy).collect();
    matches!(parts.as_slice(), [_, bin, name] if bin == "bin" && name.starts_with("containerd-shim"))
}

/// Whether its paths are this host's: K3s's shims stay in its own network and among its own mounts, which
/// are shoald's; those of a K3s in a container are in the container's.
fn shares_namespaces(process: &str) -> bool {
    ["net", "mnt"].iter().all(|kind| {
        let of = |process: &str| fs::read_link(format!("{process}/ns/{kind}")).ok();
        of("/proc/self").is_some_and(|own| of(process) == Some(own))
    })
}

/// Every process, and its parent.
fn processes() -> Vec<(Identity, u32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| Some((Identity::of(pid)?, parent_of(pid)?)))
        .collect()
}

/// The fourth field of /proc/PID/stat (proc(5)).
fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::CommandExt,
        process::{Child, Command},
        time::Instant,
    };

    use super::*;

    /// Something that sleeps, by such a name.
    fn sleeper(called: &Path) -> Child {
        let mut command = Command::new("/bin/sleep");
        command.arg0(called).arg("60").spawn().unwrap()
    }

    fn found(data_dir: &Path) -> Vec<u32> {
        let shims = Shims::below(data_dir).find().shims;
        shims.iter().map(|identity| identity.pid).collect()
    }

    /// Until it is executed, a new process is called as its parent.
    fn comes_to_be_found(data_dir: &Path, child: &Child) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while found(data_dir) != [child.id()] {
            assert!(Instant::now() < deadline, "{:?}", found(data_dir));
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_shim_is_known_by_how_it_was_called() {
        let root = tempfile::tempdir().unwrap();
        let path = |path: &str| root.path().join(path);
        let mut shim = sleeper(&path("data/current/bin/containerd-shim-runc-v2"));
        let mut other = sleeper(&path("data/current/bin/containerd"));
        comes_to_be_found(root.path(), &shim);
        for child in [&mut shim, &mut other] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(found(root.path()).is_empty());
    }

    #[tokio::test]
    async fn shims_are_ended_and_others_live_on() {
        let root = tempfile::tempdir().unwrap();
        let path = |path: &str| root.path().join(path);
        let mut shim = sleeper(&path("data/ab12/bin/containerd-shim-runc-v2"));
        let mut other = sleeper(&path("data/ab12/bin/containerd"));
        comes_to_be_found(root.path(), &shim);
        // It was in no network but this host's own.
        assert!(Shims::below(root.path()).end().await.unwrap().is_empty());
        shim.wait().unwrap();
        assert!(Identity::of(other.id()).is_some());
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_shim_lies_in_the_programs_that_k3s_unpacked() {
        let data = Path::new("/var/lib/rancher/k3s/data");
        for (program, expected) in [
            (
                "/var/lib/rancher/k3s/data/ab12/bin/containerd-shim-runc-v2",
                true,
            ),
            ("/var/lib/rancher/k3s/data/ab12/bin/containerd", false),
            ("/var/lib/rancher/k3s/data/containerd-shim-runc-v2", false),
            ("/usr/bin/containerd-shim-runc-v2", false),
            ("containerd-shim-runc-v2", false),
        ] {
            assert_eq!(is_shim_of(data, Path::new(program)), expected, "{program}");
        }
    }

    #[test]
    fn what_is_called_like_a_file_is_not_that_file() {
        let executed = |file: &Path| {
            let shims = Shims {
                data: PathBuf::from("/nowhere"),
                files: file_at(file).into_iter().collect(),
            };
            shims.executed_by("/proc/self")
        };
        assert!(executed(&std::env::current_exe().unwrap()));
        assert!(!executed(Path::new("/bin/sh")));
        assert!(!executed(Path::new("/nowhere")));
        assert!(shares_namespaces("/proc/self"));
        assert!(!shares_namespaces("/proc/0"));
    }

    #[test]
    fn a_shim_whose_program_was_removed_is_known_by_its_file() {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("data/ab12/bin");
        fs::create_dir_all(&bin).unwrap();
        let program = bin.join("containerd-shim-runc-v2");
        // By another process: none that is forked off this one meanwhile holds it open.
        let mut copy = Command::new("cp");
        let copied = copy.arg("/bin/sleep").arg(&program).status().unwrap();
        assert!(copied.success());
        let before = Shims::below(root.path());
        let mut shim = Command::new(&program).arg("60").spawn().unwrap();
        comes_to_be_found(root.path(), &shim);
        fs::remove_dir_all(root.path().join("data")).unwrap();
        let after = Shims::below(root.path());
        let process = format!("/proc/{}", shim.id());
        let known = (before.executed_by(&process), after.executed_by(&process));
        let found = before.find().shims;
        let found: Vec<u32> = found.iter().map(|identity| identity.pid).collect();
        shim.kill().unwrap();
        shim.wait().unwrap();
        assert_eq!(known, (true, false));
        assert_eq!(found, [shim.id()]);
    }

    /// How this user may have a network and mounts of its own: root of a container often may not, others
    /// with users of their own.
    fn apart() -> Option<&'static [&'static str]> {
        let ways: [&[&str]; 2] = [
            &["--net", "--mount"],
            &["--user", "--map-root-user", "--net", "--mount"],
        ];
        ways.into_iter().find(|way| {
            let tried = Command::new("unshare").args(*way).arg("true").output();
            tried.is_ok_and(|tried| tried.status.success())
        })
    }

    /// As in a container: the same name, another network, and another file behind it.
    #[test]
    fn a_shim_in_a_container_is_not_this_hosts() {
        let Some(apart) = apart() else {
            let why = "it needs namespaces";
            assert!(std::env::var_os("SHOAL_NO_SKIP").is_none(), "{why}");
            eprintln!("SKIPPED a_shim_in_a_container_is_not_this_hosts: {why}");
            return;
        };
        let root = tempfile::tempdir().unwrap();
        let called = root.path().join("data/ab12/bin/containerd-shim-runc-v2");
        let script = format!("exec -a {} sleep 60", called.display());
        let mut inside = Command::new("unshare")
            .args(apart)
            .args(["sh", "-c", "exec bash -c \"$0\"", &script])
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let line = format!("/proc/{}/cmdline", inside.id());
        let begins = called.to_string_lossy().into_owned();
        while !fs::read_to_string(&line)
            .unwrap_or_default()
            .starts_with(&begins)
        {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        let theirs = found(root.path());
        // It would be one if it were the file that is here by that name.
        let process = format!("/proc/{}", inside.id());
        let same = Shims {
            data: root.path().join("data"),
            files: file_at(&Path::new(&process).join("exe"))
                .into_iter()
                .collect(),
        };
        let ours = same.has(inside.id());
        inside.kill().unwrap();
        inside.wait().unwrap();
        assert!(theirs.is_empty());
        assert!(ours);
    }

    #[test]
    fn a_shim_of_another_containerd_is_nobody_of_ours() {
        assert!(found(Path::new("/nowhere")).is_empty());
        let parent = std::os::unix::process::parent_id();
        assert_eq!(parent_of(std::process::id()), Some(parent));
    }
}
