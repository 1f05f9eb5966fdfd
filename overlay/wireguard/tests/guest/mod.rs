//! A virtual machine with Debian's kernel, for what the kernel of this machine may lack.
//!
//! The same test runs a second time inside: its binary, the programs it calls and their libraries
//! make up the guest's only file system. QEMU emulates the processor in software, so that no
//! /dev/kvm is needed; a guest boots in seconds all the same.
//!
//! Needs qemu-system-x86, busybox-static and, unless the machine has a Debian kernel with
//! WireGuard installed, apt to fetch one. It is unpacked under Cargo's target folder and never
//! installed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Set for the copy that runs inside.
const INSIDE: &str = "SHOAL_TEST_GUEST";

/// What the tests and their hosts call, besides the shell's own commands.
const PROGRAMS: [&str; 14] = [
    "sh",
    "sleep",
    "mount",
    "mountpoint",
    "unshare",
    "nsenter",
    "setpriv",
    "ip",
    "ping",
    "nft",
    "grep",
    "cat",
    "ls",
    "id",
];

/// Modules with what they depend on are found by name.
const MODULES: [&str; 5] = ["wireguard", "veth", "bridge", "nf_tables", "nft_ct"];

/// The guest is given up after so many seconds; it takes a quarter of that.
const SECONDS_MAX: u32 = 240;

/// What the guest prints when the test has passed in it.
const PASSED: &str = "guest: the test ended with status 0";

/// Whether this is the copy in the guest.
pub(crate) fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Runs this same test in a guest, with `stand_in` beside it. Says so, or fails in CI, when there
/// is no guest to be had.
pub(crate) fn run_again(test: &str, stand_in: &Path) {
    let (qemu, kernel) = match find_qemu().and_then(|qemu| Ok((qemu, Kernel::find()?))) {
        Ok(found) => found,
        Err(reason) => {
            assert!(
                std::env::var_os("SHOAL_NO_SKIP").is_none(),
                "{test} cannot run: {reason}"
            );
            eprintln!("SKIPPED {test}: {reason}");
            return;
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("initramfs");
    fs::write(&archive, file_system(test, stand_in, &kernel)).unwrap();
    let output = Command::new("timeout")
        .arg(SECONDS_MAX.to_string())
        .arg(qemu)
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "768"])
        .args(["-nic", "none", "-nographic", "-no-reboot"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&archive)
        .args(["-append", "console=ttyS0 rdinit=/init panic=-1 quiet"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let console = String::from_utf8_lossy(&output.stdout);
    println!("{console}");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(
        console.contains(PASSED),
        "{test} failed in its guest ({}) {complaints}",
        output.status
    );
}

fn find_qemu() -> Result<PathBuf, String> {
    find("busybox").ok_or("busybox is not installed")?;
    find("qemu-system-x86_64").ok_or_else(|| {
        "qemu-system-x86_64 is not installed (apt-get install --no-install-recommends \
         qemu-system-x86)"
            .to_owned()
    })
}

fn find(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"]
        .into_iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
}

/// A kernel image and its modules.
struct Kernel {
    image: PathBuf,
    modules: BTreeMap<String, PathBuf>,
}

impl Kernel {
    /// One fetched earlier, else one that is fetched now, else the machine's own.
    fn find() -> Result<Self, String> {
        let fetched = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest-kernel");
        if let Some(kernel) = Self::under(&fetched) {
            return Ok(kernel);
        }
        let failed = match fetch(&fetched) {
            Ok(()) => "it has no WireGuard".to_owned(),
            Err(reason) => reason,
        };
        Self::under(&fetched)
            .or_else(|| Self::under(Path::new("/")))
            .ok_or(format!("no kernel with WireGuard is installed: {failed}"))
    }

    fn under(root: &Path) -> Option<Self> {
        let images = fs::read_dir(root.join("boot")).ok()?.flatten();
        images.map(|entry| entry.path()).find_map(|image| {
            let version = image.file_name()?.to_str()?.strip_prefix("vmlinuz-")?;
            let folders = ["lib/modules", "usr/lib/modules"];
            let modules = folders
                .iter()
                .map(|folder| root.join(folder).join(version))
                .find(|folder| folder.is_dir())?;
            let mut kernel = Self {
                image: image.clone(),
                modules: BTreeMap::new(),
            };
            kernel.collect(&modules);
            kernel.modules.contains_key("wireguard").then_some(kernel)
        })
    }

    fn collect(&mut self, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.collect(&path);
            } else if let Some((name, "ko" | "ko.xz")) = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.split_once('.'))
            {
                self.modules.insert(name.replace('-', "_"), path);
            }
        }
    }

    /// The module and before it what it depends on. One that is built in has no file.
    fn load_order(&self, name: &str, order: &mut Vec<(String, Vec<u8>)>) {
        let Some(path) = self.modules.get(name) else {
            return;
        };
        if order.iter().any(|(there, _)| there == name) {
            return;
        }
        let bytes = if path.extension().is_some_and(|end| end == "xz") {
            let output = Command::new("xz").arg("-dc").arg(path).output().unwrap();
            output.stdout
        } else {
            fs::read(path).unwrap()
        };
        let mark = b"\0depends=";
        let at = bytes.windows(mark.len()).position(|window| window == mark);
        let depends = at.map(|at| {
            let rest = &bytes[at + mark.len()..];
            let end = rest.iter().position(|byte| *byte == 0).unwrap();
            String::from_utf8(rest[..end].to_vec()).unwrap()
        });
        for needed in depends.unwrap_or_default().split(',') {
            self.load_order(&needed.replace('-', "_"), order);
        }
        order.push((name.to_owned(), bytes));
    }
}

/// Unpacks Debian's kernel for virtual machines into `folder`.
fn fetch(folder: &Path) -> Result<(), String> {
    let parent = folder.parent().unwrap();
    fs::create_dir_all(parent).unwrap();
    let staged = tempfile::tempdir_in(parent).unwrap();
    let script = "package=$(apt-cache depends linux-image-cloud-amd64 | \
                  sed -n 's/.*Depends: //p' | head -n 1) && [ -n \"$package\" ] && \
                  apt-get -q download \"$package\" && dpkg-deb -x ./*.deb root";
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(staged.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
        return Err(format!("one cannot be fetched with apt-get: {said}"));
    }
    // Another test run may have been faster.
    let _ = fs::rename(staged.path().join("root"), folder);
    Ok(())
}

/// The guest's file system.
fn file_system(test: &str, stand_in: &Path, kernel: &Kernel) -> Vec<u8> {
    let mut archive = Archive::default();
    for folder in ["proc", "sys", "dev", "run", "tmp"] {
        archive.folder(Path::new(folder));
    }
    archive.entry("dev/console", 0o020_600, (5, 1), &[]);
    let mut script = "#!/bin/busybox sh\n\
                      /bin/busybox mount -t proc proc /proc\n\
                      /bin/busybox mount -t sysfs sysfs /sys\n\
                      /bin/busybox mount -t devtmpfs devtmpfs /dev\n\
                      export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n"
        .to_owned();
    let mut modules = Vec::new();
    for name in MODULES {
        kernel.load_order(name, &mut modules);
    }
    for (name, bytes) in &modules {
        archive.file(&format!("modules/{name}.ko"), 0o644, bytes);
        script.push_str(&format!("/bin/busybox insmod /modules/{name}.ko\n"));
    }
    archive.program(&find("busybox").unwrap(), "bin/busybox");
    for program in PROGRAMS {
        let path = find(program).unwrap_or_else(|| panic!("{program} is not installed"));
        archive.program(&path, &format!("bin/{program}"));
    }
    archive.program(&std::env::current_exe().unwrap(), "test");
    archive.program(stand_in, "stand-in");
    script.push_str(&format!(
        "echo \"guest: Linux $(/bin/busybox uname -r) is up after $(/bin/busybox cut -d' ' -f1 \
         /proc/uptime) s\"\n\
         {INSIDE}=1 RUST_BACKTRACE=0 /test {test} --exact --nocapture --test-threads 1 2>&1\n\
         echo \"guest: the test ended with status $?\"\n\
         /bin/busybox poweroff -f\n"
    ));
    archive.file("init", 0o755, script.as_bytes());
    archive.finish()
}

/// A cpio archive in the format that the kernel unpacks (initramfs buffer format, "newc").
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
}

impl Archive {
    /// A program and the libraries that it is linked with, without debugging symbols.
    fn program(&mut self, path: &Path, name: &str) {
        let stripped = tempfile::NamedTempFile::new().unwrap();
        let strip = Command::new("strip")
            .args(["--strip-debug", "-o"])
            .arg(stripped.path())
            .arg(path)
            .output();
        // It only saves time.
        let source = match strip {
            Ok(output) if output.status.success() => stripped.path(),
            Ok(_) | Err(_) => path,
        };
        self.file(name, 0o755, &fs::read(source).unwrap());
        // A static program makes ldd fail and has none.
        let listed = Command::new("ldd").arg(path).output().unwrap();
        for word in String::from_utf8_lossy(&listed.stdout).split_whitespace() {
            if word.starts_with('/') && Path::new(word).is_file() {
                let mode = fs::metadata(word).unwrap().permissions().mode() & 0o777;
                self.file(&word[1..], mode, &fs::read(word).unwrap());
            }
        }
    }

    fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        if self.names.contains(name) {
            return;
        }
        self.folder(Path::new(name).parent().unwrap());
        self.entry(name, 0o100_000 | mode, (0, 0), bytes);
    }

    fn folder(&mut self, path: &Path) {
        let name = path.to_str().unwrap();
        if name.is_empty() || self.names.contains(name) {
            return;
        }
        self.folder(path.parent().unwrap());
        self.entry(name, 0o040_755, (0, 0), &[]);
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) {
        self.names.insert(name.to_owned());
        let links = 1;
        let header = [
            u32::try_from(self.names.len()).unwrap(),
            mode,
            0,
            0,
            links,
            0,
            u32::try_from(bytes.len()).unwrap(),
            0,
            0,
            device.0,
            device.1,
            u32::try_from(name.len()).unwrap() + 1,
            0,
        ];
        self.bytes.extend(b"070701");
        for field in header {
            write!(self.bytes, "{field:08x}").unwrap();
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}
