//! What of a module on a host is not as shoal left it (SPEC 7.3, 7.4).
//!
//! Decides: which files somebody else changed or took away, and when that is news: once, until it was seen
//! right, and not again and again where somebody keeps changing them back. Never: puts anything right; the
//! runtimes' plans do.
//!
//! Invariants, each a test below: what shoal itself is about to change, or changed last, is no drift; a drift
//! is told once; who writes the same file every minute is told of as often as [`TOLD_AGAIN_AFTER`] says.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use consensus_core::Time;

use crate::{
    docker::{self, ConfigFiles},
    k3s,
};

/// A configuration tool that has a file of shoal's in its own list puts it back every half an hour, or every
/// minute: a person has read the first word of it by then, and the event log holds some thousand entries.
pub const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(600);

/// A part of a module on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// dockerd's configuration.
    DaemonJson,
    /// dockerd's certificate.
    DockerCertificate,
    /// The roots whose clients dockerd lets in.
    DockerRoots,
    /// One of these is not there.
    DockerFiles,
    /// The settings that shoal makes for K3s.
    K3sSettings,
}

impl Part {
    /// As an event has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DaemonJson => "dockerd's daemon.json was changed",
            Self::DockerCertificate => "dockerd's certificate was changed",
            Self::DockerRoots => "the roots that dockerd trusts were changed",
            Self::DockerFiles => "a file of dockerd's configuration is missing",
            Self::K3sSettings => "K3s's settings were changed, or are missing",
        }
    }
}

/// Which of dockerd's files are not those that shoal left. `left` are those that it wrote or saw right since
/// it runs; an earlier shoald left those that dockerd was started with, unless it had begun to change them.
pub fn of_docker(
    left: Option<&ConfigFiles>,
    observed: &docker::Observed,
    planned: &docker::Plan,
) -> BTreeSet<Part> {
    let left = left.or_else(|| left_before(observed, planned));
    let Some(left) = left else {
        return BTreeSet::new();
    };
    let Some(found) = &observed.files else {
        return BTreeSet::from([Part::DockerFiles]);
    };
    let parts = [
        (Part::DaemonJson, &left.daemon_json, &found.daemon_json),
        (Part::DockerCertificate, &left.chain_pem, &found.chain_pem),
        (Part::DockerRoots, &left.ca_pem, &found.ca_pem),
    ];
    let differ = parts.into_iter().filter(|(_, left, found)| left != found);
    differ.map(|(part, ..)| part).collect()
}

/// What the dockerd that runs was started with, if just that is to be put in place.
fn left_before<'a>(
    observed: &'a docker::Observed,
    planned: &docker::Plan,
) -> Option<&'a ConfigFiles> {
    let docker::Daemon::Ours { started_with, .. } = &observed.daemon else {
        return None;
    };
    let wanted = match &planned.step {
        Some(docker::Step::WriteConfig(wanted)) => Some(wanted),
        Some(_) | None => None,
    };
    started_with.as_ref().filter(|left| Some(*left) == wanted)
}

/// What shoal left of a Docker host, and what was told of its drifts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DockerDrift {
    /// The files that it wrote or saw right last.
    left: Option<ConfigFiles>,
    news: DriftNews,
}

impl DockerDrift {
    /// Takes what is the case and what follows from it, and says what is to be told.
    pub fn handle_look(
        &mut self,
        observed: &docker::Observed,
        planned: &docker::Plan,
    ) -> Vec<Part> {
        let seen = of_docker(self.left.as_ref(), observed, planned);
        // One that is ready has the files that are wanted.
        if matches!(planned.phase, docker::Phase::Ready { .. }) {
            self.left.clone_from(&observed.files);
        }
        self.news.handle_seen(seen, observed.now)
    }

    /// A step was taken, with success or without: then some of the files may be written, and others not.
    pub fn handle_performed(&mut self, step: docker::Step, done: bool) {
        if let docker::Step::WriteConfig(files) = step {
            self.left = done.then_some(files);
        }
    }

    /// The host is to be none any more: its files go, and that is no drift.
    pub fn handle_unassigned(&mut self) {
        *self = Self::default();
    }
}

/// Whether K3s's settings are others than the K3s that runs was started with, and nothing is being changed.
pub fn of_k3s(observed: &k3s::Observed, planned: &k3s::Plan) -> BTreeSet<Part> {
    let k3s::Daemon::Ours {
        started_with: Some(started),
        ..
    } = &observed.daemon
    else {
        return BTreeSet::new();
    };
    let (left, found) = (started.settings.as_str(), observed.settings.as_deref());
    let is_drift = settings_drifted(left, found, planned.step.as_ref());
    is_drift.then_some(Part::K3sSettings).into_iter().collect()
}

/// Before K3s is started anew shoal writes them anyhow.
fn settings_drifted(left: &str, found: Option<&str>, next: Option<&k3s::Step>) -> bool {
    let rests = matches!(next, None | Some(k3s::Step::Probe | k3s::Step::Return));
    rests && found != Some(left)
}

/// What was told of a host's drifts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DriftNews {
    /// What was not right when it was looked at last.
    open: BTreeSet<Part>,
    /// When each was told.
    told: BTreeMap<Part, Time>,
}

impl DriftNews {
    /// Takes what is not right now, and says what of it is to be told.
    pub fn handle_seen(&mut self, seen: BTreeSet<Part>, now: Time) -> Vec<Part> {
        let lately = |part: &Part| {
            let told = self.told.get(part);
            told.is_some_and(|told| now.since(*told) < TOLD_AGAIN_AFTER)
        };
        let news = seen.difference(&self.open).copied();
        let news: Vec<Part> = news.filter(|part| !lately(part)).collect();
        self.told.extend(news.iter().map(|part| (*part, now)));
        self.open = seen;
        news
    }
}

#[cfg(test)]
mod tests {
    use consensus_core::WallMs;

    use super::*;
    use crate::version::EngineVersion;

    fn files(daemon_json: &str) -> ConfigFiles {
        ConfigFiles {
            daemon_json: daemon_json.to_owned(),
            chain_pem: "chain".to_owned(),
            ca_pem: "roots".to_owned(),
        }
    }

    fn docker(found: Option<ConfigFiles>, started_with: Option<ConfigFiles>) -> docker::Observed {
        docker::Observed {
            now: Time::ZERO,
            wall: WallMs(0),
            engine: EngineVersion::from_dockerd_output("Docker version 24.0.7, build x").ok(),
            csr: None,
            files: found,
            daemon: docker::Daemon::Ours {
                pid: 7,
                started_with,
                answers: None,
            },
            leftovers: true,
            waiting: false,
        }
    }

    fn writes(wanted: ConfigFiles) -> docker::Plan {
        docker::Plan {
            phase: docker::Phase::WantsConfig,
            step: Some(docker::Step::WriteConfig(wanted)),
        }
    }

    #[test]
    fn a_file_that_somebody_changed_or_took_away_is_named() {
        let left = files("ours");
        let drift = |found| of_docker(Some(&left), &docker(found, None), &writes(left.clone()));
        assert_eq!(drift(Some(left.clone())), BTreeSet::new());
        let changed = drift(Some(files("theirs")));
        assert_eq!(changed, BTreeSet::from([Part::DaemonJson]));
        let all = ConfigFiles {
            daemon_json: "theirs".to_owned(),
            chain_pem: "theirs".to_owned(),
            ca_pem: "theirs".to_owned(),
        };
        assert_eq!(drift(Some(all)).len(), 3);
        assert_eq!(drift(None), BTreeSet::from([Part::DockerFiles]));
    }

    #[test]
    fn what_shoal_itself_is_about_to_change_is_no_drift() {
        // The mesh wants something else than is there, and than shoal left there.
        let there = docker(Some(files("old")), Some(files("old")));
        let none = BTreeSet::new();
        assert_eq!(
            of_docker(Some(&files("old")), &there, &writes(files("new"))),
            none
        );
        assert_eq!(of_docker(None, &there, &writes(files("new"))), none);
        // An earlier shoald had put the new ones in place, and dockerd still runs with the old ones.
        let half = docker(Some(files("new")), Some(files("old")));
        let restarts = docker::Plan {
            phase: docker::Phase::WantsConfig,
            step: Some(docker::Step::Restart),
        };
        assert_eq!(of_docker(None, &half, &restarts), none);
        assert_eq!(of_docker(None, &half, &writes(files("newer"))), none);
        // Of a host on which nothing was left nothing is known.
        assert_eq!(
            of_docker(None, &docker(None, None), &writes(files("new"))),
            none
        );
    }

    #[test]
    fn what_shoal_wrote_last_is_what_it_left() {
        let mut drift = DockerDrift::default();
        let ready = docker::Plan {
            phase: docker::Phase::Ready {
                version: "24.0.7".to_owned(),
            },
            step: None,
        };
        let old = docker(Some(files("old")), Some(files("old")));
        assert_eq!(drift.handle_look(&old, &ready), []);
        // Something else is wanted: it is written, dockerd restarted, and then the old thing is wanted again.
        assert_eq!(drift.handle_look(&old, &writes(files("new"))), []);
        drift.handle_performed(docker::Step::WriteConfig(files("new")), true);
        let new = docker(Some(files("new")), Some(files("old")));
        assert_eq!(drift.handle_look(&new, &writes(files("old"))), []);
        drift.handle_performed(docker::Step::WriteConfig(files("old")), true);
        assert_eq!(drift.handle_look(&old, &ready), []);
        // What was written in part is nobody else's doing.
        let mut half = drift.clone();
        half.handle_performed(docker::Step::WriteConfig(files("new")), false);
        assert_eq!(half.handle_look(&new, &writes(files("new"))), []);
        let theirs = docker(Some(files("theirs")), Some(files("old")));
        let told = drift.handle_look(&theirs, &writes(files("old")));
        assert_eq!(told, [Part::DaemonJson]);
        // Who is no Docker host any more has no files.
        drift.handle_unassigned();
        let bare = docker::Observed {
            daemon: docker::Daemon::Absent,
            ..docker(None, None)
        };
        assert_eq!(drift.handle_look(&bare, &writes(files("old"))), []);
    }

    #[test]
    fn what_was_changed_while_shoald_was_away_is_drift_too() {
        let there = docker(Some(files("theirs")), Some(files("ours")));
        let drift = of_docker(None, &there, &writes(files("ours")));
        assert_eq!(drift, BTreeSet::from([Part::DaemonJson]));
    }

    #[test]
    fn nothing_that_is_not_dockers_is_looked_at_for_it() {
        for daemon in [
            docker::Daemon::Absent,
            docker::Daemon::Foreign { pid: None },
        ] {
            let observed = docker::Observed {
                daemon,
                ..docker(Some(files("theirs")), None)
            };
            let drift = of_docker(None, &observed, &writes(files("ours")));
            assert_eq!(drift, BTreeSet::new());
        }
    }

    #[test]
    fn k3ss_settings_drift_unless_they_are_being_changed() {
        let writes = k3s::Step::WriteSettings("new".to_owned());
        for (found, next, is_drift) in [
            (Some("ours"), None, false),
            (Some("theirs"), None, true),
            (Some("theirs"), Some(&k3s::Step::Probe), true),
            (None, Some(&k3s::Step::Return), true),
            (Some("theirs"), Some(&writes), false),
            (Some("new"), Some(&k3s::Step::Vacate), false),
        ] {
            assert_eq!(settings_drifted("ours", found, next), is_drift, "{next:?}");
        }
    }

    #[test]
    fn a_drift_is_told_once_until_it_was_right_and_not_all_the_time() {
        let at = |seconds: u64| Time::from_micros(seconds * 1_000_000);
        let json = || BTreeSet::from([Part::DaemonJson]);
        let mut news = DriftNews::default();
        assert_eq!(news.handle_seen(BTreeSet::new(), at(0)), []);
        assert_eq!(news.handle_seen(json(), at(2)), [Part::DaemonJson]);
        assert_eq!(news.handle_seen(json(), at(4)), []);
        // Another part is news of its own.
        let both = BTreeSet::from([Part::DaemonJson, Part::DockerRoots]);
        assert_eq!(news.handle_seen(both, at(6)), [Part::DockerRoots]);
        assert_eq!(news.handle_seen(BTreeSet::new(), at(8)), []);
        // Somebody puts it back every minute.
        let mut told = 0;
        for minute in 1..=30 {
            told += news.handle_seen(json(), at(8 + minute * 60)).len();
            assert_eq!(news.handle_seen(BTreeSet::new(), at(10 + minute * 60)), []);
        }
        assert_eq!(told, 3);
        let later = at(2000) + Duration::from_secs(7200);
        assert_eq!(news.handle_seen(json(), later), [Part::DaemonJson]);
    }

    #[test]
    fn every_part_is_named_in_words_of_its_own() {
        let parts = [
            Part::DaemonJson,
            Part::DockerCertificate,
            Part::DockerRoots,
            Part::DockerFiles,
            Part::K3sSettings,
        ];
        let words: BTreeSet<&str> = parts.iter().map(|part| part.as_str()).collect();
        assert_eq!(words.len(), parts.len());
    }
}
