//! As much of kube-apiserver as `kubectl` and operators of nodes use.
//!
//! Objects are kept as JSON and not checked against schemas. What acts on them lives in
//! [`crate::controllers`] and [`crate::node`].

pub(crate) mod discovery;
pub(crate) mod eviction;
pub(crate) mod identity;
pub(crate) mod kinds;
pub(crate) mod objects;
pub(crate) mod patch;
pub(crate) mod protobuf;
pub(crate) mod requests;
pub(crate) mod selector;
pub(crate) mod table;
pub(crate) mod watch;
