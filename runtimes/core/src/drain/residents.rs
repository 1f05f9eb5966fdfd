//! Which of a node's pods an emptying of it is about: those that it had when nothing new was to come.
//!
//! Decides: whose leaving is waited for, and who has come after the cordon and is left where it is. So does
//! `kubectl drain` (kubernetes/kubectl, `pkg/drain`: `RunNodeDrain` lists a node's pods once, and tells a pod
//! from a later one of its name by its uid): a pod that tolerates the cordon, or is bound to the node by its
//! own `nodeName`, comes back as often as it is evicted, and would hold an emptying up for ever. Unlike
//! there the second listing counts too: a scheduler binds pods by what it knew before the cordon for a
//! moment longer, and those are no guests that want to stay.
//! Never: which of them are asked to go, which is [`eviction`](crate::k3s::eviction)'s.
//!
//! Invariants: after the second listing nobody is added, so that an emptying ends whoever comes; who
//! stays is named to whoever asks.

use std::collections::BTreeSet;

use crate::k3s::eviction::{Evictions, PodView};

/// Listings that tell who was there. The second is made two seconds after the first; a scheduler hears of a
/// cordon within that, and one that comes back again and again is evicted twice at most.
const LISTINGS_THAT_COUNT: u32 = 2;

/// The pods that a node had when it began to be emptied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Residents {
    listings: u32,
    uids: BTreeSet<String>,
    /// Who has come since, as the last listing shows them.
    newcomers: Vec<PodView>,
}

impl Residents {
    /// What there is to do about the pods that are on the node now.
    pub fn handle_listing(&mut self, pods: Vec<PodView>) -> Evictions {
        if self.listings < LISTINGS_THAT_COUNT {
            self.listings += 1;
            self.uids.extend(pods.iter().map(|pod| pod.uid.clone()));
        }
        let was_there = |pod: &PodView| self.uids.contains(&pod.uid);
        let (residents, others): (Vec<_>, Vec<_>) = pods.into_iter().partition(was_there);
        // Who belongs on the node, goes by itself or has ended is nobody's concern.
        self.newcomers = Evictions::of(others).ask;
        self.newcomers.retain(|pod| !pod.finished);
        Evictions::of(residents)
    }

    /// Those that have come after the cordon, and stay.
    pub fn newcomers(&self) -> &[PodView] {
        &self.newcomers
    }

    /// The same for people; empty if there are none.
    pub fn who_came(&self) -> String {
        match self.newcomers.as_slice() {
            [] => String::new(),
            [pod] => format!("{pod} came after the cordon, and stays"),
            [pod, ..] => {
                let count = self.newcomers.len();
                format!("{count} pods came after the cordon, and stay, {pod} first")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k3s::eviction::Owner;

    fn pod(uid: &str, owner: Owner) -> PodView {
        PodView {
            namespace: "d".into(),
            // A later pod of a stateful set has the name of the one before.
            name: "web-0".into(),
            uid: uid.into(),
            owner,
            finished: false,
            leaving: false,
        }
    }

    fn guest(uid: &str) -> PodView {
        pod(uid, Owner::Other)
    }

    #[test]
    fn a_pod_that_comes_back_as_often_as_it_goes_does_not_hold_an_emptying_up() {
        let mut residents = Residents::default();
        let mut evicted = Vec::new();
        for round in 0..100 {
            // Evicted, it is there again under its old name.
            let present = guest(&round.to_string());
            let evictions = residents.handle_listing(vec![present]);
            evicted.extend(evictions.ask.iter().map(|pod| pod.uid.clone()));
            assert_eq!(evictions.is_empty(), round >= 2, "round {round}");
        }
        assert_eq!(evicted, ["0", "1"]);
        assert_eq!(residents.newcomers(), [guest("99")]);
    }

    #[test]
    fn who_was_there_is_waited_for_however_long_it_takes() {
        let mut residents = Residents::default();
        for _ in 0..100 {
            let evictions = residents.handle_listing(vec![guest("old"), guest("late")]);
            assert_eq!(evictions.ask, [guest("old"), guest("late")]);
        }
        let leaving = PodView {
            leaving: true,
            ..guest("old")
        };
        let evictions = residents.handle_listing(vec![leaving.clone(), guest("new")]);
        assert_eq!((evictions.leaving, evictions.ask), (vec![leaving], vec![]));
        assert!(residents.handle_listing(vec![guest("new")]).is_empty());
    }

    #[test]
    fn who_came_later_is_named_unless_it_belongs_on_the_node_or_goes_by_itself() {
        let mut residents = Residents::default();
        for _ in 0..LISTINGS_THAT_COUNT {
            assert!(residents.handle_listing(Vec::new()).is_empty());
        }
        assert_eq!(residents.who_came(), "");
        let going = PodView {
            leaving: true,
            ..guest("c")
        };
        let ended = PodView {
            finished: true,
            ..guest("f")
        };
        let other = vec![
            pod("a", Owner::DaemonSet),
            pod("b", Owner::Node),
            going,
            ended,
        ];
        assert!(residents.handle_listing(other.clone()).is_empty());
        assert_eq!(residents.who_came(), "");
        let one = [other, vec![guest("d")]].concat();
        assert!(residents.handle_listing(one.clone()).is_empty());
        let words = "pod d/web-0 came after the cordon, and stays";
        assert_eq!(residents.who_came(), words);
        residents.handle_listing([one, vec![guest("e")]].concat());
        let words = "2 pods came after the cordon, and stay, pod d/web-0 first";
        assert_eq!(residents.who_came(), words);
        // Those that have gone are not told of any more.
        residents.handle_listing(Vec::new());
        assert_eq!(residents.who_came(), "");
    }
}
