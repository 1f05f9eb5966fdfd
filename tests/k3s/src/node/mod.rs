//! What runs on every node: the agent, in the kubelet's and flannel's place.
//!
//! Follows `pkg/agent` of K3s. Containers are not run: a pod is an object, a process that stands
//! for its shim, and a mount, so that there is something to stop and to clean up.

pub(crate) mod agent;
pub(crate) mod api;
mod balancer;
pub(crate) mod flannel;
pub(crate) mod interfaces;
pub(crate) mod kubelet;
pub(crate) mod pods;
pub(crate) mod tunnels;
