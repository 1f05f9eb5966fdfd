//! The lease protocol, searched to the end.
//!
//! The real [`Holder`](consensus_lease::Holder) and [`Voter`](consensus_lease::Voter) run in a world
//! that may delay, lose and double every message, stop and restart every process, and let clocks
//! drift as far as the protocol permits. Decides: that no order of events opens two gates at one
//! true time, and that it takes each rule of the protocol to keep it so.

mod gate;
mod log;
mod machines;
mod searches;
mod world;
