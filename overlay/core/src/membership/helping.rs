//! Probes made for others (SWIM section 3.1, Lifeguard section IV-A).
//!
//! Decides: how long a helper waits, and when it tells the asker that it heard the request and got
//! no answer yet. Bounded: `RELAYS_MAX` probes at once, `RELAYS_EACH_MAX` for any one asker.

use std::time::Duration;

use consensus_core::{NodeId, Time};

use super::{
    Membership,
    message::{Message, Sequence},
    rings::{Moves, Seat},
};

/// Probes made for others at once. At three helpers per failed probe and eight targets per node
/// this many come together only when half the mesh is gone.
pub(super) const RELAYS_MAX: usize = 256;
/// Of them for the same asker: more than it has targets, so that one cannot use up all.
const RELAYS_EACH_MAX: usize = 32;
/// Limits on the wait another node asks for.
const RELAY_WAIT_MIN: Duration = Duration::from_millis(10);
const RELAY_WAIT_MAX: Duration = Duration::from_secs(15);

/// One question asked for somebody else.
#[derive(Debug)]
pub(super) struct Relay {
    /// Of the ping made for it.
    sequence: Sequence,
    target: Seat,
    asker: Seat,
    /// Of the request.
    asked: Sequence,
    /// When the asker is told that no answer came yet; `None` once it was.
    nack_at: Option<Time>,
    expires_at: Time,
}

impl Relay {
    pub(super) fn due(&self) -> Time {
        self.nack_at.unwrap_or(self.expires_at)
    }

    /// False when asker or target is a member no more.
    pub(super) fn resettle(&mut self, moves: &Moves) -> bool {
        let moved = (moves.of(self.target), moves.of(self.asker));
        if let (Some(target), Some(asker)) = moved {
            (self.target, self.asker) = (target, asker);
            true
        } else {
            false
        }
    }
}

impl Membership {
    pub(super) fn handle_ping_request(
        &mut self,
        asker: Seat,
        asked: Sequence,
        target: &NodeId,
        timeout: Duration,
        now: Time,
    ) {
        let target = self
            .rings
            .seat(target)
            .filter(|seat| Some(*seat) != self.own_seat);
        let Some(target) = target else {
            return;
        };
        let relays = &self.prober.relays;
        let theirs = relays.iter().filter(|relay| relay.asker == asker).count();
        if relays.len() >= RELAYS_MAX || theirs >= RELAYS_EACH_MAX {
            return;
        }
        let timeout = timeout.clamp(RELAY_WAIT_MIN, RELAY_WAIT_MAX);
        let sequence = self.prober.next_sequence();
        self.prober.touch();
        self.prober.relays.push(Relay {
            sequence,
            target,
            asker,
            asked,
            // Lifeguard: at four fifths, so that the NACK arrives before the asker's verdict.
            nack_at: Some(now + timeout * 4 / 5),
            expires_at: now + timeout,
        });
        self.ping(target, sequence);
    }

    /// The answer to a ping that was made for somebody else.
    pub(super) fn pass_on_answer(&mut self, from: Seat, sequence: Sequence) {
        let mut relays = self.prober.relays.iter();
        let at = relays.position(|relay| relay.sequence == sequence && relay.target == from);
        if let Some(at) = at {
            let Relay { asker, asked, .. } = self.prober.relays.swap_remove(at);
            self.prober.touch();
            let updates = self.riders(asker);
            let answer = Message::IndirectAck {
                sequence: asked,
                updates,
            };
            self.outbox.send(asker, answer);
        }
    }

    pub(super) fn advance_relays(&mut self, now: Time) {
        if self.prober.relays.iter().all(|relay| relay.due() > now) {
            return;
        }
        let mut nacks = Vec::new();
        self.prober.relays.retain_mut(|relay| {
            if relay.nack_at.is_some_and(|at| at <= now) {
                relay.nack_at = None;
                nacks.push((relay.asker, relay.asked));
            }
            relay.expires_at > now
        });
        for (asker, sequence) in nacks {
            let updates = self.riders(asker);
            self.outbox.send(asker, Message::Nack { sequence, updates });
        }
    }
}
