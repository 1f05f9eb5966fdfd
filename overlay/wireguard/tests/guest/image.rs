//! What a guest boots: Debian's kernel, and a file system that is all in memory.
//!
//! Decides where a kernel is taken from, and that programs bring their libraries along. Never: starts
//! anything.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

pub(crate) fn find(program: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/bin"]
        .into_iter()
        .map(|folder| Path::new(folder).join(program))
        .find(|path| path.is_file())
}

/// A kernel image and its modules.
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    modules: BTreeMap<String, PathBuf>,
}

impl Kernel {
    /// One fetched earlier, else one that is fetched now, else the machine's own.
    pub(crate) fn find() -> Result<Self, String> {
        let fetched = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest-kernel");
        if let Some(kernel) = Self::under(&fetched) {
            return Ok(kernel);
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/guest-kernel");
        let output = Command::new(script)
            .arg(&fetched)
            .stdin(Stdio::null())
            .output();
        let failed = match output {
            Ok(output) if output.status.success() => "it has no WireGuard".to_owned(),
            Ok(output) => String::from_utf8_lossy(&output.stderr).replace('\n', " "),
            Err(error) => error.to_string(),
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

/// What a guest has besides busybox.
pub(crate) struct Contents<'a> {
    /// Programs of this machine, by name.
    pub(crate) programs: &'a [&'a str],
    /// Modules that are loaded, after what they depend on.
    pub(crate) modules: &'a [&'a str],
    /// Programs of ours, and their paths in the guest.
    pub(crate) ours: &'a [(&'a Path, &'a str)],
}

/// A file system whose first process does what `script` says, in busybox's shell, and ends the guest.
pub(crate) fn file_system(kernel: &Kernel, contents: &Contents<'_>, script: &str) -> Vec<u8> {
    let mut archive = Archive::default();
    for folder in ["proc", "sys", "dev", "run", "tmp", "mnt"] {
        archive.folder(Path::new(folder));
    }
    archive.entry("dev/console", 0o020_600, (5, 1), &[]);
    let mut first = "#!/bin/busybox sh\n\
                     /bin/busybox mount -t proc proc /proc\n\
                     /bin/busybox mount -t sysfs sysfs /sys\n\
                     /bin/busybox mount -t devtmpfs devtmpfs /dev\n\
                     export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n"
        .to_owned();
    let mut modules = Vec::new();
    for name in contents.modules {
        kernel.load_order(name, &mut modules);
    }
    for (name, bytes) in &modules {
        archive.file(&format!("modules/{name}.ko"), 0o644, bytes);
        first.push_str(&format!("/bin/busybox insmod /modules/{name}.ko\n"));
    }
    archive.program(&find("busybox").unwrap(), "bin/busybox");
    for program in contents.programs {
        let path = find(program).unwrap_or_else(|| panic!("{program} is not installed"));
        archive.program(&path, &format!("bin/{program}"));
    }
    for (path, name) in contents.ours {
        archive.program(path, name);
    }
    first.push_str(script);
    first.push_str("/bin/busybox poweroff -f\n");
    archive.file("init", 0o755, first.as_bytes());
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
