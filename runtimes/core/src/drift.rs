//! What of a module on a host is not as shoal left it (SPEC 7.3, 7.4).
//!
//! Decides: which files somebody else changed, opened to others or took away, and when that is news: once,
//! until it was seen right, and not again and again where somebody keeps changing them back. Never: puts
//! anything right; the runtimes do.
//!
//! Invariants, each a test below: what shoal itself is about to change, or changed last, is no drift, also where
//! it was cut off half-way; a drift is told once, a look that can say nothing does not end it; who writes the
//! same file every minute is told of as often as [`TOLD_AGAIN_AFTER`] says.

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
    /// Who may read dockerd's key.
    DockerKey,
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
            Self::DockerKey => "dockerd's key was open to others than root",
            Self::K3sSettings => "K3s's settings were changed, or are missing",
        }
    }
}

/// Which of dockerd's files are not those that shoal left. `left` are those that it wrote or saw right since
/// it runs; an earlier shoald left those that dockerd was started with, unless it had begun to change them.
fn of_docker(
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

/// What shoal left of a Docker host's files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Left {
    /// What an earlier shoald left there.
    #[default]
    Before,
    /// Those that it wrote or saw right last.
    Files(ConfigFiles),
    /// It began to change them: which are as they were nobody can say.
    Changing,
}

/// What shoal left of a Docker host, and what was told of its drifts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DockerDrift {
    left: Left,
    news: DriftNews,
    of_key: DriftNews,
}

impl DockerDrift {
    /// Takes what is the case and what follows from it, and says what is to be told.
    pub fn handle_look(
        &mut self,
        observed: &docker::Observed,
        planned: &docker::Plan,
    ) -> Vec<Part> {
        let seen = match &self.left {
            Left::Before => Some(of_docker(None, observed, planned)),
            Left::Files(files) => Some(of_docker(Some(files), observed, planned)),
            Left::Changing => None,
        };
        let told = seen.map(|seen| self.news.handle_seen(seen, observed.now));
        // One that is ready has the files that are wanted.
        if let (docker::Phase::Ready { .. }, Some(files)) = (&planned.phase, &observed.files) {
            self.left = Left::Files(files.clone());
        }
        told.unwrap_or_default()
    }

    /// Takes whether dockerd's key was open to others, and says what is to be told.
    pub fn handle_key(&mut self, open: bool, now: Time) -> Vec<Part> {
        let seen = open.then_some(Part::DockerKey).into_iter().collect();
        self.of_key.handle_seen(seen, now)
    }

    /// A step was taken, with success or without: then some of the files may be written, and others not.
    pub fn handle_performed(&mut self, step: docker::Step, done: bool) {
        if let docker::Step::WriteConfig(files) = step {
            self.left = match done {
                true => Left::Files(files),
                false => Left::Changing,
            };
        }
    }

    /// A host that comes to rest is about to take this step. dockerd's end is one with another configuration,
    /// so that it stops its containers.
    pub fn handle_resting(&mut self, step: &docker::Step) {
        if *step == docker::Step::Rest {
            self.left = Left::Changing;
        }
    }

    /// The host is to be none any more: its files are changed and go, and that is no drift.
    pub fn handle_unassigned(&mut self) {
        *self = Self {
            left: Left::Changing,
            ..Self::default()
        };
    }
}

/// What shoal wrote of a K3s's settings, and what was told of their drifts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct K3sDrift {
    /// The settings that it wrote last since it runs; the K3s that runs may have been started with others.
    written: Option<String>,
    news: DriftNews,
}

impl K3sDrift {
    /// Takes what is the case and what follows from it, and says what is to be told.
    pub fn handle_look(&mut self, observed: &k3s::Observed, planned: &k3s::Plan) -> Vec<Part> {
        let seen = of_k3s(self.written.as_deref(), observed, planned);
        let told = seen.map(|seen| self.news.handle_seen(seen, observed.now));
        told.unwrap_or_default()
    }

    /// A step is about to be taken.
    pub fn handle_step(&mut self, step: &k3s::Step) {
        if let k3s::Step::WriteSettings(text) = step {
            self.written = Some(text.clone());
        }
    }
}

/// Whether K3s's settings are neither those that the K3s that runs was started with nor those that shoal wrote
/// since; nothing, where that cannot be said.
fn of_k3s(
    written: Option<&str>,
    observed: &k3s::Observed,
    planned: &k3s::Plan,
) -> Option<BTreeSet<Part>> {
    let k3s::Daemon::Ours {
        started_with: Some(started),
        ..
    } = &observed.daemon
    else {
        return None;
    };
    if !is_left_alone(planned) {
        return None;
    }
    let found = observed.settings.as_deref();
    let left = [Some(started.settings.as_str()), written];
    let is_drift = found.is_none() || !left.contains(&found);
    Some(is_drift.then_some(Part::K3sSettings).into_iter().collect())
}

/// Whether nothing is being changed: before K3s is started anew shoal writes its settings anyhow. A step whose
/// pause still runs may be the start that they were written for.
fn is_left_alone(planned: &k3s::Plan) -> bool {
    match &planned.step {
        None => matches!(planned.phase, k3s::Phase::Ready { .. }),
        Some(step) => matches!(step, k3s::Step::Probe | k3s::Step::Return),
    }
}

/// What was told of a host's drifts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct DriftNews {
    /// What was not right when it was looked at last.
    open: BTreeSet<Part>,
    /// When each was told.
    told: BTreeMap<Part, Time>,
}

impl DriftNews {
    /// Takes what is not right now, and says what of it is to be told.
    fn handle_seen(&mut self, seen: BTreeSet<Part>, now: Time) -> Vec<Part> {
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
    use consensus_core::{LogIndex, WallMs};

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
            elsewhere: None,
        }
    }

    fn writes(wanted: ConfigFiles) -> docker::Plan {
        docker::Plan {
            phase: docker::Phase::WantsConfig,
            step: Some(docker::Step::WriteConfig(wanted)),
        }
    }

    fn ready() -> docker::Plan {
        docker::Plan {
            phase: docker::Phase::Ready {
                version: "24.0.7".to_owned(),
            },
            step: None,
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
        let ready = ready();
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
    fn what_shoal_changed_so_that_dockerd_comes_to_rest_is_no_drift() {
        let mut drift = DockerDrift::default();
        let ours = docker(Some(files("ours")), Some(files("ours")));
        assert_eq!(drift.handle_look(&ours, &ready()), []);
        // A container that stops changes no file.
        drift.handle_resting(&docker::Step::Probe);
        let theirs = docker(Some(files("theirs")), Some(files("ours")));
        let mut early = drift.clone();
        let told = early.handle_look(&theirs, &writes(files("ours")));
        assert_eq!(told, [Part::DaemonJson]);
        drift.handle_resting(&docker::Step::Rest);
        let rested = docker::Observed {
            daemon: docker::Daemon::Absent,
            ..docker(Some(files("of the end")), None)
        };
        // So it is found afterwards, or, where that was given up half-way, beside the dockerd that runs.
        let given_up = docker(Some(files("of the end")), Some(files("ours")));
        for found in [rested, given_up] {
            assert_eq!(drift.handle_look(&found, &writes(files("ours"))), []);
        }
        drift.handle_performed(docker::Step::WriteConfig(files("ours")), true);
        assert_eq!(drift.handle_look(&ours, &ready()), []);
        let told = drift.handle_look(&theirs, &writes(files("ours")));
        assert_eq!(told, [Part::DaemonJson]);
    }

    #[test]
    fn what_could_not_be_written_is_no_drift_whatever_is_wanted_then() {
        let mut drift = DockerDrift::default();
        let old = docker(Some(files("old")), Some(files("old")));
        assert_eq!(drift.handle_look(&old, &ready()), []);
        drift.handle_performed(docker::Step::WriteConfig(files("new")), false);
        let half = docker(Some(files("new")), Some(files("old")));
        assert_eq!(drift.handle_look(&half, &writes(files("old"))), []);
    }

    #[test]
    fn who_stopped_to_be_a_docker_host_half_way_has_no_drift() {
        let mut drift = DockerDrift::default();
        let ours = docker(Some(files("ours")), Some(files("ours")));
        assert_eq!(drift.handle_look(&ours, &ready()), []);
        drift.handle_unassigned();
        let half = docker(Some(files("of the end")), Some(files("ours")));
        assert_eq!(drift.handle_look(&half, &writes(files("ours"))), []);
    }

    #[test]
    fn a_key_that_others_may_read_is_told_once_whatever_the_files_are_like() {
        let mut drift = DockerDrift::default();
        let at = |seconds: u64| Time::from_micros(seconds * 1_000_000);
        assert_eq!(drift.handle_key(false, at(0)), []);
        assert_eq!(drift.handle_key(true, at(2)), [Part::DockerKey]);
        let ours = docker(Some(files("ours")), Some(files("ours")));
        assert_eq!(drift.handle_look(&ours, &ready()), []);
        // It could not be closed.
        assert_eq!(drift.handle_key(true, at(7200)), []);
        assert_eq!(drift.handle_key(false, at(7202)), []);
        assert_eq!(drift.handle_key(true, at(7204)), [Part::DockerKey]);
    }

    fn k3s(found: Option<&str>) -> k3s::Observed {
        k3s::Observed {
            now: Time::ZERO,
            program: None,
            record: None,
            data: true,
            unmounted: None,
            bare_for: Duration::ZERO,
            secrets: true,
            settings: found.map(str::to_owned),
            emptying: false,
            vacated: false,
            daemon: k3s::Daemon::Ours {
                started_with: Some(k3s::StartedWith {
                    settings: "ours".to_owned(),
                    version: "v1.31.2+k3s1".to_owned(),
                    generation: LogIndex(7),
                    token: None,
                    founds: false,
                    sum: None,
                }),
                ready: true,
            },
            down: false,
            was_ready: true,
            refused_for: Duration::ZERO,
            leftovers: true,
        }
    }

    fn plans(step: Option<k3s::Step>) -> k3s::Plan {
        k3s::Plan {
            phase: k3s::Phase::Ready {
                version: "v1.31.2+k3s1".to_owned(),
                generation: LogIndex(7),
            },
            step,
        }
    }

    /// A step waits out the pause after a failure.
    fn pauses() -> k3s::Plan {
        k3s::Plan {
            phase: k3s::Phase::Failed {
                code: "X",
                reason: "it cannot be spared".to_owned(),
                hint: None,
                retry_at: Some(Time::from_micros(1)),
            },
            step: None,
        }
    }

    #[test]
    fn k3ss_settings_drift_unless_they_are_being_changed() {
        let writes = k3s::Step::WriteSettings("new".to_owned());
        for (found, next, is_drift) in [
            (Some("ours"), None, Some(false)),
            (Some("theirs"), None, Some(true)),
            (Some("theirs"), Some(k3s::Step::Probe), Some(true)),
            (None, Some(k3s::Step::Return), Some(true)),
            (Some("theirs"), Some(writes), None),
            (Some("new"), Some(k3s::Step::Vacate), None),
        ] {
            let planned = plans(next);
            let seen = of_k3s(None, &k3s(found), &planned);
            assert_eq!(seen.map(|seen| !seen.is_empty()), is_drift, "{planned:?}");
        }
    }

    #[test]
    fn settings_that_shoal_wrote_for_a_start_that_does_not_come_are_no_drift() {
        let (mut drift, mut restarted) = (K3sDrift::default(), K3sDrift::default());
        drift.handle_step(&k3s::Step::WriteSettings("new".to_owned()));
        for drift in [&mut drift, &mut restarted] {
            assert_eq!(drift.handle_look(&k3s(Some("new")), &pauses()), []);
        }
        // Its turn is taken from it.
        let returns = plans(Some(k3s::Step::Return));
        assert_eq!(drift.handle_look(&k3s(Some("new")), &returns), []);
        let missing = drift.handle_look(&k3s(None), &returns);
        assert_eq!(missing, [Part::K3sSettings]);
    }

    #[test]
    fn a_look_that_can_say_nothing_ends_no_drift() {
        let at = |seconds: u64, found| k3s::Observed {
            now: Time::from_micros(seconds * 1_000_000),
            ..k3s(Some(found))
        };
        let mut drift = K3sDrift::default();
        let told = drift.handle_look(&at(0, "theirs"), &plans(None));
        assert_eq!(told, [Part::K3sSettings]);
        assert_eq!(drift.handle_look(&at(2, "theirs"), &pauses()), []);
        assert_eq!(drift.handle_look(&at(7200, "theirs"), &plans(None)), []);
        assert_eq!(drift.handle_look(&at(7202, "ours"), &plans(None)), []);
        let told = drift.handle_look(&at(7204, "theirs"), &plans(None));
        assert_eq!(told, [Part::K3sSettings]);
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
            Part::DockerKey,
            Part::K3sSettings,
        ];
        let words: BTreeSet<&str> = parts.iter().map(|part| part.as_str()).collect();
        assert_eq!(words.len(), parts.len());
    }
}
