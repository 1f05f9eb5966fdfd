//! Operators and bootstrap tokens: who may operate the mesh, who may enter it.

use std::time::Duration;

use axum::{Json, extract::Path};
use consensus_authority::{OPERATOR_LIFETIME_MAX, certificates_to_pem};
use consensus_core::{Command, Holder, OperatorRole, TokenId};
use node_api::{
    ApiError, OVERLAY_API_PORT,
    types::{
        Changed, OperatorBundle, OperatorCertificateRequest, OperatorRequest, OperatorRoleRequest,
        OperatorView, Revoked, TokenView,
    },
};

use super::{Answer, Body, Member, ca::revoking, change, csr_of};
use crate::{
    mesh::{
        Mesh,
        desk::ask_servers,
        issuer::now,
        peer_wire::{PeerAnswer, PeerRequest, misunderstood},
    },
    node::invalid_text,
};

pub(super) async fn list(Member(mesh): Member) -> Json<Vec<OperatorView>> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let now = now();
    let rows = agreed.operators.iter().map(|(name, operator)| {
        let holder = Holder::Operator(name.clone());
        let live: Vec<_> = agreed
            .certificates
            .iter()
            .filter(|(_, record)| record.holder == holder && record.not_after > now)
            .collect();
        OperatorView {
            name: name.clone(),
            role: operator.role.as_str().to_owned(),
            created_ms: operator.created_at.0,
            serials: live.iter().map(|(serial, _)| (*serial).clone()).collect(),
            expires_ms: live.iter().map(|(_, record)| record.not_after.0).max(),
        }
    });
    Json(rows.collect())
}

pub(super) async fn create(
    Member(mesh): Member,
    Body(request): Body<OperatorRequest>,
) -> Answer<OperatorBundle> {
    let role = parse_role(&request.role)?;
    // Both are looked at before the operator is made, so that a wrong one makes none.
    let csr = csr_of(&request.csr_pem)?;
    let lifetime = lifetime(request.ttl_s)?;
    let command = Command::CreateOperator {
        name: request.name.clone(),
        role,
    };
    mesh.proposer.submit(command).await?;
    let bundle = certificate(&mesh, &request.name, csr, lifetime).await;
    if bundle.is_err() {
        // An operator without a certificate is of no use, and would be in the way of another try.
        let name = request.name;
        let _ = mesh.proposer.submit(Command::RemoveOperator { name }).await;
    }
    Ok(Json(bundle?))
}

pub(super) async fn renew(
    Member(mesh): Member,
    Path(name): Path<String>,
    Body(request): Body<OperatorCertificateRequest>,
) -> Answer<OperatorBundle> {
    let csr = csr_of(&request.csr_pem)?;
    let lifetime = lifetime(request.ttl_s)?;
    let agreed = mesh.proposer.views.view().agreed.clone();
    if !agreed.operators.contains_key(&name) {
        return Err(consensus_core::Refusal::OperatorUnknown { name }.into());
    }
    Ok(Json(certificate(&mesh, &name, csr, lifetime).await?))
}

pub(super) async fn set_role(
    Member(mesh): Member,
    Path(name): Path<String>,
    Body(request): Body<OperatorRoleRequest>,
) -> Answer<Changed> {
    let role = parse_role(&request.role)?;
    change(&mesh, Command::SetOperatorRole { name, role }).await
}

pub(super) async fn remove(Member(mesh): Member, Path(name): Path<String>) -> Answer<Revoked> {
    revoking(&mesh, Command::RemoveOperator { name }).await
}

async fn certificate(
    mesh: &Mesh,
    name: &str,
    csr: Vec<u8>,
    lifetime: Duration,
) -> Result<OperatorBundle, ApiError> {
    let request = PeerRequest::Operator {
        name: name.to_owned(),
        csr,
        lifetime_s: lifetime.as_secs(),
    };
    let answer = ask_servers(&mesh.proposer, &mesh.issuer, request).await?;
    let PeerAnswer::Certificate {
        chain,
        not_after_ms,
    } = answer
    else {
        return Err(misunderstood());
    };
    let agreed = mesh.proposer.views.view().agreed.clone();
    let role = agreed.operators.get(name).map(|operator| operator.role);
    let roots = agreed.trusted_roots();
    let endpoints = agreed
        .peers
        .values()
        .map(|peer| format!("https://[{}]:{OVERLAY_API_PORT}", peer.ipv6));
    Ok(OperatorBundle {
        name: name.to_owned(),
        role: role.map_or("", OperatorRole::as_str).to_owned(),
        certificate_pem: certificates_to_pem(chain.iter().map(Vec::as_slice)),
        ca_pem: certificates_to_pem(roots.iter().map(Vec::as_slice)),
        expires_ms: not_after_ms,
        endpoints: endpoints.collect(),
    })
}

fn parse_role(text: &str) -> Result<OperatorRole, ApiError> {
    OperatorRole::from_name(text)
        .ok_or_else(|| invalid_text("operator role", text, "viewer, operator or admin"))
}

fn lifetime(ttl_s: Option<u64>) -> Result<Duration, ApiError> {
    let asked = ttl_s.map_or(OPERATOR_LIFETIME_MAX, Duration::from_secs);
    if asked.is_zero() || asked > OPERATOR_LIFETIME_MAX {
        let days = OPERATOR_LIFETIME_MAX.as_secs() / 86_400;
        return Err(invalid_text(
            "certificate lifetime",
            &format!("{} s", asked.as_secs()),
            &format!("from 1 s to {days} days"),
        ));
    }
    Ok(asked)
}

pub(super) async fn tokens(Member(mesh): Member) -> Answer<Vec<TokenView>> {
    let state = mesh.proposer.state().ok_or_else(servers_only)?;
    let rows = state.tokens.iter().map(|(id, token)| TokenView {
        id: id.to_string(),
        role: token.role.as_str().to_owned(),
        expires_ms: token.expires_at.0,
        reusable: token.reusable,
        used_by: token.used_by.as_ref().map(|by| state.agreed.name_of(by)),
    });
    Ok(Json(rows.collect()))
}

pub(super) async fn revoke_token(
    Member(mesh): Member,
    Path(token): Path<String>,
) -> Answer<Changed> {
    let id: TokenId = token
        .parse()
        .map_err(|_| invalid_text("token id", &token, "as `shoal token ls` shows it"))?;
    change(&mesh, Command::RevokeToken { id }).await
}

/// What only servers know.
pub(super) fn servers_only() -> ApiError {
    ApiError::new(
        "NotServerError",
        "only servers hold this, and this node is none",
        "give the command on a server: `shoal node ls` names them",
    )
}
