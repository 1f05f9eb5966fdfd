//! The certificate authority as operators see it: status, rotation, revocation.

use axum::Json;
use consensus_authority::words;
use consensus_core::{
    Agreed, Command, ExpiringCertificate, Holder, LogIndex, Revocation, State, WallMs,
    expiry_warnings,
};
use node_api::types::{
    CaStatus, CertificateView, Changed, IntermediateView, RevokeRequest, Revoked, RootView,
    RotateRequest, RotationView,
};

use super::{Answer, Body, Member, caller, rfc3339};
use crate::{
    mesh::{
        Mesh,
        desk::ask_each,
        enforcement::enforcement,
        issuer::now,
        peer_wire::{PeerAnswer, PeerRequest, misunderstood},
        rotation::NO_ROOT_KEY,
    },
    node::invalid_text,
};

pub(super) async fn status(Member(mesh): Member) -> Json<CaStatus> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let waiting_for = if agreed.authority.rotation.is_some() {
        mesh.rotator.waits_for().await
    } else {
        Vec::new()
    };
    let state = mesh.proposer.state();
    Json(show(&agreed, state.as_ref(), waiting_for, now()))
}

fn show(agreed: &Agreed, state: Option<&State>, waiting_for: Vec<String>, now: WallMs) -> CaStatus {
    CaStatus {
        roots: roots(agreed, state),
        intermediates: intermediates(agreed, now),
        certificates: agreed
            .certificates
            .iter()
            .filter(|(_, record)| record.not_after > now)
            .map(|(serial, record)| CertificateView {
                serial: serial.clone(),
                profile: record.profile.as_str().to_owned(),
                holder: holder_name(agreed, &record.holder),
                issuer: issuer_name(agreed, &record.issuer),
                not_after_ms: record.not_after.0,
            })
            .collect(),
        rotation: agreed
            .authority
            .rotation
            .as_ref()
            .map(|rotation| RotationView {
                step: rotation.step.as_str().to_owned(),
                reason: rotation.reason.clone(),
                began_ms: rotation.began_at.0,
                waiting_for,
            }),
        recovery_recipient: state
            .map(|state| state.recovery_recipient.clone())
            .unwrap_or_default(),
        warnings: warnings(agreed, now),
    }
}

fn roots(agreed: &Agreed, state: Option<&State>) -> Vec<RootView> {
    let mut roots: Vec<_> = agreed.authority.roots.iter().collect();
    roots.sort_by_key(|root| root.state);
    let sealed_to = |root: &consensus_core::Root| {
        let key = state.and_then(|state| state.root_keys.get(&root.fingerprint()));
        let recipients = key.map(|key| &key.recipients).into_iter().flatten();
        let recovery = state.map(|state| &state.recovery_recipient);
        let mut names: Vec<String> = recipients
            .map(|recipient| {
                if Some(recipient) == recovery {
                    return "recovery".to_owned();
                }
                let nodes = &agreed.nodes;
                let holder = nodes
                    .values()
                    .find(|node| node.sealing_recipient == *recipient);
                holder.map_or_else(|| "a former server".to_owned(), |node| node.name.clone())
            })
            .collect();
        names.sort();
        names
    };
    roots
        .into_iter()
        .map(|root| RootView {
            fingerprint: root.fingerprint().to_string(),
            words: words(root.fingerprint().as_bytes()),
            state: root.state.as_str().to_owned(),
            not_after_ms: root.not_after.0,
            sealed_to: sealed_to(root),
        })
        .collect()
}

fn intermediates(agreed: &Agreed, now: WallMs) -> Vec<IntermediateView> {
    let rows = agreed.authority.intermediates.iter();
    rows.map(|(serial, row)| {
        let signs = agreed
            .signing_intermediate(&row.node, now)
            .is_some_and(|(current, _)| current == serial);
        let state = match (row.retired, signs) {
            (true, _) => "retired",
            (false, true) => "current",
            (false, false) => "superseded",
        };
        IntermediateView {
            serial: serial.clone(),
            node: agreed.name_of(&row.node),
            state: state.to_owned(),
            root: row.root.to_string(),
            not_after_ms: row.not_after.0,
        }
    })
    .collect()
}

pub(super) fn holder_name(agreed: &Agreed, holder: &Holder) -> String {
    match holder {
        Holder::Node(node) => agreed.name_of(node),
        Holder::Operator(name) => name.clone(),
    }
}

fn issuer_name(agreed: &Agreed, serial: &str) -> String {
    let row = agreed.authority.intermediates.get(serial);
    row.map_or_else(|| serial.to_owned(), |row| agreed.name_of(&row.node))
}

/// Everything that ends soon without a successor, whether an event was written or not.
fn warnings(agreed: &Agreed, now: WallMs) -> Vec<String> {
    let mut untold = agreed.clone();
    untold.authority.warned.clear();
    let mut warnings: Vec<String> = expiry_warnings(&untold, now)
        .into_iter()
        .map(|warning| {
            let what = match &warning.certificate {
                ExpiringCertificate::Leaf(serial) => {
                    let profile = agreed.certificates.get(serial);
                    let profile = profile.map_or("", |record| record.profile.as_str());
                    format!("the {profile} certificate")
                }
                ExpiringCertificate::Intermediate(_) => "the intermediate".to_owned(),
                ExpiringCertificate::Root(_) => {
                    "the root; replace it with `shoal ca rotate`".to_owned()
                }
            };
            let of = warning
                .holder
                .map(|holder| format!(" of {}", holder_name(agreed, &holder)))
                .unwrap_or_default();
            let end = rfc3339(warning.not_after);
            format!("{what}{of} ends at {end} and has no successor")
        })
        .collect();
    if let Some(reason) = &agreed.authority.rotation_wanted {
        warnings.push(format!(
            "the root is to be replaced: {reason}; `shoal ca rotate` does it"
        ));
    }
    warnings
}

pub(super) async fn rotate(
    Member(mesh): Member,
    Body(request): Body<RotateRequest>,
) -> Answer<Changed> {
    let reason = request
        .reason
        .unwrap_or_else(|| "asked for by an operator".to_owned());
    let operator = caller::operator();
    let here = mesh.rotator.begin(reason.clone(), operator.clone()).await;
    let index = match here {
        Err(error) if error.code == NO_ROOT_KEY => {
            let asked = PeerRequest::Rotate { reason, operator };
            match ask_each(&mesh.proposer, &asked, |code| code == NO_ROOT_KEY).await? {
                PeerAnswer::RotationBegun(index) => index,
                PeerAnswer::Applied(..)
                | PeerAnswer::NotLeader(_)
                | PeerAnswer::NoMajority { .. }
                | PeerAnswer::Enrolled(_)
                | PeerAnswer::Certificate { .. }
                | PeerAnswer::Enforced(_)
                | PeerAnswer::Probed(_)
                | PeerAnswer::Vip(_)
                | PeerAnswer::Cluster(_)
                | PeerAnswer::Departing
                | PeerAnswer::ReadAt(_)
                | PeerAnswer::Failed(_) => return Err(misunderstood().into()),
            }
        }
        other => other?,
    };
    Ok(Json(Changed {
        raft_index: index.0,
        warnings: Vec::new(),
    }))
}

pub(super) async fn revoke(
    Member(mesh): Member,
    Body(request): Body<RevokeRequest>,
) -> Answer<Revoked> {
    let which = match (request.serial, request.node, request.operator) {
        (Some(serial), None, None) => Revocation::Serial(serial),
        (None, Some(node), None) => Revocation::Node(node),
        (None, None, Some(operator)) => Revocation::Operator(operator),
        _ => {
            return Err(
                invalid_text("revocation", "", "exactly one of serial, node and operator").into(),
            );
        }
    };
    let command = Command::RevokeCertificates {
        which,
        reason: "revoked by an operator".to_owned(),
    };
    revoking(&mesh, command).await
}

/// Has a command agreed that revokes, and tells who has put it into force.
pub(super) async fn revoking(mesh: &Mesh, command: Command) -> Answer<Revoked> {
    let before = mesh.proposer.views.view().agreed.revoked_serials();
    let (index, done) = mesh.proposer.submit(command).await?;
    let agreed = mesh.proposer.views.view().agreed.clone();
    let serials = agreed
        .revoked_serials()
        .difference(&before)
        .cloned()
        .collect();
    let warnings = super::warnings_of(done);
    Ok(Json(Revoked {
        raft_index: index.0,
        serials,
        warnings,
        enforcement: told(mesh, index).await,
    }))
}

async fn told(mesh: &Mesh, index: LogIndex) -> node_api::types::Enforcement {
    enforcement(&mesh.proposer, &mesh.enforced, index).await
}
