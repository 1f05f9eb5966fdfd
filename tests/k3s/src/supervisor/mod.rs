//! K3s's own interface beside the API: how nodes are let in, and the commands that use it.

pub(crate) mod bootstrap;
pub(crate) mod bootstrap_tokens;
pub(crate) mod endpoints;
pub(crate) mod snapshots;
