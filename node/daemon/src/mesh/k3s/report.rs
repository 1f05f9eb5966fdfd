//! What the mesh is told of this node's K3s.
//!
//! Decides: which phases are worth an agreement, and what of a trouble is.
//!
//! Invariant: a K3s that runs and is ready is told as ready, whatever else does not work on its node: the
//! others count on who is ready, and its address is kept by such. Only that a change of the cluster is to stop
//! at this node has to be told as a failure, once.

use std::{collections::BTreeSet, time::Duration};

use consensus_core::{
    ClusterCommand, Command, IpPrefix, K3sNode, K3sPhase, LogIndex, Time, WallMs,
};
use runtimes_core::k3s::{Daemon, Observed, Phase};
use runtimes_k3s::Sight;
use tokio::time::Instant;

use super::{K3s, Works};
use crate::mesh::proposer::wall_now;

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

impl Report {
    fn tells_the_same(&self, other: &Self) -> bool {
        self.phase.tells_the_same(&other.phase)
            && (self.generation, &self.pods) == (other.generation, &other.pods)
    }
}

/// A K3s that is ready, as it was started.
pub(super) fn ready_as(observed: &Observed) -> Option<Phase> {
    match &observed.daemon {
        Daemon::Ours {
            started_with: Some(with),
            ready: true,
        } => Some(Phase::Ready {
            version: with.version.clone(),
            generation: with.generation,
        }),
        Daemon::Ours { .. } | Daemon::Absent | Daemon::Foreign { .. } => None,
    }
}

/// What is told of a look: `planned`, unless K3s `works` and something beside it does not, another K3s that
/// is of no use for one, or a turn that has to wait. Such trouble is shown on the node itself (`shoal status`);
/// a change that is to stop for it (`stops_change`) is told, and keeps its reason.
pub(super) fn told_phase<'a>(
    planned: &'a Phase,
    works: Option<&'a Phase>,
    stops_change: bool,
) -> &'a Phase {
    match planned {
        Phase::Failed { .. } if stops_change => planned,
        Phase::Failed { .. } | Phase::Starting | Phase::Bootstrap => works.unwrap_or(planned),
        Phase::Lost
        | Phase::Installing
        | Phase::JoinRequest
        | Phase::Ready { .. }
        | Phase::Leaving
        | Phase::Stopped => planned,
    }
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
            works.reports.forget();
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
        let told = self.reports.lately();
        let told = told.is_some_and(|told| told.tells_the_same(&report));
        if known || told {
            return;
        }
        let command = Command::Cluster(ClusterCommand::Report {
            attempt: row.attempt,
            phase: report.phase.clone(),
            generation: report.generation,
            pods: report.pods.clone(),
        });
        self.reports.say(report, command);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Phase {
        Phase::Ready {
            version: "v1.31.2+k3s1".to_owned(),
            generation: LogIndex(3),
        }
    }

    fn failed() -> Phase {
        Phase::Failed {
            code: "K3sVersionMismatchError",
            reason: "it says v1.31.2".to_owned(),
            hint: None,
            retry_at: None,
        }
    }

    #[test]
    fn a_k3s_that_works_is_told_as_ready_whatever_does_not_work_beside_it() {
        // Before its restart, too, as long as that has to wait.
        for planned in [failed(), Phase::Starting, ready()] {
            assert_eq!(told_phase(&planned, Some(&ready()), false), &ready());
        }
    }

    #[test]
    fn a_change_is_told_that_it_stops_here_until_it_has() {
        assert_eq!(told_phase(&failed(), Some(&ready()), true), &failed());
        assert_eq!(told_phase(&Phase::Starting, Some(&ready()), true), &ready());
    }

    #[test]
    fn a_k3s_that_does_not_work_is_told_with_what_is_wrong() {
        for planned in [failed(), Phase::Installing, Phase::Starting] {
            for stops_change in [false, true] {
                assert_eq!(told_phase(&planned, None, stops_change), &planned);
            }
        }
    }

    #[test]
    fn one_that_needs_a_token_asks_for_it_also_while_it_works() {
        let (asks, ready) = (Phase::JoinRequest, ready());
        assert_eq!(told_phase(&asks, Some(&ready), false), &asks);
    }
}
