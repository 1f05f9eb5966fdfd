//! The adapter between plans and the host.
//!
//! Decides nothing: what is the case is told to `runtimes_core::k3s::plan`, and the step that it
//! gives is performed. One task owns the adapter; steps never run side by side.

use std::{path::PathBuf, time::Duration};

use consensus_core::{IpPrefix, K3sBinary, K3sRole, LogIndex, Time};
use runtimes_core::k3s::{Daemon, Observed, Record, StartedWith, Step, TokenMark};
use runtimes_host::{
    files::{self, FileError, HostFiles},
    process::Identity,
    said::Said,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    api::{ApiError, ClusterApi},
    before::Before,
    clean,
    daemon::{Found, OurProcess, Supervision},
    data,
    error::StepError,
    images,
    paths::Paths,
    program::{self, Sources},
    readiness::POLL_EVERY,
    secrets::{self, JoinToken, TokenError},
    turn::Waiting,
};

/// A member that leaves etcd needs a round of its agreement, and of the controllers of K3s's leading
/// server; those change hands in some 20 s when that server is the one that leaves.
const DEPART_WITHIN: Duration = Duration::from_secs(60);
/// As many questions in a row without an answer, each [`POLL_EVERY`] after the other, tell an API
/// server that ended from a busy one.
const SILENCES_OF_AN_END: u32 = 20;
/// For the owner alone.
pub(crate) const RECORD_MODE: u32 = 0o600;

/// What a step needs to know of the stay that it belongs to.
#[derive(Debug)]
pub struct Context<'a> {
    /// Server or agent.
    pub role: K3sRole,
    /// The node's name, in Kubernetes too.
    pub node: &'a str,
    /// Whether somebody else than K3s gives pods their network, in his own time: the node is not
    /// waited for until then, since he needs its cluster to do it.
    pub foreign_network: bool,
    /// Whether it is to be in a cluster. One that is not is asked by nobody whether it is ready, and a
    /// server that stops leaves its cluster for good.
    pub wanted: bool,
    /// Whether it is drained, or at least nothing new is to come to it.
    pub drained: bool,
    /// The token, opened; only for the step that puts it in place.
    pub token: Option<&'a JoinToken>,
}

/// What the node finds out about itself beside its plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sight {
    /// Where its pods have their addresses.
    pub pods: Vec<IpPrefix>,
}

/// What is written down of a stay.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    record: Record,
    /// What was on the host before it.
    #[serde(default)]
    before: Before,
}

/// The K3s of this host.
#[derive(Debug)]
pub struct K3sRuntime {
    pub(crate) paths: Paths,
    pub(crate) supervision: Supervision,
    pub(crate) files: HostFiles,
    /// Since when K3s is waited for to be ready: its start, or when it was missed.
    pub(crate) awaited: Option<Instant>,
    /// Since when it has not been seen ready.
    pub(crate) missed: Option<Instant>,
    /// Which process was ready since it was started.
    pub(crate) was_ready: Option<Identity>,
    /// Since when nobody has listened where it answers this host.
    pub(crate) refused: Option<Instant>,
    /// Since when no data have been seen.
    bare: Option<Instant>,
    /// Where its program came from.
    sources: Sources,
    /// What its turn in a change waits for.
    pub(crate) waiting: Option<Waiting>,
    /// What it has said since.
    pub(crate) said: Option<Said>,
}

impl K3sRuntime {
    /// An adapter for these paths. Touches nothing yet.
    pub fn new(paths: Paths) -> Self {
        Self {
            supervision: Supervision::detect(&paths),
            files: HostFiles::listed_in(paths.manifest()),
            paths,
            awaited: None,
            missed: None,
            was_ready: None,
            refused: None,
            bare: None,
            sources: Sources::default(),
            waiting: None,
            said: None,
        }
    }

    /// Where everything is.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// What is the case on the host, as the planner needs it.
    ///
    /// # Errors
    /// A file on the host could not be read.
    pub async fn observe(
        &mut self,
        binary: &K3sBinary,
        context: &Context<'_>,
        now: Time,
    ) -> Result<(Observed, Sight), StepError> {
        let record = self.kept()?.map(|kept| kept.record);
        let mut was_ready = false;
        let (daemon, sight) = match self.supervision.find(&self.paths).await? {
            Found::Absent => (Daemon::Absent, Sight::default()),
            Found::Foreign { pid } => (Daemon::Foreign { pid }, Sight::default()),
            Found::Ours(process) => {
                let seen = self.see(process.identity, context).await;
                was_ready = self.was_ready(process.identity);
                let daemon = Daemon::Ours {
                    started_with: process.started_with,
                    ready: seen.is_some(),
                };
                (daemon, seen.unwrap_or_default())
            }
        };
        let data = data::is_there(&self.paths);
        let unmounted = match &record {
            Some(record) if !data => data::unmounted(record)?,
            Some(_) | None => None,
        };
        self.bare = (!data).then(|| self.bare.unwrap_or_else(Instant::now));
        let observed = Observed {
            now,
            program: program::in_place(&self.paths, binary, &mut self.sources).await?,
            record,
            data,
            unmounted,
            bare_for: self.bare.map_or(Duration::ZERO, |since| since.elapsed()),
            secrets: secrets::are_made(&self.paths),
            settings: files::read_lossy(&self.paths.settings())?,
            emptying: self.paths.vacated().exists()
                || (self.paths.cordoned().exists() && !context.drained),
            vacated: self.paths.emptied().exists(),
            down: self.is_down(),
            was_ready,
            refused_for: self.refused.map_or(Duration::ZERO, |since| since.elapsed()),
            daemon,
            leftovers: self.files.any(),
        };
        Ok((observed, sight))
    }

    /// Carries one step out. A step that fails leaves the host as it was, or in a state from which the
    /// same step may be tried again.
    ///
    /// # Errors
    /// It could not be done.
    pub async fn perform(&mut self, step: Step, context: &Context<'_>) -> Result<(), StepError> {
        match step {
            Step::Begin { attempt } => self.begin(attempt),
            Step::Vacate => self.vacate(context).await,
            Step::Return => self.come_back(context).await,
            Step::Install { binary } => self.install(&binary).await,
            Step::MakeSecrets => Ok(secrets::make(&self.paths, &self.files)?),
            // The mesh's part, not the host's.
            Step::RequestToken => Ok(()),
            Step::WriteToken(mark) => self.write_token(mark, context),
            Step::WriteSettings(text) => {
                let settings = self.paths.settings();
                Ok(self.files.write(&settings, text.as_bytes(), RECORD_MODE)?)
            }
            Step::Start(with) => self.start(with, context).await,
            Step::Restart(with) => {
                self.stop_daemon(false).await?;
                self.start(with, context).await
            }
            Step::Probe => self.probe(context).await,
            Step::Stop => {
                self.depart(context).await;
                self.stop_daemon(true).await
            }
            Step::Clean => self.clean().await,
        }
    }

    /// What nodes of that role join this server's cluster with.
    ///
    /// # Errors
    /// K3s has not written it yet.
    pub fn token_for(&self, role: K3sRole) -> Result<JoinToken, TokenError> {
        secrets::for_role(&self.paths, role)
    }

    /// The cluster's API, by what this node may do there.
    ///
    /// # Errors
    /// K3s has not written a kubeconfig yet.
    pub async fn api(&self, role: K3sRole) -> Result<ClusterApi, ApiError> {
        ClusterApi::open(&self.kubeconfig(role)).await
    }

    fn kubeconfig(&self, role: K3sRole) -> PathBuf {
        match role {
            K3sRole::Server => self.paths.kubeconfig(),
            K3sRole::Agent => self.paths.kubelet_kubeconfig(),
        }
    }

    fn kept(&self) -> Result<Option<Kept>, FileError> {
        let path = self.paths.record();
        let Some(text) = files::read(&path)? else {
            return Ok(None);
        };
        let kept = serde_json::from_str(&text);
        kept.map(Some)
            .map_err(|error| files::at("read", &path)(error.into()))
    }

    fn keep(&self, kept: &Kept) -> Result<(), StepError> {
        let path = self.paths.record();
        let text = serde_json::to_vec_pretty(kept)
            .map_err(|error| files::at("write", &path)(error.into()))?;
        Ok(self.files.write(&path, &text, RECORD_MODE)?)
    }

    fn begin(&self, attempt: LogIndex) -> Result<(), StepError> {
        self.keep(&Kept {
            record: Record::of(attempt),
            before: Before::look(&self.paths),
        })
    }

    async fn install(&self, binary: &K3sBinary) -> Result<(), StepError> {
        // First, for a program that is in place is not put there again.
        if let Some(images) = &binary.images {
            images::link(&self.paths, images)?;
        }
        Ok(program::install(&self.paths, &self.files, binary).await?)
    }

    fn write_token(&self, mark: TokenMark, context: &Context<'_>) -> Result<(), StepError> {
        let token = context.token.ok_or(TokenError::Malformed)?;
        secrets::put(&self.paths, &self.files, context.role, token)?;
        let mut kept = self.kept()?.ok_or(TokenError::Malformed)?;
        kept.record.token = Some(mark);
        self.keep(&kept)
    }

    async fn start(&mut self, with: StartedWith, context: &Context<'_>) -> Result<(), StepError> {
        if let Found::Ours(_) = self.supervision.find(&self.paths).await? {
            return Ok(());
        }
        let program = program::path(&self.paths)?;
        self.keep_start(with.founds)?;
        self.said = Some(
            self.supervision
                .said_from_now(context.role, &self.paths)
                .await,
        );
        self.supervision
            .start(&program, context.role, &self.paths, &self.files, with)
            .await?;
        (self.awaited, self.missed, self.refused) = (Some(Instant::now()), None, None);
        Ok(())
    }

    /// From here on what is in K3s's directories is shoal's to take off, wherever it is cut off.
    fn keep_start(&self, founds: bool) -> Result<(), StepError> {
        let Some(mut kept) = self.kept()? else {
            return Ok(());
        };
        let present = Record {
            started: true,
            founded: kept.record.founded || founds,
            disk: Some(data::disk(&self.paths)?),
            ..kept.record.clone()
        };
        if kept.record == present {
            return Ok(());
        }
        kept.record = present;
        self.keep(&kept)
    }

    /// A server that leaves for good has its cluster forget it before it stops: of two members the one
    /// that stays has no majority to do that with. One that cannot say so any more leaves all the same.
    async fn depart(&self, context: &Context<'_>) {
        if context.wanted || context.role != K3sRole::Server {
            return;
        }
        match timeout(DEPART_WITHIN, self.leave_etcd(context.node)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "it leaves without its cluster's knowledge"),
            Err(_) => {
                tracing::info!("it leaves without its cluster's knowledge: no answer in time")
            }
        }
    }

    async fn leave_etcd(&self, node: &str) -> Result<(), ApiError> {
        let api = self.api(K3sRole::Server).await?;
        if api.members().await? < 2 {
            return Ok(());
        }
        api.forget(node).await?;
        // The API of one that is no member any more ends with it; one that is merely slow answers
        // again.
        let mut silent = 0;
        while silent < SILENCES_OF_AN_END {
            match api.node(node).await {
                Ok(None) => return Ok(()),
                Ok(Some(_)) => silent = 0,
                Err(_) => silent += 1,
            }
            sleep(POLL_EVERY).await;
        }
        Ok(())
    }

    async fn ours(&self) -> Result<Option<OurProcess>, StepError> {
        match self.supervision.find(&self.paths).await? {
            Found::Ours(process) => Ok(Some(process)),
            Found::Absent => Ok(None),
            Found::Foreign { pid } => Err(StepError::Foreign { pid }),
        }
    }

    async fn stop_daemon(&mut self, for_good: bool) -> Result<(), StepError> {
        if let Some(process) = self.ours().await? {
            let (paths, files) = (&self.paths, &self.files);
            self.supervision
                .stop(paths, files, &process, for_good)
                .await?;
        }
        (self.awaited, self.missed, self.refused) = (None, None, None);
        self.waiting = None;
        Ok(())
    }

    async fn clean(&mut self) -> Result<(), StepError> {
        // One that is between two starts would come up in the middle.
        self.supervision.disable_units(&self.paths).await?;
        match self.kept()? {
            Some(kept) if kept.record.started => clean::clean(&self.paths, &kept.before).await?,
            Some(_) | None => data::withdraw(&self.paths)?,
        }
        program::leave_anothers(&self.paths, &self.files).await?;
        self.supervision.leave_anothers(&self.paths, &self.files)?;
        self.files.remove_all()?;
        Ok(self.supervision.forget_units().await?)
    }
}

/// Whether this host's server may answer for its cluster: its API says that it is ready, and it is
/// not being emptied.
///
/// # Errors
/// Why not.
pub async fn serving(paths: &Paths) -> Result<(), String> {
    if paths.vacated().exists() {
        return Err("it is being emptied".to_owned());
    }
    let api = ClusterApi::open(&paths.kubeconfig()).await;
    let api = api.map_err(|error| error.to_string())?;
    api.ready().await.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn a_stay_is_written_down_and_taken_back_to_the_last_file() {
        let root = tempfile::tempdir().unwrap();
        let below = |path: &str| root.path().join(path);
        let paths = Paths {
            program: below("bin/k3s"),
            config_dir: below("etc"),
            node_dir: below("node"),
            data_dir: below("data"),
            kubelet_dir: below("kubelet"),
            run_dirs: vec![below("run")],
            units: below("units"),
            systemd_marker: below("systemd"),
            ..Paths::under(&below("shoal"))
        };
        let mut runtime = K3sRuntime::new(paths);
        let context = Context {
            role: K3sRole::Agent,
            node: "n1",
            foreign_network: false,
            wanted: true,
            drained: false,
            token: None,
        };
        let binary = K3sBinary::INSTALLED;
        let attempt = LogIndex(7);
        runtime
            .perform(Step::Begin { attempt }, &context)
            .await
            .unwrap();
        runtime.perform(Step::MakeSecrets, &context).await.unwrap();
        let settings = Step::WriteSettings("{}".into());
        runtime.perform(settings, &context).await.unwrap();
        let (seen, _) = runtime
            .observe(&binary, &context, Time::ZERO)
            .await
            .unwrap();
        assert_eq!(seen.record.unwrap().attempt, attempt);
        assert!(seen.secrets && seen.leftovers && seen.daemon == Daemon::Absent);
        assert_eq!(seen.settings.as_deref(), Some("{}"));
        // Somebody saved them in another encoding.
        fs::write(runtime.paths().settings(), b"caf\xe9").unwrap();
        let (seen, _) = runtime
            .observe(&binary, &context, Time::ZERO)
            .await
            .unwrap();
        assert_eq!(seen.settings.as_deref(), Some("caf\u{fffd}"));
        runtime.perform(Step::Clean, &context).await.unwrap();
        let (seen, _) = runtime
            .observe(&binary, &context, Time::ZERO)
            .await
            .unwrap();
        assert!(!seen.leftovers && seen.record.is_none());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
