//! Virtual IPs: shown, made, changed.
//!
//! Whether a candidate is fit is shown as this node sees it; how long a lease still runs only its
//! holder knows, and is asked.

use std::collections::BTreeSet;

use axum::{Json, extract::Path};
use consensus_core::{
    Agreed, CHECK_INTERVAL_MS, CHECK_TIMEOUT_MS, Command, LeaseProfile, LeaseVoters, NodeId, Probe,
    ReadinessCheck, Refusal, VipMove, VirtualIp,
};
use node_api::{
    ApiError,
    types::{
        Changed, VipCandidate, VipCandidatesRequest, VipCheckRequest, VipDetails, VipMoveView,
        VipRequest, VipView,
    },
};

use super::{Answer, Body, Member, change};
use crate::{mesh::Mesh, node::invalid_text};

/// Where an operator wants it anywhere else.
const ANYBODY: &str = "*";

pub(super) async fn list(Member(mesh): Member) -> Json<Vec<VipView>> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let mut vips: Vec<_> = agreed
        .virtual_ips
        .values()
        .map(|vip| view(&agreed, vip))
        .collect();
    vips.sort_by(|a, b| a.name.cmp(&b.name));
    Json(vips)
}

pub(super) async fn show(Member(mesh): Member, Path(name): Path<String>) -> Answer<VipDetails> {
    Ok(Json(details(&mesh, &name).await?))
}

pub(super) async fn create(
    Member(mesh): Member,
    Body(request): Body<VipRequest>,
) -> Answer<VipDetails> {
    let profile = request.profile.as_deref().map(str::parse);
    let profile: LeaseProfile = profile.transpose().map_err(invalid)?.unwrap_or_default();
    let command = Command::CreateVip {
        name: request.name.clone(),
        network: request.network,
        candidates: request.candidates,
        check: check_of(request.check)?,
        profile,
    };
    mesh.proposer.submit(command).await?;
    Ok(Json(details(&mesh, &request.name).await?))
}

pub(super) async fn delete(Member(mesh): Member, Path(vip): Path<String>) -> Answer<Changed> {
    change(&mesh, Command::DeleteVip { vip }).await
}

pub(super) async fn set_candidates(
    Member(mesh): Member,
    Path(vip): Path<String>,
    Body(request): Body<VipCandidatesRequest>,
) -> Answer<Changed> {
    let candidates = request.candidates;
    change(&mesh, Command::SetVipCandidates { vip, candidates }).await
}

pub(super) async fn set_check(
    Member(mesh): Member,
    Path(vip): Path<String>,
    Body(request): Body<VipCheckRequest>,
) -> Answer<Changed> {
    let check = check_of(request)?;
    change(&mesh, Command::SetVipCheck { vip, check }).await
}

/// What an operator asked to be asked.
fn check_of(request: VipCheckRequest) -> Result<Option<ReadinessCheck>, ApiError> {
    let timed = request.interval_ms.is_some() || request.timeout_ms.is_some();
    let Some(probe) = request.probe else {
        if timed {
            return Err(invalid_text(
                "readiness check",
                "",
                "given where it has times",
            ));
        }
        return Ok(None);
    };
    let probe: Probe = probe.parse().map_err(invalid)?;
    let check = ReadinessCheck {
        probe,
        interval_ms: request.interval_ms.unwrap_or(CHECK_INTERVAL_MS),
        timeout_ms: request.timeout_ms.unwrap_or(CHECK_TIMEOUT_MS),
    };
    check.validate().map_err(invalid)?;
    Ok(Some(check))
}

fn invalid(wrong: consensus_core::InvalidId) -> ApiError {
    invalid_text(wrong.what, &wrong.text, wrong.rule)
}

fn view(agreed: &Agreed, vip: &VirtualIp) -> VipView {
    let network = agreed.networks.get(&vip.network);
    VipView {
        name: vip.name.clone(),
        network: network.map_or_else(|| vip.network.to_string(), |network| network.name.clone()),
        address: vip.address,
        holder: vip.holder.as_ref().map(|id| agreed.former_name_of(id)),
        epoch: vip.epoch.0,
        state: vip.state().as_str().into(),
        candidates: names(agreed, &vip.candidates),
    }
}

fn names<'a>(agreed: &Agreed, ids: impl IntoIterator<Item = &'a NodeId>) -> Vec<String> {
    ids.into_iter()
        .map(|id| agreed.former_name_of(id))
        .collect()
}

async fn details(mesh: &Mesh, name: &str) -> Result<VipDetails, ApiError> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let (id, vip) = agreed.find_vip(name).ok_or_else(|| Refusal::VipUnknown {
        vip: name.to_owned(),
    })?;
    let (voters, next) = match &vip.voters {
        LeaseVoters::Stable(voters) => (voters, None),
        LeaseVoters::Joint { old, new } => (old, Some(names(&agreed, new))),
    };
    let heard = mesh.vips.heard();
    let held = mesh.vips.held(id, vip).await;
    let candidates = vip.candidates.iter();
    let wanted = |to: Option<&NodeId>| to.map_or(ANYBODY.into(), |to| agreed.name_of(to));
    Ok(VipDetails {
        vip: view(&agreed, vip),
        id: id.to_string(),
        profile: vip.profile.as_str().into(),
        check: vip.check.as_ref().map(|check| check.probe.to_string()),
        check_interval_ms: vip.check.as_ref().map(|check| check.interval_ms),
        check_timeout_ms: vip.check.as_ref().map(|check| check.timeout_ms),
        lease_left_ms: held.as_ref().map(|held| held.left_ms),
        open: held.as_ref().map(|held| held.open),
        held_by: held.and_then(|held| held.by).map(|by| by.as_str().into()),
        lease_voters: names(&agreed, voters),
        lease_voters_next: next,
        wanted_on: vip.wish.as_ref().map(|wish| wanted(wish.to.as_ref())),
        readiness: candidates
            .map(|node| candidate(&agreed, vip, node, &heard))
            .collect(),
        moves: vip
            .moves
            .iter()
            .rev()
            .map(|done| moved(&agreed, done))
            .collect(),
    })
}

fn candidate(
    agreed: &Agreed,
    vip: &VirtualIp,
    node: &NodeId,
    heard: &BTreeSet<NodeId>,
) -> VipCandidate {
    let unfit = agreed.unfit(vip, node, heard);
    VipCandidate {
        node: agreed.name_of(node),
        fit: unfit.is_none(),
        reason: unfit.map(|why| why.to_string()),
        since_ms: vip.readiness.get(node).map(|said| said.since.0),
    }
}

fn moved(agreed: &Agreed, done: &VipMove) -> VipMoveView {
    let name = |node: &Option<NodeId>| node.as_ref().map(|id| agreed.former_name_of(id));
    VipMoveView {
        from: name(&done.from),
        to: name(&done.to),
        epoch: done.epoch.0,
        reason: done.reason.clone(),
        at_ms: done.at.0,
        outage_us: done.outage_us,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(probe: Option<&str>, interval_ms: Option<u32>) -> VipCheckRequest {
        VipCheckRequest {
            probe: probe.map(str::to_owned),
            interval_ms,
            timeout_ms: None,
        }
    }

    #[test]
    fn a_check_has_usual_times_unless_others_are_given() {
        let check = check_of(request(Some("tcp:80"), None)).unwrap().unwrap();
        assert_eq!(check, ReadinessCheck::new(Probe::Tcp { port: 80 }));
        let check = check_of(request(Some("tcp:80"), Some(250)))
            .unwrap()
            .unwrap();
        assert_eq!(check.interval_ms, 250);
        assert_eq!(check_of(request(None, None)).unwrap(), None);
    }

    #[test]
    fn a_wrong_check_is_refused_with_its_rule() {
        for (wrong, rule) in [
            (request(Some("udp:53"), None), "tcp:PORT"),
            (request(Some("tcp:80"), Some(1)), "from 100 ms to an hour"),
            (request(None, Some(250)), "given where it has times"),
        ] {
            let error = check_of(wrong).unwrap_err();
            assert_eq!(error.code, "InvalidInputError");
            assert!(error.hint.contains(rule), "{error:?}");
        }
    }
}
