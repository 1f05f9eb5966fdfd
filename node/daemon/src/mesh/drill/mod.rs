//! Drills: a virtual IP is moved, or its holder's daemon killed, while every peer of its network
//! watches the address.
//!
//! Decides: whether a drill may begin (this node is a server, somebody holds the address and says so,
//! somebody else may take it, and somebody watches), when it is over, and what it comes to: the longest silence that
//! any peer saw. Never: who holds the address next.

pub(super) mod echo;
mod observer;

use std::time::Duration;

use consensus_core::{Agreed, Command, NodeId, Refusal, VipId, VirtualIp};
use futures::{StreamExt as _, stream};
use node_api::ApiError;
use tokio::time::{Instant, sleep};

pub(crate) use self::observer::Observers;
use self::observer::{AT_MOST, EVERY_MIN};
use super::{
    vip_desk::{Moved, VipDesk, require_server},
    vip_wire::{DrillId, Observation, VipAnswer, VipQuestion},
};

/// A move by order takes less than a second; a server's death in between, an election more.
pub(crate) const PLANNED_WITHIN: Duration = Duration::from_secs(15);
/// The longest lease, an election, and a host that is slow at everything.
const KILLED_WITHIN: Duration = Duration::from_secs(25);
/// Every observer has its first answers by then.
const BASELINE: Duration = Duration::from_millis(500);
/// The new holder's first words have reached everybody; what happens later is another outage.
const SETTLED: Duration = Duration::from_millis(500);
/// An observer answers when it has had its first answer from the address, or none in a second.
const BEGIN_WITHIN: Duration = Duration::from_secs(3);
/// An observer waits some seconds for the address to answer again.
const SEEN_WITHIN: Duration = Duration::from_secs(8);
/// The order to die is answered at once.
const DIE_WITHIN: Duration = Duration::from_secs(3);
/// Peers asked at once.
const ASKED_AT_ONCE: usize = 64;
/// Probes that reach the holder in a millisecond, from all observers together: in a large network
/// each one looks less often, or the drill would be the load that it is to measure.
const PROBES_PER_MS: usize = 4;

/// What is to be tried.
pub(crate) struct Drill {
    /// By name or id.
    pub(crate) vip: String,
    /// Who is to have it, by name or id.
    pub(crate) to: Option<String>,
    /// Whether the holder's daemon is killed, not asked.
    pub(crate) kill: bool,
}

/// What a peer saw, or why it could not look.
pub(crate) type Sight = (NodeId, Result<Observation, String>);

/// What came of it.
pub(crate) struct Drilled {
    pub(crate) vip: VipId,
    pub(crate) row: VirtualIp,
    pub(crate) from: NodeId,
    /// None if it did not move in time.
    pub(crate) moved: Option<Moved>,
    pub(crate) took: Duration,
    pub(crate) every: Duration,
    pub(crate) sights: Vec<Sight>,
    pub(crate) warnings: Vec<String>,
}

impl Drilled {
    /// The longest silence that anybody saw.
    pub(crate) fn worst_us(&self) -> Option<u64> {
        let seen = self
            .sights
            .iter()
            .filter_map(|(_, sight)| sight.as_ref().ok());
        seen.map(|seen| seen.silence_us).max()
    }
}

/// What was found before anything was done.
struct Plan {
    id: VipId,
    row: VirtualIp,
    holder: NodeId,
    observers: Vec<NodeId>,
    blind: Vec<Sight>,
}

/// Carries a drill out.
pub(crate) async fn conduct(desk: &VipDesk, drill: &Drill) -> Result<Drilled, ApiError> {
    let agreed = desk.proposer.views.view().agreed.clone();
    let plan = plan(desk, &agreed, drill).await?;
    let id: DrillId = rand::random();
    let every = EVERY_MIN.max(Duration::from_millis(
        u64::try_from(plan.observers.len() / PROBES_PER_MS).unwrap_or(u64::MAX),
    ));
    let (watching, mut sights) = begin(desk, &plan, id, every).await;
    if watching.is_empty() {
        return Err(nobody_watches(&agreed, &plan.row, &sights));
    }
    sleep(BASELINE).await;
    let began = Instant::now();
    let within = if drill.kill {
        KILLED_WITHIN
    } else {
        PLANNED_WITHIN
    };
    let moved = match order(desk, &plan, drill).await {
        Ok(()) => {
            let moved = desk.moved(plan.id, plan.row.epoch, began + within).await;
            // A daemon that is back in time, or nobody else's turn: then it has the address again.
            moved.filter(|moved| moved.to != plan.holder)
        }
        Err(error) => {
            end(desk, &watching, id).await;
            return Err(error);
        }
    };
    let took = began.elapsed();
    sleep(SETTLED).await;
    sights.extend(end(desk, &watching, id).await);
    let mut drilled = Drilled {
        vip: plan.id,
        from: plan.holder,
        row: plan.row,
        moved,
        took,
        every,
        sights,
        warnings: Vec::new(),
    };
    report(desk, &mut drilled).await;
    Ok(drilled)
}

/// Whether there is something to try at all, and who could watch it.
async fn plan(desk: &VipDesk, agreed: &Agreed, drill: &Drill) -> Result<Plan, ApiError> {
    let found = agreed.find_vip(&drill.vip);
    let (id, row) = found.ok_or_else(|| Refusal::VipUnknown {
        vip: drill.vip.clone(),
    })?;
    require_server(agreed, &desk.proposer.me)?;
    let reachable = desk.heard();
    check_heir(agreed, row, drill.to.as_deref(), &reachable)?;
    let Some(holder) = row.holder.clone() else {
        let hint = format!("`shoal vip show {}` tells why", row.name);
        let message = format!("nobody holds the virtual IP {}", row.name);
        return Err(ApiError::new("VirtualIpNotHeldError", message, hint));
    };
    if drill.kill {
        check_kill(desk, &holder)?;
    }
    if !desk.held(id, row).await.is_some_and(|held| held.open) {
        let name = agreed.former_name_of(&holder);
        let message = format!("{name} does not say that it holds {} now", row.name);
        let hint = "wait until it does: `shoal vip show` tells how long its lease runs";
        return Err(ApiError::new("VirtualIpNotHeldError", message, hint));
    }
    let peers = agreed
        .peers
        .keys()
        .filter(|(network, _)| *network == row.network);
    let mut blind = Vec::new();
    let mut observers = Vec::new();
    for (_, node) in peers {
        let killed = drill.kill && *node == holder;
        if killed {
            blind.push((
                node.clone(),
                Err("its daemon is the one that was killed".into()),
            ));
        } else if reachable.contains(node) {
            observers.push(node.clone());
        } else {
            blind.push((node.clone(), Err("not heard of".into())));
        }
    }
    Ok(Plan {
        id,
        row: row.clone(),
        holder,
        observers,
        blind,
    })
}

/// Somebody else may take it, or why each may not.
fn check_heir(
    agreed: &Agreed,
    row: &VirtualIp,
    to: Option<&str>,
    reachable: &std::collections::BTreeSet<NodeId>,
) -> Result<(), Refusal> {
    let unfit = match to {
        None => match agreed.next_holder(row, reachable) {
            Ok(_) => return Ok(()),
            Err(unfit) => unfit,
        },
        Some(name) => {
            let found = agreed.find_node(name).ok_or_else(|| Refusal::NodeUnknown {
                node: name.to_owned(),
            })?;
            if row.is_holder(found.0) {
                return Err(Refusal::VipHeld {
                    vip: row.name.clone(),
                    node: agreed.name_of(found.0),
                });
            }
            match agreed.unfit(row, found.0, reachable) {
                None => return Ok(()),
                Some(why) => vec![(found.0.clone(), why)],
            }
        }
    };
    let reasons = unfit
        .iter()
        .map(|(node, why)| (agreed.name_of(node), why.to_string()));
    Err(Refusal::VipNoCandidate {
        vip: row.name.clone(),
        reasons: reasons.collect(),
    })
}

fn check_kill(desk: &VipDesk, holder: &NodeId) -> Result<(), ApiError> {
    if *holder == desk.proposer.me {
        let message = "this node holds it: its daemon would not live to tell";
        let hint = "give the command on another server, or with --connect to one";
        return Err(ApiError::new("DrillOnHolderError", message, hint));
    }
    Ok(())
}

/// Has every peer begin to watch: those that do, and why the others do not.
async fn begin(
    desk: &VipDesk,
    plan: &Plan,
    drill: DrillId,
    every: Duration,
) -> (Vec<NodeId>, Vec<Sight>) {
    let ms = |span: Duration| u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
    let question = VipQuestion::Observe {
        drill,
        vip: plan.id,
        every_ms: ms(every),
        at_most_ms: ms(AT_MOST),
    };
    let answers = ask_each(desk, &plan.observers, &question, BEGIN_WITHIN).await;
    let (mut watching, mut blind) = (Vec::new(), plan.blind.clone());
    for (node, answer) in answers {
        match answer {
            Ok(VipAnswer::Observing(true)) => watching.push(node),
            Ok(VipAnswer::Observing(false)) => {
                blind.push((node, Err("the address did not answer it before".into())));
            }
            Ok(VipAnswer::Held(_) | VipAnswer::Seen(_) | VipAnswer::Dying) => {
                blind.push((node, Err("it did not understand".into())));
            }
            Err(error) => blind.push((node, Err(in_words(&error)))),
        }
    }
    (watching, blind)
}

/// What they saw.
async fn end(desk: &VipDesk, watching: &[NodeId], drill: DrillId) -> Vec<Sight> {
    let answers = ask_each(desk, watching, &VipQuestion::Seen { drill }, SEEN_WITHIN).await;
    let sight = |answer| match answer {
        Ok(VipAnswer::Seen(seen)) => Ok(seen),
        Ok(VipAnswer::Held(_) | VipAnswer::Observing(_) | VipAnswer::Dying) => {
            Err("it did not understand".into())
        }
        Err(error) => Err(in_words(&error)),
    };
    let sights = answers.into_iter();
    sights.map(|(node, answer)| (node, sight(answer))).collect()
}

async fn ask_each(
    desk: &VipDesk,
    nodes: &[NodeId],
    question: &VipQuestion,
    within: Duration,
) -> Vec<(NodeId, Result<VipAnswer, ApiError>)> {
    let ask = |node: NodeId| {
        let question = question.clone();
        async move {
            let answer = desk.ask(&node, question, within).await;
            (node, answer)
        }
    };
    let asking = nodes.iter().cloned().map(ask);
    stream::iter(asking)
        .buffer_unordered(ASKED_AT_ONCE)
        .collect()
        .await
}

fn in_words(error: &ApiError) -> String {
    match error.caused_by.first() {
        Some(cause) => format!("{}: {cause}", error.message),
        None => error.message.clone(),
    }
}

/// Has it moved, or the holder's daemon killed.
async fn order(desk: &VipDesk, plan: &Plan, drill: &Drill) -> Result<(), ApiError> {
    if !drill.kill {
        let command = Command::RequestFailover {
            vip: plan.id.to_string(),
            to: drill.to.clone(),
            reachable: desk.heard(),
        };
        return desk.proposer.submit(command).await.map(|_| ());
    }
    let (vip, epoch) = (plan.id, plan.row.epoch);
    let question = VipQuestion::Die { vip, epoch };
    match desk.ask(&plan.holder, question, DIE_WITHIN).await? {
        VipAnswer::Dying => Ok(()),
        VipAnswer::Held(_) | VipAnswer::Observing(_) | VipAnswer::Seen(_) => {
            Err(super::peer_wire::misunderstood())
        }
    }
}

/// Has the outage remembered beside the move.
async fn report(desk: &VipDesk, drilled: &mut Drilled) {
    let (Some(moved), Some(outage_us)) = (&drilled.moved, drilled.worst_us()) else {
        return;
    };
    let command = Command::ReportMove {
        vip: drilled.vip,
        epoch: moved.epoch,
        outage_us,
    };
    if let Err(error) = desk.proposer.submit(command).await {
        let warning = format!("`vip show` will not tell this outage: {error}");
        drilled.warnings.push(warning);
    }
}

fn nobody_watches(agreed: &Agreed, row: &VirtualIp, sights: &[Sight]) -> ApiError {
    let message = format!("no peer can watch {}, so nothing was moved", row.name);
    let hint = "a drill needs at least one peer that the address answers; see the reasons";
    let mut error = ApiError::new("DrillBlindError", message, hint);
    let reasons = sights.iter().filter_map(|(node, sight)| {
        let reason = sight.as_ref().err()?;
        Some(format!("{}: {reason}", agreed.name_of(node)))
    });
    error.caused_by = reasons.collect();
    error
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn an_heir_that_nobody_knows_is_named() {
        let agreed = Agreed::default();
        let row = row(&[]);
        let refused = check_heir(&agreed, &row, Some("n9"), &BTreeSet::new()).unwrap_err();
        assert!(matches!(refused, Refusal::NodeUnknown { node } if node == "n9"));
    }

    #[test]
    fn without_an_heir_every_candidate_has_its_reason() {
        let (agreed, holder, other) = (Agreed::default(), id('a'), id('b'));
        let row = row(&[holder, other.clone()]);
        let refused = check_heir(&agreed, &row, None, &BTreeSet::new()).unwrap_err();
        let Refusal::VipNoCandidate { vip, reasons } = refused else {
            panic!("{refused:?}");
        };
        let expected = (agreed.name_of(&other), "not a member any more".to_owned());
        assert_eq!((vip.as_str(), reasons), ("web", vec![expected]));
    }

    #[test]
    fn the_worst_silence_counts_and_who_did_not_look_does_not() {
        let saw = |letter, silence_us| {
            let seen = Observation {
                silence_us,
                ..Observation::default()
            };
            (id(letter), Ok(seen))
        };
        let mut drilled = Drilled {
            vip: VipId::from_bytes([1; 16]),
            row: row(&[id('a')]),
            from: id('a'),
            moved: None,
            took: Duration::ZERO,
            every: EVERY_MIN,
            sights: vec![(id('d'), Err("not heard of".into()))],
            warnings: Vec::new(),
        };
        assert_eq!(drilled.worst_us(), None);
        drilled.sights.extend([saw('b', 7_000), saw('c', 24_000)]);
        assert_eq!(drilled.worst_us(), Some(24_000));
    }

    fn id(letter: char) -> NodeId {
        let rest: String = std::iter::repeat_n(letter, 44).collect();
        format!("12D3KooW{rest}").parse().unwrap()
    }

    /// Held by the first of them.
    fn row(candidates: &[NodeId]) -> VirtualIp {
        VirtualIp {
            name: "web".into(),
            network: consensus_core::NetworkId::from_bytes([2; 16]),
            address: "fd00::a".parse().unwrap(),
            candidates: candidates.to_vec(),
            check: None,
            profile: consensus_core::LeaseProfile::Lan,
            epoch: consensus_core::Epoch(3),
            holder: candidates.first().cloned(),
            voters: consensus_core::LeaseVoters::Stable(BTreeSet::new()),
            voters_since: consensus_core::LogIndex(1),
            readiness: std::collections::BTreeMap::new(),
            wish: None,
            moves: std::collections::VecDeque::new(),
            created_at: consensus_core::WallMs(0),
        }
    }
}
