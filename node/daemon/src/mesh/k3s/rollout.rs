//! A server's turn in a change that goes round its cluster: another K3s, another pod prefix.
//!
//! Decides: whether this server may stop being ready now. The others must be a majority of etcd
//! without it, as far as they are heard: a server that died says nothing of itself, so its row does
//! not tell. And the cluster is saved first (SPEC 5.12), because a newer K3s may write what an older
//! one does not read: before the newer one is in place, since a K3s that ends by itself is started with
//! what is there, and by the program that runs, since a newer one may ask for it in another way. Never:
//! whose turn it is, which is agreed; what is done in it, which is planned.
//!
//! Invariants: of three servers or more, none is emptied or stopped for a change unless the others go on
//! without it; and what keeps it from that for a moment is no failure, which would end the change for all.

use std::{collections::BTreeSet, time::Duration};

use consensus_core::{Agreed, Command, K3sRole, NodeId, Time, VirtualIp, WallMs};
use overlay_core::membership::Condition;
use overlay_net::membership::Members;
use runtimes_core::k3s::Step;
use runtimes_k3s::{
    Paths,
    snapshots::{self, SnapshotError},
};

use crate::mesh::proposer::Proposer;

/// How such a snapshot's name begins.
const SNAPSHOT: &str = "shoal-before-change";
/// With fewer servers etcd stands still for the turn anyhow.
const MAJORITY_OF: usize = 3;

/// A server that is suspected, elects, or starts is back, or known to be lost, within this.
const WAITS_FOR: Duration = Duration::from_secs(60);
/// After a snapshot that was not taken: what an etcd that is busy for a moment needs. Each later one doubles
/// it, for some versions of K3s leave a file behind each time, on whichever server they ask.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The longest pause: who has mended the cause gives the command again, which waits for nothing.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// For so long a snapshot does: whose turn waits longer has another one taken.
const SAVED_FOR: Duration = Duration::from_secs(3600);

/// How it is with a node when a step is to be taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Whether it has its turn.
    pub(super) turn: bool,
    /// Whether it was begun to empty it.
    pub(super) begun: bool,
    /// Whether its K3s is ready, and the program of that still in place.
    pub(super) works: bool,
    /// Whether it has not been ready for more than a moment.
    pub(super) down: bool,
}

/// What has to be the case before a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    /// The others are a majority.
    pub(super) majority: bool,
    /// The cluster was saved.
    pub(super) snapshot: bool,
}

impl Needs {
    pub(super) const fn of(step: &Step, moment: Moment) -> Self {
        let (majority, snapshot) = match step {
            Step::Vacate => (true, !moment.begun),
            Step::Install { .. } => (false, moment.turn && moment.works),
            // One that is down takes nothing from the others by being mended; maybe they wait for it.
            Step::Restart(_) => (moment.turn && !moment.down, false),
            Step::Begin { .. }
            | Step::Return
            | Step::MakeSecrets
            | Step::RequestToken
            | Step::WriteToken(_)
            | Step::WriteSettings(_)
            | Step::Start(_)
            | Step::Probe
            | Step::Stop
            | Step::Clean => (false, false),
        };
        Self { majority, snapshot }
    }
}

/// That the cluster was saved for a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Saved {
    /// When that change was last asked for.
    pub(super) asked: Option<WallMs>,
    /// When it was saved.
    pub(super) at: Time,
}

impl Saved {
    /// Whether that does for a change which was asked for then.
    pub(super) fn does_for(&self, asked: Option<WallMs>, now: Time) -> bool {
        asked.is_some() && self.asked == asked && now.since(self.at) < SAVED_FOR
    }
}

/// Why a turn does not go on yet. It is looked at again, and the change stops here meanwhile.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeldBack {
    /// The others could not go on.
    #[error(
        "the other servers are no majority of {members} without this one; not ready, not heard or being emptied: {missing}"
    )]
    Quorum {
        /// Members of etcd.
        members: usize,
        /// The names of those that are missing.
        missing: String,
    },
    /// What is in the cluster could not be saved.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl HeldBack {
    /// Stable text for programs.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Quorum { .. } => "K3sQuorumAtRiskError",
            Self::Snapshot(error) => error.code(),
        }
    }

    /// Whether finding it out again costs something.
    pub(super) const fn is_dear(&self) -> bool {
        matches!(self, Self::Snapshot(_))
    }

    /// What to do about it.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Quorum { .. } => {
                "bring them back; `shoal node remove NODE` takes a dead one out, `shoal module unassign NODE k3s-server` one that lives"
            }
            Self::Snapshot(_) => "look at K3s's log on this node",
        }
    }
}

/// Since when a turn waits, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    since: Time,
    /// In words.
    why: String,
    /// How often something was tried in vain that costs something.
    tries: u32,
    /// Before that nothing is tried.
    again_at: Time,
}

impl Held {
    /// It waits, or waits on, perhaps for something else by now. What is dear is tried again after a pause
    /// that doubles, and for the last time of the first minute at its end.
    pub(super) fn again(before: Option<Self>, why: String, dear: bool, now: Time) -> Self {
        let (since, tries) = before.map_or((now, 0), |before| (before.since, before.tries));
        let tries = tries.saturating_add(u32::from(dear));
        let end = since + WAITS_FOR;
        let again_at = match dear {
            false => now,
            true if now < end => end.min(now + pause_after(tries)),
            true => now + pause_after(tries),
        };
        Self {
            since,
            why,
            tries,
            again_at,
        }
    }

    /// In words.
    pub(super) fn words(&self) -> String {
        match self.tries {
            0 | 1 => self.why.clone(),
            tries => format!("{}; tried {tries} times", self.why),
        }
    }

    /// Whether that is more than a moment.
    pub(super) fn is_for_long(&self, now: Time) -> bool {
        now.since(self.since) >= WAITS_FOR
    }

    /// Whether it is too early to try again.
    pub(super) fn pauses(&self, now: Time) -> bool {
        now < self.again_at
    }

    /// For how long it is.
    pub(super) fn pause(&self, now: Time) -> Duration {
        self.again_at.since(now)
    }
}

/// The pause after so many tries: 10, 20, 40 … 600 seconds.
fn pause_after(tries: u32) -> Duration {
    let doublings = tries.saturating_sub(1).min(6);
    (FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE)
}

/// Those that are heard, this one among them. Who is suspected may be about to say that it lives.
pub(super) fn heard(members: &Members, me: &NodeId) -> BTreeSet<NodeId> {
    let heard = |condition| matches!(condition, Condition::Alive | Condition::Suspect);
    let others = members.iter();
    let others = others.filter(|(_, member)| heard(member.condition));
    let me = std::iter::once(me.clone());
    others.map(|(id, _)| id.clone()).chain(me).collect()
}

/// Whether what a step needs is the case now, as far as this node is a server. Where the cluster is to be saved
/// before, it is.
pub(super) async fn has(
    needs: Needs,
    agreed: &Agreed,
    me: &NodeId,
    heard: &BTreeSet<NodeId>,
    paths: &Paths,
) -> Result<(), HeldBack> {
    let row = agreed.k3s_nodes.get(me);
    if row.is_none_or(|row| row.role == K3sRole::Agent) {
        return Ok(());
    }
    if needs.majority {
        check_quorum(agreed, me, heard)?;
    }
    if needs.snapshot {
        let taken = snapshots::take(paths, SNAPSHOT).await?;
        tracing::info!(name = taken.name, "k3s: saved before it is changed");
    }
    Ok(())
}

/// Asks for the API's address to be moved to another server, which costs milliseconds. Where that is
/// refused it goes once this one says that it is being emptied; its K3s does not stop before.
pub(super) async fn let_address_go(proposer: &Proposer, agreed: &Agreed) {
    let me = &proposer.me;
    let cluster = agreed.k3s_nodes.get(me).map(|row| row.cluster);
    let Some(cluster) = cluster.and_then(|id| agreed.clusters.get(&id)) else {
        return;
    };
    let vip = agreed.virtual_ips.get(&cluster.vip);
    let others = |vip: &&VirtualIp| vip.candidates.iter().any(|candidate| candidate != me);
    if vip.filter(others).is_none_or(|vip| !vip.is_holder(me)) {
        return;
    }
    let members = proposer.members.borrow().clone();
    let alive = members.iter();
    let alive = alive.filter(|(id, member)| *id != me && member.condition == Condition::Alive);
    let command = Command::RequestFailover {
        vip: cluster.vip.to_string(),
        to: None,
        reachable: alive.map(|(id, _)| id.clone()).collect(),
    };
    if let Err(error) = proposer.submit(command).await {
        tracing::info!(
            reason = error.message,
            "k3s: the API's address stays for now"
        );
    }
}

fn check_quorum(agreed: &Agreed, me: &NodeId, heard: &BTreeSet<NodeId>) -> Result<(), HeldBack> {
    let Some(cluster) = agreed.k3s_nodes.get(me).map(|row| row.cluster) else {
        return Ok(());
    };
    let etcd = agreed.etcd(cluster).heard(heard).stopped(me);
    let members = etcd.counted();
    if members < MAJORITY_OF || etcd.has_majority() {
        return Ok(());
    }
    let missing = etcd.missing().filter(|id| *id != me);
    let missing: Vec<String> = missing.map(|id| agreed.name_of(id)).collect();
    Err(HeldBack::Quorum {
        members,
        missing: match missing.is_empty() {
            true => "one that is gone, and that the cluster has not forgotten yet".to_owned(),
            false => missing.join(", "),
        },
    })
}

#[cfg(test)]
mod tests {
    use consensus_core::{K3sBinary, K3sPhase};

    use super::*;
    use crate::mesh::k3s::testing::{emptied, node, of};

    fn may_begin(agreed: &Agreed, heard: &[usize]) -> bool {
        let heard = heard.iter().map(|n| node(*n)).collect();
        check_quorum(agreed, &node(1), &heard).is_ok()
    }

    #[test]
    fn a_server_stops_only_while_the_others_are_a_majority() {
        for (servers, heard, may) in [
            (3, &[2, 3][..], true),
            (3, &[2], false),
            (5, &[2, 3, 4, 5], true),
            (5, &[2, 3, 4], true),
            (5, &[2, 3], false),
        ] {
            assert_eq!(may_begin(&of(servers), heard), may, "{servers}, {heard:?}");
        }
    }

    #[test]
    fn fewer_than_three_servers_have_no_majority_to_lose() {
        assert!(may_begin(&of(1), &[]));
        assert!(may_begin(&of(2), &[2]));
    }

    #[test]
    fn a_server_that_says_itself_that_it_is_not_ready_is_missing() {
        let mut agreed = of(3);
        let row = agreed.k3s_nodes.get_mut(&node(2)).unwrap();
        row.phase = K3sPhase::Starting;
        assert!(!may_begin(&agreed, &[2, 3]));
    }

    #[test]
    fn a_server_that_is_still_joining_is_no_member_yet() {
        let mut agreed = of(4);
        let row = agreed.k3s_nodes.get_mut(&node(4)).unwrap();
        row.phase = K3sPhase::JoinRequest;
        row.version = None;
        assert!(may_begin(&agreed, &[2, 3]));
    }

    #[test]
    fn a_server_that_is_emptied_is_missing_and_one_that_is_only_cordoned_is_not() {
        for (cordon_only, may) in [(true, true), (false, false)] {
            let mut agreed = of(3);
            emptied(&mut agreed, 2, cordon_only);
            assert_eq!(
                may_begin(&agreed, &[2, 3]),
                may,
                "cordon only: {cordon_only}"
            );
        }
    }

    #[test]
    fn a_cluster_is_saved_before_another_program_is_in_place_and_before_pods_go() {
        let moment = Moment {
            turn: true,
            begun: false,
            works: true,
            down: false,
        };
        let install = Step::Install {
            binary: K3sBinary::INSTALLED,
        };
        let needs = |step: &Step, moment: Moment| {
            let needs = Needs::of(step, moment);
            (needs.majority, needs.snapshot)
        };
        assert_eq!(needs(&install, moment), (false, true));
        assert_eq!(needs(&Step::Vacate, moment), (true, true));
        let begun = Moment {
            begun: true,
            ..moment
        };
        assert_eq!(needs(&Step::Vacate, begun), (true, false));
        // One that comes first, or that is mended as it is, waits for nothing.
        for (turn, works) in [(false, true), (true, false)] {
            let other = Moment {
                turn,
                works,
                ..moment
            };
            assert_eq!(needs(&install, other), (false, false));
        }
        for step in [Step::Probe, Step::Return, Step::Stop] {
            assert_eq!(needs(&step, moment), (false, false), "{step:?}");
        }
    }

    #[test]
    fn a_snapshot_does_for_its_own_change_and_for_an_hour() {
        let (asked, later) = (Some(WallMs(4)), Some(WallMs(5)));
        let saved = Saved { asked, at: at(10) };
        assert!(saved.does_for(asked, at(10)) && saved.does_for(asked, at(3609)));
        assert!(!saved.does_for(asked, at(3610)) && !saved.does_for(later, at(10)));
        let of_no_change = Saved {
            asked: None,
            at: at(10),
        };
        assert!(!of_no_change.does_for(None, at(10)));
    }

    const fn at(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn what_is_in_the_way_for_less_than_a_minute_is_no_failure() {
        let first = Held::again(None, "s2".to_owned(), false, at(5));
        assert!(!first.is_for_long(at(5)) && !first.pauses(at(5)));
        let later = Held::again(Some(first), "s3".to_owned(), false, at(64));
        assert_eq!(later.words(), "s3");
        assert!(!later.is_for_long(at(64)) && later.is_for_long(at(65)));
    }

    #[test]
    fn a_snapshot_that_is_not_taken_is_tried_less_and_less_often() {
        let (mut held, mut tried) = (None::<Held>, Vec::new());
        for second in (0..3600).step_by(2) {
            let now = at(second);
            if held.as_ref().is_some_and(|held| held.pauses(now)) {
                continue;
            }
            tried.push(second);
            held = Some(Held::again(held, "no room".to_owned(), true, now));
        }
        // Four times before it is a failure, and then as a failure that lasts.
        assert_eq!(
            tried,
            [0, 10, 30, 60, 140, 300, 620, 1220, 1820, 2420, 3020]
        );
        let held = held.unwrap();
        assert!(held.is_for_long(at(60)));
        assert_eq!(held.words(), "no room; tried 11 times");
        assert_eq!(held.pause(at(3020)), LONGEST_PAUSE);
    }

    #[test]
    fn a_server_that_is_missing_meanwhile_does_not_make_snapshots_cheap() {
        let first = Held::again(None, "no room".to_owned(), true, at(0));
        let second = Held::again(Some(first), "s2".to_owned(), false, at(10));
        assert!(!second.pauses(at(10)));
        let third = Held::again(Some(second), "no room".to_owned(), true, at(12));
        assert!(third.pauses(at(31)) && !third.pauses(at(32)));
    }
}
