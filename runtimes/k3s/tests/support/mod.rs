//! What the tests of this crate share.

#[path = "../../../docker/tests/support/booted.rs"]
pub(crate) mod booted;
pub(crate) mod host;
