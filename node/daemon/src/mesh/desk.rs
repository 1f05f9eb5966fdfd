//! Answers other nodes' requests, and machines at this node's gate.
//!
//! Decides who may ask: a command counts for the node that sent it and no other; what came through
//! a gate is passed on only by a member, whose gate proved the asker's key. Whatever needs a
//! signature goes to a server that can sign, this node first.

mod lanes;

use std::{collections::VecDeque, time::Duration};

use consensus_core::{NodeFacts, NodeId, OperatorRole, Role};
use node_api::ApiError;
use overlay_core::membership::Condition;
use overlay_net::{Channel, EnrolmentRequest, IncomingCall, Refused};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use super::{
    cluster_desk::ClusterDesk,
    departure::DepartureDesk,
    enforcement::Enforced,
    issuer::{IssuerDesk, NOT_ISSUING, not_a_member},
    peer_wire::{EnrolAnswer, GateRequest, PeerAnswer, PeerRequest, decode, encode, misunderstood},
    probe::probe,
    proposer::{Proposer, propose},
    renewal::REMOVED,
    rotation::Rotator,
    views::View,
    vip_desk::VipDesk,
};

/// Machines at the gate that are served at once; more wait in the network's bounded queue.
const HANDLERS_MAX: usize = 64;
/// A server signs and has it agreed; the joiner's gate waits twenty seconds for all of them.
const SERVER_DEADLINE: Duration = Duration::from_secs(6);
/// Servers asked for one signature, so that a joiner hears something before its gate gives up.
const SERVERS_ASKED_MAX: usize = 3;
/// A server that wants to be let in again may be who is missing for anything to be agreed.
const NEWS_AFTER: Duration = Duration::from_secs(10);

/// What answering takes.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) proposer: Proposer,
    pub(crate) issuer: IssuerDesk,
    pub(crate) enforced: Enforced,
    pub(crate) rotator: Rotator,
    pub(crate) vips: VipDesk,
    pub(crate) clusters: ClusterDesk,
    pub(crate) departure: DepartureDesk,
}

/// Serves the Command channel until the network stops.
pub(crate) async fn serve(calls: mpsc::Receiver<IncomingCall>, desk: Desk) {
    let answer = move |from: NodeId, request| {
        let desk = desk.clone();
        async move { desk.answer(&from, request).await }
    };
    lanes::serve(calls, answer).await;
}

impl Desk {
    async fn answer(&self, from: &NodeId, request: PeerRequest) -> PeerAnswer {
        let agreed = self.proposer.views.view().agreed.clone();
        // A server that was removed may have signed itself a certificate that is good.
        if agreed.removed.contains_key(from) && !agreed.nodes.contains_key(from) {
            return PeerAnswer::Failed(not_a_member(&agreed, from));
        }
        let result = match request {
            PeerRequest::Propose(envelope) if envelope.actor != *from => {
                Err(consensus_core::Refusal::NotYours {
                    actor: from.clone(),
                    node: envelope.actor,
                }
                .into())
            }
            PeerRequest::Propose(envelope) => {
                let agreement = self.proposer.agreement.borrow().clone();
                return propose(agreement.as_ref(), &envelope).await;
            }
            PeerRequest::Enforced { index } => Ok(PeerAnswer::Enforced(NodeFacts {
                enforced: self.enforced.at_least(index).await,
                leaf: self.rotator.own_leaf(),
            })),
            PeerRequest::ReadIndex => {
                let agreement = self.proposer.agreement.borrow().clone();
                return super::proposer::read_index(agreement.as_ref()).await;
            }
            PeerRequest::Rotate { reason, operator } => self
                .rotator
                .begin(reason, operator)
                .await
                .map(PeerAnswer::RotationBegun),
            PeerRequest::Probe { node } => {
                return PeerAnswer::Probed(probe(&self.proposer.net, &node).await);
            }
            PeerRequest::Vip(question) => {
                self.vips.answer(from, question).await.map(PeerAnswer::Vip)
            }
            PeerRequest::Cluster(question) => {
                let answer = self.clusters.answer(question).await;
                answer.map(PeerAnswer::Cluster)
            }
            PeerRequest::Depart { taken_back: false } => self.departure.order(),
            PeerRequest::Depart { taken_back: true } => self.departure.take_back(),
            request @ (PeerRequest::Gate { .. }
            | PeerRequest::RenewNode { .. }
            | PeerRequest::DockerClient { .. }
            | PeerRequest::Operator { .. }) => self.issuer.answer(from, request).await,
        };
        result.unwrap_or_else(PeerAnswer::Failed)
    }
}

impl IssuerDesk {
    /// Answers a request that needs this server's signature.
    async fn answer(&self, from: &NodeId, request: PeerRequest) -> Result<PeerAnswer, ApiError> {
        match request {
            PeerRequest::Gate {
                node,
                request: GateRequest::Join(request),
            } => self.enrol(&node, *request).await.map(enrolled),
            PeerRequest::Gate {
                node,
                request: GateRequest::Return { csr },
            } => self.take_back(&node, &csr).await.map(enrolled),
            PeerRequest::RenewNode { csr } => self.renew(from, &csr).await,
            PeerRequest::DockerClient { csr } => self.docker_client(from, &csr).await,
            PeerRequest::Operator {
                name,
                csr,
                lifetime_s,
            } => {
                let lifetime = Duration::from_secs(lifetime_s);
                self.operator(&name, &csr, lifetime).await
            }
            PeerRequest::Propose(_)
            | PeerRequest::Enforced { .. }
            | PeerRequest::ReadIndex
            | PeerRequest::Probe { .. }
            | PeerRequest::Vip(_)
            | PeerRequest::Cluster(_)
            | PeerRequest::Depart { .. }
            | PeerRequest::Rotate { .. } => Err(misunderstood()),
        }
    }
}

fn enrolled(answer: EnrolAnswer) -> PeerAnswer {
    PeerAnswer::Enrolled(Box::new(answer))
}

/// Has a server that can sign answer: this node if it can, the leader, others in turn.
pub(crate) async fn ask_servers(
    proposer: &Proposer,
    desk: &IssuerDesk,
    request: PeerRequest,
) -> Result<PeerAnswer, ApiError> {
    if desk.issuer.borrow().is_some() {
        return desk.answer(&proposer.me, request).await;
    }
    ask_each(proposer, &request, |code| code == NOT_ISSUING).await
}

/// Asks servers in turn until one neither is silent nor answers with a code that sends on.
pub(crate) async fn ask_each(
    proposer: &Proposer,
    request: &PeerRequest,
    sends_on: impl Fn(&str) -> bool,
) -> Result<PeerAnswer, ApiError> {
    let body = encode(request);
    let mut last = None;
    for server in servers(proposer).into_iter().take(SERVERS_ASKED_MAX) {
        let answer = proposer
            .net
            .call(&server, Channel::Command, body.clone(), SERVER_DEADLINE)
            .await;
        let error = match answer {
            Ok(bytes) => match decode::<PeerAnswer>(&bytes)?.into_result() {
                Ok(answer) => return Ok(answer),
                Err(error) if !sends_on(&error.code) => return Err(error),
                Err(error) => error,
            },
            Err(error) => {
                let name = proposer.views.view().agreed.name_of(&server);
                let message = format!("{name} does not answer");
                ApiError::new(error.code(), message, error.hint()).caused_by(&error)
            }
        };
        last = Some(error);
    }
    let message = "no server that can sign certificates answers";
    let hint = "bring servers back; `shoal ca status` shows which ones can sign";
    let mut error = ApiError::new("IssuerUnreachableError", message, hint);
    if let Some(last) = last {
        error.caused_by.push(last.message.clone());
        error.caused_by.extend(last.caused_by);
    }
    Err(error)
}

/// The other servers: the leader first, then those that live.
fn servers(proposer: &Proposer) -> VecDeque<NodeId> {
    let agreed = proposer.views.view().agreed.clone();
    let leader = proposer.views.standing().leader;
    let members = proposer.members.borrow().clone();
    let alive = |id: &NodeId| {
        members
            .get(id)
            .is_some_and(|member| member.condition == Condition::Alive)
    };
    let mut servers: Vec<NodeId> = agreed
        .servers()
        .map(|(id, _)| id.clone())
        .filter(|id| *id != proposer.me)
        .collect();
    servers.sort_by_key(|id| (Some(id) != leader.as_ref(), !alive(id)));
    servers.into()
}

/// Serves machines at this node's gate until the network stops.
pub(crate) async fn serve_gate(
    mut requests: mpsc::Receiver<EnrolmentRequest>,
    proposer: Proposer,
    desk: IssuerDesk,
) {
    let mut handlers = JoinSet::new();
    while let Some(request) = requests.recv().await {
        while handlers.len() >= HANDLERS_MAX {
            handlers.join_next().await;
        }
        let (proposer, desk) = (proposer.clone(), desk.clone());
        handlers.spawn(async move {
            let result = let_in(&proposer, &desk, &request).await;
            if let Err(error) = &result {
                tracing::warn!(node = request.from.short(), from = %request.observed, code = error.code, %error, "a machine at the gate was refused");
            }
            let result = result.map_err(|error| Refused::new(error.code, error.message, error.hint));
            let _ = request.reply.send(result);
        });
    }
}

async fn let_in(
    proposer: &Proposer,
    desk: &IssuerDesk,
    request: &EnrolmentRequest,
) -> Result<Vec<u8>, ApiError> {
    let asked = decode(&request.body)?;
    let view = proposer.views.view();
    // What it would be told of this node would be taken for what is said of the asker.
    if view.agreed.removed.contains_key(&proposer.me) {
        let message = "this node was removed from the mesh and lets nobody in";
        return Err(ApiError::new(NOT_ISSUING, message, "ask another server"));
    }
    let servers = is_server(&view, &proposer.me) && is_server(&view, &request.from);
    let returns = servers && matches!(asked, GateRequest::Return { .. });
    let passed_on = PeerRequest::Gate {
        node: request.from.clone(),
        request: asked,
    };
    let signed = ask_servers(proposer, desk, passed_on);
    let signed = match returns {
        false => signed.await,
        true => (timeout(NEWS_AFTER, signed).await).unwrap_or_else(|_| Err(proposer.no_majority())),
    };
    match signed {
        Ok(PeerAnswer::Enrolled(answer)) => {
            tracing::info!(node = request.from.short(), from = %request.observed, "a machine was let in");
            Ok(encode(&*answer))
        }
        Ok(_) => Err(misunderstood()),
        Err(error) if returns => {
            let view = proposer.views.view();
            // It is no member any more, and is told so, also where only the leader knows of it yet.
            if error.code == REMOVED || !is_server(&view, &request.from) {
                return Err(error);
            }
            tracing::info!(node = request.from.short(), code = error.code, %error, "nothing can be signed for a server; it is told what is agreed");
            Ok(encode(&EnrolAnswer::news(&view)))
        }
        Err(error) => Err(error),
    }
}

fn is_server(view: &View, node: &NodeId) -> bool {
    let row = view.agreed.nodes.get(node);
    row.is_some_and(|row| row.role == Role::Server)
}

/// The role of the operator who has shown this leaf, as it is now; none if it is not remembered.
pub(crate) fn operator_role(
    agreed: &consensus_core::Agreed,
    name: &str,
    serial: &str,
    leaf: &[u8],
) -> Option<OperatorRole> {
    let operator = agreed.operators.get(name)?;
    agreed.remembers(serial, leaf).then_some(operator.role)
}
