//! Virtual IPs: made, changed, given up, and what becomes of them when a node goes.
//!
//! Decides: who may be a candidate and what it is asked. Who holds what from when on:
//! [`leases`](super::leases).
//!
//! Invariant: a candidate is a member with a place in the network, so neither the place nor the
//! network can be taken away below it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv6Addr,
};

use super::{Change, access_grants, check_name, done, excerpt, leases, too_large};
use crate::{
    Applied, Epoch, EventKind, LeaseProfile, LeaseVoters, NetworkId, NodeId, Readiness,
    ReadinessCheck, Refusal, VipId, VirtualIp,
    limits::{TEXT_BYTES_MAX, VIP_CANDIDATES_MAX, VIRTUAL_IPS_MAX},
};

/// The epoch of a virtual IP's first holder.
const FIRST_EPOCH: Epoch = Epoch(1);

pub(super) fn create(
    change: &mut Change<'_>,
    name: &str,
    network: &str,
    candidates: &[String],
    check: Option<&ReadinessCheck>,
    profile: LeaseProfile,
) -> Applied {
    check_name("virtual IP name", name)?;
    let agreed = change.agreed();
    let network = agreed
        .find_network(network)
        .map(|(id, _)| *id)
        .ok_or_else(|| Refusal::NetworkUnknown {
            network: excerpt(network),
        })?;
    let candidates = check_candidates(change, network, candidates)?;
    check_check(check)?;
    let new = NewVip {
        name: name.to_owned(),
        network,
        candidates,
        check: check.cloned(),
        profile,
    };
    insert(change, new)?;
    done()
}

/// A virtual IP that was looked at, but for its name and its address.
pub(super) struct NewVip {
    pub(super) name: String,
    pub(super) network: NetworkId,
    pub(super) candidates: Vec<NodeId>,
    pub(super) check: Option<ReadinessCheck>,
    pub(super) profile: LeaseProfile,
}

/// Makes it; its first candidate holds it.
pub(super) fn insert(change: &mut Change<'_>, new: NewVip) -> Result<VipId, Refusal> {
    let NewVip {
        name,
        network,
        candidates,
        check,
        profile,
    } = new;
    let agreed = change.agreed();
    if agreed.virtual_ips.values().any(|vip| vip.name == name) {
        return Err(Refusal::VipExists { name });
    }
    if agreed.virtual_ips.len() >= VIRTUAL_IPS_MAX {
        return Err(too_large("the number of virtual IPs", VIRTUAL_IPS_MAX));
    }
    let prefixes = agreed.networks[&network].ipv6;
    let mesh = agreed.mesh.as_ref().ok_or(Refusal::NoMesh)?.id;
    let id = VipId::made_at(mesh, change.index);
    let address = id.address(prefixes);
    if let Some(by) = taken_by(change, network, address) {
        return Err(Refusal::VipCollision {
            vip: name,
            address: address.to_string(),
            by,
        });
    }
    let vip = VirtualIp {
        name,
        network,
        address,
        holder: candidates.first().cloned(),
        candidates,
        check,
        profile,
        epoch: FIRST_EPOCH,
        voters: LeaseVoters::Stable(leases::servers(change)),
        voters_since: change.index,
        readiness: BTreeMap::new(),
        wish: None,
        moves: VecDeque::new(),
        created_at: change.time,
    };
    allocated(change, &vip);
    change.agreed_mut().virtual_ips.insert(id, vip);
    Ok(id)
}

/// Takes one away whose owner is no more.
pub(super) fn remove(change: &mut Change<'_>, id: VipId, reason: &str) {
    if let Some(row) = change.agreed_mut().virtual_ips.remove(&id) {
        leases::released(change, &row, row.holder.as_ref(), row.epoch, reason);
    }
}

/// One more may hold it.
pub(super) fn add_candidate(change: &mut Change<'_>, id: VipId, node: &NodeId) {
    edit(change, id, |vip| {
        if !vip.is_candidate(node) && vip.candidates.len() < VIP_CANDIDATES_MAX {
            vip.candidates.push(node.clone());
        }
    });
}

/// One may not hold it any more. Its lease, if it has it, is closed and passed on.
pub(super) fn drop_candidate(change: &mut Change<'_>, id: VipId, node: &NodeId) {
    edit(change, id, |vip| {
        vip.candidates.retain(|candidate| candidate != node);
        vip.readiness.remove(node);
        forget_wish(vip, |wished| wished != node);
    });
}

/// A cluster's API address is its own affair.
fn refuse_owned(change: &Change<'_>, id: VipId, vip: &VirtualIp) -> Result<(), Refusal> {
    let mut clusters = change.agreed().clusters.values();
    match clusters.find(|cluster| cluster.vip == id) {
        Some(cluster) => Err(Refusal::ClusterUsesVip {
            vip: vip.name.clone(),
            cluster: cluster.name.clone(),
        }),
        None => Ok(()),
    }
}

fn allocated(change: &mut Change<'_>, vip: &VirtualIp) {
    let holder = vip.holder.clone();
    let to = holder
        .as_ref()
        .map(|holder| change.agreed().name_of(holder));
    change.event(
        EventKind::VipAllocated,
        holder.as_ref(),
        [
            ("vip", vip.name.clone()),
            ("address", vip.address.to_string()),
            ("to", to.unwrap_or_default()),
            ("epoch", vip.epoch.to_string()),
        ],
    );
}

/// Whose address it is already.
fn taken_by(change: &Change<'_>, network: NetworkId, address: Ipv6Addr) -> Option<String> {
    let agreed = change.agreed();
    let mut peers = agreed.peers.iter();
    let peer = peers.find(|((of, _), peer)| *of == network && peer.ipv6 == address);
    let node = peer.map(|((_, node), _)| agreed.name_of(node));
    node.or_else(|| at_address(change, network, address))
        .or_else(|| access_grants::at_address(change, network, address))
}

/// The virtual IP that has this address.
pub(super) fn at_address(
    change: &Change<'_>,
    network: NetworkId,
    address: Ipv6Addr,
) -> Option<String> {
    let mut vips = change.agreed().virtual_ips.values();
    vips.find(|vip| vip.network == network && vip.address == address)
        .map(|vip| vip.name.clone())
}

/// A virtual IP of this network, if there is one.
pub(super) fn in_network(change: &Change<'_>, network: NetworkId) -> Option<String> {
    let mut vips = change.agreed().virtual_ips.values();
    vips.find(|vip| vip.network == network)
        .map(|vip| vip.name.clone())
}

fn check_check(check: Option<&ReadinessCheck>) -> Result<(), Refusal> {
    check.map_or(Ok(()), |check| {
        check
            .validate()
            .map_err(|wrong| super::invalid(wrong.what, &wrong.text, wrong.rule))
    })
}

/// The candidates by their ids, in the order given.
fn check_candidates(
    change: &Change<'_>,
    network: NetworkId,
    names: &[String],
) -> Result<Vec<NodeId>, Refusal> {
    if names.len() > VIP_CANDIDATES_MAX {
        return Err(too_large("the number of candidates", VIP_CANDIDATES_MAX));
    }
    let rule = "at least one node, each named once";
    let mut candidates: Vec<NodeId> = Vec::new();
    for name in names {
        let node = change.find_node(name)?;
        if !change.agreed().peers.contains_key(&(network, node.clone())) {
            return Err(Refusal::PeerUnknown {
                node: change.agreed().name_of(&node),
                network: change.agreed().networks[&network].name.clone(),
            });
        }
        if candidates.contains(&node) {
            return Err(super::invalid("list of candidates", name, rule));
        }
        candidates.push(node);
    }
    if candidates.is_empty() {
        return Err(super::invalid("list of candidates", "", rule));
    }
    Ok(candidates)
}

pub(super) fn delete(change: &mut Change<'_>, vip: &str) -> Applied {
    let (id, row) = find_by_name(change, vip)?;
    refuse_owned(change, id, &row)?;
    remove(change, id, "deleted");
    done()
}

/// A member that holds it stays a candidate: it has to be let go of first.
pub(super) fn set_candidates(change: &mut Change<'_>, vip: &str, names: &[String]) -> Applied {
    let (id, row) = find_by_name(change, vip)?;
    refuse_owned(change, id, &row)?;
    let candidates = check_candidates(change, row.network, names)?;
    let holder = row.holder.as_ref();
    let dropped = holder.filter(|node| row.is_candidate(node) && !candidates.contains(node));
    if let Some(holder) = dropped {
        return Err(Refusal::VipHeld {
            vip: row.name.clone(),
            node: change.agreed().name_of(holder),
        });
    }
    edit(change, id, |vip| {
        vip.readiness.retain(|node, _| candidates.contains(node));
        forget_wish(vip, |node| candidates.contains(node));
        vip.candidates = candidates;
    });
    done()
}

/// What candidates said of themselves they said of another check, and is forgotten.
pub(super) fn set_check(
    change: &mut Change<'_>,
    vip: &str,
    check: Option<&ReadinessCheck>,
) -> Applied {
    let (id, row) = find_by_name(change, vip)?;
    refuse_owned(change, id, &row)?;
    check_check(check)?;
    if row.check.as_ref() != check {
        edit(change, id, |vip| {
            vip.check = check.cloned();
            vip.readiness.clear();
        });
    }
    done()
}

/// A candidate says so for itself, when it changes. Another reason for the same is no change.
pub(super) fn report_readiness(
    change: &mut Change<'_>,
    actor: &NodeId,
    id: VipId,
    ready: bool,
    reason: &str,
) -> Applied {
    let row = find(change, id)?;
    if !row.is_candidate(actor) {
        return Err(not_candidate(change, &row, actor));
    }
    check_reason(reason)?;
    let known = row.readiness.get(actor).map(|known| known.ready);
    if known == Some(ready) {
        return done();
    }
    let said = Readiness {
        ready,
        reason: if ready { "" } else { reason }.to_owned(),
        since: change.time,
    };
    edit(change, id, |vip| {
        vip.readiness.insert(actor.clone(), said);
    });
    done()
}

/// A node is leaving for good: no virtual IP is given to it any more. What it holds it is still
/// named for, until its lease was closed.
pub(super) fn forget_node(change: &mut Change<'_>, node: &NodeId) {
    let rows = change.agreed().virtual_ips.iter();
    let touched: Vec<VipId> = rows
        .filter(|(_, vip)| vip.is_candidate(node))
        .map(|(id, _)| *id)
        .collect();
    for id in touched {
        drop_candidate(change, id, node);
    }
}

/// Refuses to take a candidate's place away.
pub(super) fn refuse_detach(
    change: &Change<'_>,
    node: &NodeId,
    network: NetworkId,
) -> Result<(), Refusal> {
    let mut vips = change.agreed().virtual_ips.values();
    match vips.find(|vip| vip.network == network && vip.is_candidate(node)) {
        Some(vip) => Err(Refusal::VipUsesPeer {
            node: change.agreed().name_of(node),
            network: change.agreed().networks[&network].name.clone(),
            vip: vip.name.clone(),
        }),
        None => Ok(()),
    }
}

fn forget_wish(vip: &mut VirtualIp, possible: impl Fn(&NodeId) -> bool) {
    let wished = vip.wish.as_ref().and_then(|wish| wish.to.as_ref());
    if wished.is_some_and(|node| !possible(node)) {
        vip.wish = None;
    }
}

/// Everybody in the mesh: for judging candidates by what they said alone.
pub(super) fn members(change: &Change<'_>) -> BTreeSet<NodeId> {
    change.agreed().nodes.keys().cloned().collect()
}

pub(super) fn edit(change: &mut Change<'_>, id: VipId, with: impl FnOnce(&mut VirtualIp)) {
    if let Some(vip) = change.agreed_mut().virtual_ips.get_mut(&id) {
        with(vip);
    }
}

/// A copy, so that it can be looked at while the state changes: there are few, and they are small.
pub(super) fn find(change: &Change<'_>, id: VipId) -> Result<VirtualIp, Refusal> {
    let row = change.agreed().virtual_ips.get(&id).cloned();
    row.ok_or_else(|| Refusal::VipUnknown {
        vip: id.to_string(),
    })
}

pub(super) fn find_by_name(change: &Change<'_>, vip: &str) -> Result<(VipId, VirtualIp), Refusal> {
    match change.agreed().find_vip(vip) {
        Some((id, row)) => Ok((id, row.clone())),
        None => Err(Refusal::VipUnknown { vip: excerpt(vip) }),
    }
}

pub(super) fn not_candidate(change: &Change<'_>, vip: &VirtualIp, node: &NodeId) -> Refusal {
    Refusal::VipNotCandidate {
        vip: vip.name.clone(),
        node: change.agreed().name_of(node),
    }
}

pub(super) fn check_reason(reason: &str) -> Result<(), Refusal> {
    if reason.len() > TEXT_BYTES_MAX {
        return Err(too_large("a reason", TEXT_BYTES_MAX));
    }
    Ok(())
}
