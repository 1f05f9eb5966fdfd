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

use consensus_core::{Drain, DrainState, LogIndex, WallMs};

/// How much of what is waited for is told: with four bytes each, within the limit on reasons.
const WORDS_CHARS_MAX: usize = 1000;

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
    /// This moment, on the wall.
    pub now: WallMs,
    /// The virtual IPs that it holds and has to let go, each with what keeps it.
    pub addresses: Vec<String>,
    /// Docker's containers, and dockerd.
    pub docker: Left,
    /// Whether Docker is at rest, be it by an earlier daemon's doing.
    pub docker_rests: bool,
    /// Pods that have to go; where only nothing new is to come, the cordon that is missing.
    pub pods: Left,
    /// A K3s server.
    pub k3s: Left,
    /// Whether K3s is at rest, be it by an earlier daemon's doing.
    pub k3s_rests: bool,
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
            state: outcome(drain, seen.now, seen.pods.words().map(str::to_owned)),
        };
    }
    let state = outcome(drain, seen.now, remaining(seen));
    let goes_on = matches!(state, DrainState::Draining { .. });
    let over = state == DrainState::Drained;
    let free = goes_on && seen.addresses.is_empty();
    let order = |may: bool, rests: bool| (over || rests || may).then_some(drain.begun);
    Verdict {
        orders: Orders {
            docker: order(free, seen.docker_rests || seen.docker.is_nothing()),
            k3s: order(free && seen.pods.is_nothing(), seen.k3s_rests),
        },
        pods: match free {
            true => PodOrder::Evict,
            false => PodOrder::Cordon,
        },
        state,
    }
}

/// What is in the way, in the order in which it goes; none if nothing is.
fn remaining(seen: &Seen) -> Option<String> {
    let server = match seen.pods {
        Left::Nothing => seen.k3s.words(),
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
fn outcome(drain: &Drain, now: WallMs, remaining: Option<String>) -> DrainState {
    if !matches!(drain.state, DrainState::Draining { .. }) {
        return drain.state.clone();
    }
    let waited_ms = now.0.saturating_sub(drain.at.0);
    match remaining {
        None => DrainState::Drained,
        Some(waits_for) if waited_ms >= drain.timeout_ms => {
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
        }
    }

    fn waits(words: &str) -> Left {
        Left::Waits(words.into())
    }

    /// A node with everything on it.
    fn busy() -> Seen {
        Seen {
            now: WallMs(2_000),
            addresses: vec!["virtual IP web to move to n2".into()],
            docker: waits("container db to stop"),
            docker_rests: false,
            pods: waits("pod d/web to end"),
            k3s: waits("its API server to stop"),
            k3s_rests: false,
        }
    }

    fn is_waiting_for(verdict: &Verdict) -> &str {
        match &verdict.state {
            DrainState::Draining { waits_for } => waits_for,
            DrainState::Drained => "nothing",
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
        seen.now = WallMs(61_000);
        let verdict = judge(&drain, &seen);
        let reason = "after 60 s it still waits for container db to stop; pod d/web to end".into();
        assert_eq!(verdict.state, DrainState::Failed { reason });
        assert_eq!(verdict.orders, Orders::default());
        assert_eq!(verdict.pods, PodOrder::Cordon);
        // A moment before it went on, and a clock that is behind is no reason to give up.
        for now in [60_999, 0] {
            seen.now = WallMs(now);
            assert_eq!(judge(&drain, &seen).orders.docker, Some(BEGUN));
        }
    }

    #[test]
    fn what_has_come_to_rest_stays_so_whatever_becomes_of_the_others() {
        let (mut drain, mut seen) = (drain(false), busy());
        seen.addresses.clear();
        seen.docker_rests = true;
        seen.now = WallMs(61_000);
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
    fn a_reason_stays_within_what_is_agreed() {
        let (drain, mut seen) = (drain(false), busy());
        seen.addresses = vec!["\u{1f433}".repeat(5_000)];
        let verdict = judge(&drain, &seen);
        assert!(is_waiting_for(&verdict).len() <= consensus_core::limits::REASON_BYTES_MAX);
    }
}
