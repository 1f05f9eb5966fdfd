//! How long a suspect has to refute (Lifeguard's suspicion timeout).
//!
//! Decides: the deadline, from how many confirm and how many could. Logarithmic in the
//! confirmations: the first ones count most. Invariants: between `suspicion_min` and
//! `suspicion_max`; never longer for one confirmation more or one observer less.

use std::{collections::BTreeSet, time::Duration};

use consensus_core::{NodeId, Time};

use super::{Condition, Membership, Settings, record::Rank};

/// More confirmations than this shorten nothing (Lifeguard's K).
pub(super) const CONFIRMATIONS_MAX: usize = 3;

/// log(c + 1) / log(k + 1) in thousandths: row k - 1, column c. Integers, so that all platforms
/// agree on every deadline.
const SHARE: [[u32; CONFIRMATIONS_MAX + 1]; CONFIRMATIONS_MAX] = [
    [0, 1000, 1000, 1000],
    [0, 631, 1000, 1000],
    [0, 500, 792, 1000],
];

/// An open suspicion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspicion {
    pub(super) started: Time,
    /// The first accuser and those who confirm; at most `CONFIRMATIONS_MAX + 1`.
    pub(super) accusers: BTreeSet<NodeId>,
    /// Time during which this node stood still and could not have heard a refutation.
    pub(super) pardon: Duration,
    pub(super) deadline: Time,
}

impl Suspicion {
    /// Opens with one accuser; the deadline is set by [`Self::reckon`].
    pub(super) fn new(accuser: NodeId, settings: &Settings, now: Time) -> Self {
        Self {
            started: now,
            accusers: BTreeSet::from([accuser]),
            pardon: Duration::ZERO,
            deadline: now + settings.suspicion_max,
        }
    }

    /// True when the accuser is new and its word still shortens something.
    pub(super) fn confirm(&mut self, accuser: NodeId) -> bool {
        self.accusers.len() <= CONFIRMATIONS_MAX && self.accusers.insert(accuser)
    }

    /// Sets the deadline anew, given how many live nodes observe the suspect; never into the past.
    pub(super) fn reckon(&mut self, observers: usize, settings: &Settings, now: Time) {
        let needed = CONFIRMATIONS_MAX.min(observers.saturating_sub(1));
        let span = timeout(self.accusers.len() - 1, needed, settings);
        self.deadline = (self.started + span + self.pardon).max(now);
    }
}

fn timeout(confirmations: usize, needed: usize, settings: &Settings) -> Duration {
    let (min, max) = (settings.suspicion_min, settings.suspicion_max);
    if needed == 0 {
        return min;
    }
    let share = SHARE[needed - 1][confirmations.min(CONFIRMATIONS_MAX)];
    max.saturating_sub(max.saturating_sub(min) * share / 1000)
        .max(min)
}

impl Membership {
    /// Confirmations that can still come shorten what their absence costs.
    pub(super) fn reckon_deadlines(&mut self, now: Time) {
        let suspects: Vec<_> = self
            .table
            .iter()
            .filter(|(_, entry)| entry.suspicion.is_some())
            .map(|(node, _)| (node.clone(), self.count_observers(node)))
            .collect();
        for (node, observers) in suspects {
            if let Some(suspicion) = self
                .table
                .get_mut(&node)
                .and_then(|entry| entry.suspicion.as_mut())
            {
                suspicion.reckon(observers, &self.settings, now);
            }
        }
        self.suspicion_at = self.earliest_deadline();
    }

    pub(super) fn earliest_deadline(&self) -> Option<Time> {
        let suspicions = self
            .table
            .values()
            .filter_map(|entry| entry.suspicion.as_ref());
        suspicions.map(|suspicion| suspicion.deadline).min()
    }

    fn count_observers(&self, node: &NodeId) -> usize {
        let observers = self.rings.predecessors(node, &self.live);
        let alive = |observer: &&NodeId| {
            self.member(observer)
                .is_some_and(|member| member.condition == Condition::Alive)
        };
        observers.iter().filter(alive).count()
    }

    pub(super) fn expire_suspicions(&mut self, now: Time) {
        if self.suspicion_at.is_none_or(|at| at > now) {
            return;
        }
        let expired: Vec<_> = self
            .table
            .iter()
            .filter(|(_, entry)| entry.suspicion.as_ref().is_some_and(|s| s.deadline <= now))
            .map(|(node, _)| node.clone())
            .collect();
        for node in expired {
            self.accuse(&node, Rank::Dead, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unconfirmed_suspicion_lasts_longest_and_a_confirmed_one_shortest() {
        let settings = Settings::lan();
        assert_eq!(timeout(0, 3, &settings), settings.suspicion_max);
        assert_eq!(timeout(3, 3, &settings), settings.suspicion_min);
    }

    #[test]
    fn a_sole_observer_needs_no_confirmation() {
        let settings = Settings::lan();
        assert_eq!(timeout(0, 0, &settings), settings.suspicion_min);
    }

    #[test]
    fn neither_a_confirmation_nor_a_lost_observer_ever_prolongs_a_suspicion() {
        let settings = Settings::lan();
        for needed in 0..=3 {
            for confirmations in 0..=3 {
                let here = timeout(confirmations, needed, &settings);
                assert!(timeout(confirmations + 1, needed, &settings) <= here);
                assert!(timeout(confirmations, needed.saturating_sub(1), &settings) <= here);
            }
        }
    }
}
