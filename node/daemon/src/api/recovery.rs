//! Backup, restore, and recovery from a lost majority.
//!
//! Decides when a recovery is refused: on an agent, and while a majority answers.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use consensus_core::{NodeId, Role};
use node_api::{
    ApiError,
    types::{BackupRequest, Joined, RecoverPlan, RecoverRequest, Recovered, RestoreRequest},
};
use overlay_core::membership::Condition;
use tokio::sync::oneshot;

use super::{Answer, Body, Failure, Member, mesh::finish, operators::servers_only};
use crate::{
    backup,
    mesh::{Mesh, issuer::now},
    node::Node,
};

/// A restore carries a backup in base64, of 256 MiB at most.
const RESTORE_BYTES_MAX: usize = 360 * 1024 * 1024;

pub(super) async fn create_backup(
    Member(mesh): Member,
    Body(request): Body<BackupRequest>,
) -> Result<Response, Failure> {
    if request.recipients.len() > backup::RECIPIENTS_MAX {
        return Err(consensus_core::Refusal::TooLarge {
            what: "the number of a backup's recipients".into(),
            limit: backup::RECIPIENTS_MAX as u64,
        }
        .into());
    }
    // What was agreed before the question is in the backup.
    if !mesh.proposer.catch_up(super::READ_WITHIN).await {
        tracing::warn!("the backup holds the last state that this node knows");
    }
    let state = mesh.proposer.state().ok_or_else(servers_only)?;
    let files = mesh.rotator.files.clone();
    let recipients = request.recipients;
    let made =
        tokio::task::spawn_blocking(move || backup::make(&files, &state, &recipients, now())).await;
    let file = made.map_err(|error| failed(&error.to_string()))??;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], file).into_response())
}

pub(super) async fn restore(State(node): State<Arc<Node>>, request: Request) -> Answer<Joined> {
    let malformed = |reason: &str| {
        ApiError::new(
            "MalformedRequestError",
            format!("the request's body is wrong: {reason}"),
            "see `shoal backup restore --help`",
        )
    };
    let bytes = axum::body::to_bytes(request.into_body(), RESTORE_BYTES_MAX)
        .await
        .map_err(|error| malformed(&error.to_string()))?;
    let request: RestoreRequest =
        serde_json::from_slice(&bytes).map_err(|error| malformed(&error.to_string()))?;
    drop(bytes);
    let file = STANDARD
        .decode(request.backup.as_bytes())
        .map_err(|error| malformed(&error.to_string()))?;
    finish(async move { node.restore(file, request.identity).await }).await
}

/// The servers by agreement: those that answer, this one among them, and those that do not.
fn servers(mesh: &Mesh) -> (Vec<NodeId>, Vec<NodeId>) {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let members = mesh.proposer.members.borrow().clone();
    let answers = |id: &NodeId| {
        *id == mesh.me
            || members
                .get(id)
                .is_some_and(|member| member.condition == Condition::Alive)
    };
    agreed
        .servers()
        .map(|(id, _)| id.clone())
        .partition(answers)
}

pub(super) async fn plan(Member(mesh): Member) -> Answer<RecoverPlan> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let (reachable, lost) = servers(&mesh);
    let state = mesh.proposer.state();
    let status = mesh
        .proposer
        .agreement
        .borrow()
        .clone()
        .map(|agreement| agreement.status().borrow().clone());
    let committed = state.as_ref().map_or(0, |state| state.applied.0);
    let last = status
        .and_then(|status| status.last_log)
        .map_or(committed, |last| last.0);
    let names = |ids: &[NodeId]| ids.iter().map(|id| agreed.name_of(id)).collect::<Vec<_>>();
    let mut may_be_lost = vec![
        "what the lost servers agreed without this one: everything after the last entry in this \
         server's log"
            .to_owned(),
    ];
    if last > committed {
        may_be_lost.push(format!(
            "nothing of entries {} to {last}: they are kept, though it is not known whether they \
             were ever agreed",
            committed + 1
        ));
    }
    let mesh_name = agreed.mesh.as_ref().map(|mesh| mesh.name.clone());
    Ok(Json(RecoverPlan {
        mesh: mesh_name.unwrap_or_default(),
        survivor: agreed.name_of(&mesh.me),
        needed: ((reachable.len() + lost.len()) / 2 + 1) as u64,
        lost: names(&lost),
        reachable: names(&reachable),
        committed_index: committed,
        last_index: last,
        may_be_lost,
        refused: refusal(&mesh).await,
    }))
}

/// Why a recovery is not possible or not needed here.
async fn refusal(mesh: &Mesh) -> Option<ApiError> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let row = agreed.nodes.get(&mesh.me);
    if row.is_none_or(|row| row.role != Role::Server) || mesh.proposer.state().is_none() {
        return Some(servers_only());
    }
    let (reachable, lost) = servers(mesh);
    let needed = (reachable.len() + lost.len()) / 2 + 1;
    if reachable.len() >= needed || mesh.proposer.catch_up(super::READ_WITHIN).await {
        let message = format!(
            "{} of {} servers answer, and {needed} are needed: the majority is not lost",
            reachable.len(),
            reachable.len() + lost.len()
        );
        let hint = "remove dead servers with `shoal node remove NODE`";
        return Some(ApiError::new("MajorityPresentError", message, hint));
    }
    None
}

pub(super) async fn recover(
    Member(mesh): Member,
    Body(request): Body<RecoverRequest>,
) -> Answer<Recovered> {
    let agreed = mesh.proposer.views.view().agreed.clone();
    let name = agreed.mesh.as_ref().map(|mesh| mesh.name.clone());
    if name.as_ref() != Some(&request.confirm) {
        return Err(ApiError::new(
            "NotConfirmedError",
            format!("{:?} is not the name of this mesh", request.confirm),
            "nothing was done; type the name that `shoal status` shows",
        )
        .into());
    }
    if let Some(refused) = refusal(&mesh).await {
        return Err(refused.into());
    }
    let (_, lost) = servers(&mesh);
    let (reachable, _) = servers(&mesh);
    let demoted = lost
        .iter()
        .chain(reachable.iter().filter(|id| **id != mesh.me));
    let demoted: Vec<String> = demoted.map(|id| agreed.name_of(id)).collect();
    let (reply, outcome) = oneshot::channel();
    let sent = mesh.recoveries.send(reply).await;
    sent.map_err(|_| failed("the daemon is stopping"))?;
    let recovered = outcome
        .await
        .map_err(|_| failed("the daemon is stopping"))??;
    let warnings = vec![
        format!(
            "{} entries whose agreement is not known were adopted",
            recovered.survey.adopted
        ),
        "the mesh has one server now: promote two nodes, so that it survives the loss of one"
            .to_owned(),
        "former servers that are started again become agents once they reach this one; keep them \
         switched off until it is reachable for them"
            .to_owned(),
    ];
    Ok(Json(Recovered {
        raft_index: recovered.at.0,
        era: u64::from(recovered.era.0),
        demoted,
        warnings,
    }))
}

fn failed(reason: &str) -> ApiError {
    ApiError::new(
        "InternalError",
        format!("the daemon failed: {reason}"),
        "look into its log",
    )
}
