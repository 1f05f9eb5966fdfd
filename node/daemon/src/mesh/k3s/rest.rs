//! A K3s server that comes to rest, because its node is emptied; or that does not begin, because it was.
//!
//! Decides nothing: when it is to, `runtimes_core::drain` says, which has had its pods go before.

use std::time::Duration;

use consensus_core::{Agreed, K3sNode, K3sPhase, LogIndex};
use runtimes_core::k3s::{Daemon, Step};
use runtimes_k3s::{Context, StepError};

use super::{K3s, K3sStatus, LOOK_EVERY, Report, Wish, Works};
use crate::mesh::{drain::Resting, overlay::with_sources};

impl K3s {
    /// Stops K3s, if it runs. When to look again; none when there is more to do at once.
    pub(super) async fn rest(
        &self,
        works: &mut Works,
        agreed: &Agreed,
        wish: &Wish,
        drain: LogIndex,
    ) -> Option<Duration> {
        let name = agreed.name_of(&self.proposer.me);
        let context = Context {
            role: wish.role,
            node: &name,
            foreign_network: false,
            wanted: true,
            drained: true,
            token: None,
        };
        let stopped = tokio::select! {
            // As by a crash: the next daemon looks what is left to stop.
            () = self.stop.cancelled() => return Some(LOOK_EVERY),
            stopped = self.stop_daemon(works, wish, &context) => stopped,
        };
        let resting = match &stopped {
            Ok(true) => Resting {
                done: Some(drain),
                waits_for: String::new(),
            },
            Ok(false) => Resting {
                done: None,
                waits_for: "K3s to stop".to_owned(),
            },
            Err(error) => Resting {
                done: None,
                waits_for: format!("K3s to stop: {}", with_sources(error)),
            },
        };
        let done = resting.done.is_some();
        let began = wish.row.as_ref().filter(|row| row.has_been_ready());
        self.show(K3sStatus {
            resting,
            condition: began.is_none().then(|| {
                format!("k3s: it waits until {name} may work again; `shoal node uncordon {name}`")
            }),
            gone: false,
        });
        // One that has not begun stays assigned, and begins when the node may work again.
        let row = wish
            .row
            .as_ref()
            .filter(|row| row.phase != K3sPhase::Assigned);
        if done && let Some(row) = row {
            Self::report_rest(works, row);
        }
        match stopped {
            Ok(false) => None,
            Ok(true) | Err(_) => Some(LOOK_EVERY),
        }
    }

    /// Whether nothing of it runs; what runs is stopped.
    async fn stop_daemon(
        &self,
        works: &mut Works,
        wish: &Wish,
        context: &Context<'_>,
    ) -> Result<bool, StepError> {
        let now = self.host.clock.now();
        let (observed, _) = works.runtime.observe(&wish.binary, context, now).await?;
        match observed.daemon {
            Daemon::Ours { .. } => {
                tracing::info!("k3s comes to rest");
                works.runtime.perform(Step::Stop, context).await?;
                Ok(false)
            }
            Daemon::Absent | Daemon::Foreign { .. } => Ok(true),
        }
    }

    fn report_rest(works: &mut Works, row: &K3sNode) {
        let report = Report {
            phase: K3sPhase::Drained,
            generation: row.generation,
            pods: row.pods.clone(),
        };
        works.queue(row, report);
    }
}
