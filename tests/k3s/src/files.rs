//! Where K3s keeps its files, and with which permissions.
//!
//! Follows `pkg/daemons/control/deps/deps.go` and `docs/installation` of K3s. Files are replaced
//! as a whole, so that a reader never sees half of one.

use std::{
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, symlink},
    path::{Path, PathBuf},
};

use crate::Fatal;

/// `--data-dir` of root.
pub(crate) const DATA_DIR: &str = "/var/lib/rancher/k3s";
/// The administrator's kubeconfig.
pub(crate) const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";
/// What a node proves itself with when it comes back; it belongs to the machine, not to K3s.
pub(crate) const NODE_PASSWORD: &str = "/etc/rancher/node/password";
/// Where the container runtime keeps what lives as long as the machine is up.
pub(crate) const RUN_DIR: &str = "/run/k3s";

/// The files below `--data-dir`.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) data_dir: PathBuf,
}

impl Layout {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self {
            data_dir: data_dir.to_owned(),
        }
    }

    pub(crate) fn server(&self, name: &str) -> PathBuf {
        self.data_dir.join("server").join(name)
    }

    pub(crate) fn tls(&self, name: &str) -> PathBuf {
        self.server("tls").join(name)
    }

    pub(crate) fn agent(&self, name: &str) -> PathBuf {
        self.data_dir.join("agent").join(name)
    }

    /// Where etcd would keep its data.
    pub(crate) fn etcd(&self) -> PathBuf {
        self.server("db/etcd")
    }

    /// Where SQLite would keep its data.
    pub(crate) fn sqlite(&self) -> PathBuf {
        self.server("db/state.db")
    }
}

/// Writes a file that only root reads, in place of what was there.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<(), Fatal> {
    write(path, content, 0o600)
}

/// Writes a file with these permissions, in place of what was there.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), Fatal> {
    let failed = |error: std::io::Error| Fatal::new(format!("open {}: {error}", path.display()));
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".tmp");
    let partial = PathBuf::from(partial);
    let _ = fs::remove_file(&partial);
    let opened = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&partial);
    let mut file = opened.map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    fs::rename(&partial, path).map_err(failed)
}

/// Reads a whole file.
pub(crate) fn read(path: &Path) -> Result<String, Fatal> {
    let failed = |error| Fatal::new(format!("open {}: {error}", path.display()));
    fs::read_to_string(path).map_err(failed)
}

/// Makes `link` point to `target`, whatever it was.
pub(crate) fn link(target: &Path, link: &Path) -> Result<(), Fatal> {
    let _ = fs::remove_file(link);
    symlink(target, link)
        .map_err(|error| Fatal::new(format!("symlink {}: {error}", link.display())))
}

/// Makes a directory that only root enters.
pub(crate) fn make_dir(path: &Path) -> Result<(), Fatal> {
    fs::create_dir_all(path)
        .map_err(|error| Fatal::new(format!("can not mkdir {}: {error}", path.display())))
}
