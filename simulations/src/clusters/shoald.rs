//! The daemon's shell about K3s: what it sees, when it looks, what it tells.
//!
//! Decides nothing about steps: the plan does. The daemon's own is `node/daemon/src/mesh/k3s`; what
//! differs is said in `wish`.

use std::{collections::BTreeSet, time::Duration};

use consensus_core::{ClusterCommand, Command, K3sBinary, K3sNode, K3sPhase, LogIndex, WallMs};
use runtimes_core::{
    k3s::{Desired, Phase, Plan, Step, plan, wish::staying},
    retries::Retries,
};

use super::{
    bug::PlantedBug,
    host::files,
    mesh::View,
    wish::desired,
    world::{Event, Talk, World},
};
use crate::node::node_id;

/// A K3s that died is noticed within this.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A report that is not in the view by then is repeated.
const HEARTBEAT_US: u64 = 30_000_000;
/// Reports on their way; a runtime has some ten phases.
const REPORTS_MAX: usize = 32;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Report {
    pub(super) phase: K3sPhase,
    pub(super) generation: LogIndex,
}

impl World {
    /// A daemon starts: it knows what it saw last, and what is on its disk.
    pub(super) fn start(&mut self, node: usize) {
        let shoald = &mut self.nodes[node];
        if shoald.runs {
            return;
        }
        shoald.runs = true;
        shoald.boot += 1;
        shoald.retries = Retries::default();
        shoald.before = None;
        shoald.told = None;
        shoald.reports.clear();
        shoald.report = None;
        shoald.hosting = None;
        shoald.busy = None;
        shoald.chore = None;
        shoald.probed_since_us = None;
        shoald.forgot = shoald.boot > 1;
        let boot = shoald.boot;
        self.note(b'S', node, boot);
        self.show(node);
        self.look(node);
    }

    pub(super) fn seen(&mut self, node: usize, view: View) {
        if view.index <= self.nodes[node].view.index {
            return;
        }
        self.nodes[node].view = view;
        self.host_others(node);
        self.look(node);
    }

    pub(super) fn wake(&mut self, node: usize, number: u64) {
        if self.nodes[node].wake == number {
            self.host_others(node);
            self.look(node);
        }
    }

    /// Looks, plans, takes one step; looks again when it is over, or after a while.
    pub(super) fn look(&mut self, node: usize) {
        if self.nodes[node].busy.is_some() {
            return;
        }
        self.nodes[node].wake += 1;
        let (boot, number) = (self.nodes[node].boot, self.nodes[node].wake);
        self.after(LOOK_EVERY, Event::Wake { node, boot, number });
        let desired = self.desired(node);
        if self.nodes[node].before.as_ref() != Some(&desired) {
            self.nodes[node].retries.handle_new_desired();
            self.nodes[node].before = Some(desired.clone());
        }
        if self.answers(node)
            && let Some(process) = &mut self.hosts[node].process
        {
            process.was_ready = true;
        }
        let Plan { phase, step } = self.planned(node, &desired);
        if matches!(phase, Phase::Ready { .. }) {
            let now = self.now();
            self.nodes[node].retries.handle_ready(now);
        }
        self.tell(node, &phase);
        if let Some(step) = step.filter(|step| *step != Step::RequestToken) {
            self.begin_step(node, step);
        }
    }

    fn desired(&self, node: usize) -> Desired {
        let mut desired = desired(&self.nodes[node].view.agreed, &node_id(node));
        if self.bug == Some(PlantedBug::ChangedOutOfTurn)
            && let Some(stay) = &mut desired.stay
            && let Some((_, cluster)) = staying(&self.nodes[node].view.agreed, &node_id(node))
        {
            stay.generation = cluster.generation;
            stay.settled = false;
        }
        let bug = self.bug == Some(PlantedBug::FoundsAgain);
        if let Some(stay) = desired.stay.as_mut().filter(|_| bug) {
            let agreed = &self.nodes[node].view.agreed;
            let row = agreed.k3s_nodes.get(&node_id(node));
            let cluster = row.and_then(|row| agreed.clusters.get(&row.cluster));
            let founder = cluster.is_some_and(|cluster| cluster.founder == node_id(node));
            if let Ok(membership) = &mut stay.membership
                && founder
            {
                membership.entrance = runtimes_core::k3s::Entrance::Found;
                stay.active = false;
                stay.begun = false;
                stay.settled = false;
            }
        }
        desired
    }

    fn planned(&self, node: usize, desired: &Desired) -> Plan {
        let wanted = desired
            .stay
            .as_ref()
            .map_or(K3sBinary::INSTALLED, |stay| stay.binary.clone());
        let up = self.kubernetes.is_ready(&self.hosts, node);
        let ready = self.answers(node);
        let mut observed = self.hosts[node].observe(self.now(), &wanted, ready, !up);
        let shoald = &self.nodes[node];
        match self.bug {
            Some(PlantedBug::InstallForgotten) if shoald.forgot => observed.program = None,
            Some(PlantedBug::SecretsMadeAnew) if shoald.forgot => observed.secrets = false,
            Some(_) | None => {}
        }
        plan(desired, &observed, &files(), &shoald.retries)
    }

    /// Whether its K3s says that it is ready.
    fn answers(&self, node: usize) -> bool {
        let up = self.kubernetes.is_ready(&self.hosts, node);
        up && self.now_us >= self.silent_until_us[node]
    }

    /// Queues a report where the agreed row says otherwise.
    fn tell(&mut self, node: usize, phase: &Phase) {
        let row = self.nodes[node].view.agreed.k3s_nodes.get(&node_id(node));
        let Some(row) = row.cloned() else {
            self.nodes[node].told = None;
            return;
        };
        let Some(report) = report_of(&row, phase) else {
            return;
        };
        let known = row.phase.tells_the_same(&report.phase)
            && (!row.is_ready() || row.generation == report.generation);
        let shoald = &self.nodes[node];
        let told = shoald.told.as_ref().is_some_and(|(told, at_us)| {
            self.now_us < at_us + HEARTBEAT_US
                && told.phase.tells_the_same(&report.phase)
                && told.generation == report.generation
        });
        if known || told || shoald.reports.len() >= REPORTS_MAX {
            return;
        }
        let command = Command::Cluster(ClusterCommand::Report {
            attempt: row.attempt,
            phase: report.phase.clone(),
            generation: report.generation,
            pods: BTreeSet::new(),
        });
        self.nodes[node].told = Some((report, self.now_us));
        if self.nodes[node].report.is_some() {
            self.nodes[node].reports.push_back(command);
        } else {
            self.propose(node, Talk::Reports, command);
        }
    }
}

/// What the mesh is told.
fn report_of(row: &K3sNode, phase: &Phase) -> Option<Report> {
    let mut generation = row.generation;
    let phase = match phase {
        Phase::Lost => K3sPhase::Assigned,
        Phase::Installing => K3sPhase::Installing,
        Phase::Bootstrap => K3sPhase::Bootstrap,
        Phase::JoinRequest => K3sPhase::JoinRequest,
        Phase::Starting => K3sPhase::Starting,
        Phase::Ready {
            version,
            generation: with,
        } => {
            generation = *with;
            K3sPhase::Ready {
                version: version.clone(),
            }
        }
        // The mesh said so itself.
        Phase::Leaving => return None,
        Phase::Stopped => K3sPhase::Stopped,
        Phase::Failed { code, reason, .. } => K3sPhase::Failed {
            reason: reason.clone(),
            code: (*code).to_owned(),
            retry_at: WallMs(0),
        },
    };
    Some(Report { phase, generation })
}
