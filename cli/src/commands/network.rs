//! `shoal network`: overlay networks and who has a place in them.

use comfy_table::Table;
use node_api::{Route, types::NetworkView};

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
    /// Give a node a place in a network
    Attach(Place),
    /// Take a node's place in a network away
    Detach(Place),
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
            Self::Ls => context.list(client.get(&Route::to(&["networks"])).await, list),
            Self::Show { network } => {
                let route = Route::to(&["networks", &network]);
                context.show(client.get(&route).await, show)
            }
            Self::Attach(place) => {
                let answer = client.put_empty(&place.route()).await;
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

fn show(network: &NetworkView) -> String {
    let known = facts(&[
        ("Name", network.name.clone()),
        ("Id", network.id.clone()),
        ("Interface", network.interface.clone()),
        ("IPv6 prefix", network.ipv6_prefix.clone()),
        ("IPv4 prefix", network.ipv4_prefix.clone()),
        ("WireGuard port", network.wireguard_port.to_string()),
    ]);
    let headings = [
        "NODE",
        "IPV6",
        "IPV4",
        "ENDPOINT",
        "HANDSHAKE",
        "PUBLIC KEY",
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
        };
        let network = NetworkView {
            id: "00112233445566778899aabbccddeeff".into(),
            name: "default".into(),
            interface: "shoal-default".into(),
            ipv6_prefix: "fd00::/64".into(),
            ipv4_prefix: "100.96.0.0/16".into(),
            wireguard_port: 51820,
            peers: vec![peer("n1", None), peer("n2", Some(75))],
        };
        insta::assert_snapshot!(show(&network), @r"
        Name:           default
        Id:             00112233445566778899aabbccddeeff
        Interface:      shoal-default
        IPv6 prefix:    fd00::/64
        IPv4 prefix:    100.96.0.0/16
        WireGuard port: 51820

        NODE  IPV6     IPV4        ENDPOINT         HANDSHAKE  PUBLIC KEY
        n1    fd00::1  100.96.0.1  192.0.2.1:51820  -          bm90IGEga2V5
        n2    fd00::1  100.96.0.1  192.0.2.1:51820  75 s ago   bm90IGEga2V5
        ");
        insta::assert_snapshot!(list(&[network]).trim_fmt(), @r"
        NAME     INTERFACE      IPV6 PREFIX  IPV4 PREFIX    PORT   PEERS
        default  shoal-default  fd00::/64    100.96.0.0/16  51820  2
        ");
    }
}
