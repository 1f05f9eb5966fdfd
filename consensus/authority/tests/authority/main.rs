//! The authority's claims, from making a chain to refusing every bad one.

#![allow(
    clippy::unwrap_used,
    reason = "the whole crate is tests, which clippy sees only inside test functions"
)]

mod agreed;
mod chains;
mod forgeries;
mod garbage;
mod interop;
mod issuing;
mod rotation;
mod sealing;
mod tls;
mod world;
