//! A cluster's API: is it ready, who is in it, who is to go.
//!
//! Decides nothing about pods; `runtimes_core::k3s::eviction` does. Every question has a deadline.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use consensus_core::IpPrefix;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::Status,
};
use runtimes_core::k3s::eviction::{Owner, PodView};
use serde_json::json;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::kubeconfig::what_is_wrong;

/// An API server that takes longer for a word is not one that anybody can work with.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// HTTP's word for a disruption budget that is used up (Kubernetes, API-initiated eviction).
const TOO_MANY_REQUESTS: u16 = 429;
const NOT_FOUND: u16 = 404;
/// Its word for a precondition that does not hold.
const CONFLICT: u16 = 409;
/// Until a node is looked for again that is being taken out.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How K3s labels nodes whose server is a member of etcd.
const ETCD_MEMBER: &str = "node-role.kubernetes.io/etcd=true";
/// What the kubelet says of a node that no CNI has been installed on (Kubernetes, `pkg/kubelet`,
/// `runtimeState.networkErrors`, in the words of the CRI).
const NO_NETWORK: &str = "NetworkPluginNotReady";
/// A pod that mirrors a file on the node.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The cluster could not be asked, or refused.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// K3s has not written its kubeconfig, or it is damaged.
    #[error("{path} cannot be used: {reason}")]
    Kubeconfig {
        /// Its path.
        path: String,
        /// Why.
        reason: String,
    },
    /// The API server does not answer.
    #[error("the cluster's API does not answer: {reason}")]
    Unreachable {
        /// Why.
        reason: String,
    },
    /// It answered with something else.
    #[error("the cluster's API refuses: {reason}")]
    Refused {
        /// HTTP's code.
        code: u16,
        /// In its words.
        reason: String,
    },
}

impl ApiError {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Kubeconfig { .. } => "K3sKubeconfigError",
            Self::Unreachable { .. } => "K3sApiUnreachableError",
            Self::Refused { .. } => "K3sApiRefusedError",
        }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = error else {
            return Self::Unreachable {
                reason: with_sources(&error),
            };
        };
        Self::Refused {
            code: status.code,
            reason: status.message,
        }
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(next) = source {
        let more = next.to_string();
        // Some repeat their source in their own words.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = next.source();
    }
    text
}

/// What became of an eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Eviction {
    /// The pod is going, or gone.
    Accepted,
    /// A disruption budget forbids it for now.
    Forbidden {
        /// In the API server's words.
        reason: String,
    },
}

/// A node as its cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Whether it is ready.
    pub ready: bool,
    /// Why not, as the kubelet says.
    pub reason: String,
    /// Whether all that is missing is somebody who gives pods their network.
    pub lacks_network: bool,
    /// Whether nothing new comes to it.
    pub cordoned: bool,
    /// Where its pods have their addresses.
    pub pods: Vec<IpPrefix>,
}

/// A cluster's API.
#[derive(Clone)]
pub struct ClusterApi {
    client: Client,
    /// Where it is asked, if that is this host itself.
    local: Option<SocketAddr>,
}

impl std::fmt::Debug for ClusterApi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterApi")
    }
}

impl ClusterApi {
    /// By a kubeconfig on this host.
    ///
    /// # Errors
    /// It is not there (yet), or of no use.
    pub async fn open(kubeconfig: &Path) -> Result<Self, ApiError> {
        let unusable = |reason: String| ApiError::Kubeconfig {
            path: kubeconfig.display().to_string(),
            reason,
        };
        let read = Kubeconfig::read_from(kubeconfig).map_err(|e| unusable(what_is_wrong(&e)))?;
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(read, &options)
            .await
            .map_err(|error| unusable(what_is_wrong(&error)))?;
        config.connect_timeout = Some(ANSWER_WITHIN);
        config.read_timeout = Some(ANSWER_WITHIN);
        config.write_timeout = Some(ANSWER_WITHIN);
        config.reset_reader_on_write = true;
        // "Too many requests" is the answer of a disruption budget, and is told at once.
        config.default_retry = false;
        // The way to a registry, which shoald's environment may name, is none to a K3s on this host.
        config.proxy_url = None;
        let local = local(&config.cluster_url);
        let client = Client::try_from(config).map_err(|e| unusable(with_sources(&e)))?;
        Ok(Self { client, local })
    }

    /// Whether it is asked on this host and nobody listens there, which is another thing than a cluster that
    /// does not answer.
    pub(crate) async fn is_refused(&self) -> bool {
        let Some(local) = self.local else {
            return false;
        };
        let tried = timeout(ANSWER_WITHIN, TcpStream::connect(local)).await;
        tried.is_ok_and(|tried| {
            tried.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        })
    }

    /// Whether the API server says that it is ready.
    ///
    /// # Errors
    /// It does not, or says nothing.
    pub async fn ready(&self) -> Result<(), ApiError> {
        let request = hyper::Request::get("/readyz").body(Vec::new());
        let request = request.map_err(|error| ApiError::Unreachable {
            reason: error.to_string(),
        })?;
        self.client.request_text(request).await?;
        Ok(())
    }

    /// A node, if the cluster knows it.
    ///
    /// # Errors
    /// The API did not answer, or refused.
    pub async fn node(&self, name: &str) -> Result<Option<NodeView>, ApiError> {
        Ok(self.nodes().get_opt(name).await?.map(|node| view(&node)))
    }

    /// How many members etcd has.
    ///
    /// # Errors
    /// The API did not answer, or refused.
    pub async fn members(&self) -> Result<usize, ApiError> {
        let members = ListParams::default().labels(ETCD_MEMBER);
        Ok(self.nodes().list(&members).await?.items.len())
    }

    /// Lets the cluster forget a node. Of a server K3s takes its etcd member away with it.
    ///
    /// # Errors
    /// The API did not answer, or refused. One that is gone already is no error.
    pub async fn forget(&self, name: &str) -> Result<(), ApiError> {
        match self.nodes().delete(name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == NOT_FOUND => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }

    /// Lets the cluster forget a node, and says whether it has within that time: the API takes the
    /// wish at once, and keeps the node until K3s's finalizers are done with its password and its
    /// etcd member.
    ///
    /// # Errors
    /// The API did not answer, or refused.
    pub async fn forget_wholly(&self, name: &str, within: Duration) -> Result<bool, ApiError> {
        self.forget(name).await?;
        let by = Instant::now() + within;
        while self.node(name).await?.is_some() {
            if Instant::now() >= by {
                return Ok(false);
            }
            sleep(LOOK_AGAIN).await;
        }
        Ok(true)
    }

    /// Whether anything new may come to a node.
    ///
    /// # Errors
    /// The API did not answer, or refused. A node that is gone needs no cordon.
    pub async fn cordon(&self, name: &str, cordoned: bool) -> Result<(), ApiError> {
        let nodes = self.nodes();
        let done = match cordoned {
            true => nodes.cordon(name).await,
            false => nodes.uncordon(name).await,
        };
        match done {
            Err(kube::Error::Api(status)) if status.code == NOT_FOUND => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => Ok(()),
        }
    }

    /// The pods of a node.
    ///
    /// # Errors
    /// The API did not answer, or refused.
    pub async fn pods_on(&self, node: &str) -> Result<Vec<PodView>, ApiError> {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let of_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let listed = pods.list(&of_node).await?;
        Ok(listed.items.iter().map(pod_view).collect())
    }

    /// Asks a pod to go elsewhere: that one, and no later one of its name, wherever that may be.
    ///
    /// # Errors
    /// The API did not answer, or refused for another reason than a disruption budget.
    pub async fn evict(&self, pod: &PodView) -> Result<Eviction, ApiError> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        // kube's own call writes `delete_options`, which the API does not read.
        let wish = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod.name, "namespace": pod.namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid}},
        });
        let options = PostParams::default();
        let asked = pods.create_subresource::<_, Status>("eviction", &pod.name, &options, &wish);
        let refusal = match asked.await {
            // A pod with two budgets is refused in the body of a success.
            Ok(status) if status.is_failure() => status,
            Ok(_) => return Ok(Eviction::Accepted),
            Err(kube::Error::Api(status)) => *status,
            Err(error) => return Err(error.into()),
        };
        let reason = refusal.message;
        match refusal.code {
            // It is gone, and another one may have its name; or it was changed just now, and the next
            // look tells.
            NOT_FOUND | CONFLICT => Ok(Eviction::Accepted),
            TOO_MANY_REQUESTS => Ok(Eviction::Forbidden { reason }),
            code => Err(ApiError::Refused { code, reason }),
        }
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }
}

/// K3s has its own programs ask at a loopback address.
fn local(url: &hyper::Uri) -> Option<SocketAddr> {
    let host = url.host()?.trim_matches(['[', ']']);
    let address: IpAddr = host.parse().ok()?;
    let port = url.port_u16()?;
    address
        .is_loopback()
        .then(|| SocketAddr::new(address, port))
}

fn view(node: &Node) -> NodeView {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready");
    let spec = node.spec.as_ref();
    let cidrs = spec.and_then(|spec| spec.pod_cidrs.as_ref());
    let reason = ready.and_then(|condition| condition.message.clone());
    let reason = reason.unwrap_or_default();
    NodeView {
        ready: ready.is_some_and(|condition| condition.status == "True"),
        lacks_network: ready.is_some_and(|condition| condition.status == "False")
            && reason.contains(NO_NETWORK),
        reason,
        cordoned: spec.and_then(|spec| spec.unschedulable).unwrap_or_default(),
        pods: cidrs
            .into_iter()
            .flatten()
            .filter_map(|cidr| cidr.parse().ok())
            .collect(),
    }
}

fn pod_view(pod: &Pod) -> PodView {
    let metadata = &pod.metadata;
    let annotations = metadata.annotations.as_ref();
    let mirror = annotations.is_some_and(|all| all.contains_key(MIRROR));
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    let daemon = owners
        .iter()
        .any(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true));
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    PodView {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        owner: match (mirror, daemon) {
            (true, _) => Owner::Node,
            (false, true) => Owner::DaemonSet,
            (false, false) => Owner::Other,
        },
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        leaving: metadata.deletion_timestamp.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_when_its_condition_says_so() {
        let node = |status: &str| -> Node {
            serde_json::from_value(json!({
                "metadata": {"name": "n1"},
                "spec": {"podCIDRs": ["10.42.1.0/24", "strange"], "unschedulable": true},
                "status": {"conditions": [
                    {"type": "MemoryPressure", "status": "True"},
                    {"type": "Ready", "status": status, "message": "kubelet is posting"},
                ]},
            }))
            .unwrap()
        };
        let seen = view(&node("True"));
        assert!(seen.ready && seen.cordoned);
        assert_eq!(seen.pods, ["10.42.1.0/24".parse().unwrap()]);
        for status in ["False", "Unknown"] {
            assert!(!view(&node(status)).ready);
        }
        assert!(!view(&Node::default()).ready);
        let without = |status: &str| -> Node {
            let why = "container runtime network not ready: NetworkReady=false \
                       reason:NetworkPluginNotReady message:cni plugin not initialized";
            let condition = json!({"type": "Ready", "status": status, "message": why});
            serde_json::from_value(json!({"status": {"conditions": [condition]}})).unwrap()
        };
        assert!(view(&without("False")).lacks_network);
        assert!(!view(&without("Unknown")).lacks_network);
        assert!(!view(&node("False")).lacks_network);
    }

    #[test]
    fn only_a_loopback_address_is_this_host() {
        let local = |url: &str| local(&url.parse().unwrap()).map(|it| it.to_string());
        let here = local("https://127.0.0.1:6443");
        assert_eq!(here.as_deref(), Some("127.0.0.1:6443"));
        assert_eq!(local("https://[::1]:6444").as_deref(), Some("[::1]:6444"));
        for elsewhere in [
            "https://100.96.0.1:6443",
            "https://[fd00::f]:6443",
            "https://k3s:6443",
        ] {
            assert_eq!(local(elsewhere), None, "{elsewhere}");
        }
    }

    #[tokio::test]
    async fn a_port_that_refuses_is_told_from_one_that_does_not_answer() {
        let root = tempfile::tempdir().unwrap();
        let kubeconfig = root.path().join("kubeconfig");
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = socket.local_addr().unwrap();
        let text = json!({
            "kind": "Config", "apiVersion": "v1", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(&kubeconfig, text.to_string()).unwrap();
        let api = ClusterApi::open(&kubeconfig).await.unwrap();
        assert!(api.is_refused().await);
        // Taken, and never answered.
        let _listener = socket.listen(8).unwrap();
        assert!(!api.is_refused().await);
    }

    /// As it would be with `HTTPS_PROXY` in shoald's environment.
    #[tokio::test]
    async fn a_k3s_on_this_host_is_not_asked_through_a_proxy() {
        let root = tempfile::tempdir().unwrap();
        let kubeconfig = root.path().join("kubeconfig");
        let cluster = json!({
            "server": "http://127.0.0.1:6443", "proxy-url": "http://me:secret@127.0.0.1:9",
        });
        let text = json!({
            "kind": "Config", "apiVersion": "v1", "current-context": "c",
            "clusters": [{"name": "c", "cluster": cluster}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(&kubeconfig, text.to_string()).unwrap();
        ClusterApi::open(&kubeconfig).await.unwrap();
    }

    #[test]
    fn a_pod_is_told_by_whose_it_is() {
        let pod = |metadata: serde_json::Value| -> PodView {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": metadata, "status": {"phase": "Running"},
            }))
            .unwrap();
            pod_view(&pod)
        };
        let owned = |kind: &str, controller: bool| {
            pod(json!({"name": "p", "namespace": "d", "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "u",
                 "controller": controller},
            ]}))
        };
        assert_eq!(owned("DaemonSet", true).owner, Owner::DaemonSet);
        assert_eq!(owned("DaemonSet", false).owner, Owner::Other);
        assert_eq!(owned("ReplicaSet", true).owner, Owner::Other);
        let mirror = pod(json!({"name": "p", "annotations": {MIRROR: "x"}}));
        assert_eq!(mirror.owner, Owner::Node);
        assert!(pod(json!({"deletionTimestamp": "2024-01-01T00:00:00Z"})).leaving);
    }
}
