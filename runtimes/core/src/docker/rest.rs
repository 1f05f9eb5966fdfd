//! A Docker host that comes to rest: its node is emptied, and is to be a Docker host again later.
//!
//! Decides: in which order containers stop, and what is waited for. Those that Docker is to keep
//! running always go first: they are the ones that would come back by themselves, should anything
//! go wrong meanwhile. Of those alike the newest goes first, for later ones may need earlier ones.
//! Never: takes anything off the host, or touches a dockerd that shoal did not start.

use consensus_core::Time;

use super::{Daemon, Step};
use crate::retries::Retries;

/// What Docker does about a container that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Restarts {
    /// Starts it again, also with dockerd, even if it had been stopped by hand.
    Always,
    /// The same, unless it had been stopped by hand.
    UnlessStopped,
    /// Nothing, or only when it failed.
    Otherwise,
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What Docker does when it ends.
    pub restarts: Restarts,
    /// When it was made, in seconds since 1970.
    pub created: i64,
}

/// What is waited for, and the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest {
    /// For people; none once it is at rest.
    pub waits_for: Option<String>,
    /// For the adapter.
    pub step: Option<Step>,
}

/// The next step of a host that comes to rest. `running` is what runs in a dockerd of ours that
/// answers.
pub fn plan_rest(daemon: &Daemon, running: &[Running], now: Time, retries: &Retries) -> Rest {
    let Daemon::Ours { answers, .. } = daemon else {
        return Rest {
            waits_for: None,
            step: None,
        };
    };
    let (waits_for, step) = match (answers, next(running)) {
        (None, _) => ("dockerd to answer".to_owned(), Step::Probe),
        (Some(_), Some(container)) => {
            let words = format!("container {} to stop", container.name);
            (words, Step::StopContainer(container.clone()))
        }
        (Some(_), None) => ("dockerd to stop".to_owned(), Step::Rest),
    };
    let failure = retries.failure().filter(|failure| failure.retry_at > now);
    match failure {
        Some(failure) => Rest {
            waits_for: Some(format!("{waits_for}: {}", failure.reason)),
            step: None,
        },
        None => Rest {
            waits_for: Some(waits_for),
            step: Some(step),
        },
    }
}

/// The container that stops next.
fn next(running: &[Running]) -> Option<&Running> {
    running.iter().min_by_key(|container| {
        let later = container.restarts != Restarts::Always;
        (later, std::cmp::Reverse(container.created), &container.id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, restarts: Restarts, created: i64) -> Running {
        Running {
            id: format!("id-{name}"),
            name: name.into(),
            restarts,
            created,
        }
    }

    fn ours(answers: bool) -> Daemon {
        Daemon::Ours {
            pid: 7,
            started_with: None,
            answers: answers.then(|| "20.10".into()),
        }
    }

    fn planned(daemon: &Daemon, running: &[Running]) -> Rest {
        plan_rest(daemon, running, Time::ZERO, &Retries::default())
    }

    #[test]
    fn those_that_run_always_stop_first_the_newest_before_the_older_and_dockerd_last() {
        let mut running = vec![
            container("job", Restarts::Otherwise, 9),
            container("web", Restarts::Always, 3),
            container("cache", Restarts::UnlessStopped, 8),
            container("db", Restarts::Always, 1),
        ];
        let mut stopped = Vec::new();
        loop {
            let rest = planned(&ours(true), &running);
            let Some(Step::StopContainer(next)) = rest.step else {
                assert_eq!(rest.step, Some(Step::Rest));
                assert_eq!(rest.waits_for.as_deref(), Some("dockerd to stop"));
                break;
            };
            let words = format!("container {} to stop", next.name);
            assert_eq!(rest.waits_for, Some(words));
            running.retain(|container| *container != next);
            stopped.push(next.name);
        }
        assert_eq!(stopped, ["web", "db", "job", "cache"]);
    }

    #[test]
    fn a_dockerd_that_does_not_answer_is_waited_for_and_a_foreign_one_is_none_of_ours() {
        let rest = planned(&ours(false), &[]);
        assert_eq!(rest.step, Some(Step::Probe));
        for daemon in [
            Daemon::Absent,
            Daemon::Foreign { pid: Some(7) },
            Daemon::Adoptable { pid: 7 },
        ] {
            let rest = planned(&daemon, &[container("web", Restarts::Always, 1)]);
            assert_eq!((rest.waits_for, rest.step), (None, None));
        }
    }

    #[test]
    fn a_step_that_failed_waits_out_its_pause_and_its_reason_is_told() {
        let mut retries = Retries::default();
        retries.handle_failure("DockerRefusedError", "it is busy".into(), Time::ZERO);
        let running = [container("web", Restarts::Always, 1)];
        let rest = plan_rest(&ours(true), &running, Time::ZERO, &retries);
        assert_eq!(rest.step, None);
        let words = "container web to stop: it is busy";
        assert_eq!(rest.waits_for.as_deref(), Some(words));
        let retry_at = retries.failure().expect("it failed").retry_at;
        let rest = plan_rest(&ours(true), &running, retry_at, &retries);
        assert!(rest.step.is_some());
    }
}
