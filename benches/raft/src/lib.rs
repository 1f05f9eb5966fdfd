//! What the measured server and the load have in common: many calls at once over one TCP
//! connection, and the words that a client says to a `raft-member`.
//!
//! Decides nothing about agreement and nothing about figures.

pub mod calls;
pub mod client_words;
