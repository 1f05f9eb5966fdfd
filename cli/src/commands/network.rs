//! `shoal network`: overlay networks and who has a place in them.

mod rule;

use comfy_table::Table;
use node_api::{
    Route,
    types::{NetworkCreated, NetworkRequest, NetworkSetRequest, NetworkView, PeerRequest},
};

use crate::{
    context::Context,
    failure::{Exit, Failure},
    table::{facts, or_nothing, span, table},
    values,
};

/// Overlay networks, and who has a place in them
#[derive(Debug, clap::Subcommand)]
#[command(disable_help_subcommand = true)]
pub(crate) enum Network {
    /// List all networks
    Ls,
    /// Show a network and its peers
    Show {
        /// The network's name
        #[arg(value_parser = values::name)]
        network: String,
    },
    /// Make a network; nodes see only those of the networks they have a place in
    Create(Create),
    /// Forget a network that nobody has a place in
    Delete {
        /// The network's name
        #[arg(value_parser = values::name)]
        network: String,
    },
    /// Change a network's routing, the addresses of its pods and containers, or what its firewall
    /// does where no rule fits
    Set(Set),
    /// Give a node a place in a network
    Attach {
        #[command(flatten)]
        place: Place,
        /// Forward between the others, where the network's routing mode is hub
        #[arg(long)]
        hub: bool,
        /// A network behind the node that the others reach through it; may be repeated
        #[arg(long = "lan-subnet", value_name = "PREFIX")]
        lan_subnets: Vec<String>,
    },
    /// Change a node's place in a network
    SetPeer(SetPeer),
    /// Take a node's place in a network away
    Detach(Place),
    #[command(subcommand)]
    Rule(rule::Rule),
}

/// What a new network is to be. What is left open is picked out of what is free.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Its name
    #[arg(value_parser = values::name)]
    name: String,
    /// Its IPv4 prefix, inside 100.64.0.0/10 [default: a free /16]
    #[arg(long, value_name = "PREFIX")]
    ipv4: Option<String>,
    /// The UDP port of its WireGuard interfaces [default: a free one]
    #[arg(long)]
    port: Option<u16>,
    /// `mesh`: everyone to everyone. `hub`: by way of the peers that are hubs
    #[arg(long, value_name = "MODE", default_value = "mesh")]
    routing_mode: String,
    /// Where the pods of its clusters get their addresses
    #[arg(long, value_name = "PREFIX")]
    pod_subnet_prefix: Option<String>,
    /// Where the containers of its Docker hosts get their addresses
    #[arg(long, value_name = "PREFIX")]
    container_subnet_prefix: Option<String>,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true).args(
    ["routing_mode", "pod_subnet_prefix", "container_subnet_prefix", "default"]
)))]
pub(crate) struct Set {
    /// The network's name
    #[arg(value_parser = values::name)]
    network: String,
    /// `mesh` or `hub`
    #[arg(long, value_name = "MODE")]
    routing_mode: Option<String>,
    /// Where the pods of its clusters get their addresses; `none` takes it away
    #[arg(long, value_name = "PREFIX")]
    pod_subnet_prefix: Option<String>,
    /// Where the containers of its Docker hosts get their addresses; `none` takes it away
    #[arg(long, value_name = "PREFIX")]
    container_subnet_prefix: Option<String>,
    /// What becomes of connections that no firewall rule fits: `allow` or `deny`
    #[arg(long, value_name = "VERDICT")]
    default: Option<String>,
}

#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true).args(
    ["hub", "no_hub", "lan_subnets", "no_lan_subnets"]
)))]
pub(crate) struct SetPeer {
    #[command(flatten)]
    place: Place,
    /// Forward between the others, where the network's routing mode is hub
    #[arg(long, conflicts_with = "no_hub")]
    hub: bool,
    /// Forward no more
    #[arg(long)]
    no_hub: bool,
    /// A network behind the node that the others reach through it; may be repeated, and replaces
    /// those before
    #[arg(
        long = "lan-subnet",
        value_name = "PREFIX",
        conflicts_with = "no_lan_subnets"
    )]
    lan_subnets: Vec<String>,
    /// No network behind the node any more
    #[arg(long)]
    no_lan_subnets: bool,
}

impl SetPeer {
    fn request(&self) -> PeerRequest {
        let subnets = self.no_lan_subnets || !self.lan_subnets.is_empty();
        PeerRequest {
            hub: (self.hub || self.no_hub).then_some(self.hub),
            lan_subnets: subnets.then(|| self.lan_subnets.clone()),
        }
    }
}

impl Set {
    /// The API takes an empty prefix away.
    fn request(&self) -> NetworkSetRequest {
        let prefix = |given: &Option<String>| {
            let given = given.clone()?;
            Some(if given == "none" {
                String::new()
            } else {
                given
            })
        };
        NetworkSetRequest {
            routing_mode: self.routing_mode.clone(),
            pod_subnet_prefix: prefix(&self.pod_subnet_prefix),
            container_subnet_prefix: prefix(&self.container_subnet_prefix),
            firewall_default: self.default.clone(),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// The node's name or id
    #[arg(value_parser = values::name)]
    node: String,
    /// The network's name
    #[arg(value_parser = values::name)]
    network: String,
}

impl Place {
    fn route(&self) -> Route {
        Route::to(&["networks", &self.network, "peers", &self.node])
    }
}

impl Network {
    pub(crate) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let client = &context.client;
        match self {
            Self::Rule(rule) => rule.run(context).await,
            Self::Ls => context.list(client.get(&Route::to(&["networks"])).await, list),
            Self::Show { network } => {
                let route = Route::to(&["networks", &network]);
                context.show(client.get(&route).await, show)
            }
            Self::Create(new) => create(context, new).await,
            Self::Delete { network } => {
                let answer = client.delete(&Route::to(&["networks", &network])).await;
                context.changed(answer, &format!("the network {network} is deleted"))
            }
            Self::Set(set) => {
                let route = Route::to(&["networks", &set.network]);
                let answer = client.post(&route, &set.request()).await;
                context.changed(answer, &format!("the network {} is changed", set.network))
            }
            Self::SetPeer(set) => {
                let answer = client.post(&set.place.route(), &set.request()).await;
                let Place { node, network } = &set.place;
                context.changed(
                    answer,
                    &format!("the place of {node} in {network} is changed"),
                )
            }
            Self::Attach {
                place,
                hub,
                lan_subnets,
            } => {
                let request = PeerRequest {
                    hub: Some(hub),
                    lan_subnets: Some(lan_subnets),
                };
                let answer = client.put(&place.route(), &request).await;
                let said = format!("{} has a place in {}", place.node, place.network);
                context.changed(answer, &said)
            }
            Self::Detach(place) => {
                let answer = client.delete(&place.route()).await;
                let said = format!("{} has no place in {} any more", place.node, place.network);
                context.changed(answer, &said)
            }
        }
    }
}

async fn create(context: &Context<'_>, new: Create) -> Result<Exit, Failure> {
    let request = NetworkRequest {
        name: new.name,
        ipv4_prefix: new.ipv4,
        wireguard_port: new.port,
        routing_mode: Some(new.routing_mode),
        pod_subnet_prefix: new.pod_subnet_prefix,
        container_subnet_prefix: new.container_subnet_prefix,
    };
    let route = Route::to(&["networks"]);
    let answer = context.client.post(&route, &request).await;
    context.show(answer, |made: &NetworkCreated| {
        let network = &made.network;
        format!(
            "{}\nGive nodes a place in it: `shoal network attach NODE {}`",
            known(network).trim_end(),
            network.name
        )
    })
}

fn list(networks: &[NetworkView]) -> Table {
    let headings = [
        "NAME",
        "INTERFACE",
        "IPV6 PREFIX",
        "IPV4 PREFIX",
        "PORT",
        "PEERS",
    ];
    let rows = networks.iter().map(|network| {
        vec![
            network.name.clone(),
            network.interface.clone(),
            network.ipv6_prefix.clone(),
            network.ipv4_prefix.clone(),
            network.wireguard_port.to_string(),
            network.peers.len().to_string(),
        ]
    });
    table(&headings, rows)
}

fn known(network: &NetworkView) -> String {
    facts(&[
        ("Name", network.name.clone()),
        ("Id", network.id.clone()),
        ("Interface", network.interface.clone()),
        ("IPv6 prefix", network.ipv6_prefix.clone()),
        ("IPv4 prefix", network.ipv4_prefix.clone()),
        ("WireGuard port", network.wireguard_port.to_string()),
        ("Routing mode", network.routing_mode.clone()),
        ("Pods", or_nothing(network.pod_subnet_prefix.as_ref())),
        (
            "Containers",
            or_nothing(network.container_subnet_prefix.as_ref()),
        ),
        (
            "Firewall",
            format!(
                "{} rules, default {}",
                network.firewall_rules, network.firewall_default
            ),
        ),
    ])
}

fn show(network: &NetworkView) -> String {
    let known = known(network);
    let headings = [
        "NODE",
        "IPV6",
        "IPV4",
        "ENDPOINT",
        "HANDSHAKE",
        "PUBLIC KEY",
        "HUB",
        "LAN",
        "CONTAINERS",
    ];
    let rows = network.peers.iter().map(|peer| {
        let handshake = peer
            .handshake_s
            .map(|s| format!("{} ago", span(s.saturating_mul(1000))));
        vec![
            peer.node.clone(),
            peer.ipv6.to_string(),
            peer.ipv4.to_string(),
            or_nothing(peer.endpoint.as_ref()),
            or_nothing(handshake.as_ref()),
            peer.public_key.clone(),
            if peer.hub { "yes" } else { "no" }.to_owned(),
            or_nothing(
                Some(peer.lan_subnets.join(","))
                    .filter(|lan| !lan.is_empty())
                    .as_ref(),
            ),
            or_nothing(peer.container_subnet.as_ref()),
        ]
    });
    format!("{known}\n{}", table(&headings, rows).trim_fmt())
}

#[cfg(test)]
mod tests {
    use node_api::types::PeerView;

    use super::*;

    #[test]
    fn a_network_is_shown_with_its_peers() {
        let peer = |node: &str, handshake_s| PeerView {
            node: node.into(),
            ipv6: "fd00::1".parse().unwrap(),
            ipv4: "100.96.0.1".parse().unwrap(),
            public_key: "bm90IGEga2V5".into(),
            endpoint: Some("192.0.2.1:51820".into()),
            handshake_s,
            hub: node == "n1",
            lan_subnets: if node == "n1" {
                vec![]
            } else {
                vec!["192.168.7.0/24".into()]
            },
            container_subnet: (node == "n2").then(|| "10.43.0.0/24".into()),
        };
        let network = NetworkView {
            id: "00112233445566778899aabbccddeeff".into(),
            name: "default".into(),
            interface: "shoal-default".into(),
            ipv6_prefix: "fd00::/64".into(),
            ipv4_prefix: "100.96.0.0/16".into(),
            wireguard_port: 51820,
            routing_mode: "mesh".into(),
            pod_subnet_prefix: Some("10.42.0.0/16".into()),
            container_subnet_prefix: Some("10.43.0.0/16".into()),
            firewall_default: "allow".into(),
            firewall_rules: 2,
            peers: vec![peer("n1", None), peer("n2", Some(75))],
        };
        insta::assert_snapshot!(show(&network), @r"
        Name:           default
        Id:             00112233445566778899aabbccddeeff
        Interface:      shoal-default
        IPv6 prefix:    fd00::/64
        IPv4 prefix:    100.96.0.0/16
        WireGuard port: 51820
        Routing mode:   mesh
        Pods:           10.42.0.0/16
        Containers:     10.43.0.0/16
        Firewall:       2 rules, default allow

        NODE  IPV6     IPV4        ENDPOINT         HANDSHAKE  PUBLIC KEY    HUB  LAN             CONTAINERS
        n1    fd00::1  100.96.0.1  192.0.2.1:51820  -          bm90IGEga2V5  yes  -               -
        n2    fd00::1  100.96.0.1  192.0.2.1:51820  75 s ago   bm90IGEga2V5  no   192.168.7.0/24  10.43.0.0/24
        ");
        insta::assert_snapshot!(list(&[network]).trim_fmt(), @r"
        NAME     INTERFACE      IPV6 PREFIX  IPV4 PREFIX    PORT   PEERS
        default  shoal-default  fd00::/64    100.96.0.0/16  51820  2
        ");
    }
}
