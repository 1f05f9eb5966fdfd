//! Virtual IPs moved on an operator's order: a failover, or a drill that tells what a move costs.
//!
//! Decides nothing: what a move is, and when it is over, `mesh::vip_desk` and `mesh::drill` say.

use std::{collections::BTreeSet, time::Duration};

use axum::{Json, extract::Path};
use consensus_core::{Agreed, Command, NodeId, Refusal};
use node_api::{
    ApiError,
    types::{DrillPeer, DrillRequest, DrillView, FailoverRequest, FailoverView},
};
use tokio::time::Instant;

use super::{Answer, Body, Member};
use crate::{
    mesh::{
        Mesh,
        drill::{Drill, Drilled, PLANNED_WITHIN, Sight, conduct},
        vip_desk::Moved,
    },
    node::invalid_text,
};

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

pub(super) async fn fail_over(
    Member(mesh): Member,
    Path(vip): Path<String>,
    Body(request): Body<FailoverRequest>,
) -> Answer<FailoverView> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let (id, row) = agreed
        .find_vip(&vip)
        .map(|(id, row)| (id, row.clone()))
        .ok_or_else(|| Refusal::VipUnknown { vip: vip.clone() })?;
    let wanted = request.to.as_deref();
    let wanted = wanted.and_then(|name| agreed.find_node(name));
    let wanted = wanted.map(|(id, _)| id.clone());
    let began = Instant::now();
    let command = Command::RequestFailover {
        vip,
        to: request.to,
        reachable: mesh.vips.heard(),
    };
    let (index, done) = mesh.proposer.submit(command).await?;
    let mut view = FailoverView {
        raft_index: index.0,
        moved: false,
        from: row.holder.as_ref().map(|id| agreed.former_name_of(id)),
        to: None,
        epoch: None,
        took_us: None,
        warnings: super::warnings_of(done),
    };
    if request.wait {
        let by = began + PLANNED_WITHIN;
        let moved = mesh.vips.moved(id, row.epoch, by).await;
        // Whoever had it may have been given it again, or a third one: then the order is not done.
        let is_done = |moved: &Moved| {
            let there = wanted.as_ref().is_none_or(|wanted| moved.to == *wanted);
            there && !row.is_holder(&moved.to)
        };
        let moved = moved.filter(is_done).ok_or_else(|| {
            let agreed = mesh.proposer.views.view().agreed.clone();
            let heard = mesh.vips.heard();
            let wanted = wanted.as_ref().map(|wanted| (wanted, &heard));
            not_moved(&agreed, &row.name, began.elapsed(), wanted)
        })?;
        view.moved = true;
        view.took_us = Some(micros(began.elapsed()));
        view.epoch = Some(moved.epoch.0);
        view.to = Some(mesh.proposer.views.view().agreed.name_of(&moved.to));
    }
    Ok(Json(view))
}

/// It was ordered, and has not happened; `wanted` is with whom it was to be, and who is heard.
fn not_moved(
    agreed: &Agreed,
    name: &str,
    waited: Duration,
    wanted: Option<(&NodeId, &BTreeSet<NodeId>)>,
) -> ApiError {
    let row = agreed.find_vip(name).map(|(_, row)| row);
    let on = row.map_or_else(
        || "deleted meanwhile".to_owned(),
        |row| match &row.holder {
            Some(holder) => format!("given to {}", agreed.former_name_of(holder)),
            None => "held by nobody".to_owned(),
        },
    );
    let waited = waited.as_secs_f64();
    let there = match wanted {
        None => format!("no other node says that {name} is open there"),
        Some((node, heard)) => {
            let why = row.and_then(|row| agreed.unfit(row, node, heard));
            let why = why.map_or_else(String::new, |why| format!(" ({why})"));
            format!("{name} is not open on {}{why}", agreed.former_name_of(node))
        }
    };
    let message = format!("{waited:.1} s after the order {there}; it is {on}");
    let hint = if row.is_some_and(|row| row.wish.is_some()) {
        format!("the order stands: `shoal vip show {name}` tells how it is")
    } else {
        format!("the order is over; see `shoal vip show {name}` and order it again")
    };
    ApiError::new("VirtualIpNotMovedError", message, hint)
}

pub(super) async fn drill(
    Member(mesh): Member,
    Path(vip): Path<String>,
    Body(request): Body<DrillRequest>,
) -> Answer<DrillView> {
    let to = request.to;
    let kill = false;
    carried_out(&mesh, Drill { vip, to, kill }).await
}

pub(super) async fn drill_dead(
    Member(mesh): Member,
    Path(vip): Path<String>,
    Body(request): Body<DrillRequest>,
) -> Answer<DrillView> {
    if let Some(to) = request.to {
        let rule = "nobody where the holder is killed: the first candidate that is fit takes over";
        return Err(invalid_text("heir", &to, rule).into());
    }
    let (to, kill) = (None, true);
    carried_out(&mesh, Drill { vip, to, kill }).await
}

async fn carried_out(mesh: &Mesh, drill: Drill) -> Answer<DrillView> {
    let drilled = conduct(&mesh.vips, &drill).await?;
    let agreed = mesh.proposer.views.view().agreed.clone();
    Ok(Json(view(&agreed, &drilled, drill.kill)))
}

fn view(agreed: &Agreed, drilled: &Drilled, killed: bool) -> DrillView {
    let mut peers: Vec<DrillPeer> = drilled
        .sights
        .iter()
        .map(|sight| peer(agreed, sight))
        .collect();
    peers.sort_by(|a, b| (b.outage_us, &a.node).cmp(&(a.outage_us, &b.node)));
    DrillView {
        vip: drilled.row.name.clone(),
        address: drilled.row.address,
        killed,
        moved: drilled.moved.is_some(),
        from: agreed.former_name_of(&drilled.from),
        to: drilled
            .moved
            .as_ref()
            .map(|moved| agreed.name_of(&moved.to)),
        epoch: drilled.moved.as_ref().map(|moved| moved.epoch.0),
        took_us: micros(drilled.took),
        outage_us: drilled.worst_us(),
        every_us: micros(drilled.every),
        peers,
        warnings: drilled.warnings.clone(),
    }
}

fn peer(agreed: &Agreed, (node, sight): &Sight) -> DrillPeer {
    let node = agreed.former_name_of(node);
    match sight {
        Ok(seen) => DrillPeer {
            node,
            outage_us: Some(seen.silence_us),
            sent: seen.sent,
            answers: seen.answers,
            pause_us: Some(seen.pause_us),
            answering: seen.answering,
            reason: (!seen.answering).then(|| "the address was still silent at the end".into()),
        },
        Err(reason) => DrillPeer {
            node,
            outage_us: None,
            sent: 0,
            answers: 0,
            pause_us: None,
            answering: false,
            reason: Some(reason.clone()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use consensus_core::{
        Epoch, FailoverWish, LeaseProfile, LeaseVoters, LogIndex, NetworkId, VipId, VirtualIp,
        WallMs,
    };

    use super::*;
    use crate::mesh::vip_wire::Observation;

    fn id(letter: char) -> NodeId {
        let rest: String = std::iter::repeat_n(letter, 44).collect();
        format!("12D3KooW{rest}").parse().unwrap()
    }

    #[test]
    fn what_was_given_to_its_holder_again_has_not_moved() {
        let (a, vip) = (id('a'), VipId::from_bytes([1; 16]));
        let mut row = VirtualIp {
            name: "web".into(),
            network: NetworkId::from_bytes([2; 16]),
            address: "fd00::a".parse().unwrap(),
            candidates: vec![a.clone()],
            check: None,
            profile: LeaseProfile::Safe,
            epoch: Epoch(4),
            holder: Some(a.clone()),
            voters: LeaseVoters::Stable(BTreeSet::new()),
            voters_since: LogIndex(1),
            readiness: BTreeMap::new(),
            wish: None,
            moves: VecDeque::new(),
            created_at: WallMs(0),
        };
        let told_of = |row: &VirtualIp, wanted: Option<(&NodeId, &BTreeSet<NodeId>)>| {
            let virtual_ips = BTreeMap::from([(vip, row.clone())]);
            let agreed = Agreed {
                virtual_ips: virtual_ips.into(),
                ..Agreed::default()
            };
            not_moved(&agreed, "web", Duration::from_millis(1250), wanted)
        };
        let told = |row: &VirtualIp| told_of(row, None);
        let error = told(&row);
        assert_eq!(error.code, "VirtualIpNotMovedError");
        let name = Agreed::default().former_name_of(&a);
        assert!(
            error.message.starts_with("1.2 s after the order"),
            "{error:?}"
        );
        assert!(
            error.message.ends_with(&format!("it is given to {name}")),
            "{error:?}"
        );
        assert!(error.hint.contains("order it again"), "{error:?}");
        row.wish = Some(FailoverWish {
            to: None,
            at: WallMs(0),
        });
        assert!(told(&row).hint.contains("the order stands"));
        // With whom it was to be, and why it is not there.
        let (b, heard) = (id('b'), BTreeSet::new());
        let error = told_of(&row, Some((&b, &heard)));
        let (b, a) = (b.as_str(), name.as_str());
        let there = format!("web is not open on {b} (no candidate); it is given to {a}");
        assert!(error.message.ends_with(&there), "{error:?}");
    }

    #[test]
    fn a_peer_that_saw_nothing_says_why_and_one_that_still_waits_is_told_apart() {
        let agreed = Agreed::default();
        let mut seen = Observation {
            sent: 300,
            answers: 290,
            silence_us: 24_000,
            pause_us: 6_000,
            answering: true,
        };
        let saw = peer(&agreed, &(id('a'), Ok(seen.clone())));
        assert_eq!((saw.outage_us, saw.reason), (Some(24_000), None));
        seen.answering = false;
        let waits = peer(&agreed, &(id('a'), Ok(seen)));
        assert_eq!(waits.outage_us, Some(24_000));
        assert!(waits.reason.is_some_and(|why| why.contains("still silent")));
        let blind = peer(&agreed, &(id('b'), Err("not heard of".into())));
        assert_eq!((blind.outage_us, blind.sent), (None, 0));
        assert_eq!(blind.reason.as_deref(), Some("not heard of"));
    }
}
