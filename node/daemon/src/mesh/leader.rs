//! What only the leader does: brings Raft's voters in line with the agreed servers, writes
//! silences into the event log, prunes nodes that were silent too long for their class, gives up drains
//! of nodes that are silent when their time is over.
//!
//! Decides nothing by itself: `leader_step` and `silent_too_long` do. A leader that lost its office
//! half-way does no harm: every step is agreed or refused. What may take as long as a command is done
//! beside the changes of voters, one of a kind at a time: without the majority that such a change
//! would bring back nothing else is agreed.

use std::{collections::BTreeMap, time::Duration};

use consensus_core::{
    Command, DrainCommand, GroupView, LogIndex, NodeId, VoterStep, expiry_warnings, leader_step,
    silent_too_long,
};
use consensus_raft::{Agreement, RaftStatus, Removed, Role};
use overlay_core::membership::Condition;
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    clock::Clock,
    issuer::now,
    lease::heard,
    proposer::{Proposer, wall_now},
    replica::Replica,
    rotation::Rotator,
};

/// Repairs what a notification missed, and drives what depends on passing time alone.
const TICK: Duration = Duration::from_millis(500);
/// Many heartbeats of every timer profile but the slowest.
const HEARD_LATELY: Duration = Duration::from_secs(2);
/// After a step that was refused or failed.
const PAUSE: Duration = Duration::from_millis(200);

/// Does the leader's duties whenever this node leads.
pub(crate) async fn run(
    proposer: Proposer,
    rotator: Rotator,
    clock: Clock,
    stop: CancellationToken,
) {
    let (mut view, mut members) = (proposer.views.watch(), proposer.members.clone());
    let mut standing = proposer.views.watch_standing();
    let (mut silences, mut pruning, mut warnings) = <(Beside, Beside, Beside)>::default();
    let mut drains = Beside::default();
    while !stop.is_cancelled() {
        let agreement = proposer.agreement.borrow().clone();
        if let Some(agreement) = agreement {
            let status = agreement.status().borrow().clone();
            if status.role == Role::Leader {
                let worked = adjust_voters(&proposer, &agreement, &status).await;
                silences.unless_under_way(note_silences(proposer.clone()));
                pruning.unless_under_way(prune(proposer.clone(), clock));
                warnings.unless_under_way(warn_of_ends(proposer.clone()));
                drains.unless_under_way(give_up_drains(proposer.clone()));
                replace_a_stolen_root(&proposer, &rotator).await;
                let worked = rotator.drive().await || worked;
                if worked {
                    continue;
                }
            }
        }
        // All arms only wait for changes; the state is read anew above.
        tokio::select! {
            () = stop.cancelled() => return,
            _ = view.changed() => {}
            _ = members.changed() => {}
            _ = standing.changed() => {}
            () = sleep(TICK) => {}
        }
    }
}

/// A duty that is carried out beside the others.
#[derive(Default)]
struct Beside(Option<AbortOnDropHandle<()>>);

impl Beside {
    fn unless_under_way(&mut self, duty: impl Future<Output = ()> + Send + 'static) {
        let last = self.0.as_ref();
        if last.is_none_or(AbortOnDropHandle::is_finished) {
            self.0 = Some(AbortOnDropHandle::new(tokio::spawn(duty)));
        }
    }
}

/// Makes one step. True when there may be another at once.
async fn adjust_voters(
    proposer: &Proposer,
    agreement: &Agreement<Replica>,
    status: &RaftStatus,
) -> bool {
    let agreed = proposer.views.view().agreed.clone();
    let Some(step) = leader_step(&agreed, &group_view(status)) else {
        return false;
    };
    tracing::info!(?step, "changing Raft's membership");
    let result = match step {
        VoterStep::AddLearner(id, node) => agreement.add_learner(id, node).await,
        VoterStep::ChangeVoters(voters) => agreement.change_voters(voters, Removed::Leave).await,
        VoterStep::DropLearner(id) => agreement.remove_learners([id].into()).await,
    };
    match result {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(%error, code = error.code(), "Raft's membership is not changed yet");
            sleep(PAUSE).await;
            false
        }
    }
}

fn group_view(status: &RaftStatus) -> GroupView {
    let lately = status
        .heard
        .iter()
        .filter(|(_, at)| at.elapsed() < HEARD_LATELY);
    GroupView {
        voters: status.voters.keys().copied().collect(),
        owners: status.voters.clone(),
        learners: status.learners.keys().copied().collect(),
        matched: status.matched.clone(),
        last: status.last_log.unwrap_or(LogIndex(0)),
        changing: status.changing,
        heard: lately.map(|(id, _)| *id).chain(status.leader_id).collect(),
    }
}

/// Writes `node.silent` and `node.recovered` where the log says otherwise.
async fn note_silences(proposer: Proposer) {
    let logged = proposer.views.events().silent_nodes();
    let agreed = proposer.views.view().agreed.clone();
    let members = proposer.members.borrow().clone();
    for (id, member) in members.iter() {
        let Some(node) = agreed.nodes.get(id) else {
            continue;
        };
        let was = logged.get(&node.name).copied().unwrap_or(false);
        let is = match member.condition {
            Condition::Dead => true,
            Condition::Alive => false,
            Condition::Suspect | Condition::Unknown => was,
        };
        if is != was {
            let command = Command::RecordSilence {
                node: id.clone(),
                silent: is,
            };
            if let Err(error) = proposer.agree(command).await {
                tracing::debug!(%error, "a silence was not recorded yet");
                return;
            }
        }
    }
}

/// After a compromised server was removed: whoever took it over may have the root's key.
async fn replace_a_stolen_root(proposer: &Proposer, rotator: &Rotator) {
    let agreed = proposer.views.view().agreed.clone();
    let Some(reason) = agreed.authority.rotation_wanted.clone() else {
        return;
    };
    if agreed.authority.rotation.is_some() {
        return;
    }
    match rotator.begin(reason, None).await {
        Ok(index) => tracing::warn!(index = index.0, "the root is being replaced"),
        Err(error) => {
            tracing::warn!(code = error.code, %error, "the root is not being replaced yet");
        }
    }
}

/// Writes an event for each certificate that nears its end without a successor.
async fn warn_of_ends(proposer: Proposer) {
    let agreed = proposer.views.view().agreed.clone();
    for warning in expiry_warnings(&agreed, now()) {
        let certificate = warning.certificate;
        tracing::warn!(
            ?certificate,
            not_after_ms = warning.not_after.0,
            "a certificate nears its end without a successor"
        );
        let command = Command::RecordExpiryWarning { certificate };
        if let Err(error) = proposer.submit(command).await {
            tracing::debug!(%error, "an expiry warning was not recorded yet");
            return;
        }
    }
}

/// Gives drains up whose time is over while their nodes are dead: nobody else says so. One that is only
/// suspected may have a word to say yet.
async fn give_up_drains(proposer: Proposer) {
    let agreed = proposer.views.view().agreed.clone();
    let members = proposer.members.borrow().clone();
    let dead = |id: &NodeId| {
        let member = members.get(id);
        member.is_some_and(|member| member.condition == Condition::Dead)
    };
    let (drains, now) = (agreed.drains.iter(), wall_now());
    let overdue = drains.filter(|(id, drain)| drain.is_overdue(now) && dead(id));
    for (node, drain) in overdue {
        let command = Command::Drain(DrainCommand::GiveUp {
            node: node.clone(),
            begun: drain.begun,
        });
        if let Err(error) = proposer.agree(command).await {
            let node = agreed.name_of(node);
            tracing::warn!(%error, node, "a silent node's drain could not be given up");
        }
    }
}

/// Removes who was silent too long for its class. When a good part of the mesh fell silent at once,
/// the network is more likely to blame than they are: then an operator decides.
async fn prune(proposer: Proposer, clock: Clock) {
    let members = proposer.members.borrow().clone();
    if members.pruning_frozen {
        return;
    }
    let now = clock.now();
    let silences: BTreeMap<NodeId, Duration> = members
        .iter()
        .filter(|(_, member)| member.condition == Condition::Dead)
        .map(|(id, member)| (id.clone(), now.since(member.since)))
        .collect();
    let agreed = proposer.views.view().agreed.clone();
    // All members would be too many for an entry of the log.
    let mut reachable = heard(&agreed, &members, &proposer.me);
    reachable.retain(|id| agreed.is_server(id));
    for id in silent_too_long(&agreed, &silences) {
        let class = agreed
            .nodes
            .get(&id)
            .map(|node| node.lifecycle_class.as_str())
            .unwrap_or_default();
        tracing::warn!(
            node = agreed.name_of(&id),
            class,
            "silent too long, removed"
        );
        let reason = format!("silent too long for a node of class {class}");
        if let Err(error) = proposer
            .agree(Command::RemoveNode {
                node: id.to_string(),
                reason,
                compromised: false,
                reachable: reachable.clone(),
                force: false,
            })
            .await
        {
            tracing::warn!(%error, "a silent node could not be removed");
        }
    }
}
