//! What the servers of a cluster share, and agree on, in etcd's place.
//!
//! [`register`] decides: one register that holds the whole state, replaced by majority. It is
//! Raft (Ongaro, 2014) with a log of length one: a leader is elected with a pre-vote, only one
//! that has the newest accepted state can be, and it commits that state in its own term before it
//! serves. Members change one at a time, newcomers learn before they vote. [`driver`] acts.

pub(crate) mod driver;
pub(crate) mod peer;
pub(crate) mod register;
pub(crate) mod snapshot;
pub(crate) mod state;
