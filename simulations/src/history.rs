//! What happened, as far as anybody asks later.
//!
//! Decides: what a belief was worth when it was formed, from what the world knows and no node does.
//! That everybody comes to know everybody at the start is not remembered, only doubts and their
//! ends are.

use std::time::Duration;

use consensus_core::Time;
use overlay_core::membership::{Condition, Incarnation};

use crate::{node::Doubt, random::as_micros, world::World};

/// What a belief was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// The subject's process does not run.
    True,
    /// It runs, but the observer cannot talk with it, or could not until just now.
    CutOff,
    /// It runs, and the two could talk all the time.
    False,
}

/// A doubt that a node came to have of another, or the end of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: Time,
    /// Who believes.
    pub observer: usize,
    /// Of whom.
    pub subject: usize,
    /// What.
    pub condition: Condition,
    /// What it was worth.
    pub worth: Worth,
}

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Whose.
    pub node: usize,
    /// When.
    pub at: Time,
    /// When it started again, if it did.
    pub until: Option<Time>,
    /// Whether it said goodbye.
    pub left: bool,
}

/// A node that came alive again for somebody without having said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resurrection {
    /// When.
    pub at: Time,
    /// For whom.
    pub observer: usize,
    /// Who.
    pub subject: usize,
    /// What it was held dead at, and is now held alive at.
    pub incarnation: Incarnation,
}

/// When a fault began or was over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// When.
    pub at: Time,
    /// The fault's place in the scenario.
    pub fault: usize,
    /// Whether it was over.
    pub over: bool,
}

/// One second of the whole mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Second {
    /// Messages sent.
    pub messages: u64,
    /// Their bytes in the wire format.
    pub bytes: u64,
    /// At its end: how many suspicions of others all nodes have together.
    pub suspicions: u64,
    /// At its end: how many deaths of others all nodes believe in.
    pub deaths: u64,
}

/// Everything that is remembered.
#[derive(Debug, Default)]
pub struct History {
    pub(crate) changes: Vec<Change>,
    pub(crate) ends: Vec<End>,
    pub(crate) moments: Vec<Moment>,
    pub(crate) resurrections: Vec<Resurrection>,
    pub(crate) hasty_deaths: Vec<Change>,
    pub(crate) seconds: Vec<Second>,
    messages: u64,
    bytes: u64,
}

impl History {
    /// Doubts and their ends, in order.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Ends of processes, in order.
    pub fn ends(&self) -> &[End] {
        &self.ends
    }

    /// Begins and ends of faults, in order.
    pub fn moments(&self) -> &[Moment] {
        &self.moments
    }

    /// Nodes that came alive again without having said so.
    pub fn resurrections(&self) -> &[Resurrection] {
        &self.resurrections
    }

    /// Deaths of nodes that ran and could be talked to, held by one that had just stood still: for
    /// less than the shortest suspicion it had been able to hear of them.
    pub fn hasty_deaths(&self) -> &[Change] {
        &self.hasty_deaths
    }

    /// The mesh second by second.
    pub fn seconds(&self) -> &[Second] {
        &self.seconds
    }

    /// Messages handed to the network so far, and their bytes in the wire format.
    pub const fn traffic(&self) -> (u64, u64) {
        (self.messages, self.bytes)
    }

    /// Beliefs in the death of a node that ran and could be talked to.
    pub fn false_deaths(&self) -> u64 {
        let wrong =
            |change: &&Change| change.condition == Condition::Dead && change.worth == Worth::False;
        self.changes.iter().filter(wrong).count() as u64
    }

    /// Suspicions of nodes that ran.
    pub fn false_suspicions(&self) -> u64 {
        let wrong = |change: &&Change| {
            change.condition >= Condition::Suspect && change.worth != Worth::True
        };
        self.changes.iter().filter(wrong).count() as u64
    }

    /// Counts a message and gives its number.
    pub(crate) fn sent(&mut self, now_us: u64, bytes: u64) -> u64 {
        self.messages += 1;
        self.bytes += bytes;
        let second = usize::try_from(now_us / 1_000_000).unwrap_or(usize::MAX);
        if second >= self.seconds.len() {
            self.seconds.resize(second + 1, Second::default());
        }
        self.seconds[second].messages += 1;
        self.seconds[second].bytes += bytes;
        self.messages
    }

    pub(crate) fn started(&mut self, now_us: u64, node: usize) {
        let open = |end: &&mut End| end.node == node && end.until.is_none();
        if let Some(end) = self.ends.iter_mut().rev().find(open) {
            end.until = Some(Time::from_micros(now_us));
        }
    }

    pub(crate) fn ended(&mut self, now_us: u64, node: usize, left: bool) {
        self.ends.push(End {
            node,
            at: Time::from_micros(now_us),
            until: None,
            left,
        });
    }

    pub(crate) fn began(&mut self, now_us: u64, fault: usize) {
        self.moment(now_us, fault, false);
    }

    pub(crate) fn over(&mut self, now_us: u64, fault: usize) {
        self.moment(now_us, fault, true);
    }

    fn moment(&mut self, now_us: u64, fault: usize, over: bool) {
        let at = Time::from_micros(now_us);
        self.moments.push(Moment { at, fault, over });
    }
}

impl World {
    /// Takes note of what a node came to believe.
    pub(crate) fn believe(&mut self, observer: usize, subject: usize, condition: Condition) {
        let before = self.nodes[observer].doubts.get(&subject).copied();
        let at = self.now();
        let worth = self.worth(observer, subject);
        match condition {
            Condition::Unknown | Condition::Alive => {
                let Some(before) = before else {
                    return;
                };
                self.nodes[observer].doubts.remove(&subject);
                let alive_at = self.incarnation(observer, subject);
                if let Some(dead_at) = before.dead_at
                    && alive_at <= dead_at
                {
                    self.history.resurrections.push(Resurrection {
                        at,
                        observer,
                        subject,
                        incarnation: alive_at,
                    });
                }
            }
            Condition::Suspect | Condition::Dead => {
                let dead = condition == Condition::Dead;
                if before.is_some_and(|before| before.condition == condition) {
                    return;
                }
                let dead_at = dead.then(|| self.incarnation(observer, subject));
                let doubt = Doubt {
                    condition,
                    since_us: before.map_or(self.now_us, |before| before.since_us),
                    dead_at,
                    wrong_since_us: None,
                };
                self.nodes[observer].doubts.insert(subject, doubt);
            }
        }
        let change = Change {
            at,
            observer,
            subject,
            condition,
            worth,
        };
        if condition == Condition::Dead && self.is_hasty(observer, subject) {
            self.history.hasty_deaths.push(change);
        }
        self.history.changes.push(change);
    }

    fn is_hasty(&self, observer: usize, subject: usize) -> bool {
        let resumed_us = self.nodes[observer].resumed_us;
        resumed_us > 0
            && self.age(resumed_us) < self.mesh.settings.suspicion_min
            && self.can_talk(observer, subject)
    }

    fn incarnation(&self, observer: usize, subject: usize) -> Incarnation {
        let member = self.nodes[observer].core.member(&self.nodes[subject].id);
        member.map_or_else(Incarnation::default, |member| {
            member.record.record.incarnation()
        })
    }

    fn worth(&self, observer: usize, subject: usize) -> Worth {
        if !self.nodes[subject].running {
            return Worth::True;
        }
        match self.talking_since(observer, subject) {
            Some(since_us) if self.now_us.saturating_sub(since_us) >= as_micros(self.grace()) => {
                Worth::False
            }
            Some(_) | None => Worth::CutOff,
        }
    }

    /// So long after two can talk again a belief may still come from the time before: a redial, and
    /// a few periods for whoever has to refute.
    fn grace(&self) -> Duration {
        self.mesh.settings.period * 5
    }

    /// Ends a second: what everybody doubts at this moment.
    pub(crate) fn look_around(&mut self) {
        let (mut suspicions, mut deaths) = (0, 0);
        for node in self.nodes.iter().filter(|node| node.running) {
            for doubt in node.doubts.values() {
                match doubt.condition {
                    Condition::Dead => deaths += 1,
                    Condition::Suspect => suspicions += 1,
                    Condition::Unknown | Condition::Alive => {}
                }
            }
        }
        let last = usize::try_from(self.now_us.saturating_sub(1) / 1_000_000);
        let last = last.unwrap_or(usize::MAX);
        if last >= self.history.seconds.len() {
            self.history.seconds.resize(last + 1, Second::default());
        }
        let second = &mut self.history.seconds[last];
        (second.suspicions, second.deaths) = (suspicions, deaths);
    }
}
