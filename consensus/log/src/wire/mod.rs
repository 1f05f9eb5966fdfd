//! What is on disk, one module per format.
//!
//! Decides nothing: the newest format is what is written.

pub(crate) mod v1;
