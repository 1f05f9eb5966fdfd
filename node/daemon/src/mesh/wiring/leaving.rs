//! How the tasks are wired that empty this node, and take it off its host.
//!
//! Decides nothing.

use tokio::sync::watch as channel;

use super::Wiring;
use crate::mesh::{
    departure::Departure, docker::DockerStatus, drain::Draining, k3s::K3sStatus,
    overlay::OverlayStatus, proposer::Proposer,
};

impl Wiring {
    /// What empties this node when it is asked to, and takes it off its host once it was removed.
    pub(super) fn leaving(
        &self,
        proposer: &Proposer,
        overlay: &channel::Receiver<OverlayStatus>,
        docker: &channel::Receiver<DockerStatus>,
        k3s: &channel::Receiver<K3sStatus>,
    ) {
        self.draining(proposer, docker, k3s);
        self.departing(proposer, overlay, docker, k3s);
    }

    /// What empties this node when it is asked to.
    fn draining(
        &self,
        proposer: &Proposer,
        docker: &channel::Receiver<DockerStatus>,
        k3s: &channel::Receiver<K3sStatus>,
    ) {
        let task = Draining {
            host: self.host.clone(),
            proposer: proposer.clone(),
            docker: docker.clone(),
            k3s: k3s.clone(),
            orders: self.orders.clone(),
            stop: self.stop.clone(),
        };
        self.track("drain", task.run());
    }

    /// What takes this node off its host once it was removed.
    fn departing(
        &self,
        proposer: &Proposer,
        overlay: &channel::Receiver<OverlayStatus>,
        docker: &channel::Receiver<DockerStatus>,
        k3s: &channel::Receiver<K3sStatus>,
    ) {
        let task = Departure {
            proposer: proposer.clone(),
            ordered: self.departure.ordered(),
            removed: self.removed.subscribe(),
            overlay: overlay.clone(),
            docker: docker.clone(),
            k3s: k3s.clone(),
            departed: self.departed.clone(),
            stop: self.stop.clone(),
        };
        self.track("departure", task.run());
    }
}
