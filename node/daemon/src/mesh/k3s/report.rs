//! What the mesh is told of this node's K3s.
//!
//! Decides: which phases are worth an agreement, and when one is told again.

use std::{collections::BTreeSet, time::Duration};

use consensus_core::{
    ClusterCommand, Command, IpPrefix, K3sNode, K3sPhase, LogIndex, Time, WallMs,
};
use runtimes_core::k3s::Phase;
use runtimes_k3s::Sight;
use tokio::time::Instant;

use super::{K3s, Works};
use crate::mesh::proposer::wall_now;

/// A report that is not in the view by then is repeated.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(30);
/// One that is not ready for so long is told as such. An election of etcd, or a worker's change to
/// another API server, is over by then, and would have every node of a cluster report twice.
const FALTERS_FOR: Duration = Duration::from_secs(5);
/// How much of a reason is agreed.
const REASON_CHARS_MAX: usize = 2000;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Report {
    pub(super) phase: K3sPhase,
    pub(super) generation: LogIndex,
    pub(super) pods: BTreeSet<IpPrefix>,
}

impl K3s {
    /// Queues a report where the agreed row says otherwise.
    pub(super) fn tell(
        &self,
        works: &mut Works,
        row: Option<&K3sNode>,
        phase: &Phase,
        sight: Sight,
    ) {
        let Some(row) = row else {
            works.told = None;
            return;
        };
        let silent = works.blind || matches!(phase, Phase::Starting | Phase::Bootstrap);
        let falters = row.is_ready() && silent;
        works.falters = falters.then(|| works.falters.unwrap_or_else(Instant::now));
        if works
            .falters
            .is_some_and(|since| since.elapsed() < FALTERS_FOR)
        {
            return;
        }
        if let Some(report) = self.report(row, phase, sight) {
            works.queue(row, report);
        }
    }

    /// What the mesh is told; nothing of moments that need no agreement.
    fn report(&self, row: &K3sNode, phase: &Phase, sight: Sight) -> Option<Report> {
        let mut report = Report {
            phase: K3sPhase::Installing,
            generation: row.generation,
            pods: BTreeSet::new(),
        };
        report.phase = match phase {
            Phase::Lost => K3sPhase::Assigned,
            Phase::Installing => K3sPhase::Installing,
            Phase::Bootstrap => K3sPhase::Bootstrap,
            Phase::JoinRequest => K3sPhase::JoinRequest,
            Phase::Starting => K3sPhase::Starting,
            Phase::Ready {
                version,
                generation,
            } => {
                report.generation = *generation;
                report.pods = sight.pods.into_iter().collect();
                K3sPhase::Ready {
                    version: version.clone(),
                }
            }
            // The mesh said so itself, and waits for nothing but the end of it.
            Phase::Leaving => return None,
            Phase::Failed { .. } if row.is_leaving() => return None,
            Phase::Stopped => K3sPhase::Stopped,
            Phase::Failed {
                code,
                reason,
                retry_at,
                hint,
            } => K3sPhase::Failed {
                reason: with_hint(reason, hint.as_deref())
                    .chars()
                    .take(REASON_CHARS_MAX)
                    .collect(),
                code: (*code).to_owned(),
                retry_at: self.wall(retry_at.unwrap_or(Time::ZERO)),
            },
        };
        Some(report)
    }

    fn wall(&self, at: Time) -> WallMs {
        let ahead = at.since(self.host.clock.now());
        WallMs(wall_now().0 + u64::try_from(ahead.as_millis()).unwrap_or(0))
    }
}

fn with_hint(reason: &str, hint: Option<&str>) -> String {
    match hint {
        Some(hint) => format!("{reason}; {hint}"),
        None => reason.to_owned(),
    }
}

impl Works {
    /// Queues what the mesh does not know yet.
    pub(super) fn queue(&mut self, row: &K3sNode, report: Report) {
        let known = row.phase.tells_the_same(&report.phase)
            && (!row.is_ready()
                || (row.generation, &row.pods) == (report.generation, &report.pods));
        let told = self.told.as_ref().is_some_and(|(told, at)| {
            at.elapsed() < HEARTBEAT
                && told.phase.tells_the_same(&report.phase)
                && (told.generation, &told.pods) == (report.generation, &report.pods)
        });
        if known || told {
            return;
        }
        let command = Command::Cluster(ClusterCommand::Report {
            attempt: row.attempt,
            phase: report.phase.clone(),
            generation: report.generation,
            pods: report.pods.clone(),
        });
        // A full queue means that the mesh has no majority; the heartbeat repeats what matters.
        if self.reports.try_send(command).is_ok() {
            self.told = Some((report, Instant::now()));
        }
    }
}
