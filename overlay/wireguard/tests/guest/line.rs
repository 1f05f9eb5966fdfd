//! Guests that are driven from outside, one command at a time, over a virtio port.
//!
//! Decides: how a command and its outcome look on that line. A command is one line; its outcome is what
//! it wrote, and after a byte 1 its exit status. An emulated UART would do, but for losing bytes where
//! the machine is busy.

use std::{
    fs,
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{
    Means,
    image::{Contents, file_system},
};

/// A command, or the start, takes a fraction of this.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a guest does all its life. Debian's busybox would take `sh` for itself, and every program
/// below it.
const LISTENER: &str = r#"for port in /dev/vport*p1; do exec 3<>$port; done
echo "Linux $(busybox uname -r) is up after $(busybox cut -d' ' -f1 /proc/uptime) s" >&3
while IFS= read -r script <&3; do
  output=$(/bin/sh -c "$script" </dev/null 2>&1 3>&-)
  status=$?
  printf '%s\n\001%s\n' "$output" "$status" >&3
done
"#;

/// A guest.
pub(crate) struct Guest {
    name: &'static str,
    qemu: Child,
    line: BufReader<UnixStream>,
    console: PathBuf,
}

impl Guest {
    /// Two guests with one wire between them, which is `eth0` in both; both are up.
    pub(crate) fn pair(means: &Means, contents: &Contents<'_>, folder: &Path) -> [Self; 2] {
        let archive = folder.join("initramfs");
        fs::write(&archive, file_system(&means.kernel, contents, LISTENER)).unwrap();
        let (one, two) = UnixStream::pair().unwrap();
        let ends = [
            (("one", "02:00:00:00:00:01"), one),
            (("two", "02:00:00:00:00:02"), two),
        ];
        let mut guests = ends.map(|(name, wire)| Self::start(means, &archive, folder, name, wire));
        for guest in &mut guests {
            let up = guest.read_line();
            println!("guest {}: {}", guest.name, up.trim());
        }
        guests
    }

    fn start(
        means: &Means,
        archive: &Path,
        folder: &Path,
        (name, mac): (&'static str, &str),
        wire: UnixStream,
    ) -> Self {
        let path = folder.join(format!("{name}.line"));
        let console = folder.join(format!("{name}.console"));
        let listener = UnixListener::bind(&path).unwrap();
        let mut qemu = means
            .machine(archive, 1, 512)
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-chardev")
            .arg(format!("socket,id=line,path={}", path.display()))
            .args(["-device", "virtio-serial-pci", "-device"])
            .arg("virtserialport,chardev=line")
            // QEMU has the wire's end as its standard input.
            .args(["-netdev", "socket,id=wire,fd=0", "-device"])
            .arg(format!("virtio-net-pci,netdev=wire,romfile=,mac={mac}"))
            .stdin(Stdio::from(OwnedFd::from(wire)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let line = accept(&listener, &mut qemu);
        line.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            name,
            qemu,
            line: BufReader::new(line),
            console,
        }
    }

    /// Whether a command succeeds, and what it wrote.
    #[track_caller]
    pub(crate) fn run(&mut self, script: &str) -> (bool, String) {
        assert!(!script.contains('\n'), "one line: {script}");
        let sent = writeln!(self.line.get_mut(), "{script}");
        assert!(sent.is_ok(), "guest {} is gone: {}", self.name, self.said());
        let mut output = String::new();
        loop {
            let line = self.read_line();
            if let Some(status) = line.strip_prefix('\u{1}') {
                return (status.trim() == "0", output.trim().to_owned());
            }
            output.push_str(&line);
        }
    }

    #[track_caller]
    fn read_line(&mut self) -> String {
        let mut line = String::new();
        let read = self.line.read_line(&mut line);
        assert!(
            matches!(read, Ok(length) if length > 0),
            "guest {} says nothing ({read:?}): {}",
            self.name,
            self.said()
        );
        line
    }

    /// What it wrote to its console.
    fn said(&self) -> String {
        let bytes = fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // `timeout` passes it on.
        let _ = Command::new("kill")
            .arg(self.qemu.id().to_string())
            .status();
        let _ = self.qemu.wait();
    }
}

/// QEMU calls as soon as it starts.
fn accept(listener: &UnixListener, qemu: &mut Child) -> UnixStream {
    listener.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match listener.accept() {
            Ok((line, _)) => {
                line.set_nonblocking(false).unwrap();
                return line;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
        let ended = qemu.try_wait().unwrap();
        assert!(ended.is_none(), "QEMU ended at once: {ended:?}");
        assert!(Instant::now() < deadline, "QEMU does not call");
        std::thread::sleep(Duration::from_millis(20));
    }
}
