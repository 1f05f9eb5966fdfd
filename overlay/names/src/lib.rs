//! The DNS server of a Docker host: names inside the mesh, and the host's own resolvers for the rest.
//!
//! Decides nothing about names: `overlay_core::names` does. Decides how many questions wait for others
//! at a time, how long these are waited for, and for how long what they said is believed.
//!
//! Never: answers whoever is no container of this node and no member of one of its networks; asks
//! another host but through the overlay's own interface; keeps anything without a bound.
//!
//! The protocol is RFC 1035 over UDP and TCP, with EDNS (RFC 6891) where the asker has it. A host is
//! asked by another without the wish for recursion (RD clear), and so never asks on.

mod answer;
mod ask;
mod capacity;
mod forward;
mod others;
mod recent;
mod resolvers;
mod server;
mod wire;

pub use resolvers::for_containers;
pub use server::{Listening, Server, Service};
