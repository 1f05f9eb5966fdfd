//! Flannel's traces: its files, its interfaces, its routes.
//!
//! Follows flannel's `host-gw` and `vxlan` backends and K3s's CNI settings. With `host-gw`, pods'
//! networks are routed to their nodes' addresses on the chosen interface, which must have them
//! on-link. With `vxlan` the interface and routes are made, but no neighbours: nothing gets
//! through. As with K3s, all of it stays when the process ends.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{agent::Node, interfaces, kubelet, pods};
use crate::{apiserver::table, cli::settings, files, knobs, logline};

/// How often routes follow the nodes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What flannel leaves free for a VXLAN header, beside whole frames.
const VXLAN_MTU: &str = "1450";

/// Runs for as long as the process runs.
pub(crate) async fn run(node: Arc<Node>) {
    let backend = node.critical.flannel_backend.clone();
    let networks = kubelet::pod_networks(&node).await;
    if backend == "none" {
        return;
    }
    if !knobs::no_network() {
        write_files(&node, &networks, &backend);
        make_interfaces(&node, &networks, &backend);
    }
    write_cni(&node);
    annotate(&node, &backend).await;
    let mut routes = BTreeMap::new();
    loop {
        if !knobs::no_network()
            && let Ok(Some(list)) = node.api.get("/api/v1/nodes?resourceVersion=0").await
        {
            let nodes = list["items"].as_array().cloned().unwrap_or_default();
            keep_routes(&node, &nodes, &backend, &mut routes);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn write_cni(node: &Node) {
    let list = json!({
        "name": "cbr0",
        "cniVersion": "1.0.0",
        "plugins": [
            {"type": "flannel", "delegate": {"hairpinMode": true, "forceAddress": true, "isDefaultGateway": true}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        ],
    });
    let file = node.layout.agent("etc/cni/net.d/10-flannel.conflist");
    said(
        files::write(&file, list.to_string().as_bytes(), 0o644).map_err(|fatal| fatal.to_string()),
    );
}

fn said(result: Result<(), String>) {
    if let Err(why) = result {
        logline::error(format!("flannel: {why}"));
    }
}

fn write_files(node: &Node, networks: &[String], backend: &str) {
    let mtu = if backend == "vxlan" {
        VXLAN_MTU
    } else {
        "1500"
    };
    let mut text = String::new();
    for (all, own) in node.critical.cluster_cidrs.iter().zip(networks) {
        let prefix = if own.contains(':') {
            "FLANNEL_IPV6"
        } else {
            "FLANNEL"
        };
        let length = own.rsplit('/').next().unwrap_or_default();
        let first = settings::nth(own, 1);
        text.push_str(&format!(
            "{prefix}_NETWORK={all}\n{prefix}_SUBNET={first}/{length}\n"
        ));
    }
    text.push_str(&format!("FLANNEL_MTU={mtu}\nFLANNEL_IPMASQ=true\n"));
    let file = std::path::Path::new("/run/flannel/subnet.env");
    said(files::write(file, text.as_bytes(), 0o644).map_err(|fatal| fatal.to_string()));
}

fn make_interfaces(node: &Node, networks: &[String], backend: &str) {
    if !interfaces::exists("cni0") {
        said(interfaces::ip(&["link", "add", "cni0", "type", "bridge"]));
    }
    for network in networks {
        let length = network.rsplit('/').next().unwrap_or_default();
        let address = format!("{}/{length}", settings::nth(network, 1));
        said(interfaces::ip(&[
            "address", "replace", &address, "dev", "cni0",
        ]));
    }
    said(interfaces::ip(&["link", "set", "cni0", "up"]));
    if backend == "vxlan" && !interfaces::exists("flannel.1") {
        let local = node.settings.ip().to_string();
        let made = [
            "link",
            "add",
            "flannel.1",
            "type",
            "vxlan",
            "id",
            "1",
            "local",
            &local,
            "dstport",
            "8472",
            "nolearning",
        ];
        said(interfaces::ip(&made));
        said(interfaces::ip(&["link", "set", "flannel.1", "up"]));
    }
    // Left behind by kube-proxy, the network policies and flannel; only their names matter.
    for chain in [
        ["filter", "KUBE-FORWARD"],
        ["filter", "FLANNEL-FWD"],
        ["nat", "KUBE-SERVICES"],
        ["nat", "FLANNEL-POSTRTG"],
    ] {
        let _ = interfaces::run("iptables", &["-w", "-t", chain[0], "-N", chain[1]]);
    }
}

async fn annotate(node: &Node, backend: &str) {
    let annotations = json!({"metadata": {"annotations": {
        "flannel.alpha.coreos.com/backend-type": backend,
        "flannel.alpha.coreos.com/backend-data": "null",
        "flannel.alpha.coreos.com/kube-subnet-manager": "true",
        "flannel.alpha.coreos.com/public-ip": node.settings.ip().to_string(),
    }}});
    while node.api.patch(&node.path(), &annotations).await.is_err() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Routes to the pods of all other nodes; what is gone from the cluster is taken away.
fn keep_routes(node: &Node, nodes: &[Value], backend: &str, known: &mut BTreeMap<String, String>) {
    let Some(interface) = interface(node) else {
        return;
    };
    let mut wanted = BTreeMap::new();
    for other in nodes
        .iter()
        .filter(|other| other["metadata"]["name"] != node.settings.name.as_str())
    {
        for network in other["spec"]["podCIDRs"].as_array().into_iter().flatten() {
            let network = network.as_str().unwrap_or_default();
            if let Some(gateway) = gateway(other, network) {
                wanted.insert(network.to_owned(), gateway);
            }
        }
    }
    for network in known
        .keys()
        .filter(|network| !wanted.contains_key(*network))
    {
        said(interfaces::ip(&["route", "del", network]));
    }
    for (network, gateway) in &wanted {
        if known.get(network) == Some(gateway) {
            continue;
        }
        let first = settings::nth(network, 0);
        let made = if backend == "vxlan" {
            interfaces::ip(&[
                "route",
                "replace",
                network,
                "via",
                &first,
                "dev",
                "flannel.1",
                "onlink",
            ])
        } else {
            interfaces::ip(&[
                "route", "replace", network, "via", gateway, "dev", &interface,
            ])
        };
        if let Err(why) = made {
            logline::error(format!(
                "flannel: Error adding route to {network} via {gateway} dev {interface}: {why}"
            ));
            // Tried again with the next look.
            known.remove(network);
            continue;
        }
        known.insert(network.clone(), gateway.clone());
    }
    known.retain(|network, _| wanted.contains_key(network));
}

fn interface(node: &Node) -> Option<String> {
    let given = node.settings.flannel_iface.clone();
    given.or_else(|| interfaces::with_address(node.settings.ip()))
}

/// The node's address of the network's family.
fn gateway(node: &Value, network: &str) -> Option<String> {
    let v6 = pods::family_of(network)?;
    let addresses = node["status"]["addresses"].as_array()?.iter();
    let mut own = addresses.filter(|address| address["type"] == "InternalIP");
    let found = own.find_map(|address| {
        let text = address["address"].as_str()?;
        let parsed: IpAddr = text.parse().ok()?;
        (parsed.is_ipv6() == v6).then(|| text.to_owned())
    });
    found.or_else(|| {
        Some(table::internal_ip(node)).filter(|ip| ip.contains(':') == v6 && ip != "<none>")
    })
}
