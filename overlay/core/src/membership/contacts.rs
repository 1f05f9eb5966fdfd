//! What this node knows of others from having talked to them itself.
//!
//! Decides: by which timers an edge is watched, and how often a member may ask for costly answers.
//! Bounded by the number of members; usually the neighbours and a few more.

use std::time::Duration;

use consensus_core::Time;

use super::{
    Membership,
    rings::{Moves, Seat},
    rtt::RttEstimate,
    settings::Pace,
};

/// A member whose facts were forged is not believed for so long. Honest members check facts before
/// they pass them on, so it was the sender's doing, and each forgery costs a verification here.
const MUTE_PERIOD: Duration = Duration::from_secs(60);

/// How a connection runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Path {
    /// From host to host.
    #[default]
    Direct,
    /// Through a relay.
    Relayed,
}

/// One member, from own experience.
#[derive(Debug, Clone, Default)]
pub(super) struct Contact {
    pub(super) connected: bool,
    pub(super) path: Path,
    pub(super) last_heard: Option<Time>,
    pub(super) rtt: RttEstimate,
    /// When its next probe is due, if its edge is slower than the round.
    pub(super) probe_from: Option<Time>,
    /// It gets the names of facts only.
    pub(super) lazy: bool,
    /// What is seldom looked at.
    pub(super) limits: Box<Limits>,
}

/// When something was last done for a member that must not be done often.
#[derive(Debug, Clone, Default)]
pub(super) struct Limits {
    /// When it was last asked for what it knows, or told what is held against it.
    pub(super) nudged: Option<Time>,
    /// When an accusation of this node was last answered.
    pub(super) answered: Option<Time>,
    /// When it last got facts for a digest.
    pub(super) repaired: Option<Time>,
    /// Facts from it are not believed until then.
    muted_until: Option<Time>,
}

impl Contact {
    pub(super) fn is_muted(&self, now: Time) -> bool {
        self.limits.muted_until.is_some_and(|until| until > now)
    }

    pub(super) fn mute(&mut self, now: Time) {
        self.limits.muted_until = Some(now + MUTE_PERIOD);
    }

    /// Whether `period` has passed since the mark; marks the present if it has.
    pub(super) fn allow(mark: &mut Option<Time>, period: Duration, now: Time) -> bool {
        let allowed = mark.is_none_or(|at| now.since(at) >= period);
        if allowed {
            *mark = Some(now);
        }
        allowed
    }
}

/// All contacts, by seat. The seats lie together, apart from what belongs to them: they are searched
/// for every message.
#[derive(Debug, Default)]
pub(super) struct Contacts {
    /// Rising.
    seats: Vec<Seat>,
    /// In the same order.
    contacts: Vec<Contact>,
}

impl Contacts {
    pub(super) fn get(&self, seat: Seat) -> Option<&Contact> {
        let at = self.seats.binary_search(&seat).ok()?;
        self.contacts.get(at)
    }

    pub(super) fn of(&mut self, seat: Seat) -> &mut Contact {
        let at = match self.seats.binary_search(&seat) {
            Ok(at) => at,
            Err(at) => {
                self.seats.insert(at, seat);
                self.contacts.insert(at, Contact::default());
                at
            }
        };
        &mut self.contacts[at]
    }

    #[cfg(any(test, feature = "simulation"))]
    pub(super) const fn len(&self) -> usize {
        self.seats.len()
    }

    pub(super) fn is_connected(&self, seat: Seat) -> bool {
        self.get(seat).is_some_and(|contact| contact.connected)
    }

    pub(super) fn resettle(&mut self, moves: &Moves) {
        let old = std::mem::take(self);
        for (seat, contact) in old.seats.into_iter().zip(old.contacts) {
            if let Some(seat) = moves.of(seat) {
                *self.of(seat) = contact;
            }
        }
    }
}

impl Membership {
    /// By which timers this node watches a member.
    pub(super) fn pace(&self, seat: Seat) -> Pace {
        if self.table.relayed.contains(&seat) {
            return Pace::Wan;
        }
        let slow = |contact: &Contact| {
            let rtt = contact.rtt.smoothed();
            contact.path == Path::Relayed || rtt.is_some_and(|rtt| rtt > self.settings.wan_from)
        };
        if self.contacts.get(seat).is_some_and(slow) {
            Pace::Wan
        } else {
            Pace::Lan
        }
    }
}
