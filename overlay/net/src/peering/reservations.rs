//! At which relays a node that cannot be dialled keeps a place.
//!
//! Pure: instants come in. Two places at different relays, so that one may fail; each renewed long
//! before its end by this node's own clock (a relay tells the end by the wall clock, and clocks
//! differ); a relay that fails is replaced at once and left alone for longer each time.

use std::{collections::BTreeMap, time::Duration};

use libp2p::{PeerId, core::transport::ListenerId};
use tokio::time::Instant;

/// Places kept at once.
pub(crate) const PLACES: usize = 2;
/// How long a relay may take to connect and answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);
/// A relay that failed is left alone at least this long.
const SHUN_MIN: Duration = Duration::from_secs(5);
/// And at most this long: it may be the only one.
const SHUN_MAX: Duration = Duration::from_secs(300);
/// Doublings until the longest pause.
const DOUBLINGS_MAX: u32 = 6;
/// Renewals within the life of a place: three may fail before it ends.
const RENEWALS: u32 = 4;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Connect to this relay and keep the connection.
    Approach(PeerId),
    /// Ask this relay, which is connected, for a place.
    Ask(PeerId),
    /// Give up this place, or the attempt at it.
    Release(PeerId, Option<ListenerId>),
}

#[derive(Debug)]
struct Place {
    /// The listener that stands for the place.
    listener: Option<ListenerId>,
    /// A request under way: its listener, and until when it is waited for.
    asked: Option<(Option<ListenerId>, Instant)>,
    /// When the present place was granted.
    granted: Option<Instant>,
}

/// The places, and the relays that failed.
#[derive(Debug)]
pub(crate) struct Reservations {
    life: Duration,
    places: BTreeMap<PeerId, Place>,
    /// Until when a relay is left alone, and how often in a row it failed.
    shunned: BTreeMap<PeerId, (Instant, u32)>,
}

impl Reservations {
    /// None yet. `life` is how long a relay keeps a place.
    pub(crate) fn new(life: Duration) -> Self {
        Self {
            life,
            places: BTreeMap::new(),
            shunned: BTreeMap::new(),
        }
    }

    /// What to do now. `candidates` are in the order of preference, none where no place is needed;
    /// `connected` says whom this node has a direct connection to.
    pub(crate) fn steps(
        &mut self,
        candidates: &[PeerId],
        connected: impl Fn(&PeerId) -> bool,
        now: Instant,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        let unwanted = |relay: &PeerId, _: &mut Place| !candidates.contains(relay);
        for (relay, place) in self.places.extract_if(.., unwanted) {
            steps.push(Step::Release(relay, place.listener));
        }
        let late = |place: &Place| place.asked.is_some_and(|(_, until)| until <= now);
        let late: Vec<PeerId> = (self.places.iter())
            .filter(|(_, place)| late(place))
            .map(|(relay, _)| *relay)
            .collect();
        for relay in late {
            steps.extend(self.failed(relay, now));
        }
        self.shunned.retain(|relay, _| candidates.contains(relay));
        for relay in candidates {
            if self.places.len() >= PLACES {
                break;
            }
            let shunned = (self.shunned.get(relay)).is_some_and(|(until, _)| *until > now);
            if !shunned && !self.places.contains_key(relay) {
                let asked = Some((None, now + ANSWER_DEADLINE));
                let place = Place {
                    listener: None,
                    asked,
                    granted: None,
                };
                self.places.insert(*relay, place);
                steps.push(Step::Approach(*relay));
            }
        }
        let renew_after = self.life / RENEWALS;
        for (relay, place) in &mut self.places {
            let due = (place.granted).is_some_and(|granted| granted + renew_after <= now);
            if due && place.asked.is_none() {
                place.asked = Some((None, now + ANSWER_DEADLINE));
            }
            if matches!(place.asked, Some((None, _))) && connected(relay) {
                steps.push(Step::Ask(*relay));
            }
        }
        steps
    }

    /// When `steps` has something to do although nothing has happened.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let renew_after = self.life / RENEWALS;
        let places = self.places.values().filter_map(|place| match place.asked {
            Some((_, until)) => Some(until),
            None => place.granted.map(|granted| granted + renew_after),
        });
        let missing = self.places.len() < PLACES;
        let back = (self.shunned.iter())
            .filter(|(relay, _)| missing && !self.places.contains_key(relay))
            .map(|(_, (until, _))| *until);
        places.chain(back).min()
    }

    /// The request has been sent; its answer comes with this listener.
    pub(crate) fn asked(&mut self, relay: PeerId, listener: ListenerId) {
        if let Some((asked, _)) = self.places.get_mut(&relay).and_then(|p| p.asked.as_mut()) {
            *asked = Some(listener);
        }
    }

    /// The relay has granted the place, or granted it anew.
    pub(crate) fn granted(&mut self, relay: PeerId, now: Instant) {
        if let Some(place) = self.places.get_mut(&relay) {
            if let Some((listener, _)) = place.asked.take() {
                place.listener = listener.or(place.listener);
            }
            place.granted = Some(now);
            self.shunned.remove(&relay);
        }
    }

    /// A listener has closed. Whether a place went with it: an older one of a renewed place counts
    /// for nothing.
    pub(crate) fn closed(&mut self, listener: ListenerId, now: Instant) -> Option<Step> {
        let of = |place: &Place| {
            let asked = place.asked.and_then(|(listener, _)| listener);
            asked.or(place.listener) == Some(listener)
        };
        let relay = (self.places.iter()).find_map(|(relay, place)| of(place).then_some(*relay))?;
        self.failed(relay, now)
    }

    /// The relay's place is lost.
    pub(crate) fn failed(&mut self, relay: PeerId, now: Instant) -> Option<Step> {
        let place = self.places.remove(&relay)?;
        let times = self.shunned.get(&relay).map_or(0, |(_, times)| *times);
        let pause = SHUN_MAX.min(SHUN_MIN * 2_u32.pow(times.min(DOUBLINGS_MAX)));
        self.shunned.insert(relay, (now + pause, times + 1));
        Some(Step::Release(relay, place.listener))
    }

    /// Where this node has a place.
    pub(crate) fn held(&self) -> impl Iterator<Item = &PeerId> {
        let granted = |(_, place): &(&PeerId, &Place)| place.granted.is_some();
        self.places.iter().filter(granted).map(|(relay, _)| relay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::NodeKey;

    const LIFE: Duration = Duration::from_secs(3600);

    fn relays(count: usize) -> Vec<PeerId> {
        let peer = |_| NodeKey::generate().keypair().public().to_peer_id();
        (0..count).map(peer).collect()
    }

    /// Approaches, asks and is granted two places.
    fn settled(candidates: &[PeerId], now: Instant) -> (Reservations, [ListenerId; 2]) {
        let mut reservations = Reservations::new(LIFE);
        reservations.steps(candidates, |_| true, now);
        let listeners = [ListenerId::next(), ListenerId::next()];
        for (relay, listener) in candidates.iter().zip(listeners) {
            reservations.asked(*relay, listener);
            reservations.granted(*relay, now);
        }
        (reservations, listeners)
    }

    #[test]
    fn two_relays_are_approached_and_asked_once_they_are_connected() {
        let candidates = relays(3);
        let now = Instant::now();
        let mut reservations = Reservations::new(LIFE);
        let steps = reservations.steps(&candidates, |_| false, now);
        let approached = [candidates[0], candidates[1]].map(Step::Approach);
        assert_eq!(steps, approached);
        let mut steps = reservations.steps(&candidates, |_| true, now);
        steps.sort_by_key(|step| format!("{step:?}"));
        let mut asked = [candidates[0], candidates[1]].map(Step::Ask);
        asked.sort_by_key(|step| format!("{step:?}"));
        assert_eq!(steps, asked);
        assert_eq!(reservations.held().count(), 0);
    }

    #[test]
    fn a_dead_relay_is_replaced_at_once_and_left_alone() {
        let candidates = relays(3);
        let now = Instant::now();
        let (mut reservations, listeners) = settled(&candidates, now);
        assert_eq!(reservations.steps(&candidates, |_| true, now), []);
        let released = reservations.closed(listeners[0], now);
        assert_eq!(
            released,
            Some(Step::Release(candidates[0], Some(listeners[0])))
        );
        let steps = reservations.steps(&candidates, |_| true, now);
        assert_eq!(
            steps,
            [Step::Approach(candidates[2]), Step::Ask(candidates[2])]
        );
    }

    #[test]
    fn the_only_relay_is_asked_again_after_a_while() {
        let candidates = relays(1);
        let mut now = Instant::now();
        let mut reservations = Reservations::new(LIFE);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let steps = reservations.steps(&candidates, |_| true, now);
            assert_eq!(steps.len(), 2, "approached and asked: {steps:?}");
            reservations.failed(candidates[0], now);
            let due = reservations.deadline().unwrap();
            pauses.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn a_place_is_renewed_long_before_its_end_and_the_old_listeners_end_is_no_loss() {
        let candidates = relays(2);
        let now = Instant::now();
        let (mut reservations, listeners) = settled(&candidates, now);
        let due = reservations.deadline().unwrap();
        assert_eq!(due - now, LIFE / 4);
        let steps = reservations.steps(&candidates, |_| true, due);
        assert!(steps.contains(&Step::Ask(candidates[0])), "{steps:?}");
        reservations.asked(candidates[0], ListenerId::next());
        reservations.granted(candidates[0], due);
        assert_eq!(reservations.closed(listeners[0], due), None);
        assert_eq!(reservations.held().count(), 2);
    }

    #[test]
    fn a_relay_that_never_answers_is_given_up() {
        let candidates = relays(3);
        let now = Instant::now();
        let mut reservations = Reservations::new(LIFE);
        reservations.steps(&candidates, |_| false, now);
        let late = now + ANSWER_DEADLINE;
        let steps = reservations.steps(&candidates, |_| false, late);
        assert!(steps.contains(&Step::Release(candidates[0], None)));
        assert!(steps.contains(&Step::Approach(candidates[2])));
    }

    #[test]
    fn a_node_that_can_be_dialled_gives_its_places_back() {
        let candidates = relays(2);
        let now = Instant::now();
        let (mut reservations, _) = settled(&candidates, now);
        assert_eq!(reservations.steps(&[], |_| true, now).len(), 2);
        assert_eq!(reservations.held().count(), 0);
        assert_eq!(reservations.deadline(), None);
    }
}
