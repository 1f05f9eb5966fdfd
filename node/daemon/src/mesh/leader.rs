//! What only the leader does: brings Raft's voters in line with the agreed servers, writes
//! silences into the event log, prunes nodes that were silent too long for their class, gives up drains
//! of nodes that are silent when their time is over.
//!
//! Decides nothing by itself: `leader_step` and `silent_too_long` do. A leader that lost its office
//! half-way does no harm: every step is agreed or refused. What may take as long as a command is done
//! beside the changes of voters, one of a kind at a time: without the majority that such a change
//! would bring back nothing else is agreed. Because of that time, too, whoever acts on several nodes looks
//! again before each: who was silent may have been heard since, and what was agreed may be over.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use consensus_core::{
    Agreed, Command, DrainCommand, GroupView, LogIndex, NodeId, VoterStep, WallMs, expiry_warnings,
    leader_step, silent_too_long,
};
use consensus_raft::{Agreement, RaftStatus, Removed, Role};
use overlay_core::membership::Condition;
use overlay_net::membership::Members;
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
    for id in members.keys() {
        let Some(node) = agreed.nodes.get(id) else {
            continue;
        };
        let was = logged.get(&node.name).copied().unwrap_or(false);
        let by_now = proposer.members.borrow().get(id).map(|one| one.condition);
        let is = match by_now {
            Some(Condition::Dead) => true,
            Some(Condition::Alive) => false,
            Some(Condition::Suspect | Condition::Unknown) | None => was,
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
    let mut tried = BTreeSet::new();
    loop {
        let agreed = proposer.views.view().agreed.clone();
        let members = proposer.members.borrow().clone();
        let dead = |id: &NodeId| {
            let member = members.get(id);
            member.is_some_and(|member| member.condition == Condition::Dead)
        };
        let Some((node, begun)) = overdue_drain(&agreed, dead, wall_now(), &tried) else {
            return;
        };
        tried.insert((node.clone(), begun));
        let name = agreed.name_of(&node);
        let command = Command::Drain(DrainCommand::GiveUp { node, begun });
        if let Err(error) = proposer.submit(command).await {
            tracing::warn!(%error, node = name, "a silent node's drain could not be given up");
        }
    }
}

/// A drain whose time is over and whose node is dead, of those that were not tried.
fn overdue_drain(
    agreed: &Agreed,
    dead: impl Fn(&NodeId) -> bool,
    now: WallMs,
    tried: &BTreeSet<(NodeId, LogIndex)>,
) -> Option<(NodeId, LogIndex)> {
    let mut overdue = agreed
        .drains
        .iter()
        .filter(|(id, drain)| drain.is_overdue(now) && dead(id))
        .map(|(id, drain)| (id.clone(), drain.begun));
    overdue.find(|one| !tried.contains(one))
}

/// Removes who was silent too long for its class. When a good part of the mesh fell silent at once,
/// the network is more likely to blame than they are: then an operator decides.
async fn prune(proposer: Proposer, clock: Clock) {
    let mut tried = BTreeSet::new();
    loop {
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
        let mut doomed = silent_too_long(&agreed, &silences).into_iter();
        let Some(id) = doomed.find(|id| !tried.contains(id)) else {
            return;
        };
        tried.insert(id.clone());
        remove_silent(&proposer, &agreed, &members, &id).await;
    }
}

async fn remove_silent(proposer: &Proposer, agreed: &Agreed, members: &Members, id: &NodeId) {
    // All members would be too many for an entry of the log.
    let mut reachable = heard(agreed, members, &proposer.me);
    reachable.retain(|id| agreed.is_server(id));
    let class = agreed
        .nodes
        .get(id)
        .map(|node| node.lifecycle_class.as_str())
        .unwrap_or_default();
    let name = agreed.name_of(id);
    tracing::warn!(node = name, class, "silent too long, removed");
    let command = Command::RemoveNode {
        node: id.to_string(),
        reason: format!("silent too long for a node of class {class}"),
        compromised: false,
        reachable,
        force: false,
    };
    if let Err(error) = proposer.submit(command).await {
        tracing::warn!(%error, node = name, "a silent node could not be removed");
    }
}

#[cfg(test)]
mod tests {
    use consensus_core::{Drain, DrainState};

    use super::*;

    fn node(letter: &str) -> NodeId {
        let text = format!("12D3KooW{}", letter.repeat(44));
        text.parse().expect("52 characters of base58")
    }

    fn drain(begun: u64) -> Drain {
        Drain {
            begun: LogIndex(begun),
            at: WallMs(0),
            timeout_ms: 60_000,
            cordon_only: false,
            state: DrainState::Draining {
                waits_for: String::new(),
            },
            forced: false,
        }
    }

    #[test]
    fn each_silent_nodes_drain_is_given_up_by_what_is_known_by_then() {
        let (late, mut tried) = (WallMs(3_600_000), BTreeSet::new());
        let mut agreed = Agreed::default();
        agreed.drains.insert(node("a"), drain(7));
        agreed.drains.insert(node("b"), drain(8));
        let all_dead = |_: &NodeId| true;
        let next =
            |agreed: &Agreed, tried: &BTreeSet<_>| overdue_drain(agreed, all_dead, late, tried);
        assert_eq!(
            overdue_drain(&agreed, all_dead, WallMs(60_000), &tried),
            None
        );
        let first = next(&agreed, &tried).unwrap();
        assert_eq!(first, (node("a"), LogIndex(7)));
        tried.insert(first);
        assert_eq!(next(&agreed, &tried), Some((node("b"), LogIndex(8))));
        // Meanwhile it was heard again, ...
        let heard = |id: &NodeId| *id != node("b");
        assert_eq!(overdue_drain(&agreed, heard, late, &tried), None);
        // ... or its operator has ended the drain.
        agreed.drains.remove(&node("b"));
        assert_eq!(next(&agreed, &tried), None);
        // Another drain of the first one is another matter.
        agreed.drains.insert(node("a"), drain(9));
        assert_eq!(next(&agreed, &tried), Some((node("a"), LogIndex(9))));
    }
}
