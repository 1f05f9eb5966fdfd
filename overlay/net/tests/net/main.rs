//! The network between whole nodes, over loopback.

#![allow(
    clippy::unwrap_used,
    reason = "the whole crate is tests, which clippy sees only inside test functions"
)]

mod admission;
mod authority;
mod calls;
mod enrolment;
mod hostile;
mod living;
mod membership;
mod nodes;
mod peers;
mod relays;
mod standstill;
