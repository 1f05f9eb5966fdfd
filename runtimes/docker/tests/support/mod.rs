//! A host for a real dockerd: namespaces of its own, a neighbour on its overlay, a throw-away CA.

pub(crate) mod bare;
pub(crate) mod booted;
pub(crate) mod ca;
pub(crate) mod host;
