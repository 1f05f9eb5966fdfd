//! Virtual machines with Debian's kernel, for what the kernel of this machine may lack.
//!
//! Either a test runs a second time inside ([`run_again`]): its binary, the programs it calls and their
//! libraries make up the guest's only file system. Or a test stays outside and drives guests that are
//! joined by a wire ([`line::Guest`]).
//!
//! QEMU emulates the processor in software, so that no /dev/kvm is needed; a guest boots in seconds all
//! the same. Nothing of this machine's network takes part: a wire is a pair of sockets between two QEMUs.
//!
//! Needs qemu-system-x86, busybox-static and a kernel image, which `scripts/guest-kernel` unpacks under
//! Cargo's target folder and never installs.

pub(crate) mod image;
pub(crate) mod line;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use image::{Contents, Kernel, file_system, find};

/// Set for the copy that runs inside.
const INSIDE: &str = "SHOAL_TEST_GUEST";

/// A guest is given up after so many seconds; none takes half of that, even where much else runs.
const SECONDS_MAX: u32 = 400;

/// What the guest prints when the test has passed in it.
const PASSED: &str = "guest: the test ended with status 0";

/// Whether this is the copy in the guest.
pub(crate) fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// What guests are made with.
pub(crate) struct Means {
    qemu: PathBuf,
    pub(crate) kernel: Kernel,
}

impl Means {
    /// Says so, or fails in CI, when there is no guest to be had.
    pub(crate) fn or_say_so(test: &str) -> Option<Self> {
        let found = find_qemu().and_then(|qemu| {
            Ok(Self {
                qemu,
                kernel: Kernel::find()?,
            })
        });
        match found {
            Ok(means) => Some(means),
            Err(reason) => {
                assert!(
                    std::env::var_os("SHOAL_NO_SKIP").is_none(),
                    "{test} cannot run: {reason}"
                );
                eprintln!("SKIPPED {test}: {reason}");
                None
            }
        }
    }

    /// A guest with that file system; its lines and its network are the caller's to add.
    fn machine(&self, archive: &Path, processors: u32, memory_mb: u32) -> Command {
        let mut command = Command::new("timeout");
        command
            .arg(SECONDS_MAX.to_string())
            .arg(&self.qemu)
            .args(["-accel", "tcg", "-cpu", "max", "-smp"])
            .arg(processors.to_string())
            .arg("-m")
            .arg(memory_mb.to_string())
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-monitor", "none"])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(archive)
            .args(["-append", "console=ttyS0 rdinit=/init panic=-1 quiet"]);
        command
    }
}

/// What runs in a guest.
pub(crate) struct Inside<'a> {
    /// Tells the copy of this test program which tests to run.
    pub(crate) arguments: &'a [&'a str],
    /// The stand-in of a daemon, to be found at /stand-in.
    pub(crate) stand_in: &'a Path,
    /// What the tests and their hosts call, besides the shell's own commands.
    pub(crate) programs: &'a [&'a str],
    /// Modules of the kernel; what they depend on is found.
    pub(crate) modules: &'a [&'a str],
}

/// Runs tests of this program in a guest. Says so, or fails in CI, when there is no guest to be had;
/// inside nothing may be left out.
pub(crate) fn run_again(test: &str, inside: &Inside<'_>) {
    let Some(means) = Means::or_say_so(test) else {
        return;
    };
    let own = std::env::current_exe().unwrap();
    let contents = Contents {
        programs: inside.programs,
        modules: inside.modules,
        ours: &[(own.as_path(), "test"), (inside.stand_in, "stand-in")],
    };
    let script = format!(
        "echo \"guest: Linux $(/bin/busybox uname -r) is up after $(/bin/busybox cut -d' ' -f1 \
         /proc/uptime) s\"\n\
         {INSIDE}=1 SHOAL_NO_SKIP=1 RUST_BACKTRACE=0 /test {} --nocapture --test-threads 1 2>&1\n\
         echo \"guest: the test ended with status $?\"\n",
        inside.arguments.join(" ")
    );
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("initramfs");
    fs::write(&archive, file_system(&means.kernel, &contents, &script)).unwrap();
    let output = means
        .machine(&archive, 2, 768)
        .args(["-serial", "stdio"])
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
    assert!(!console.contains("running 0 tests"), "{test} ran nothing");
}

fn find_qemu() -> Result<PathBuf, String> {
    find("busybox").ok_or("busybox is not installed")?;
    find("qemu-system-x86_64").ok_or_else(|| {
        "qemu-system-x86_64 is not installed (apt-get install --no-install-recommends \
         qemu-system-x86)"
            .to_owned()
    })
}
