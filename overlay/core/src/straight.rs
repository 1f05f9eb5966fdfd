//! Which peers answer on their own way: WireGuard's packets from here to there, with no hub between.
//!
//! Decides: from what the device counted, whom to ask for an answer, which peers are silent although
//! they were asked, and when a silent one may be reached straight again. Never: sends anything, chooses
//! a hub (`paths` does, from what both ends say), judges who is alive.
//!
//! Bytes received are the only sign of life: a device counts none that the peer did not sign, and they
//! come from the peer itself on the very way in question. Nothing is asked as long as nothing is sent,
//! so that the quiet pairs of a large mesh cost nothing.
//!
//! Invariants:
//! - A peer is silent only after it was asked more than once, for longer than WireGuard needs to shake
//!   hands anew, by a node that did not stand still meanwhile.
//! - A silent peer is asked as long as it is one, and is straight again only after a time in which it
//!   was heard; each return that does not last makes the next one later.
//! - What is known of a silent way holds in its network alone, and outlasts a time in which its peer is
//!   not looked at: it may only be restarting.
//! - No more than [`UNREACHABLE_MAX`] peers are named.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    time::Duration,
};

use consensus_core::{NetworkId, NodeId, Time};

use crate::membership::UNREACHABLE_MAX;

/// What a keepalive adds to the bytes sent: a header and a tag (WireGuard whitepaper, section 5.4.6).
/// Nobody answers one, so sending it is no question.
const KEEPALIVE_BYTES: u64 = 32;
/// A peer that has got data says something within 10 s (KEEPALIVE-TIMEOUT, section 6.1). Later it is
/// asked for something to say: a device of ours in user space counts no such keepalive.
const ASK_AFTER: Duration = Duration::from_secs(10);
/// Between two questions to a peer in doubt.
const ASK_EVERY: Duration = Duration::from_secs(3);
/// One question may be lost.
const ASKS_MIN: u32 = 2;
/// Without any answer, a device begins a handshake after 15 s and repeats it every 5 s (section 6.1):
/// a peer that only lost its session has answered the first or the second one.
const SILENT_AFTER: Duration = Duration::from_secs(25);
/// Where a rule of the network's firewall may swallow the questions. In use, a session is replaced after
/// 165 s by either end (section 6.1), and that is counted.
const SILENT_AFTER_UNASKED: Duration = Duration::from_secs(200);
/// Looks come every ten seconds at least. Who looks later stood still, and has not listened.
const LOOKS_APART_MAX: Duration = Duration::from_secs(20);
/// Between two questions on a silent way. A device gives up its handshakes after 90 s, for good in user
/// space; packets make it begin again.
const RETRY_EVERY: Duration = Duration::from_secs(20);
/// What a return takes besides the time until silence: where packets pass in one direction only, the end
/// that hears nothing must have said so before the one that hears goes back.
const RETURN_MARGIN: Duration = Duration::from_secs(15);
/// The longest that a return takes.
const RETURN_MAX: Duration = Duration::from_secs(600);
/// A way that was silent again so soon did not last.
const LASTING: Duration = Duration::from_secs(600);
/// How long one sign of life counts: that of the last handshake, as long as its session lives.
const HEARD_MAX: Duration = Duration::from_secs(180);

/// The address by which a silent peer is asked: packets to it go to that peer's own way and are dropped
/// at its end, while those to its real address go to the hub. Nobody has it: it differs in the first bit
/// of a host part of 64 bits that is drawn at random.
pub fn probe_address(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() ^ 1 << 63)
}

/// What the device counted for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Bytes sent to it, handshakes and keepalives included.
    pub sent_bytes: u64,
    /// Bytes received from it.
    pub received_bytes: u64,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Nothing speaks against it.
    Answers,
    /// Something was sent, and nothing came back.
    Doubted { since: Time, asks: u32 },
    /// It does not answer.
    Silent { since: Time },
    /// It was silent and is heard again.
    Returning {
        since: Time,
        from: Time,
        heard_at: Time,
    },
}

#[derive(Debug)]
struct Way {
    counted: Counters,
    looked_at: Time,
    asked_at: Option<Time>,
    returned_at: Option<Time>,
    /// How long a return takes.
    hold: Duration,
    /// Whether its peer was among those that the network's last look was at.
    is_present: bool,
    state: State,
}

/// The ways to all peers of all networks that this node is in.
#[derive(Debug, Default)]
pub struct Straight {
    ways: BTreeMap<NetworkId, BTreeMap<NodeId, Way>>,
}

impl Straight {
    /// Forgets the networks that are not to be kept.
    pub fn keep(&mut self, kept: impl Fn(&NetworkId) -> bool) {
        self.ways.retain(|network, _| kept(network));
    }

    /// Takes over what a network's device has counted for the peers that are alive. Others are
    /// forgotten, but for those that are or were silent and belong to the network still, as `is_peer`
    /// says. Gives back whom to ask now. `pings_pass` tells whether a peer that hears a ping is sure to
    /// answer it.
    pub fn look(
        &mut self,
        network: NetworkId,
        counted: &BTreeMap<NodeId, Counters>,
        is_peer: impl Fn(&NodeId) -> bool,
        pings_pass: bool,
        now: Time,
    ) -> Vec<NodeId> {
        let silent_after = if pings_pass {
            SILENT_AFTER
        } else {
            SILENT_AFTER_UNASKED
        };
        let ways = self.ways.entry(network).or_default();
        ways.retain(|node, way| {
            way.is_present = counted.contains_key(node);
            way.is_present || (is_peer(node) && way.outlasts_absence())
        });
        let mut asked = Vec::new();
        for (node, counters) in counted {
            let way = ways
                .entry(node.clone())
                .or_insert_with(|| Way::new(*counters, now));
            way.look(*counters, silent_after, now);
            if way.asks(now) {
                asked.push(node.clone());
            }
        }
        asked
    }

    /// Whom this node cannot reach straight, per network and in order. Of too many, those come first
    /// that are looked at, and of these the ones that are silent the longest.
    pub fn unreachable(&self) -> Vec<(NetworkId, Vec<NodeId>)> {
        let mut silent = BTreeSet::new();
        for (network, ways) in &self.ways {
            for (node, way) in ways {
                if let Some(since) = way.silent_since() {
                    silent.insert((!way.is_present, since, *network, node));
                }
            }
        }
        let mut named: BTreeMap<NetworkId, BTreeSet<NodeId>> = BTreeMap::new();
        for (_, _, network, node) in silent.into_iter().take(UNREACHABLE_MAX) {
            named.entry(network).or_default().insert(node.clone());
        }
        let named = named.into_iter();
        let named = named.map(|(network, nodes)| (network, nodes.into_iter().collect()));
        named.collect()
    }
}

impl Way {
    const fn new(counted: Counters, now: Time) -> Self {
        Self {
            counted,
            looked_at: now,
            asked_at: None,
            returned_at: None,
            hold: Duration::ZERO,
            is_present: true,
            state: State::Answers,
        }
    }

    fn look(&mut self, counted: Counters, silent_after: Duration, now: Time) {
        let before = std::mem::replace(&mut self.counted, counted);
        let stood_still = now.since(self.looked_at) > LOOKS_APART_MAX;
        self.looked_at = now;
        let heard = counted.received_bytes > before.received_bytes;
        // Another device, or the peer with another key.
        let anew = counted.received_bytes < before.received_bytes
            || counted.sent_bytes < before.sent_bytes;
        let sent = counted.sent_bytes.saturating_sub(before.sent_bytes) > KEEPALIVE_BYTES;
        // Every peer is greeted once; and where no route leads to it, nothing is counted as sent.
        let asked = sent || counted.received_bytes == 0;
        self.state = match self.state {
            State::Answers if asked && !heard && !anew => State::Doubted {
                since: now,
                asks: 0,
            },
            State::Answers => State::Answers,
            State::Doubted { .. } if heard || anew => State::Answers,
            State::Doubted { .. } if stood_still => State::Doubted {
                since: now,
                asks: 0,
            },
            State::Doubted { since, asks }
                if asks >= ASKS_MIN && now.since(since) >= silent_after =>
            {
                self.hold = self.next_hold(silent_after, now);
                State::Silent { since: now }
            }
            State::Doubted { since, asks } => State::Doubted { since, asks },
            State::Silent { since } if heard => State::Returning {
                since,
                from: now,
                heard_at: now,
            },
            State::Silent { since } => State::Silent { since },
            State::Returning {
                since, heard_at, ..
            } if stood_still => State::Returning {
                since,
                from: now,
                heard_at: if heard { now } else { heard_at },
            },
            State::Returning {
                since,
                from,
                heard_at,
            } => self.returning(since, from, if heard { now } else { heard_at }),
        };
    }

    /// What becomes of a way that is heard again, as of the present look.
    fn returning(&mut self, since: Time, from: Time, heard_at: Time) -> State {
        let now = self.looked_at;
        if now.since(heard_at) > HEARD_MAX {
            return State::Silent { since };
        }
        if now.since(from) >= self.hold {
            self.returned_at = Some(now);
            return State::Answers;
        }
        State::Returning {
            since,
            from,
            heard_at,
        }
    }

    fn next_hold(&self, silent_after: Duration, now: Time) -> Duration {
        let least = silent_after + RETURN_MARGIN;
        let lasted = self
            .returned_at
            .is_none_or(|returned| now.since(returned) >= LASTING);
        if lasted {
            least
        } else {
            (self.hold * 2).clamp(least, RETURN_MAX)
        }
    }

    /// Whether the peer is to be asked now.
    fn asks(&mut self, now: Time) -> bool {
        let last = self.asked_at;
        let rested = |pause: Duration| last.is_none_or(|asked| now.since(asked) >= pause);
        let due = match &mut self.state {
            State::Answers => false,
            State::Doubted { since, asks } => {
                let due = now.since(*since) >= ASK_AFTER && rested(ASK_EVERY);
                *asks = asks.saturating_add(u32::from(due));
                due
            }
            State::Silent { .. } | State::Returning { .. } => rested(RETRY_EVERY),
        };
        if due {
            self.asked_at = Some(now);
        }
        due
    }

    /// Whether anything of it is to be kept while its peer is not looked at. A doubt is not: who does
    /// not look has not listened.
    fn outlasts_absence(&mut self) -> bool {
        if self.silent_since().is_some() {
            return true;
        }
        self.state = State::Answers;
        self.returned_at.is_some()
    }

    const fn silent_since(&self) -> Option<Time> {
        match self.state {
            State::Answers | State::Doubted { .. } => None,
            State::Silent { since } | State::Returning { since, .. } => Some(since),
        }
    }
}

#[cfg(test)]
#[path = "straight_tests.rs"]
mod tests;
