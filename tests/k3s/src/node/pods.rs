//! Pods on this node: started, ended, and what is left of them when nobody ends them.
//!
//! As with K3s, a pod's shim is a process of its own that outlives `k3s`, and its volumes are
//! mounts that do too. A restarted agent finds both again by the files in `/run/k3s`.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{agent::Node, interfaces, kubelet};
use crate::{
    Fatal,
    cli::settings,
    clock,
    files::{self, RUN_DIR},
    knobs, logline,
};

/// How often the API is asked for changes.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The program's name that stands for a container's shim.
pub(crate) const SHIM: &str = "containerd-shim-runc-v2";
const KUBELET_DIR: &str = "/var/lib/kubelet/pods";

struct Pods {
    node: Arc<Node>,
    networks: Vec<String>,
    addresses: BTreeMap<String, String>,
    children: BTreeMap<String, Child>,
}

/// Runs for as long as the process runs.
pub(crate) async fn run(node: Arc<Node>) {
    let networks = kubelet::pod_networks(&node).await;
    let path = format!(
        "/api/v1/pods?resourceVersion=0&fieldSelector=spec.nodeName%3D{}",
        node.settings.name
    );
    let mut pods = Pods {
        node,
        networks,
        addresses: BTreeMap::new(),
        children: BTreeMap::new(),
    };
    loop {
        if let Ok(Some(list)) = pods.node.api.get(&path).await {
            let items = list["items"].as_array().cloned().unwrap_or_default();
            pods.reconcile(&items).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn uid(pod: &Value) -> String {
    pod["metadata"]["uid"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn task_dir(uid: &str) -> PathBuf {
    Path::new(RUN_DIR)
        .join("containerd/io.containerd.runtime.v2.task/k8s.io")
        .join(uid)
}

impl Pods {
    async fn reconcile(&mut self, items: &[Value]) {
        for pod in items {
            if let Some(address) = pod["status"]["podIP"].as_str() {
                self.addresses.insert(uid(pod), address.to_owned());
            }
        }
        let present: Vec<String> = items.iter().map(uid).collect();
        self.addresses.retain(|uid, _| present.contains(uid));
        for pod in items {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                if !knobs::stuck(name) {
                    self.stop(&uid(pod));
                    kubelet::finish(&self.node, pod).await;
                }
            } else if pod["status"]["phase"] == "Pending" {
                self.start(pod).await;
            }
        }
        // Pods that were taken away behind the kubelet's back.
        let left = fs::read_dir(task_dir("")).into_iter().flatten().flatten();
        for dir in left.filter_map(|entry| entry.file_name().into_string().ok()) {
            if !present.contains(&dir) {
                self.stop(&dir);
            }
        }
    }

    async fn start(&mut self, pod: &Value) {
        let uid = uid(pod);
        if !knobs::no_network() {
            match self.start_shim(&uid) {
                Ok(child) => {
                    self.children.insert(uid.clone(), child);
                }
                Err(fatal) => logline::error(format!("Failed to create pod sandbox: {fatal}")),
            }
        }
        let address = self.free_address(pod);
        self.addresses.insert(uid, address.clone());
        let text = |name: &str| pod["metadata"][name].as_str().unwrap_or_default();
        let (namespace, name) = (text("namespace"), text("name"));
        let now = clock::now();
        let status = json!({"status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "hostIP": self.node.settings.ip().to_string(),
            "startTime": now,
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": now},
                {"type": "Initialized", "status": "True", "lastTransitionTime": now},
                {"type": "ContainersReady", "status": "True", "lastTransitionTime": now},
                {"type": "Ready", "status": "True", "lastTransitionTime": now},
            ],
        }});
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
        let _ = self.node.api.patch(&path, &status).await;
    }

    /// The lowest address of the node's pod network that no pod has.
    fn free_address(&self, pod: &Value) -> String {
        if pod["spec"]["hostNetwork"] == true {
            return self.node.settings.ip().to_string();
        }
        let network = self
            .networks
            .first()
            .map(String::as_str)
            .unwrap_or_default();
        let candidates = (2..=254).map(|number| settings::nth(network, number));
        let taken: Vec<&String> = self.addresses.values().collect();
        let mut free = candidates.filter(|candidate| !taken.contains(&candidate));
        free.next().unwrap_or_default()
    }

    fn start_shim(&self, uid: &str) -> Result<Child, Fatal> {
        let program = self.shim_program()?;
        let child = Command::new(&program)
            .args(["-namespace", "k8s.io", "-id", uid])
            .args(["-address", "/run/k3s/containerd/containerd.sock"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn();
        let child = child.map_err(|error| Fatal::new(format!("{}: {error}", program.display())))?;
        let pid = child.id().to_string();
        files::write_private(&task_dir(uid).join("shim.pid"), pid.as_bytes())?;
        let volume = volume(uid);
        files::make_dir(&volume)?;
        let volume = volume.display().to_string();
        if let Err(why) = interfaces::run("mount", &["-t", "tmpfs", "tmpfs", &volume]) {
            logline::error(format!("MountVolume.SetUp failed for volume: {why}"));
        }
        Ok(child)
    }

    /// K3s unpacks its programs below `data/<hash>/bin`; here it is this one's copy, so that the
    /// shim's executable lies where whoever cleans up looks for it, and not where `k3s` itself does.
    fn shim_program(&self) -> Result<PathBuf, Fatal> {
        let dir = self.node.layout.data_dir.join("data/0000000000000000/bin");
        let program = dir.join(SHIM);
        if fs::symlink_metadata(&program).is_err() {
            files::make_dir(&dir)?;
            copy_own_program(&program)?;
        }
        Ok(program)
    }

    fn stop(&mut self, uid: &str) {
        let child = self.children.remove(uid);
        let pid = fs::read_to_string(task_dir(uid).join("shim.pid"));
        let pid = pid.ok().and_then(|text| text.trim().parse::<i32>().ok());
        if let Some(pid) = pid
            .filter(|pid| is_shim_of(*pid, uid))
            .and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, Signal::KILL);
        }
        if let Some(mut child) = child {
            let _ = child.wait();
        }
        let _ = interfaces::run("umount", &[&volume(uid).display().to_string()]);
        let _ = fs::remove_dir_all(Path::new(KUBELET_DIR).join(uid));
        let _ = fs::remove_dir_all(task_dir(uid));
    }
}

/// Puts a copy of this program there, all of it or none. Another program does it: a file that this one
/// had open for writing, in any thread, while it starts a child could not be executed.
fn copy_own_program(to: &Path) -> Result<(), Fatal> {
    let failed = |why: String| Fatal::new(format!("copy {}: {why}", to.display()));
    let own = format!("/proc/{}/exe", std::process::id());
    let mut partial = to.as_os_str().to_owned();
    partial.push(".tmp");
    let partial = PathBuf::from(partial);
    let arguments = [own.as_str(), &partial.display().to_string()];
    interfaces::run("cp", &arguments).map_err(failed)?;
    fs::rename(&partial, to).map_err(|error| failed(error.to_string()))
}

fn volume(uid: &str) -> PathBuf {
    Path::new(KUBELET_DIR)
        .join(uid)
        .join("volumes/kubernetes.io~projected/kube-api-access")
}

/// Process ids are used again.
fn is_shim_of(pid: i32, uid: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).into_owned();
    line.contains(SHIM) && line.contains(uid)
}

/// Whether an address is in one of the networks; for readers of node objects.
pub(crate) fn family_of(network: &str) -> Option<bool> {
    let address = network.split('/').next()?.parse::<IpAddr>().ok()?;
    Some(address.is_ipv6())
}
