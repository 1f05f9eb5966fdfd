//! What the packet filter of this node follows from.
//!
//! Decides: which packets the node forwards (as a hub, as the gateway of devices, into the networks
//! behind it, to its containers), which firewall rules it carries out, and whether it may do without
//! any. All of it follows from what is agreed and gossiped, and nothing from the state of an interface:
//! the rules are there before an interface comes up, and stay when it fails. What Docker calls the
//! bridges of other containers it says itself.
//!
//! Never: asks the machine anything.

use std::collections::BTreeSet;

use consensus_core::{Agreed, DOCKER_TLS_PORT, Network, NetworkId, Peer, RoutingMode, WallMs};
use node_api::OVERLAY_API_PORT;
use overlay_filter::{FilterError, Host, Overlay as Place, Pods, Rule};

use super::{
    containers::bridges,
    desired::{cidrs, device_addresses, devices_of, prefixes},
    overlay::{Overlay, OverlayStatus, with_sources},
    pods::own_pods,
};

/// What a condition of the filter is called in the node's status.
const CONDITION: &str = "packet filter";

impl Overlay {
    /// What this node is, as far as packets go.
    pub(super) fn filtered(&self, agreed: &Agreed, now: WallMs) -> Host {
        let places = agreed.peers.iter();
        let own = places.filter(|((_, node), _)| *node == self.me);
        let mut own: Vec<(NetworkId, &Network, &Peer)> = own
            .filter_map(|((id, _), peer)| Some((*id, agreed.networks.get(id)?, peer)))
            .collect();
        own.sort_by_key(|(id, _, peer)| (peer.attached, *id));
        let mut overlays: Vec<Place> = own
            .into_iter()
            .map(|(id, network, peer)| self.place(agreed, id, network, peer, now))
            .collect();
        // The node's own services listen at its oldest place.
        if let Some(first) = overlays.first_mut() {
            first.own_ports.insert(OVERLAY_API_PORT);
            if agreed.docker_hosts.contains_key(&self.me) {
                first.own_ports.insert(DOCKER_TLS_PORT);
            }
        }
        let pods = own_pods(agreed, &self.me);
        let mut bridges = bridges(agreed, &self.me);
        bridges.extend(pods.iter().flat_map(Pods::bridges));
        Host {
            overlays,
            bridges,
            tenants: self.tenants.borrow().clone(),
            pods,
        }
    }

    fn place(
        &self,
        agreed: &Agreed,
        id: NetworkId,
        network: &Network,
        own: &Peer,
        now: WallMs,
    ) -> Place {
        let devices: BTreeSet<_> = devices_of(agreed, id, &self.me, now)
            .flat_map(device_addresses)
            .collect();
        let by_mode = network.routing_mode == RoutingMode::Hub && own.hub;
        let firewall = agreed.firewall(id);
        let rules = firewall.rules.iter();
        Place {
            network: id,
            interface: network.interface(),
            prefixes: prefixes(network),
            hub: by_mode || !devices.is_empty() || self.is_hub(agreed, id),
            lan: cidrs(&own.lan_subnets),
            devices,
            own_ports: BTreeSet::new(),
            default: firewall.default,
            rules: rules
                .filter_map(|rule| Rule::on(agreed, id, &self.me, rule))
                .collect(),
        }
    }
}

/// Tells of a filter that is not in force: as the node's condition where it is needed, once in the
/// log where only machines on the same wire come closer than they should.
pub(super) fn tell(
    outcome: Result<(), FilterError>,
    needed: bool,
    told: &mut bool,
    status: &mut OverlayStatus,
) {
    let Err(error) = outcome else {
        *told = false;
        return;
    };
    let (code, hint) = (error.code(), error.hint());
    if needed {
        let reason = format!("{} ({code}); {hint}", with_sources(&error));
        status.conditions.insert(CONDITION.to_owned(), reason);
    } else if !*told {
        tracing::warn!(%error, code, "overlay addresses are not fenced off from other interfaces");
    }
    *told = true;
}
