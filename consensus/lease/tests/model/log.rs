//! The replicated log of a search: what was committed, as a tree of everything that can be.
//!
//! Raft is taken at its word here: one log, of which every node has applied some beginning.

use std::collections::{BTreeMap, BTreeSet};

use consensus_core::{Epoch, LeaseProfile, LeaseVoters, LogIndex, NodeId, VipId};
use consensus_lease::{Assignment, Assignments, planted::PlantedBug};

use crate::world::Scope;

pub(crate) const VIP: VipId = VipId::from_bytes([1; 16]);

/// One command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Entry {
    Assign {
        to: u8,
    },
    Release,
    Joint,
    Stable,
    /// What a mesh without joint phases would do.
    Replace,
}

/// A log, named by its last entry.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// The logs that it continues, the empty one not counted, and itself.
    pub(crate) line: Vec<u8>,
    pub(crate) holder: Option<u8>,
    pub(crate) epoch: u8,
    pub(crate) voters: Voters,
    pub(crate) voters_since: u8,
    pub(crate) agreed: Assignments,
}

/// Voters as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Voters {
    Stable(u8),
    Joint(u8, u8),
}

impl Voters {
    pub(crate) fn everyone(self) -> u8 {
        match self {
            Self::Stable(set) => set,
            Self::Joint(old, new) => old | new,
        }
    }

    pub(crate) fn lease_voters(self) -> LeaseVoters {
        match self {
            Self::Stable(set) => LeaseVoters::Stable(named(set)),
            Self::Joint(old, new) => LeaseVoters::Joint {
                old: named(old),
                new: named(new),
            },
        }
    }
}

/// The voters of these bits.
pub(crate) fn named(bits: u8) -> BTreeSet<NodeId> {
    (0..8)
        .filter(|bit| bits & (1 << bit) != 0)
        .map(voter_name)
        .collect()
}

pub(crate) fn voter_name(number: u8) -> NodeId {
    name(b'a' + number)
}

/// A voter of whom it is known already which one it is, so that voters in the same state are equal.
pub(crate) fn any_voter_name() -> NodeId {
    name(b'v')
}

pub(crate) fn holder_name(number: u8) -> NodeId {
    name(b'p' + number)
}

pub(crate) fn coordinator_name() -> NodeId {
    name(b'z')
}

fn name(letter: u8) -> NodeId {
    let text = format!("12D3KooW{}", char::from(letter).to_string().repeat(44));
    text.parse().expect("a letter of base58")
}

/// All logs that there can be.
#[derive(Debug)]
pub(crate) struct Logs {
    nodes: Vec<Node>,
    next: BTreeMap<(u8, Entry), u8>,
}

impl Logs {
    /// Every log that begins with holder 0 in epoch 1 under the old voters, assigns epochs up to the
    /// last, and changes the voters at most once.
    pub(crate) fn new(scope: &Scope) -> Self {
        let mut first = Node {
            line: vec![0],
            holder: Some(0),
            epoch: 1,
            voters: Voters::Stable(scope.old),
            voters_since: 1,
            agreed: Assignments::new(),
        };
        first.note();
        let mut logs = Self {
            nodes: vec![first],
            next: BTreeMap::new(),
        };
        let mut at = 0;
        while at < logs.nodes.len() {
            logs.grow(at, scope);
            at += 1;
        }
        logs
    }

    pub(crate) fn node(&self, log: u8) -> &Node {
        &self.nodes[usize::from(log)]
    }

    /// What the first `length` entries of a log say.
    pub(crate) fn prefix(&self, log: u8, length: u8) -> u8 {
        self.node(log).line[usize::from(length) - 1]
    }

    pub(crate) fn after(&self, log: u8, entry: Entry) -> Option<u8> {
        self.next.get(&(log, entry)).copied()
    }

    fn grow(&mut self, at: usize, scope: &Scope) {
        let node = self.nodes[at].clone();
        let since = u8::try_from(node.line.len() + 1).expect("logs are short");
        let mut grown = Vec::new();
        if node.epoch < scope.last_epoch {
            let voters = match node.voters {
                Voters::Stable(set) | Voters::Joint(_, set) => Voters::Stable(set),
            };
            for to in 0..2 {
                let next = Node {
                    holder: Some(to),
                    epoch: node.epoch + 1,
                    voters,
                    voters_since: since,
                    ..node.clone()
                };
                grown.push((Entry::Assign { to }, next));
            }
        }
        if scope.releases && node.holder.is_some() {
            let next = Node {
                holder: None,
                ..node.clone()
            };
            grown.push((Entry::Release, next));
        }
        let changed = |voters| Node {
            voters,
            voters_since: since,
            ..node.clone()
        };
        match (node.voters, scope.new) {
            (Voters::Stable(set), Some(new)) if set == scope.old && node.holder.is_some() => {
                if scope.bug != Some(PlantedBug::MembershipOfNow) {
                    let joint = Voters::Joint(scope.old, new);
                    grown.push((Entry::Joint, changed(joint)));
                } else {
                    grown.push((Entry::Replace, changed(Voters::Stable(new))));
                }
            }
            (Voters::Joint(_, new), _) if node.holder.is_some() => {
                grown.push((Entry::Stable, changed(Voters::Stable(new))));
            }
            _ => {}
        }
        for (entry, mut next) in grown {
            let id = u8::try_from(self.nodes.len()).expect("few logs");
            next.line.push(id);
            next.note();
            self.nodes.push(next);
            let from = u8::try_from(at).expect("few logs");
            self.next.insert((from, entry), id);
        }
    }
}

impl Node {
    pub(crate) fn length(&self) -> u8 {
        u8::try_from(self.line.len()).expect("logs are short")
    }

    fn note(&mut self) {
        let assignment = Assignment {
            holder: self.holder.map(holder_name),
            epoch: Epoch(self.epoch.into()),
            voters: self.voters.lease_voters(),
            voters_since: LogIndex(self.voters_since.into()),
            profile: LeaseProfile::Lan,
        };
        self.agreed = Assignments::from([(VIP, assignment)]);
    }
}
