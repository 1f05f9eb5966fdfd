//! Networks: made, changed, deleted (SPEC 3.1, 3.3, 3.10).

use super::{
    Change, access_grants, check_name, cluster_networks, containers, done, excerpt, firewalls,
    invalid,
    prefixes::{Claim, refuse_overlap},
    rollouts, too_large, virtual_ips,
};
use crate::{
    Applied, DEFAULT_NETWORK, EventKind, IpPrefix, Ipv4Prefix, Ipv6Prefix64, MeshId, Network,
    NetworkChange, NetworkId, NewNetwork, PrefixChange, Refusal, RoutingMode,
    addressing::network_handle, limits::NETWORKS_MAX,
};

/// Ports below are the system's (RFC 6335, section 6).
const PORT_MIN: u16 = 1024;
/// So many peers are named where they are in the way.
const NAMED_MAX: usize = 3;

pub(super) fn create_default(
    change: &mut Change<'_>,
    mesh: MeshId,
    id: NetworkId,
    ipv4: Ipv4Prefix,
    wireguard_port: u16,
) {
    let network = Network {
        name: DEFAULT_NETWORK.to_owned(),
        handle: network_handle(DEFAULT_NETWORK),
        ipv6: Ipv6Prefix64::of(mesh, id),
        ipv4,
        wireguard_port,
        routing_mode: RoutingMode::Mesh,
        pod_subnet_prefix: None,
        container_subnet_prefix: None,
        container_subnets_given: 0,
    };
    change.agreed_mut().networks.insert(id, network);
}

pub(super) fn default_network(change: &Change<'_>) -> Result<NetworkId, Refusal> {
    find(change, DEFAULT_NETWORK)
}

pub(super) fn find(change: &Change<'_>, name: &str) -> Result<NetworkId, Refusal> {
    match change.agreed().find_network(name) {
        Some((id, _)) => Ok(*id),
        None => Err(Refusal::NetworkUnknown {
            network: excerpt(name),
        }),
    }
}

pub(super) fn create(change: &mut Change<'_>, new: &NewNetwork) -> Applied {
    let network = check_new(change, new)?;
    change.event(
        EventKind::NetworkCreated,
        None,
        [
            ("network", network.name.clone()),
            ("interface", network.interface()),
            ("ipv6_prefix", network.ipv6.to_string()),
            ("ipv4_prefix", network.ipv4.to_string()),
        ],
    );
    change.agreed_mut().networks.insert(new.id, network);
    done()
}

/// The network that would be made. Changes nothing.
fn check_new(change: &Change<'_>, new: &NewNetwork) -> Result<Network, Refusal> {
    let agreed = change.agreed();
    let mesh = agreed.mesh.as_ref().ok_or(Refusal::NoMesh)?;
    check_name("network name", &new.name)?;
    let exists = agreed.find_network(&new.name).is_some() || agreed.networks.contains_key(&new.id);
    if exists {
        return Err(Refusal::NetworkExists {
            network: new.name.clone(),
        });
    }
    if agreed.networks.len() >= NETWORKS_MAX {
        return Err(too_large("the number of networks", NETWORKS_MAX));
    }
    let handle = network_handle(&new.name);
    let mut others = agreed.networks.values();
    if let Some(other) = others.clone().find(|other| other.handle == handle) {
        return Err(Refusal::NetworkHandleTaken {
            network: new.name.clone(),
            handle,
            by: other.name.clone(),
        });
    }
    if new.wireguard_port < PORT_MIN {
        let rule = "from 1024 to 65535";
        return Err(invalid("port", &new.wireguard_port.to_string(), rule));
    }
    if let Some(other) = others.find(|other| other.wireguard_port == new.wireguard_port) {
        return Err(Refusal::WireguardPortTaken {
            port: new.wireguard_port,
            by: other.name.clone(),
        });
    }
    let network = Network {
        name: new.name.clone(),
        handle,
        ipv6: Ipv6Prefix64::of(mesh.id, new.id),
        ipv4: new.ipv4,
        wireguard_port: new.wireguard_port,
        routing_mode: new.routing_mode,
        pod_subnet_prefix: new.pod_subnet_prefix,
        container_subnet_prefix: new.container_subnet_prefix,
        container_subnets_given: 0,
    };
    check_prefixes(change, new.id, &network)?;
    Ok(network)
}

/// What the network claims is well formed, and nobody else's.
fn check_prefixes(change: &Change<'_>, id: NetworkId, network: &Network) -> Result<(), Refusal> {
    let subdivided = [
        ("pod subnet prefix", network.pod_subnet_prefix),
        ("container subnet prefix", network.container_subnet_prefix),
    ];
    for (what, prefix) in subdivided {
        if let Some(prefix) = prefix.filter(|prefix| !prefix.is_divisible()) {
            let rule = "an IPv4 prefix of at most 23 bits, since each node takes a /24 of it";
            return Err(invalid(what, &prefix.to_string(), rule));
        }
    }
    let mut taken = Claim::all(change.agreed());
    taken.retain(|claim| !claim.is_of_network(id));
    for claim in Claim::of_network(id, network) {
        refuse_overlap(&taken, &claim.what, claim.prefix)?;
        taken.push(claim);
    }
    Ok(())
}

pub(super) fn delete(change: &mut Change<'_>, name: &str) -> Applied {
    let id = find(change, name)?;
    if let Some(by) = users(change, id) {
        return Err(Refusal::NetworkInUse {
            network: name.to_owned(),
            by,
        });
    }
    change.agreed_mut().networks.remove(&id);
    firewalls::forget_network(change, id);
    change.event(
        EventKind::NetworkDeleted,
        None,
        [("network", name.to_owned())],
    );
    done()
}

/// What keeps a network from being deleted, in words.
fn users(change: &Change<'_>, id: NetworkId) -> Option<String> {
    let agreed = change.agreed();
    if agreed.networks[&id].name == DEFAULT_NETWORK {
        return Some("every node that joins".to_owned());
    }
    if let Some(cluster) = cluster_networks::in_network(change, id) {
        return Some(format!("the cluster {cluster}"));
    }
    if let Some(vip) = virtual_ips::in_network(change, id) {
        return Some(format!("the virtual IP {vip}"));
    }
    if let Some(grant) = access_grants::in_network(change, id) {
        return Some(format!("the access grant {grant}"));
    }
    let mut names: Vec<String> = agreed
        .peers_of(id)
        .map(|(node, _)| agreed.name_of(node))
        .collect();
    names.sort();
    let more = names.len().saturating_sub(NAMED_MAX);
    names.truncate(NAMED_MAX);
    let shown = names.join(", ");
    match (names.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(shown),
        (false, more) => Some(format!("{shown} and {more} more")),
    }
}

pub(super) fn set(change: &mut Change<'_>, name: &str, wanted: &NetworkChange) -> Applied {
    let id = find(change, name)?;
    let changed = |present: Option<IpPrefix>, wanted: Option<PrefixChange>| match wanted {
        None => present,
        Some(PrefixChange::Clear) => None,
        Some(PrefixChange::Set(prefix)) => Some(prefix),
    };
    let present = &change.agreed().networks[&id];
    let network = Network {
        routing_mode: wanted.routing_mode.unwrap_or(present.routing_mode),
        pod_subnet_prefix: changed(present.pod_subnet_prefix, wanted.pod_subnet_prefix),
        container_subnet_prefix: changed(
            present.container_subnet_prefix,
            wanted.container_subnet_prefix,
        ),
        ..present.clone()
    };
    let same = network == *present;
    let pods_before = present.pod_subnet_prefix;
    if !same {
        if network.pod_subnet_prefix != pods_before {
            let wanted = network.pod_subnet_prefix;
            cluster_networks::check_pod_prefix(change, id, pods_before, wanted)?;
        }
        check_prefixes(change, id, &network)?;
        containers::refuse_change(change, id, network.container_subnet_prefix)?;
    }
    if !firewalls::set_default(change, id, wanted.firewall_default) && same {
        return done();
    }
    let payload = [
        ("network", name.to_owned()),
        ("routing_mode", network.routing_mode.as_str().to_owned()),
        (
            "default",
            change.agreed().firewall(id).default.as_str().to_owned(),
        ),
    ];
    let pods = network.pod_subnet_prefix.filter(|_| pods_before.is_none());
    change.agreed_mut().networks.insert(id, network);
    change.event(EventKind::NetworkChanged, None, payload);
    if !same {
        containers::handle_changed_prefix(change, id);
    }
    if let Some(prefix) = pods {
        rollouts::pod_prefix(change, id, prefix);
    }
    done()
}
