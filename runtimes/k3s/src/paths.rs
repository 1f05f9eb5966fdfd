//! Where everything is on the host.
//!
//! Decides: every path that this crate reads or writes, so that a test can root all of them
//! elsewhere. K3s's own are as its documentation has them (docs.k3s.io: installation,
//! configuration; cli; architecture).

use std::path::{Path, PathBuf};

use consensus_core::K3sRole;
use runtimes_core::k3s::SecretFiles;

/// Where everything is on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The program, in its usual place.
    pub program: PathBuf,
    /// K3s's configuration: `config.yaml.d`, `k3s.yaml`.
    pub config_dir: PathBuf,
    /// What a node proves itself with to its cluster (`/etc/rancher/node`).
    pub node_dir: PathBuf,
    /// K3s's data.
    pub data_dir: PathBuf,
    /// The kubelet's.
    pub kubelet_dir: PathBuf,
    /// K3s's containerd, flannel and such, in memory.
    pub run_dirs: Vec<PathBuf>,
    /// systemd's units.
    pub units: PathBuf,
    /// Exists where systemd is PID 1.
    pub systemd_marker: PathBuf,
    /// Records, manifest, tokens, log: shoal's own.
    pub state_dir: PathBuf,
}

impl Paths {
    /// The defaults, with shoal's own files under its data directory.
    pub fn under(shoal: &Path) -> Self {
        Self {
            program: "/usr/local/bin/k3s".into(),
            config_dir: "/etc/rancher/k3s".into(),
            node_dir: "/etc/rancher/node".into(),
            data_dir: "/var/lib/rancher/k3s".into(),
            kubelet_dir: "/var/lib/kubelet".into(),
            run_dirs: ["/run/k3s", "/run/flannel"].map(PathBuf::from).to_vec(),
            units: "/etc/systemd/system".into(),
            systemd_marker: "/run/systemd/system".into(),
            state_dir: shoal.join("k3s"),
        }
    }

    /// Where K3s has its own, beside [`config_dir`](Self::config_dir), which it shares with its operator.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        let own = [&self.node_dir, &self.data_dir, &self.kubelet_dir];
        own.into_iter().chain(&self.run_dirs).cloned().collect()
    }

    /// shoal's settings. An operator's own `config.yaml` is read before them.
    pub fn settings(&self) -> PathBuf {
        self.config_dir.join("config.yaml.d/50-shoal.yaml")
    }

    /// The administrator's kubeconfig, which a server writes.
    pub fn kubeconfig(&self) -> PathBuf {
        self.config_dir.join("k3s.yaml")
    }

    /// The kubelet's kubeconfig, with which an agent may look at its own node.
    pub fn kubelet_kubeconfig(&self) -> PathBuf {
        self.data_dir.join("agent/kubelet.kubeconfig")
    }

    /// Images that are there before anything is pulled.
    pub fn images(&self) -> PathBuf {
        self.data_dir.join("agent/images")
    }

    /// The whole token of servers, with the sum of the CA, which a server writes.
    pub fn whole_server_token(&self) -> PathBuf {
        self.data_dir.join("server/token")
    }

    /// The same of agents.
    pub fn whole_agent_token(&self) -> PathBuf {
        self.data_dir.join("server/agent-token")
    }

    /// What servers join with, 0600.
    pub fn server_token(&self) -> PathBuf {
        self.state_dir.join("server-token")
    }

    /// What agents join with, 0600.
    pub fn agent_token(&self) -> PathBuf {
        self.state_dir.join("agent-token")
    }

    /// The same, as settings name them.
    pub fn secret_files(&self) -> SecretFiles {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        SecretFiles {
            server_token: text(self.server_token()),
            agent_token: text(self.agent_token()),
            data_dir: text(self.data_dir.clone()),
            kubeconfig: text(self.kubeconfig()),
        }
    }

    /// Which stay this is, and how far it came.
    pub fn record(&self) -> PathBuf {
        self.state_dir.join("stay.json")
    }

    /// Which program is in place, and where it came from.
    pub fn program_record(&self) -> PathBuf {
        self.state_dir.join("program.json")
    }

    /// Which program is about to be put in place.
    pub fn program_coming(&self) -> PathBuf {
        self.state_dir.join("program-coming.json")
    }

    /// Which process was ready since it was started.
    pub fn ready_record(&self) -> PathBuf {
        self.state_dir.join("ready.json")
    }

    /// Which process shoal started, and with what.
    pub fn process_record(&self) -> PathBuf {
        self.state_dir.join("process.json")
    }

    /// There from when the node begins to be emptied for a change until it is done with it. Says whether
    /// somebody else had cordoned it.
    pub fn vacated(&self) -> PathBuf {
        self.state_dir.join("vacated")
    }

    /// There once it is empty.
    pub fn emptied(&self) -> PathBuf {
        self.state_dir.join("emptied")
    }

    /// There once what a change had to do is done, while the node is still cordoned because of it: who
    /// drains it wants that too.
    pub fn cordoned(&self) -> PathBuf {
        self.state_dir.join("cordoned")
    }

    /// A program on its way from a file server.
    pub fn download(&self) -> PathBuf {
        self.state_dir.join("k3s.download")
    }

    /// The list of everything shoal wrote.
    pub fn manifest(&self) -> PathBuf {
        self.state_dir.join("manifest.json")
    }

    /// What K3s prints, where shoal supervises it.
    pub fn log(&self) -> PathBuf {
        self.state_dir.join("k3s.log")
    }

    /// The log before it was last cut.
    pub fn old_log(&self) -> PathBuf {
        self.state_dir.join("k3s.log.1")
    }

    /// What K3s has in its environment under systemd, 0600.
    pub fn environment(&self) -> PathBuf {
        self.state_dir.join("k3s.env")
    }

    /// The unit of a role, as K3s's own installer calls them.
    pub fn unit(&self, role: K3sRole) -> PathBuf {
        self.units.join(unit_name(role))
    }

    /// Its drop-in (SPEC 5.3).
    pub fn drop_in(&self, role: K3sRole) -> PathBuf {
        let directory = format!("{}.d", unit_name(role));
        self.units.join(directory).join("override.conf")
    }
}

/// What K3s's installer calls the units.
pub(crate) const fn unit_name(role: K3sRole) -> &'static str {
    match role {
        K3sRole::Server => "k3s.service",
        K3sRole::Agent => "k3s-agent.service",
    }
}
