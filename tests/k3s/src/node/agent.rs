//! `k3s agent`, and the agent inside of `k3s server`.
//!
//! Follows `pkg/agent/run.go` and `pkg/agent/config/config.go`: checks the token, fetches settings
//! and certificates (again and again until it gets them; a bad token or a rejected name ends
//! nothing, it is only said), opens the tunnels, then runs the kubelet and flannel.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::Value;

use super::{api::Api, balancer, flannel, interfaces, kubelet, pods, tunnels::Tunnels};
use crate::{
    Fatal,
    cli::{
        settings::{CriticalSettings, NodeSettings},
        token::Token,
    },
    files::{self, Layout},
    logline, notify,
    pki::Pair,
    supervisor::bootstrap::Trusted,
    wire::{client::Client, tls},
};

/// As K3s, while the server's CA cannot be had or is not the token's.
const VALIDATE_EVERY: Duration = Duration::from_secs(2);
/// As K3s, while the server has no settings or certificates for this node; up to twice that.
const CONFIGURE_EVERY: Duration = Duration::from_secs(5);
/// A server that an agent still waits for may have left meanwhile.
const ENDPOINTS_EVERY: Duration = Duration::from_secs(1);

/// What a server's node has beyond an agent's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Role {
    pub(crate) server: bool,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) finalizers: Vec<String>,
}

/// Everything that the parts of a node share.
pub(crate) struct Node {
    pub(crate) settings: NodeSettings,
    pub(crate) layout: Layout,
    pub(crate) role: Role,
    pub(crate) critical: CriticalSettings,
    pub(crate) api: Api,
}

/// Runs the agent for as long as the process runs.
pub(crate) async fn run(settings: NodeSettings, layout: Layout, role: Role) -> Result<(), Fatal> {
    files::make_dir(&layout.agent(""))?;
    let url = settings
        .server
        .clone()
        .ok_or_else(|| Fatal::new("--server is required"))?;
    let token = validated(&settings, &url).await?;
    let (critical, kubelet_pair, ca) = configured(&settings, &layout, &url, &token).await;
    let tls = tls::client(&ca, Some(&kubelet_pair))?;
    let node = Arc::new(Node {
        api: Api::new(tls.clone(), &url),
        settings,
        layout,
        role,
        critical,
    });
    let mut tunnels = Tunnels::new(Arc::new(Client::new(tls, None, CONFIGURE_EVERY)));
    if !node.role.server {
        logline::info("Getting list of apiserver endpoints from server");
        let addresses = api_servers(&node).await;
        logline::info(format!(
            "Got apiserver addresses from supervisor: {addresses:?}"
        ));
        node.api.learn(&addresses);
        write_load_balancer(&node, &addresses)?;
        balancer::open(node.clone()).await?;
        tunnels.keep(&addresses);
        // A list may be old, and name a server that is no more: it is looked at all the while, as
        // K3s watches its endpoints.
        while tokio::time::timeout(ENDPOINTS_EVERY, tunnels.until_connected())
            .await
            .is_err()
        {
            if let Some(addresses) = endpoints(&node).await {
                node.api.learn(&addresses);
                tunnels.keep(&addresses);
            }
        }
    }
    kubelet::register(&node).await;
    tokio::spawn(kubelet::heartbeat(node.clone()));
    tokio::spawn(pods::run(node.clone()));
    tokio::spawn(flannel::run(node.clone()));
    if !node.role.server {
        kubelet::until_ready(&node).await;
        logline::info("k3s agent is up and running");
        notify::ready();
    }
    loop {
        tokio::time::sleep(CONFIGURE_EVERY).await;
        if let Some(addresses) = endpoints(&node).await {
            node.api.learn(&addresses);
            if !node.role.server {
                tunnels.keep(&addresses);
                write_load_balancer(&node, &addresses)?;
            }
        }
    }
}

/// The token, once the server's CA is the one that it names.
async fn validated(settings: &NodeSettings, url: &str) -> Result<Token, Fatal> {
    let text = settings
        .token
        .as_deref()
        .ok_or_else(|| Fatal::new("--token is required"))?;
    let token = Token::parse(text)?;
    loop {
        match Trusted::connect(url, &token, "node").await {
            Ok(_) => return Ok(token),
            Err(fatal) => logline::error(format!(
                "Failed to validate connection to cluster at {url}: {fatal}"
            )),
        }
        tokio::time::sleep(VALIDATE_EVERY).await;
    }
}

/// Settings, the kubelet's certificate and the cluster's CA, once the server gives them out.
async fn configured(
    settings: &NodeSettings,
    layout: &Layout,
    url: &str,
    token: &Token,
) -> (CriticalSettings, Pair, String) {
    loop {
        match configure(settings, layout, url, token).await {
            Ok(found) => return found,
            Err(fatal) => logline::info(format!(
                "Waiting to retrieve agent configuration; server is not ready: {fatal}"
            )),
        }
        tokio::time::sleep(CONFIGURE_EVERY.mul_f64(1.0 + rand::random::<f64>())).await;
    }
}

async fn configure(
    settings: &NodeSettings,
    layout: &Layout,
    url: &str,
    token: &Token,
) -> Result<(CriticalSettings, Pair, String), Fatal> {
    let trusted = Trusted::connect(url, token, "node").await?;
    let text = trusted.get("/v1-k3s/config", &[]).await;
    let text = text.map_err(|fatal| {
        Fatal::new(format!(
            "failed to retrieve configuration from server: {fatal}"
        ))
    })?;
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    let critical: CriticalSettings = serde_json::from_value(config["CriticalControlArgs"].clone())
        .map_err(|error| {
            Fatal::new(format!(
                "failed to retrieve configuration from server: {error}"
            ))
        })?;
    if let Some(interface) = &settings.flannel_iface
        && critical.flannel_backend != "none"
        && !interfaces::exists(interface)
    {
        return Err(Fatal::new(format!(
            "unable to find interface {interface}: route ip+net: no such network interface"
        )));
    }
    let password = node_password()?;
    let ips: Vec<String> = settings.ips.iter().map(ToString::to_string).collect();
    let ips = ips.join(",");
    let proof = [
        ("k3s-node-name", settings.name.as_str()),
        ("k3s-node-password", password.as_str()),
        ("k3s-node-ip", ips.as_str()),
    ];
    for name in ["client-ca.crt", "server-ca.crt"] {
        let content = trusted.get(&format!("/v1-k3s/{name}"), &[]).await?;
        files::write_private(&layout.agent(name), content.as_bytes())?;
    }
    let kubelet = certificates(&trusted, layout, &proof).await?;
    Ok((critical, kubelet, trusted.ca))
}

/// Fetches the node's certificates; returns the kubelet's own.
async fn certificates(
    trusted: &Trusted,
    layout: &Layout,
    proof: &[(&str, &str)],
) -> Result<Pair, Fatal> {
    let mut kubelet = None;
    for name in [
        "serving-kubelet",
        "client-kubelet",
        "client-kube-proxy",
        "client-k3s-controller",
    ] {
        let headers: &[(&str, &str)] = if name.ends_with("kubelet") {
            proof
        } else {
            &[]
        };
        let got = trusted.get(&format!("/v1-k3s/{name}.crt"), headers).await;
        let content = got.map_err(|fatal| match fatal.status() {
            Some(403) => Fatal::new(format!(
                "Node password rejected, duplicate hostname or contents of '{}' may not match server node-passwd entry, try enabling a unique node name with the --with-node-id flag",
                files::NODE_PASSWORD
            )),
            Some(_) | None => fatal,
        })?;
        let pair = split(&content)?;
        files::write_private(&layout.agent(&format!("{name}.crt")), pair.cert.as_bytes())?;
        files::write_private(&layout.agent(&format!("{name}.key")), pair.key.as_bytes())?;
        if name == "client-kubelet" {
            kubelet = Some(pair);
        }
    }
    let kubelet = kubelet.ok_or_else(|| Fatal::new("no certificate for the kubelet"))?;
    for (file, user) in [
        ("kubelet", "client-kubelet"),
        ("kubeproxy", "client-kube-proxy"),
        ("k3scontroller", "client-k3s-controller"),
    ] {
        let content = kubeconfig(layout, user);
        files::write_private(
            &layout.agent(&format!("{file}.kubeconfig")),
            content.as_bytes(),
        )?;
    }
    Ok(kubelet)
}

/// What this machine proves its node's name with; made once, kept when K3s is removed.
fn node_password() -> Result<String, Fatal> {
    let file = std::path::Path::new(files::NODE_PASSWORD);
    if file.exists() {
        return Ok(files::read(file)?.trim().to_owned());
    }
    let password = hex::encode(rand::random::<[u8; 16]>());
    files::write_private(file, format!("{password}\n").as_bytes())?;
    Ok(password)
}

/// A certificate and its key, out of one text.
fn split(text: &str) -> Result<Pair, Fatal> {
    let start = text
        .find("-----BEGIN PRIVATE KEY")
        .or_else(|| text.find("-----BEGIN EC PRIVATE KEY"));
    let start = start.ok_or_else(|| Fatal::new("the server sent a certificate without a key"))?;
    Ok(Pair {
        cert: text[..start].to_owned(),
        key: text[start..].to_owned(),
    })
}

fn kubeconfig(layout: &Layout, user: &str) -> String {
    let file = |name: &str| layout.agent(name).display().to_string();
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    server: https://127.0.0.1:6444\n    certificate-authority: {}\n  name: local\ncontexts:\n- context:\n    cluster: local\n    namespace: default\n    user: user\n  name: Default\ncurrent-context: Default\nkind: Config\npreferences: {{}}\nusers:\n- name: user\n  user:\n    client-certificate: {}\n    client-key: {}\n",
        file("server-ca.crt"),
        file(&format!("{user}.crt")),
        file(&format!("{user}.key"))
    )
}

async fn api_servers(node: &Node) -> Vec<String> {
    loop {
        match node.api.get("/v1-k3s/apiservers").await {
            Ok(Some(found)) => {
                let found = found.as_array().into_iter().flatten();
                let found: Vec<String> =
                    found.filter_map(Value::as_str).map(str::to_owned).collect();
                if !found.is_empty() {
                    return found;
                }
                logline::info("Waiting for supervisor to provide apiserver addresses");
            }
            Ok(None) => logline::info("Waiting for supervisor to provide apiserver addresses"),
            Err(error) => logline::info(format!(
                "Failed to retrieve list of apiservers from server: {error}"
            )),
        }
        tokio::time::sleep(VALIDATE_EVERY).await;
    }
}

/// The servers that the cluster names now.
async fn endpoints(node: &Node) -> Option<Vec<String>> {
    let path = "/api/v1/namespaces/default/endpoints/kubernetes";
    let found = node.api.get(path).await.ok()??;
    let subset = &found["subsets"][0];
    let port = u16::try_from(subset["ports"][0]["port"].as_u64()?).ok()?;
    let addresses = subset["addresses"].as_array()?.iter();
    let addresses = addresses.filter_map(|address| address["ip"].as_str()?.parse().ok());
    let found: Vec<String> = addresses
        .map(|address: std::net::IpAddr| std::net::SocketAddr::new(address, port).to_string())
        .collect();
    (!found.is_empty()).then_some(found)
}

fn write_load_balancer(node: &Node, addresses: &[String]) -> Result<(), Fatal> {
    let content = serde_json::json!({
        "ServerURL": node.settings.server,
        "ServerAddresses": addresses,
    });
    let file = node.layout.agent("etc/k3s-agent-load-balancer.json");
    files::write_private(&file, content.to_string().as_bytes())
}
