//! The objects that clients work on: what may be asked of one, and what it then answers.
//!
//! Decides the sequential meaning of every operation, once: the replicated machine and the
//! checker's model both use [`step`].

use serde::{Deserialize, Serialize};

use super::checker::Model;

/// Which object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Key {
    /// A field that is set, read, compared and set.
    Register(u32),
    /// A virtual address that moves from holder to holder with a rising epoch.
    Vip(u32),
    /// A token that one node may use once.
    Token(u32),
    /// A number that is counted up.
    Counter(u32),
    /// A name that one holds until it is given back: a Docker host in the mesh's real state.
    DockerHost(u32),
}

/// What is asked. Every value written is written once only, so that a read tells whose it saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Op {
    /// Read all there is.
    Read,
    /// Write a value.
    Set(u64),
    /// Write a value if another is there.
    CompareAndSet {
        /// The value that must be there.
        expected: u64,
        /// The value to write.
        new: u64,
    },
    /// Give the address to another holder if its epoch is still this one.
    Move {
        /// The new holder.
        to: u64,
        /// The epoch that must be current; the next one is the new holder's.
        epoch: u64,
    },
    /// Count one up.
    Count,
    /// Take the name if nobody has it.
    Claim {
        /// For whom.
        by: u64,
    },
    /// Give the name back, whoever has it.
    Free,
    /// Use the token up.
    Use {
        /// By whom.
        by: u64,
    },
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The content.
    Content(Content),
    /// Written.
    Written,
    /// Whether the condition held, so that it was written.
    Changed(bool),
    /// Who uses the token, now or already.
    UsedBy(u64),
    /// Counted up to this.
    Counted(u64),
}

/// An object's state: a value, a holder or a user; and an epoch. Nobody is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub(crate) struct Content {
    /// Value, holder or user.
    pub(crate) value: u64,
    /// How often the address has moved; 0 for anything else.
    pub(crate) epoch: u64,
}

/// What an operation does to an object and answers.
pub(crate) fn step(content: Content, op: &Op) -> (Content, Answer) {
    match *op {
        Op::Read => (content, Answer::Content(content)),
        Op::Set(value) => (Content { value, ..content }, Answer::Written),
        Op::CompareAndSet { expected, new } if content.value == expected => {
            let next = Content {
                value: new,
                ..content
            };
            (next, Answer::Changed(true))
        }
        Op::Move { to, epoch } if content.epoch == epoch => {
            let next = Content {
                value: to,
                epoch: epoch + 1,
            };
            (next, Answer::Changed(true))
        }
        Op::Claim { by } if content.value == 0 => (
            Content {
                value: by,
                epoch: 0,
            },
            Answer::Changed(true),
        ),
        Op::Free if content.value != 0 => (Content::default(), Answer::Changed(true)),
        Op::CompareAndSet { .. } | Op::Move { .. } | Op::Claim { .. } | Op::Free => {
            (content, Answer::Changed(false))
        }
        Op::Count => {
            let value = content.value + 1;
            (Content { value, ..content }, Answer::Counted(value))
        }
        Op::Use { by } if content.value == 0 => (
            Content {
                value: by,
                epoch: 0,
            },
            Answer::UsedBy(by),
        ),
        Op::Use { .. } => (content, Answer::UsedBy(content.value)),
    }
}

/// One object as the checker sees it.
pub(crate) struct Object;

impl Model for Object {
    type State = Content;
    type Op = Op;
    type Answer = Answer;

    fn initial() -> Content {
        Content::default()
    }

    fn step(state: &Content, op: &Op) -> (Content, Answer) {
        step(*state, op)
    }

    fn is_read(op: &Op) -> bool {
        *op == Op::Read
    }

    fn shows_in(op: &Op, other: &Op, answer: &Answer) -> bool {
        let wrote = match *op {
            Op::Read => return false,
            Op::Count | Op::Free => return true,
            Op::Set(value) | Op::CompareAndSet { new: value, .. } => value,
            Op::Move { to, .. } => to,
            Op::Use { by } | Op::Claim { by } => by,
        };
        let needed = matches!(*other, Op::CompareAndSet { expected, .. } if expected == wrote);
        match *answer {
            Answer::Content(content) => content.value == wrote || content.epoch > 0,
            Answer::UsedBy(by) => by == wrote,
            Answer::Changed(_) => {
                needed || matches!(other, Op::Move { .. } | Op::Claim { .. } | Op::Free)
            }
            Answer::Written | Answer::Counted(_) => false,
        }
    }
}
