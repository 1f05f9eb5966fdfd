//! Answers other nodes' requests and passes joiners on to the issuer.
//!
//! Decides who may ask: a command counts for the node that sent it and no other; an enrolment is
//! passed on only by a member, whose gate proved the joiner's key.

use std::time::Duration;

use consensus_core::NodeId;
use node_api::ApiError;
use overlay_net::{Channel, EnrolmentRequest, IncomingCall, Refused};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    issuer::IssuerDesk,
    peer_wire::{EnrolRequest, PeerAnswer, PeerRequest, decode, encode, misunderstood},
    proposer::{Proposer, propose},
};

/// Requests handled at once; more wait in the network's bounded queue.
const HANDLERS_MAX: usize = 64;
/// The issuer signs and has it agreed; the joiner's gate waits twenty seconds.
const ISSUER_DEADLINE: Duration = Duration::from_secs(15);

/// Serves the Command channel until the network stops.
pub(crate) async fn serve(
    mut calls: mpsc::Receiver<IncomingCall>,
    proposer: Proposer,
    desk: Option<IssuerDesk>,
) {
    let mut handlers = JoinSet::new();
    while let Some(call) = calls.recv().await {
        while handlers.len() >= HANDLERS_MAX {
            handlers.join_next().await;
        }
        let (proposer, desk) = (proposer.clone(), desk.clone());
        handlers.spawn(async move {
            let answer = match decode::<PeerRequest>(&call.body) {
                Ok(request) => answer(&proposer, desk.as_ref(), &call.from, request).await,
                Err(error) => PeerAnswer::Failed(error),
            };
            let _ = call.reply.send(Ok(encode(&answer)));
        });
    }
}

async fn answer(
    proposer: &Proposer,
    desk: Option<&IssuerDesk>,
    from: &NodeId,
    request: PeerRequest,
) -> PeerAnswer {
    let result = match request {
        PeerRequest::Propose(envelope) if envelope.actor != *from => {
            Err(consensus_core::Refusal::NotYours {
                actor: from.clone(),
                node: envelope.actor,
            }
            .into())
        }
        PeerRequest::Propose(envelope) => {
            let agreement = proposer.agreement.borrow().clone();
            return propose(agreement.as_ref(), &envelope).await;
        }
        PeerRequest::Enrol { node, request } => match desk {
            Some(desk) => desk
                .enrol(&node, request)
                .await
                .map(|answer| PeerAnswer::Enrolled(Box::new(answer))),
            None => Err(not_issuer(proposer)),
        },
        PeerRequest::RenewNode { csr } => match desk {
            Some(desk) => desk.renew(from, &csr).await,
            None => Err(not_issuer(proposer)),
        },
        PeerRequest::DockerClient { csr } => match desk {
            Some(desk) => desk.docker_client(from, &csr).await,
            None => Err(not_issuer(proposer)),
        },
    };
    result.unwrap_or_else(PeerAnswer::Failed)
}

fn not_issuer(proposer: &Proposer) -> ApiError {
    consensus_core::Refusal::NotIssuer {
        actor: proposer.me.clone(),
    }
    .into()
}

/// Has the issuer answer, wherever it is.
pub(crate) async fn ask_issuer(
    proposer: &Proposer,
    desk: Option<&IssuerDesk>,
    request: PeerRequest,
) -> Result<PeerAnswer, ApiError> {
    if desk.is_some() {
        return answer(proposer, desk, &proposer.me, request)
            .await
            .into_result();
    }
    let view = proposer.views.view();
    let issuer = view.agreed.mesh.as_ref().map(|mesh| mesh.issuer.clone());
    let issuer = issuer.ok_or(consensus_core::Refusal::NoMesh)?;
    let answer = proposer
        .net
        .call(&issuer, Channel::Command, encode(&request), ISSUER_DEADLINE)
        .await;
    let bytes = answer.map_err(|error| {
        let name = view.agreed.name_of(&issuer);
        ApiError::new(
            "IssuerUnreachableError",
            format!("{name}, which signs the mesh's certificates, does not answer"),
            format!(
                "start shoald on {name} again; `shoal node show {name}` says when it was last seen"
            ),
        )
        .caused_by(&error)
    })?;
    decode::<PeerAnswer>(&bytes)?.into_result()
}

/// Serves joiners at this node's gate until the network stops.
pub(crate) async fn serve_enrolments(
    mut requests: mpsc::Receiver<EnrolmentRequest>,
    proposer: Proposer,
    desk: Option<IssuerDesk>,
) {
    let mut handlers = JoinSet::new();
    while let Some(request) = requests.recv().await {
        while handlers.len() >= HANDLERS_MAX {
            handlers.join_next().await;
        }
        let (proposer, desk) = (proposer.clone(), desk.clone());
        handlers.spawn(async move {
            let result = enrol(&proposer, desk.as_ref(), &request).await;
            if let Err(error) = &result {
                tracing::warn!(joiner = request.from.short(), from = %request.observed, code = error.code, %error, "an enrolment was refused");
            }
            let result = result.map_err(|error| Refused::new(error.code, error.message, error.hint));
            let _ = request.reply.send(result);
        });
    }
}

async fn enrol(
    proposer: &Proposer,
    desk: Option<&IssuerDesk>,
    request: &EnrolmentRequest,
) -> Result<Vec<u8>, ApiError> {
    let enrol: EnrolRequest = decode(&request.body)?;
    let passed_on = PeerRequest::Enrol {
        node: request.from.clone(),
        request: enrol,
    };
    let PeerAnswer::Enrolled(answer) = ask_issuer(proposer, desk, passed_on).await? else {
        return Err(misunderstood());
    };
    tracing::info!(node = request.from.short(), from = %request.observed, "a node was admitted");
    Ok(encode(&*answer))
}
