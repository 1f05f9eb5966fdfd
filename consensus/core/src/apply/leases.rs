//! Who holds a virtual IP from which epoch on, and who vouches for that.
//!
//! Decides: a holder changes only when the old one let go of it itself, when a majority of its
//! lease voters has closed its epoch, or when nobody held it. Each change begins a new epoch with
//! one set of voters. Never: who is alive, nor whether a lease has ended; whoever gives a command
//! has found that out by the lease protocol.
//!
//! Invariants: an epoch only rises, and has one holder; the voters of an epoch change in two steps,
//! and the first one ends on the holder's word; what is said of another epoch, or of another change
//! of voters, is refused.

use std::collections::BTreeSet;

use super::{
    Change, done, invalid,
    virtual_ips::{check_reason, edit, find, find_by_name, members, not_candidate},
};
use crate::{
    Applied, Epoch, EventKind, FailoverWish, LeaseVoters, LogIndex, NodeId, Refusal, Unfit, VipId,
    VipMove, VirtualIp, limits::VIP_MOVES_KEPT,
};

/// In events: why nobody holds it after a recovery.
const RECOVERED: &str = "the mesh was recovered";
/// In events and names of moves, where there was or is no holder.
const NOBODY: &str = "nobody";

/// What is said of a lease's end: the epoch that ended and who closed it.
pub(super) struct Closing<'a> {
    pub(super) after: Epoch,
    pub(super) closed_by: &'a BTreeSet<NodeId>,
}

/// Gives a virtual IP to a candidate after its predecessor's lease is closed; to nobody, if none is
/// fit. That is for whoever closed it to see: `apply` knows nobody's health.
pub(super) fn assign(
    change: &mut Change<'_>,
    actor: &NodeId,
    id: VipId,
    closing: &Closing<'_>,
    to: Option<&NodeId>,
    reason: &str,
) -> Applied {
    let vip = find(change, id)?;
    require_voter(change, &vip, actor)?;
    check_epoch(&vip, closing.after)?;
    check_reason(reason)?;
    if vip.holder.is_some() && !vip.voters.close_majority(closing.closed_by) {
        return Err(Refusal::VipNotClosed {
            vip: vip.name,
            epoch: vip.epoch.0,
            closed: closing.closed_by.len() as u64,
        });
    }
    match to {
        Some(node) if !vip.is_candidate(node) => return Err(not_candidate(change, &vip, node)),
        None if vip.holder.is_none() => return done(),
        Some(_) | None => {}
    }
    pass_on(change, id, to, reason);
    done()
}

/// The holder has shut its gate and lets go: to whom an operator wished, or it names, or the next
/// candidate that is ready. What is let go of is shut for good, so that is never refused for want of
/// an heir: then nobody holds it until a candidate is fit.
pub(super) fn release(
    change: &mut Change<'_>,
    actor: &NodeId,
    id: VipId,
    epoch: Epoch,
    to: Option<&NodeId>,
    reason: &str,
) -> Applied {
    let vip = find(change, id)?;
    check_holder(change, &vip, actor, epoch)?;
    check_reason(reason)?;
    let members = members(change);
    let agreed = change.agreed();
    let wished = vip.wish.as_ref().and_then(|wish| wish.to.as_ref());
    // Whoever named it may hear nobody else; of others nothing is known here.
    let alone = |node: &NodeId| BTreeSet::from([node.clone()]);
    let wished = wished.filter(|node| agreed.unfit(&vip, node, &alone(node)).is_none());
    let heir = match (wished.filter(|node| !vip.is_holder(node)), to) {
        // The holder may not have heard of the wish when it named somebody.
        (Some(wished), _) => Some(wished.clone()),
        (None, Some(node)) => Some(check_heir(change, &vip, node, &alone(node))?),
        (None, None) => agreed.next_holder(&vip, &members).ok(),
    };
    pass_on(change, id, heir.as_ref(), reason);
    done()
}

/// Who coordinates leases: a server, or one that was and whom a lease keeps in the group. It may
/// lead, and is the one who has the lease moved away from itself.
fn require_voter(change: &Change<'_>, vip: &VirtualIp, actor: &NodeId) -> Result<(), Refusal> {
    if vip.lease_uses(actor) {
        return Ok(());
    }
    change.require_server(actor)
}

/// Whoever is to take it over: a fit candidate, and another one.
fn check_heir(
    change: &Change<'_>,
    vip: &VirtualIp,
    node: &NodeId,
    reachable: &BTreeSet<NodeId>,
) -> Result<NodeId, Refusal> {
    if !vip.is_candidate(node) {
        return Err(not_candidate(change, vip, node));
    }
    if vip.is_holder(node) {
        return Err(held(change, vip, node));
    }
    match change.agreed().unfit(vip, node, reachable) {
        Some(why) => Err(no_candidate(change, vip, &[(node.clone(), why)])),
        None => Ok(node.clone()),
    }
}

/// An operator wants it elsewhere. The holder, or who closes its lease, acts upon it.
pub(super) fn request_failover(
    change: &mut Change<'_>,
    vip: &str,
    to: Option<&str>,
    reachable: &BTreeSet<NodeId>,
) -> Applied {
    let (id, row) = find_by_name(change, vip)?;
    let to = match to {
        Some(name) => {
            let node = change.find_node(name)?;
            Some(check_heir(change, &row, &node, reachable)?)
        }
        None => match change.agreed().next_holder(&row, reachable) {
            Ok(_) => None,
            Err(unfit) => return Err(no_candidate(change, &row, &unfit)),
        },
    };
    let wish = FailoverWish {
        to,
        at: change.time,
    };
    edit(change, id, |vip| vip.wish = Some(wish));
    done()
}

/// The first step to another set of voters, from the one that was written in that entry.
pub(super) fn begin_voters(
    change: &mut Change<'_>,
    actor: &NodeId,
    id: VipId,
    of: (Epoch, LogIndex),
    new: &BTreeSet<NodeId>,
) -> Applied {
    let vip = find(change, id)?;
    require_voter(change, &vip, actor)?;
    check_voters(&vip, of)?;
    if new.is_empty() || !new.is_subset(&servers(change)) {
        let names: Vec<String> = new.iter().map(|id| change.agreed().name_of(id)).collect();
        let rule = "one or more of today's servers";
        return Err(invalid("set of lease voters", &names.join(","), rule));
    }
    let old = match vip.voters {
        LeaseVoters::Stable(old) if vip.holder.is_some() => old,
        LeaseVoters::Stable(_) => {
            return Err(voters_are(vip.name, "nobody's while nobody holds it"));
        }
        LeaseVoters::Joint { .. } => return Err(voters_are(vip.name, "changing already")),
    };
    if old == *new {
        return done();
    }
    let joint = LeaseVoters::Joint {
        old,
        new: new.clone(),
    };
    set_voters(change, id, joint);
    done()
}

/// The second step: the holder said, or had a server say, that its present lease rests on both
/// sets.
pub(super) fn finish_voters(
    change: &mut Change<'_>,
    actor: &NodeId,
    id: VipId,
    of: (Epoch, LogIndex),
) -> Applied {
    let vip = find(change, id)?;
    if !vip.is_holder(actor) {
        require_voter(change, &vip, actor)?;
    }
    check_voters(&vip, of)?;
    match vip.voters {
        LeaseVoters::Joint { new, .. } => {
            set_voters(change, id, LeaseVoters::Stable(new));
            done()
        }
        LeaseVoters::Stable(_) => Err(voters_are(vip.name, "not changing")),
    }
}

/// A word about an earlier change of voters must not carry a later one: its sets may be the same,
/// and the lease of now may rest on one of them alone.
fn check_voters(vip: &VirtualIp, (epoch, since): (Epoch, LogIndex)) -> Result<(), Refusal> {
    check_epoch(vip, epoch)?;
    if vip.voters_since == since {
        return Ok(());
    }
    Err(voters_are(
        vip.name.clone(),
        "not any more those that were meant",
    ))
}

/// Somebody saw how long nobody answered. The longest time counts.
pub(super) fn report_move(
    change: &mut Change<'_>,
    actor: &NodeId,
    id: VipId,
    epoch: Epoch,
    outage_us: u64,
) -> Applied {
    change.find_node(actor.as_str())?;
    let vip = find(change, id)?;
    let longer = |seen: &VipMove| seen.epoch == epoch && seen.outage_us < Some(outage_us);
    let Some(at) = vip.moves.iter().position(longer) else {
        // Forgotten by now, or seen longer by somebody else.
        return done();
    };
    edit(change, id, |vip| {
        if let Some(seen) = vip.moves.get_mut(at) {
            seen.outage_us = Some(outage_us);
        }
    });
    done()
}

/// After a recovery: what the state has forgotten went on beyond it. So nobody holds anything, for
/// it may have been somebody else's since, whose lease servers that are gone still vouch for; the
/// leader waits that out before it gives anything out again.
///
/// Every epoch begins again at the era's first log index. An epoch is never above the index of the
/// entry that wrote it: the first is 1, an entry raises it by one, and an era sets it to its own.
/// And an era's first index is above every index of every earlier era, known to this state or not
/// (of a later recovery of the same backup, too). So it is above every epoch that ever was.
pub(super) fn new_era(change: &mut Change<'_>) {
    let (servers, since) = (servers(change), change.index);
    let ids: Vec<VipId> = change.agreed().virtual_ips.keys().copied().collect();
    for id in ids {
        let Ok(before) = find(change, id) else {
            continue;
        };
        let servers = LeaseVoters::Stable(servers.clone());
        let epoch = before.epoch.next().max(Epoch(since.0));
        edit(change, id, |vip| {
            vip.epoch = epoch;
            vip.voters = servers;
            vip.voters_since = since;
            vip.wish = None;
            vip.holder = None;
        });
        if before.holder.is_some() {
            released(change, &before, before.holder.as_ref(), epoch, RECOVERED);
        }
    }
}

/// Begins the next epoch.
fn pass_on(change: &mut Change<'_>, id: VipId, to: Option<&NodeId>, reason: &str) {
    let (since, at, today) = (change.index, change.time, servers(change));
    let Ok(before) = find(change, id) else { return };
    let voters = match &before.holder {
        Some(_) => before.voters.successor().clone(),
        // No lease kept them: some may have left.
        None => today,
    };
    let epoch = before.epoch.next();
    let done = VipMove {
        from: before.holder.clone(),
        to: to.cloned(),
        epoch,
        reason: reason.to_owned(),
        at,
        outage_us: None,
    };
    edit(change, id, |vip| {
        vip.epoch = epoch;
        vip.holder = to.cloned();
        vip.voters = LeaseVoters::Stable(voters);
        vip.voters_since = since;
        vip.wish = None;
        vip.moves.push_back(done);
        while vip.moves.len() > VIP_MOVES_KEPT {
            vip.moves.pop_front();
        }
    });
    match to {
        Some(to) => moved(change, &before, to, epoch, reason),
        None => released(change, &before, before.holder.as_ref(), epoch, reason),
    }
}

fn moved(change: &mut Change<'_>, before: &VirtualIp, to: &NodeId, epoch: Epoch, reason: &str) {
    let from = called(change, before.holder.as_ref());
    let name = change.agreed().name_of(to);
    change.event(
        EventKind::VipMoved,
        Some(to),
        [
            ("vip", before.name.clone()),
            ("address", before.address.to_string()),
            ("from", from),
            ("to", name),
            ("epoch", epoch.to_string()),
            ("reason", reason.to_owned()),
        ],
    );
}

/// Nobody holds it from now on.
pub(super) fn released(
    change: &mut Change<'_>,
    vip: &VirtualIp,
    from: Option<&NodeId>,
    epoch: Epoch,
    reason: &str,
) {
    let name = called(change, from);
    change.event(
        EventKind::VipReleased,
        from,
        [
            ("vip", vip.name.clone()),
            ("address", vip.address.to_string()),
            ("from", name),
            ("epoch", epoch.to_string()),
            ("reason", reason.to_owned()),
        ],
    );
}

fn called(change: &Change<'_>, node: Option<&NodeId>) -> String {
    node.map_or_else(
        || NOBODY.to_owned(),
        |node| change.agreed().former_name_of(node),
    )
}

fn set_voters(change: &mut Change<'_>, id: VipId, voters: LeaseVoters) {
    let since = change.index;
    edit(change, id, |vip| {
        vip.voters = voters;
        vip.voters_since = since;
    });
}

/// Today's servers.
pub(super) fn servers(change: &Change<'_>) -> BTreeSet<NodeId> {
    let servers = change.agreed().servers();
    servers.map(|(id, _)| id.clone()).collect()
}

fn check_epoch(vip: &VirtualIp, said: Epoch) -> Result<(), Refusal> {
    if vip.epoch == said {
        return Ok(());
    }
    Err(Refusal::VipEpoch {
        vip: vip.name.clone(),
        epoch: vip.epoch.0,
        said: said.0,
    })
}

fn check_holder(
    change: &Change<'_>,
    vip: &VirtualIp,
    actor: &NodeId,
    epoch: Epoch,
) -> Result<(), Refusal> {
    check_epoch(vip, epoch)?;
    if vip.is_holder(actor) {
        return Ok(());
    }
    Err(Refusal::VipNotHolder {
        vip: vip.name.clone(),
        node: change.agreed().name_of(actor),
    })
}

fn held(change: &Change<'_>, vip: &VirtualIp, node: &NodeId) -> Refusal {
    Refusal::VipHeld {
        vip: vip.name.clone(),
        node: change.agreed().name_of(node),
    }
}

fn voters_are(vip: String, how: &str) -> Refusal {
    Refusal::VipVoters {
        vip,
        how: how.to_owned(),
    }
}

fn no_candidate(change: &Change<'_>, vip: &VirtualIp, unfit: &[(NodeId, Unfit)]) -> Refusal {
    let each = |(node, why): &(NodeId, Unfit)| {
        let name = change.agreed().name_of(node);
        (name, super::excerpt(&why.to_string()))
    };
    Refusal::VipNoCandidate {
        vip: vip.name.clone(),
        reasons: unfit.iter().map(each).collect(),
    }
}
