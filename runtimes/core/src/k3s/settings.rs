//! K3s's configuration file.
//!
//! Decides: every key that shoal sets, so that all of a cluster's traffic stays on the overlay
//! (SPEC 5.5 to 5.7). Never: a secret; tokens are in files that the settings name.
//!
//! A node's operator may have settings of his own beside these. Lists of his are added to, not replaced:
//! a key with a `+` does that (docs.k3s.io: configuration file). What shoal itself relies on is said even
//! where it is K3s's default, so that no setting of his moves it.
//!
//! The keys are those of `k3s server --help` and `k3s agent --help`; K3s reads them from
//! `config.yaml` and, in the order of their names, from `config.yaml.d/*.yaml`. JSON is YAML (YAML
//! 1.2, chapter 1.3), and leaves nothing to quote.

use std::net::{Ipv4Addr, Ipv6Addr};

use consensus_core::{Cni, IpPrefix, K3S_API_PORT, K3sRole};
use serde::Serialize;

/// Where a node is in its cluster's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its overlay /32, which it goes by.
    pub ipv4: Ipv4Addr,
    /// Its overlay /128.
    pub ipv6: Ipv6Addr,
    /// The overlay's interface.
    pub interface: String,
}

/// How a node gets into its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entrance {
    /// It initialises the datastore.
    Found,
    /// By the API's address.
    Join,
}

/// All that the settings of a node follow from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// Server or agent.
    pub role: K3sRole,
    /// The node's name in the mesh, and so in Kubernetes.
    pub node_name: String,
    /// Where it is.
    pub place: Place,
    /// The API's address.
    pub vip: Ipv6Addr,
    /// How it gets in.
    pub entrance: Entrance,
    /// Who gives pods their network.
    pub cni: Cni,
    /// Where pods have their addresses; K3s's own choice unless given.
    pub pod_prefix: Option<IpPrefix>,
}

/// Files of a fixed place that settings name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretFiles {
    /// What servers join with.
    pub server_token: String,
    /// What agents join with.
    pub agent_token: String,
    /// The directory of K3s's data.
    pub data_dir: String,
    /// The administrator's kubeconfig, which a server writes.
    pub kubeconfig: String,
}

/// What etcd, which K3s embeds, takes for a dead leader. K3s gives it 5 s, and it draws up to twice
/// that: the API would answer nobody for as long after a server vanished, wherever its address is by
/// then. Five heartbeats are the fewest that etcd takes (etcd, `server/embed/config.go`), and 80 ms are
/// more than a round trip of the sites that share a cluster. So a new leader comes after 0.4 to 0.8 s.
const ETCD_TIMING: [&str; 2] = ["heartbeat-interval=80", "election-timeout=400"];

/// The document, in K3s's words. A key that is `None` is left out: K3s has a default for it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Document<'a> {
    node_name: &'a str,
    node_ip: Ipv4Addr,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_init: Option<bool>,
    token_file: &'a str,
    data_dir: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_token_file: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    advertise_address: Option<Ipv4Addr>,
    #[serde(rename = "tls-san+", skip_serializing_if = "Option::is_none")]
    tls_san: Option<Vec<String>>,
    #[serde(rename = "etcd-arg+", skip_serializing_if = "Option::is_none")]
    etcd_arg: Option<[&'static str; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_kubeconfig: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    write_kubeconfig_mode: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flannel_backend: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disable_network_policy: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_cidr: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    flannel_iface: Option<&'a str>,
}

/// What `flannel-backend` says: pods of a prefix that the overlay routes need no tunnel of their
/// own; others do; and OVN needs flannel out of the way.
const fn flannel_backend(cni: Cni, routed: bool) -> &'static str {
    match (cni, routed) {
        (Cni::OvnKubernetes, _) => "none",
        (Cni::Flannel, true) => "host-gw",
        (Cni::Flannel, false) => "vxlan",
    }
}

/// The settings' text.
pub fn render(membership: &Membership, files: &SecretFiles) -> String {
    let Membership { role, place, .. } = membership;
    let server = *role == K3sRole::Server;
    let founds = server && membership.entrance == Entrance::Found;
    let flannel = membership.cni == Cni::Flannel;
    let vip = membership.vip;
    let names = || {
        vec![
            vip.to_string(),
            place.ipv6.to_string(),
            place.ipv4.to_string(),
            membership.node_name.clone(),
        ]
    };
    let prefix = membership.pod_prefix.filter(|_| flannel);
    let backend = flannel_backend(membership.cni, prefix.is_some());
    let token_file = match role {
        K3sRole::Server => &files.server_token,
        K3sRole::Agent => &files.agent_token,
    };
    let document = Document {
        node_name: &membership.node_name,
        node_ip: place.ipv4,
        server: (!founds).then(|| format!("https://[{vip}]:{K3S_API_PORT}")),
        cluster_init: founds.then_some(true),
        token_file,
        data_dir: &files.data_dir,
        agent_token_file: server.then_some(&files.agent_token),
        advertise_address: server.then_some(place.ipv4),
        tls_san: server.then(names),
        etcd_arg: server.then_some(ETCD_TIMING),
        write_kubeconfig: server.then_some(&files.kubeconfig),
        write_kubeconfig_mode: server.then_some("0600"),
        flannel_backend: server.then_some(backend),
        disable_network_policy: (server && !flannel).then_some(true),
        cluster_cidr: prefix.filter(|_| server).map(|prefix| prefix.to_string()),
        flannel_iface: flannel.then_some(&place.interface),
    };
    let mut text = serde_json::to_string_pretty(&document).expect("strings, numbers and lists");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn membership(role: K3sRole, entrance: Entrance) -> Membership {
        Membership {
            role,
            node_name: "n1".into(),
            place: Place {
                ipv4: Ipv4Addr::new(100, 96, 0, 1),
                ipv6: "fd00::1".parse().unwrap(),
                interface: "shoal-default".into(),
            },
            vip: "fd00::f".parse().unwrap(),
            entrance,
            cni: Cni::Flannel,
            pod_prefix: None,
        }
    }

    fn rendered(membership: &Membership) -> Value {
        let files = SecretFiles {
            server_token: "/etc/shoal/k3s/server-token".into(),
            agent_token: "/etc/shoal/k3s/agent-token".into(),
            data_dir: "/var/lib/rancher/k3s".into(),
            kubeconfig: "/etc/rancher/k3s/k3s.yaml".into(),
        };
        serde_json::from_str(&render(membership, &files)).unwrap()
    }

    #[test]
    fn a_founder_initialises_and_names_every_way_to_itself() {
        let text = rendered(&membership(K3sRole::Server, Entrance::Found));
        let expected = json!({
            "node-name": "n1",
            "node-ip": "100.96.0.1",
            "cluster-init": true,
            "token-file": "/etc/shoal/k3s/server-token",
            "agent-token-file": "/etc/shoal/k3s/agent-token",
            "advertise-address": "100.96.0.1",
            "data-dir": "/var/lib/rancher/k3s",
            "tls-san+": ["fd00::f", "fd00::1", "100.96.0.1", "n1"],
            "etcd-arg+": ["heartbeat-interval=80", "election-timeout=400"],
            "write-kubeconfig": "/etc/rancher/k3s/k3s.yaml",
            "write-kubeconfig-mode": "0600",
            "flannel-backend": "vxlan",
            "flannel-iface": "shoal-default",
        });
        assert_eq!(text, expected);
    }

    #[test]
    fn a_further_server_joins_by_the_virtual_ip_and_initialises_nothing() {
        let text = rendered(&membership(K3sRole::Server, Entrance::Join));
        assert_eq!(text["server"], "https://[fd00::f]:6443");
        assert_eq!(text.get("cluster-init"), None);
    }

    /// docs.k3s.io, `k3s server`: "Critical Configuration Values".
    #[test]
    fn what_must_be_equal_on_all_servers_is_equal() {
        let of = |entrance| {
            let membership = Membership {
                pod_prefix: Some("10.42.0.0/16".parse().unwrap()),
                ..membership(K3sRole::Server, entrance)
            };
            rendered(&membership)
        };
        let (founder, later) = (of(Entrance::Found), of(Entrance::Join));
        for key in [
            "agent-token-file",
            "cluster-cidr",
            "disable-network-policy",
            "flannel-backend",
        ] {
            assert_eq!(founder.get(key), later.get(key), "{key}");
        }
    }

    #[test]
    fn etcd_takes_its_timing_and_elects_within_a_second() {
        let number = |argument: &str, name: &str| -> u64 {
            let value = argument.strip_prefix(name).unwrap();
            value.parse().unwrap()
        };
        let heartbeat_ms = number(ETCD_TIMING[0], "heartbeat-interval=");
        let election_ms = number(ETCD_TIMING[1], "election-timeout=");
        // etcd ends at once if this does not hold, and draws up to twice the timeout.
        assert!(election_ms >= 5 * heartbeat_ms);
        assert!(2 * election_ms < 1000);
    }

    #[test]
    fn a_mode_stays_a_text_for_k3ss_reader() {
        let membership = membership(K3sRole::Server, Entrance::Found);
        let files = SecretFiles {
            server_token: "/s".into(),
            agent_token: "/a".into(),
            data_dir: "/d".into(),
            kubeconfig: "/k".into(),
        };
        // Without quotes, YAML 1.1 reads the number 384.
        let line = "\"write-kubeconfig-mode\": \"0600\"";
        assert!(render(&membership, &files).contains(line));
    }

    #[test]
    fn an_agent_is_told_what_agents_know_and_nothing_of_servers() {
        let text = rendered(&membership(K3sRole::Agent, Entrance::Join));
        let expected = json!({
            "node-name": "n1",
            "node-ip": "100.96.0.1",
            "server": "https://[fd00::f]:6443",
            "token-file": "/etc/shoal/k3s/agent-token",
            "data-dir": "/var/lib/rancher/k3s",
            "flannel-iface": "shoal-default",
        });
        assert_eq!(text, expected);
    }

    /// SPEC 5.6 and 5.7.
    #[test]
    fn what_pods_get_follows_from_cni_and_prefix() {
        let prefix = || Some("10.42.0.0/16".parse().unwrap());
        let rows = [
            (Cni::Flannel, None, "vxlan", None, None),
            (
                Cni::Flannel,
                prefix(),
                "host-gw",
                Some("10.42.0.0/16"),
                None,
            ),
            (Cni::OvnKubernetes, None, "none", None, Some(true)),
            (Cni::OvnKubernetes, prefix(), "none", None, Some(true)),
        ];
        for (cni, pod_prefix, backend, cidr, no_policy) in rows {
            let membership = Membership {
                cni,
                pod_prefix,
                ..membership(K3sRole::Server, Entrance::Found)
            };
            let text = rendered(&membership);
            assert_eq!(text["flannel-backend"], backend, "{cni:?}, {pod_prefix:?}");
            assert_eq!(text.get("cluster-cidr"), cidr.map(Value::from).as_ref());
            let said = text.get("disable-network-policy");
            assert_eq!(said, no_policy.map(Value::from).as_ref());
            assert_eq!(text.get("flannel-iface").is_some(), cni == Cni::Flannel);
        }
    }
}
