//! A Docker host that comes to rest, because its node is emptied.
//!
//! Decides nothing: `runtimes_core::docker::plan_rest` says what stops next. What is under way is
//! given up as soon as the node is told otherwise; Docker then goes on with it by itself, and what is
//! found afterwards counts.

use std::time::Duration;

use consensus_core::{Agreed, DockerPhase, LogIndex};
use runtimes_core::docker::{Rest, plan_rest};

use super::{Docker, LOOK_EVERY, Wish, Works, step_name};
use crate::mesh::{drain::Resting, overlay::with_sources};

impl Docker {
    /// Observes, takes one step. None when there is more to do at once.
    pub(super) async fn rest(
        &self,
        works: &mut Works,
        agreed: &Agreed,
        wish: &Wish,
        drain: LogIndex,
    ) -> Option<Duration> {
        self.show_condition(None);
        let now = self.host.clock.now();
        let rest = match works.runtime.observe_rest().await {
            Ok((daemon, running)) => plan_rest(&daemon, &running, now, &works.retries),
            Err(error) => Rest {
                waits_for: Some(format!("Docker: {}", with_sources(&error))),
                step: None,
            },
        };
        let resting = Resting {
            done: rest.waits_for.is_none().then_some(drain),
            waits_for: rest.waits_for.unwrap_or_default(),
        };
        let done = resting.done.is_some();
        self.show(None, resting, false);
        if done && let Some(row) = agreed.docker_hosts.get(&self.proposer.me) {
            works.report(row, DockerPhase::Drained, wish.desired.listen);
        }
        let Some(step) = rest.step else {
            return Some(LOOK_EVERY);
        };
        tracing::info!(step = step_name(&step), "docker-engine comes to rest");
        works.drift.handle_resting(&step);
        let performed = tokio::select! {
            performed = works.runtime.perform(step) => performed,
            () = self.told_otherwise(drain) => return None,
        };
        if let Err(error) = performed {
            self.note_failure(works, &error);
        }
        None
    }

    /// Waits until this drain is not what Docker is to be at rest for any more.
    async fn told_otherwise(&self, drain: LogIndex) {
        let mut orders = self.orders.clone();
        let mut stop = std::pin::pin!(self.stop.cancelled());
        let otherwise = orders.wait_for(|orders| orders.and_then(|it| it.docker) != Some(drain));
        tokio::select! {
            _ = otherwise => {}
            () = &mut stop => {}
        }
    }
}
