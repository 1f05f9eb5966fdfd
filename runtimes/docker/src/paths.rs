//! Where everything is on the host.
//!
//! Decides: every path that this crate reads or writes. The rest of the crate names no path of
//! its own, so that a test can root all of them elsewhere.

use std::path::{Path, PathBuf};

use runtimes_core::daemon_json::HostLayout;

/// Where everything is on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// shoal's own configuration for dockerd; the distribution's file stays untouched.
    pub daemon_json: PathBuf,
    /// What the host's own Docker is configured with. Only read.
    pub host_daemon_json: PathBuf,
    /// Key, certificates, process record, manifest, log.
    pub state_dir: PathBuf,
    /// dockerd's unix socket.
    pub socket: PathBuf,
    /// dockerd's own pid file; tells a foreign dockerd.
    pub pidfile: PathBuf,
    /// Images, containers, volumes. Never removed by shoal.
    pub data_root: PathBuf,
    /// dockerd's execution state, and its containerd's.
    pub exec_root: PathBuf,
    /// The drop-in for the distribution's unit.
    pub drop_in: PathBuf,
    /// Exists where systemd is PID 1.
    pub systemd_marker: PathBuf,
    /// Debian's switch that keeps packages from starting services.
    pub policy_rc: PathBuf,
}

impl Paths {
    /// The defaults, with shoal's own files under its data directory.
    pub fn under(data_dir: &Path) -> Self {
        Self {
            daemon_json: "/etc/shoal/docker/daemon.json".into(),
            host_daemon_json: "/etc/docker/daemon.json".into(),
            state_dir: data_dir.join("docker"),
            socket: "/var/run/docker.sock".into(),
            pidfile: "/var/run/docker.pid".into(),
            data_root: "/var/lib/docker".into(),
            exec_root: "/var/run/docker".into(),
            // systemd reads them by name, and of several commands the last one counts: an operator's own is in
            // `override.conf`, as `systemctl edit` calls it.
            drop_in: "/etc/systemd/system/docker.service.d/zz-shoal.conf".into(),
            systemd_marker: "/run/systemd/system".into(),
            policy_rc: "/usr/sbin/policy-rc.d".into(),
        }
    }

    /// The private key, 0600.
    pub fn tls_key(&self) -> PathBuf {
        self.state_dir.join("tls/key.pem")
    }

    /// The certificate chain.
    pub fn tls_cert(&self) -> PathBuf {
        self.state_dir.join("tls/cert.pem")
    }

    /// The roots whose clients are let in.
    pub fn tls_ca(&self) -> PathBuf {
        self.state_dir.join("tls/ca.pem")
    }

    /// What dockerd prints, where shoal supervises it.
    pub fn log(&self) -> PathBuf {
        self.state_dir.join("dockerd.log")
    }

    /// The log before it was last cut.
    pub fn old_log(&self) -> PathBuf {
        self.state_dir.join("dockerd.log.1")
    }

    /// Containers that are to be started again after a rest, though dockerd does not do it.
    pub fn stopped(&self) -> PathBuf {
        self.state_dir.join("stopped.json")
    }

    /// Which process shoal started, and with what.
    pub fn process_record(&self) -> PathBuf {
        self.state_dir.join("process.json")
    }

    /// The list of everything shoal wrote.
    pub fn manifest(&self) -> PathBuf {
        self.state_dir.join("manifest.json")
    }

    /// The same, as dockerd's configuration names it.
    pub fn layout(&self) -> HostLayout {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        HostLayout {
            socket: text(&self.socket),
            pidfile: text(&self.pidfile),
            data_root: text(&self.data_root),
            exec_root: text(&self.exec_root),
            tls_ca: text(&self.tls_ca()),
            tls_cert: text(&self.tls_cert()),
            tls_key: text(&self.tls_key()),
        }
    }
}
