//! A container image made on the spot: busybox and one page, no registry needed.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

/// The tag that tests give the image.
pub const IMAGE: &str = "page:latest";

/// What its web server answers.
pub const PAGE: &str = "hello from a container in the mesh\n";

/// The applets that tests and the demo use.
const APPLETS: [&str; 8] = [
    "sh", "httpd", "echo", "cat", "sleep", "true", "false", "hostname",
];

/// Writes the image's root file system as a tar archive to `file`, for `docker import`.
///
/// The page is served by `httpd -f -p 80 -h /www`.
pub fn image_tar(file: &Path) {
    let root = file.with_extension("rootfs");
    let _ = fs::remove_dir_all(&root);
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(root.join("bin"))?;
        fs::create_dir_all(root.join("www"))?;
        fs::create_dir_all(root.join("tmp"))?;
        fs::copy(static_busybox(), root.join("bin/busybox"))?;
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet))?;
        }
        fs::write(root.join("www/index.html"), PAGE)
    };
    write().expect("the image's files can be written (busybox-static is installed)");
    let tar = Command::new("tar")
        .arg("-C")
        .arg(&root)
        .arg("-cf")
        .arg(file)
        .arg(".")
        .output()
        .expect("tar is installed");
    assert!(
        tar.status.success(),
        "tar: {}",
        String::from_utf8_lossy(&tar.stderr)
    );
    let _ = fs::remove_dir_all(&root);
}

/// Debian's busybox-static installs here; a dynamic busybox would not start in an empty image.
fn static_busybox() -> &'static str {
    ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("busybox-static is installed")
}
