//! How a node is emptied (SPEC 7.1).
//!
//! Decides: what goes first (virtual IPs, then what runs in the runtimes, then the runtimes
//! themselves), what is waited for, in words, and when it is over.
//! Never: moves or stops anything, or remembers anything between calls: a daemon that was killed in
//! the middle goes on from what it finds.
//!
//! Invariants, each a test below:
//! - No runtime is told to stop anything before the node has let its virtual IPs go.
//! - A K3s server runs until its pods have gone.
//! - What has come to rest stays so until an operator ends the drain, also when the rest failed.
//! - A drain that only keeps new work away stops nothing.
//! - When its time is up nothing more is stopped.
//! - Its time is counted by the node's own clock that nobody sets.
//! - A K3s server stops only while the others are a majority, unless somebody insisted.
//! - A K3s server that has not begun does not begin before the node may work again.

pub mod residents;

use consensus_core::{Drain, DrainState, K3sNode, K3sPhase, K3sRole, LogIndex, Time, WallMs};

/// How much of what is waited for is told: with four bytes each, within the limit on reasons.
const WORDS_CHARS_MAX: usize = 1000;

/// What a drain has left of its time at least when a daemon finds it that an earlier one may have begun:
/// enough to see what is left. Half of its time, where that is less.
const LEFT_MS_MIN: u64 = 60_000;

/// Since when a node counts a drain's time. Two machines' wall clocks differ, and each may be set; so it
/// begins when the node hears of the drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    begun: LogIndex,
    at: Time,
    /// What had gone by before.
    before_ms: u64,
}

impl Heard {
    /// A drain that began while the daemon ran.
    pub const fn of(drain: &Drain, now: Time) -> Self {
        Self {
            begun: drain.begun,
            at: now,
            before_ms: 0,
        }
    }

    /// One that was there when the daemon began: an earlier daemon may have been at it. How long, only the
    /// wall clock tells, which is believed as far as the drain has some time left by it.
    pub fn before_this_daemon(drain: &Drain, now: Time, wall: WallMs) -> Self {
        let left = LEFT_MS_MIN.min(drain.timeout_ms / 2);
        let gone = wall.0.saturating_sub(drain.at.0);
        Self {
            before_ms: gone.min(drain.timeout_ms - left),
            ..Self::of(drain, now)
        }
    }

    /// Whether it is this drain's.
    pub fn is_of(&self, drain: &Drain) -> bool {
        self.begun == drain.begun
    }

    /// How long the drain has been going on, in milliseconds.
    pub fn waited_ms(&self, now: Time) -> u64 {
        let since = u64::try_from(now.since(self.at).as_millis()).unwrap_or(u64::MAX);
        self.before_ms.saturating_add(since)
    }
}

/// How far something is that has to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// Nothing of it is here.
    Nothing,
    /// Something is; for what it waits, for people.
    Waits(String),
}

impl Left {
    const fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    fn words(&self) -> Option<&str> {
        match self {
            Self::Nothing => None,
            Self::Waits(words) => Some(words),
        }
    }
}

/// What is the case on a node that is emptied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// How long the drain has been going on ([`Heard::waited_ms`]).
    pub waited_ms: u64,
    /// The virtual IPs that it holds and has to let go, each with what keeps it.
    pub addresses: Vec<String>,
    /// Docker's containers, and dockerd.
    pub docker: Left,
    /// Whether Docker is at rest, be it by an earlier daemon's doing.
    pub docker_rests: bool,
    /// Pods that have to go; where only nothing new is to come, the cordon that is missing.
    pub pods: Left,
    /// Who came after those and is not waited for, in words; none if nobody did.
    pub stays: Option<String>,
    /// A K3s server.
    pub k3s: Left,
    /// Whether K3s is at rest, be it by an earlier daemon's doing.
    pub k3s_rests: bool,
    /// What the other servers of its cluster lack to go on without it, as something that is waited for;
    /// none if they would.
    pub others_lack: Option<String>,
}

/// Which runtimes are to come to rest and stay so, and by the drain that began with which entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orders {
    /// Docker: containers, then dockerd.
    pub docker: Option<LogIndex>,
    /// A K3s server.
    pub k3s: Option<LogIndex>,
}

/// What is to become of a cluster's pods on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodOrder {
    /// No new ones come.
    Cordon,
    /// No new ones come, and those that are there go.
    Evict,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// For the runtimes.
    pub orders: Orders,
    /// For the pods.
    pub pods: PodOrder,
    /// For the mesh.
    pub state: DrainState,
}

/// What follows from what was asked for and what is the case.
pub fn judge(drain: &Drain, seen: &Seen) -> Verdict {
    if drain.cordon_only {
        return Verdict {
            orders: Orders::default(),
            pods: PodOrder::Cordon,
            state: outcome(drain, seen, seen.pods.words().map(str::to_owned)),
        };
    }
    let kept = kept(drain, seen);
    let state = outcome(drain, seen, remaining(seen, kept));
    let goes_on = matches!(state, DrainState::Draining { .. });
    let over = matches!(
        state,
        DrainState::Drained | DrainState::DrainedExcept { .. }
    );
    let free = goes_on && seen.addresses.is_empty();
    let order = |may: bool, rests: bool| (over || rests || may).then_some(drain.begun);
    Verdict {
        orders: Orders {
            docker: order(free, seen.docker_rests || seen.docker.is_nothing()),
            k3s: order(
                free && seen.pods.is_nothing() && kept.is_none(),
                seen.k3s_rests,
            ),
        },
        pods: match free {
            true => PodOrder::Evict,
            false => PodOrder::Cordon,
        },
        state,
    }
}

/// The drain for which a K3s server is to be at rest: one that was told to, or one that came to a node that
/// is emptied already, by a label of the node's, and has not begun: nothing new comes to such a node
/// (SPEC 7.1). Who leaves is taken off as ever, and an agent goes on without pods.
pub fn server_rests(
    orders: Orders,
    drain: Option<&Drain>,
    row: Option<&K3sNode>,
) -> Option<LogIndex> {
    let row = row.filter(|row| row.role == K3sRole::Server && !row.is_leaving())?;
    let emptied = drain.filter(|drain| !drain.cordon_only && row.phase == K3sPhase::Assigned);
    orders.k3s.or(emptied.map(|drain| drain.begun))
}

/// Why a K3s server goes on although its pods have gone. Others may have fallen silent meanwhile; what
/// is at rest already is not started for them.
fn kept<'a>(drain: &Drain, seen: &'a Seen) -> Option<&'a str> {
    let insisted = drain.forced || seen.k3s_rests || seen.k3s.is_nothing();
    seen.others_lack.as_deref().filter(|_| !insisted)
}

/// What is in the way, in the order in which it goes; none if nothing is.
fn remaining(seen: &Seen, kept: Option<&str>) -> Option<String> {
    let server = match seen.pods {
        Left::Nothing => kept.or(seen.k3s.words()),
        // It goes after them.
        Left::Waits(_) => None,
    };
    let runtimes = [seen.docker.words(), seen.pods.words(), server];
    let words: Vec<&str> = match seen.addresses.is_empty() {
        true => runtimes.into_iter().flatten().collect(),
        false => seen.addresses.iter().map(String::as_str).collect(),
    };
    (!words.is_empty()).then(|| words.join("; "))
}

/// How far the drain is. One that has ended stays so.
fn outcome(drain: &Drain, seen: &Seen, remaining: Option<String>) -> DrainState {
    if !matches!(drain.state, DrainState::Draining { .. }) {
        return drain.state.clone();
    }
    match remaining {
        None => match &seen.stays {
            None => DrainState::Drained,
            Some(stays) => DrainState::DrainedExcept { stays: cut(stays) },
        },
        Some(waits_for) if seen.waited_ms >= drain.timeout_ms => {
            let seconds = drain.timeout_ms / 1000;
            let reason = cut(&format!("after {seconds} s it still waits for {waits_for}"));
            DrainState::Failed { reason }
        }
        Some(waits_for) => DrainState::Draining {
            waits_for: cut(&waits_for),
        },
    }
}

fn cut(words: &str) -> String {
    words.chars().take(WORDS_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use consensus_core::{ClusterId, K3sBinary};

    use super::*;

    const BEGUN: LogIndex = LogIndex(7);

    fn drain(cordon_only: bool) -> Drain {
        Drain {
            begun: BEGUN,
            at: WallMs(1_000),
            timeout_ms: 60_000,
            cordon_only,
            state: DrainState::Draining {
                waits_for: String::new(),
            },
            forced: false,
        }
    }

    fn waits(words: &str) -> Left {
        Left::Waits(words.into())
    }

    /// A node with everything on it.
    fn busy() -> Seen {
        Seen {
            waited_ms: 1_000,
            addresses: vec!["virtual IP web to move to n2".into()],
            docker: waits("container db to stop"),
            docker_rests: false,
            pods: waits("pod d/web to end"),
            stays: None,
            k3s: waits("its API server to stop"),
            k3s_rests: false,
            others_lack: None,
        }
    }

    fn is_waiting_for(verdict: &Verdict) -> &str {
        match &verdict.state {
            DrainState::Draining { waits_for } => waits_for,
            DrainState::Drained | DrainState::DrainedExcept { .. } => "nothing",
            DrainState::Failed { .. } => "nothing any more",
        }
    }

    #[test]
    fn virtual_ips_go_first_then_containers_and_pods_then_the_server() {
        let (drain, mut seen) = (drain(false), busy());
        let verdict = judge(&drain, &seen);
        assert_eq!(verdict.orders, Orders::default());
        assert_eq!(verdict.pods, PodOrder::Cordon);
        assert_eq!(is_waiting_for(&verdict), "virtual IP web to move to n2");

        seen.addresses.clear();
        let verdict = judge(&drain, &seen);
        let docker = Some(BEGUN);
        assert_eq!(verdict.orders, Orders { docker, k3s: None });
        assert_eq!(verdict.pods, PodOrder::Evict);
        assert_eq!(
            is_waiting_for(&verdict),
            "container db to stop; pod d/web to end"
        );

        seen.pods = Left::Nothing;
        let verdict = judge(&drain, &seen);
        let k3s = Some(BEGUN);
        assert_eq!(verdict.orders, Orders { docker, k3s });
        assert_eq!(
            is_waiting_for(&verdict),
            "container db to stop; its API server to stop"
        );

        (seen.docker, seen.k3s) = (Left::Nothing, Left::Nothing);
        let verdict = judge(&drain, &seen);
        assert_eq!(verdict.state, DrainState::Drained);
        assert_eq!(verdict.orders, Orders { docker, k3s });
    }

    #[test]
    fn what_is_only_cordoned_goes_on_with_all_that_it_has() {
        let (drain, mut seen) = (drain(true), busy());
        seen.pods = waits("the cluster's API to answer");
        let verdict = judge(&drain, &seen);
        assert_eq!(verdict.orders, Orders::default());
        assert_eq!(verdict.pods, PodOrder::Cordon);
        assert_eq!(is_waiting_for(&verdict), "the cluster's API to answer");
        seen.pods = Left::Nothing;
        let verdict = judge(&drain, &seen);
        assert_eq!(verdict.orders, Orders::default());
        assert_eq!(verdict.state, DrainState::Drained);
    }

    #[test]
    fn a_drain_whose_time_is_up_says_what_is_left_and_stops_nothing_more() {
        let (drain, mut seen) = (drain(false), busy());
        seen.addresses.clear();
        seen.waited_ms = 60_000;
        let verdict = judge(&drain, &seen);
        let reason = "after 60 s it still waits for container db to stop; pod d/web to end".into();
        assert_eq!(verdict.state, DrainState::Failed { reason });
        assert_eq!(verdict.orders, Orders::default());
        assert_eq!(verdict.pods, PodOrder::Cordon);
        // A moment before it went on.
        seen.waited_ms = 59_999;
        assert_eq!(judge(&drain, &seen).orders.docker, Some(BEGUN));
    }

    const fn seconds(seconds: u64) -> Time {
        Time::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_drains_time_begins_when_its_node_hears_of_it_whatever_the_wall_clocks_say() {
        let mut drain = drain(false);
        let heard = Heard::of(&drain, seconds(100));
        assert!(heard.is_of(&drain));
        assert_eq!(heard.waited_ms(seconds(100)), 0);
        assert_eq!(heard.waited_ms(seconds(130)), 30_000);
        drain.begun = LogIndex(8);
        assert!(!heard.is_of(&drain));
    }

    #[test]
    fn across_a_restart_the_wall_clock_counts_and_leaves_some_time_however_wrong_it_is() {
        let mut drain = drain(false);
        let waited = |drain: &Drain, wall: u64, now: u64| {
            let heard = Heard::before_this_daemon(drain, seconds(5), WallMs(wall));
            heard.waited_ms(seconds(now))
        };
        assert_eq!(waited(&drain, 11_000, 5), 10_000);
        assert_eq!(waited(&drain, 11_000, 6), 11_000);
        // Ten minutes ahead, and behind.
        assert_eq!(waited(&drain, 601_000, 5), 30_000);
        assert_eq!(waited(&drain, 0, 5), 0);
        drain.timeout_ms = 600_000;
        assert_eq!(waited(&drain, 601_000, 5), 540_000);
    }

    #[test]
    fn a_server_goes_on_while_the_others_are_no_majority_unless_somebody_insisted() {
        let (mut drain, mut seen) = (drain(false), busy());
        seen.addresses.clear();
        (seen.docker, seen.pods) = (Left::Nothing, Left::Nothing);
        let lack = "the other servers of prod to be a majority: n3 is not heard of";
        seen.others_lack = Some(lack.into());
        let verdict = judge(&drain, &seen);
        assert_eq!(verdict.orders.k3s, None);
        assert_eq!(is_waiting_for(&verdict), lack);
        seen.waited_ms = 60_000;
        let reason = format!("after 60 s it still waits for {lack}");
        assert_eq!(judge(&drain, &seen).state, DrainState::Failed { reason });

        // One that rests is not started for them, nor is it waited for without a server here.
        seen.waited_ms = 1_000;
        seen.k3s_rests = true;
        assert_eq!(judge(&drain, &seen).orders.k3s, Some(BEGUN));
        (seen.k3s_rests, seen.k3s) = (false, Left::Nothing);
        assert_eq!(judge(&drain, &seen).state, DrainState::Drained);
        seen.k3s = waits("its API server to stop");
        drain.forced = true;
        let verdict = judge(&drain, &seen);
        assert_eq!(verdict.orders.k3s, Some(BEGUN));
        assert_eq!(is_waiting_for(&verdict), "its API server to stop");
    }

    #[test]
    fn what_has_come_to_rest_stays_so_whatever_becomes_of_the_others() {
        let (mut drain, mut seen) = (drain(false), busy());
        seen.addresses.clear();
        seen.docker_rests = true;
        seen.waited_ms = 60_000;
        let failed = judge(&drain, &seen);
        let docker = Some(BEGUN);
        assert_eq!(failed.orders, Orders { docker, k3s: None });
        drain.state = failed.state;
        // Also after its daemon was started again, and if it could go on by now.
        seen.pods = Left::Nothing;
        let later = judge(&drain, &seen);
        assert_eq!(later.orders, Orders { docker, k3s: None });
        assert_eq!(later.state, drain.state);
    }

    fn server(phase: K3sPhase) -> K3sNode {
        K3sNode {
            cluster: ClusterId::from_bytes([7; 16]),
            role: K3sRole::Server,
            attempt: LogIndex(9),
            binary: K3sBinary::INSTALLED,
            phase,
            since: WallMs(0),
            token: None,
            version: None,
            generation: LogIndex(0),
            pods: BTreeSet::new(),
        }
    }

    #[test]
    fn a_server_that_comes_to_a_node_that_is_emptied_begins_once_the_node_may_work_again() {
        let nothing = Orders::default();
        let new = server(K3sPhase::Assigned);
        let rests = |drain: Option<&Drain>, row: &K3sNode| server_rests(nothing, drain, Some(row));
        let mut emptied = drain(false);
        // Also while its addresses are on their way, and where the drain was not done in time.
        assert_eq!(rests(Some(&emptied), &new), Some(BEGUN));
        let reason = "a pod".into();
        for state in [DrainState::Drained, DrainState::Failed { reason }] {
            emptied.state = state;
            assert_eq!(rests(Some(&emptied), &new), Some(BEGUN));
        }
        assert_eq!(rests(None, &new), None);
        // Only new work is kept away from one that is cordoned, and a server is none.
        assert_eq!(rests(Some(&drain(true)), &new), None);
        let agent = K3sNode {
            role: K3sRole::Agent,
            ..new.clone()
        };
        assert_eq!(rests(Some(&emptied), &agent), None);
    }

    #[test]
    fn a_server_that_has_begun_rests_when_it_is_told_to_and_not_while_it_leaves() {
        let emptied = drain(false);
        let told = Orders {
            docker: None,
            k3s: Some(BEGUN),
        };
        for phase in [K3sPhase::Installing, K3sPhase::Starting] {
            let row = server(phase);
            let rests = |orders| server_rests(orders, Some(&emptied), Some(&row));
            assert_eq!(rests(Orders::default()), None);
            assert_eq!(rests(told), Some(BEGUN));
        }
        let leaving = server(K3sPhase::Leaving);
        assert_eq!(server_rests(told, Some(&emptied), Some(&leaving)), None);
        assert_eq!(server_rests(told, Some(&emptied), None), None);
    }

    #[test]
    fn an_empty_node_stays_empty_whatever_is_seen_there_later() {
        let mut drain = drain(false);
        drain.state = DrainState::Drained;
        let verdict = judge(&drain, &busy());
        assert_eq!(verdict.state, DrainState::Drained);
        let (docker, k3s) = (Some(BEGUN), Some(BEGUN));
        assert_eq!(verdict.orders, Orders { docker, k3s });
        assert_eq!(verdict.pods, PodOrder::Cordon);
    }

    #[test]
    fn who_came_meanwhile_is_named_at_the_end_and_held_nothing_up() {
        let (mut drain, mut seen) = (drain(false), busy());
        seen.addresses.clear();
        let stays = "pod d/web-0 came after the cordon, and stays".to_owned();
        seen.stays = Some(stays.clone());
        assert!(is_waiting_for(&judge(&drain, &seen)).contains("container db"));
        (seen.docker, seen.pods, seen.k3s) = (Left::Nothing, Left::Nothing, Left::Nothing);
        let verdict = judge(&drain, &seen);
        assert_eq!(verdict.state, DrainState::DrainedExcept { stays });
        let (docker, k3s) = (Some(BEGUN), Some(BEGUN));
        assert_eq!(verdict.orders, Orders { docker, k3s });
        // It stays as it was told, and what rests goes on resting.
        drain.state = verdict.state;
        let later = judge(&drain, &busy());
        assert_eq!((later.state, later.orders), (drain.state, verdict.orders));
        assert_eq!(later.pods, PodOrder::Cordon);
    }

    #[test]
    fn a_reason_stays_within_what_is_agreed() {
        let (drain, mut seen) = (drain(false), busy());
        seen.addresses = vec!["\u{1f433}".repeat(5_000)];
        let verdict = judge(&drain, &seen);
        assert!(is_waiting_for(&verdict).len() <= consensus_core::limits::REASON_BYTES_MAX);
    }
}
