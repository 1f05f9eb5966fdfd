//! Claims about what shoal writes into K3s's settings: every key is one of K3s's, for that command, and
//! means what shoal means by it.

use std::{fs, path::Path, time::Duration};

use consensus_core::{Cni, K3sRole};
use runtimes_core::k3s::{Entrance, Membership, Place, SecretFiles, settings::render};

use super::{
    configuration,
    flags::{Flag, Flags},
    settings::{NodeSettings, ServerSettings},
    table::{AGENT, LOGGING, NODE, SERVER},
};

fn membership(role: K3sRole, entrance: Entrance, cni: Cni, prefix: Option<&str>) -> Membership {
    Membership {
        role,
        node_name: "n1".into(),
        place: Place {
            ipv4: [100, 96, 0, 1].into(),
            ipv6: "fd00::1".parse().unwrap(),
            interface: "shoal-default".into(),
        },
        vip: "fd00::f".parse().unwrap(),
        entrance,
        cni,
        pod_prefix: prefix.map(|prefix| prefix.parse().unwrap()),
    }
}

/// Flags of K3s that came after v1.30.0 (`k3s --help` of 1.30 to 1.35): an older one skips such a key with
/// a warning, and goes on without what was asked for.
const NEWER: [&str; 5] = [
    "etcd-snapshot-reconcile-interval",
    "node-external-dns",
    "node-internal-dns",
    "nonroot-devices",
    "secrets-encryption-provider",
];

/// The settings as `k3s server` or `k3s agent` would read them from the directory.
fn read(dir: &Path, membership: &Membership) -> (Flags, Vec<String>) {
    let file = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let files = SecretFiles {
        server_token: file("server-token", "for-servers\n"),
        agent_token: file("agent-token", "for-agents\n"),
        data_dir: "/var/lib/rancher/k3s".into(),
        kubeconfig: "/etc/rancher/k3s/k3s.yaml".into(),
    };
    fs::create_dir_all(dir.join("config.yaml.d")).unwrap();
    file("config.yaml.d/50-shoal.yaml", &render(membership, &files));
    let tables: &[&[Flag]] = match membership.role {
        K3sRole::Server => &[LOGGING, NODE, SERVER],
        K3sRole::Agent => &[LOGGING, NODE, AGENT],
    };
    let arguments = configuration::arguments(&dir.join("config.yaml"), false, tables).unwrap();
    let flags = Flags::parse(tables, &arguments, |_| None).unwrap();
    (flags, arguments)
}

#[test]
fn every_server_starts_with_what_shoal_writes() {
    let prefix = Some("10.52.0.0/16");
    for (entrance, cni, given, backend, cidr) in [
        (Entrance::Found, Cni::Flannel, None, "vxlan", "10.42.0.0/16"),
        (
            Entrance::Found,
            Cni::Flannel,
            prefix,
            "host-gw",
            "10.52.0.0/16",
        ),
        (
            Entrance::Join,
            Cni::Flannel,
            prefix,
            "host-gw",
            "10.52.0.0/16",
        ),
        (
            Entrance::Found,
            Cni::OvnKubernetes,
            prefix,
            "none",
            "10.42.0.0/16",
        ),
        (
            Entrance::Join,
            Cni::OvnKubernetes,
            None,
            "none",
            "10.42.0.0/16",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let membership = membership(K3sRole::Server, entrance, cni, given);
        let (flags, arguments) = read(dir.path(), &membership);
        let settings = ServerSettings::read(&flags, &arguments).unwrap();
        let row = format!("{entrance:?} {cni:?} {given:?}");
        let founds = entrance == Entrance::Found;
        assert_eq!(settings.cluster_init, founds, "{row}");
        let vip = (!founds).then_some("https://[fd00::f]:6443");
        assert_eq!(settings.node.server.as_deref(), vip, "{row}");
        assert_eq!(settings.critical.flannel_backend, backend, "{row}");
        assert_eq!(settings.critical.cluster_cidrs, [cidr], "{row}");
        let policy = settings.critical.disable_network_policy;
        assert_eq!(policy, cni == Cni::OvnKubernetes, "{row}");
        let iface = settings.node.flannel_iface.as_deref();
        let expected = (cni == Cni::Flannel).then_some("shoal-default");
        assert_eq!(iface, expected, "{row}");
        are_no_news(&arguments);
        // What is the same for all of them.
        assert_eq!(settings.node.ip().to_string(), "100.96.0.1");
        assert_eq!(settings.advertise.to_string(), "100.96.0.1");
        assert_eq!(settings.sans, ["fd00::f", "fd00::1", "100.96.0.1", "n1"]);
        assert_eq!(settings.kubeconfig_mode.as_deref(), Some("0600"));
        assert_eq!(settings.node.token.as_deref(), Some("for-servers"));
        assert_eq!(settings.agent_token.as_deref(), Some("for-agents"));
        assert!(settings.election < Duration::from_secs(1));
        let shown = settings.node.arguments.join(" ");
        assert!(!shown.contains("for-"), "a secret is an argument: {shown}");
    }
}

fn are_no_news(arguments: &[String]) {
    let name = |argument: &String| {
        let name = argument.trim_start_matches('-').split('=').next();
        name.unwrap_or_default().to_owned()
    };
    let news = arguments.iter().map(name);
    let news: Vec<String> = news.filter(|name| NEWER.contains(&&**name)).collect();
    assert!(news.is_empty(), "{news:?}");
}

#[test]
fn an_operators_own_settings_stay_beside_what_shoal_writes() {
    let dir = tempfile::tempdir().unwrap();
    let own = "tls-san: [api.example]\netcd-arg: [quota-backend-bytes=1]\ndata-dir: /srv/k3s\n\
               write-kubeconfig: /srv/kubeconfig\n";
    fs::write(dir.path().join("config.yaml"), own).unwrap();
    let membership = membership(K3sRole::Server, Entrance::Found, Cni::Flannel, None);
    let (flags, arguments) = read(dir.path(), &membership);
    let settings = ServerSettings::read(&flags, &arguments).unwrap();
    let names = ["api.example", "fd00::f", "fd00::1", "100.96.0.1", "n1"];
    assert_eq!(settings.sans, names);
    assert!(settings.election < Duration::from_secs(1));
    assert!(
        flags
            .list("etcd-arg")
            .contains(&"quota-backend-bytes=1".to_owned())
    );
    // What shoal itself looks into stays where it looks.
    assert_eq!(settings.node.data_dir, Path::new("/var/lib/rancher/k3s"));
    let kubeconfig = settings.kubeconfig.as_deref();
    assert_eq!(kubeconfig, Some(Path::new("/etc/rancher/k3s/k3s.yaml")));
}

#[test]
fn every_agent_starts_with_what_shoal_writes() {
    for (cni, iface) in [
        (Cni::Flannel, Some("shoal-default")),
        (Cni::OvnKubernetes, None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let prefix = Some("10.42.0.0/16");
        let membership = membership(K3sRole::Agent, Entrance::Join, cni, prefix);
        let (flags, arguments) = read(dir.path(), &membership);
        let settings = NodeSettings::read(&flags, &arguments).unwrap();
        are_no_news(&arguments);
        assert_eq!(settings.name, "n1");
        assert_eq!(settings.ip().to_string(), "100.96.0.1");
        let url = settings.server.as_deref();
        assert_eq!(url, Some("https://[fd00::f]:6443"));
        assert_eq!(settings.token.as_deref(), Some("for-agents"));
        assert_eq!(settings.flannel_iface.as_deref(), iface);
    }
}
