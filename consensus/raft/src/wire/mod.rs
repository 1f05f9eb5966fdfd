//! Formats of records on disk and of messages between servers.
//!
//! Decides nothing. Every record and message begins with its format's number.

pub(crate) mod v1;
