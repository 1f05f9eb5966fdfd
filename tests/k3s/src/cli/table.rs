//! The flags that K3s has, and nothing else.
//!
//! Follows `pkg/cli/cmds/{server,agent,log,config,etcd_snapshot,token}.go`. A flag that is known
//! but that this program does not act on is refused when it would change what a cluster does:
//! see [`NOT_HERE`].

use super::flags::{Flag, Kind, Kind::*};

/// Long name, other names, environment variable, kind.
const fn flag(
    name: &'static str,
    aliases: &'static [&'static str],
    env: &'static str,
    kind: Kind,
) -> Flag {
    Flag {
        name,
        aliases,
        env,
        kind,
    }
}

/// What every long-running command has.
pub(crate) const LOGGING: &[Flag] = &[
    flag("config", &["c"], "K3S_CONFIG_FILE", Text),
    flag("debug", &[], "K3S_DEBUG", Switch),
    flag("v", &[], "", Number),
    flag("vmodule", &[], "", Text),
    flag("log", &["l"], "", Text),
    flag("alsologtostderr", &[], "", Switch),
];

/// What servers and agents have, because a server runs an agent.
pub(crate) const NODE: &[Flag] = &[
    flag("token", &["t"], "K3S_TOKEN", Text),
    flag("token-file", &[], "K3S_TOKEN_FILE", Text),
    flag("server", &["s"], "K3S_URL", Text),
    flag("data-dir", &["d"], "K3S_DATA_DIR", Text),
    flag("node-name", &[], "K3S_NODE_NAME", Text),
    flag("with-node-id", &[], "", Switch),
    flag("node-label", &[], "", List),
    flag("node-taint", &[], "", List),
    flag("image-credential-provider-bin-dir", &[], "", Text),
    flag("image-credential-provider-config", &[], "", Text),
    flag("selinux", &[], "K3S_SELINUX", Switch),
    flag("lb-server-port", &[], "K3S_LB_SERVER_PORT", Number),
    flag("docker", &[], "", Switch),
    flag("container-runtime-endpoint", &[], "", Text),
    flag("default-runtime", &[], "", Text),
    flag("image-service-endpoint", &[], "", Text),
    flag("disable-default-registry-endpoint", &[], "", Switch),
    flag("nonroot-devices", &[], "", Switch),
    flag("pause-image", &[], "", Text),
    flag("snapshotter", &[], "", Text),
    flag("private-registry", &[], "", Text),
    flag("airgap-extra-registry", &[], "", List),
    flag("node-ip", &["i"], "", List),
    flag("node-external-ip", &[], "", List),
    flag("node-internal-dns", &[], "", List),
    flag("node-external-dns", &[], "", List),
    flag("resolv-conf", &[], "K3S_RESOLV_CONF", Text),
    flag("flannel-iface", &[], "", Text),
    flag("flannel-conf", &[], "", Text),
    flag("flannel-cni-conf", &[], "", Text),
    flag("vpn-auth", &[], "K3S_VPN_AUTH", Text),
    flag("vpn-auth-file", &[], "K3S_VPN_AUTH_FILE", Text),
    flag("kubelet-arg", &[], "", List),
    flag("kube-proxy-arg", &[], "", List),
    flag("protect-kernel-defaults", &[], "", Switch),
    flag("enable-pprof", &[], "", Switch),
    flag("rootless", &[], "", Switch),
    flag("prefer-bundled-bin", &[], "", Switch),
];

/// What only agents have.
pub(crate) const AGENT: &[Flag] = &[flag("disable-apiserver-lb", &[], "", Switch)];

/// What only servers have.
pub(crate) const SERVER: &[Flag] = &[
    flag("bind-address", &[], "", Text),
    flag("https-listen-port", &[], "", Number),
    flag("advertise-address", &[], "", Text),
    flag("advertise-port", &[], "", Number),
    flag("tls-san", &[], "", List),
    flag("tls-san-security", &[], "", Switch),
    flag("cluster-cidr", &[], "", List),
    flag("service-cidr", &[], "", List),
    flag("service-node-port-range", &[], "", Text),
    flag("cluster-dns", &[], "", List),
    flag("cluster-domain", &[], "", Text),
    flag("flannel-backend", &[], "", Text),
    flag("flannel-ipv6-masq", &[], "", Switch),
    flag("flannel-external-ip", &[], "", Switch),
    flag("egress-selector-mode", &[], "", Text),
    flag("servicelb-namespace", &[], "", Text),
    flag("write-kubeconfig", &["o"], "K3S_KUBECONFIG_OUTPUT", Text),
    flag("write-kubeconfig-mode", &[], "K3S_KUBECONFIG_MODE", Text),
    flag("write-kubeconfig-group", &[], "K3S_KUBECONFIG_GROUP", Text),
    flag("helm-job-image", &[], "", Text),
    flag("agent-token", &[], "K3S_AGENT_TOKEN", Text),
    flag("agent-token-file", &[], "K3S_AGENT_TOKEN_FILE", Text),
    flag("cluster-init", &[], "K3S_CLUSTER_INIT", Switch),
    flag("cluster-reset", &[], "K3S_CLUSTER_RESET", Switch),
    flag("cluster-reset-restore-path", &[], "", Text),
    flag("kube-apiserver-arg", &[], "", List),
    flag("etcd-arg", &[], "", List),
    flag(
        "kube-controller-manager-arg",
        &["kube-controller-arg"],
        "",
        List,
    ),
    flag("kube-scheduler-arg", &[], "", List),
    flag(
        "kube-cloud-controller-manager-arg",
        &["kube-cloud-controller-arg"],
        "",
        List,
    ),
    flag("kine-tls", &[], "", Switch),
    flag("datastore-endpoint", &[], "K3S_DATASTORE_ENDPOINT", Text),
    flag("datastore-cafile", &[], "K3S_DATASTORE_CAFILE", Text),
    flag("datastore-certfile", &[], "K3S_DATASTORE_CERTFILE", Text),
    flag("datastore-keyfile", &[], "K3S_DATASTORE_KEYFILE", Text),
    flag("etcd-expose-metrics", &[], "", Switch),
    flag("etcd-disable-snapshots", &[], "", Switch),
    flag("etcd-snapshot-name", &[], "", Text),
    flag("etcd-snapshot-schedule-cron", &[], "", Text),
    flag("etcd-snapshot-retention", &[], "", Number),
    flag("etcd-snapshot-dir", &[], "", Text),
    flag("etcd-snapshot-compress", &[], "", Switch),
    flag("etcd-s3", &[], "", Switch),
    flag("default-local-storage-path", &[], "", Text),
    flag("disable", &[], "", List),
    flag("disable-scheduler", &[], "", Switch),
    flag("disable-cloud-controller", &[], "", Switch),
    flag("disable-kube-proxy", &[], "", Switch),
    flag("disable-network-policy", &[], "", Switch),
    flag("disable-helm-controller", &[], "", Switch),
    flag("disable-apiserver", &[], "", Switch),
    flag("disable-controller-manager", &[], "", Switch),
    flag("disable-etcd", &[], "", Switch),
    flag("disable-agent", &[], "", Switch),
    flag("embedded-registry", &[], "", Switch),
    flag("supervisor-metrics", &[], "", Switch),
    flag(
        "system-default-registry",
        &[],
        "K3S_SYSTEM_DEFAULT_REGISTRY",
        Text,
    ),
    flag("secrets-encryption", &[], "", Switch),
    flag("secrets-encryption-provider", &[], "", Text),
];

/// `k3s etcd-snapshot …`.
pub(crate) const SNAPSHOT: &[Flag] = &[
    flag("node-name", &[], "K3S_NODE_NAME", Text),
    flag("data-dir", &["d"], "K3S_DATA_DIR", Text),
    flag("etcd-token", &["t"], "K3S_TOKEN", Text),
    flag("etcd-server", &["s"], "", Text),
    flag("etcd-snapshot-dir", &["dir"], "", Text),
    flag("name", &[], "", Text),
    flag("etcd-snapshot-compress", &["snapshot-compress"], "", Switch),
    flag(
        "etcd-snapshot-retention",
        &["snapshot-retention"],
        "",
        Number,
    ),
    flag("etcd-s3", &["s3"], "", Switch),
    flag("output", &["o"], "", Text),
];

/// `k3s token …`.
pub(crate) const TOKEN: &[Flag] = &[
    flag("data-dir", &["d"], "K3S_DATA_DIR", Text),
    flag("kubeconfig", &[], "KUBECONFIG", Text),
    flag("description", &[], "", Text),
    flag("groups", &[], "", List),
    flag("ttl", &[], "", Text),
    flag("usages", &[], "", List),
    flag("output", &["o"], "", Text),
];

/// Flags of K3s whose effect nobody here imitates. Silence would let a test pass that a real K3s
/// fails.
pub(crate) const NOT_HERE: &[&str] = &[
    "container-runtime-endpoint",
    "datastore-endpoint",
    "disable-agent",
    "disable-apiserver",
    "disable-controller-manager",
    "disable-etcd",
    "docker",
    "embedded-registry",
    "etcd-s3",
    "rootless",
    "secrets-encryption",
    "vpn-auth",
    "vpn-auth-file",
];
