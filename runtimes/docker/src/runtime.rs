//! The adapter between plans and the host.
//!
//! Decides nothing: what is the case is told to `runtimes_core::docker::plan`, and the step that
//! it gives is performed. One task owns the adapter; steps never run side by side.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use consensus_core::{Time, WallMs};
use runtimes_core::docker::{CertificateNames, Daemon, Desired, Observed, Running, Step};
use runtimes_host::files::HostFiles;

use crate::{
    data_root,
    error::StepError,
    host::{DockerError, DockerHost},
    identity,
    install::{self, Engine},
    paths::Paths,
    pause::Pause,
    process::{Found, OurProcess},
    readiness, rest, shutdown,
    supervisor::{self, Supervision},
    systemd, validate,
};

/// dockerd's own start takes 1-2 s; with thousands of containers to restore, minutes.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// What an operator may set about the engine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// A dockerd to use instead of the one in PATH.
    pub dockerd: Option<PathBuf>,
    /// Whether packages may be installed.
    pub install_packages: bool,
    /// Who keeps dockerd running; found out when absent.
    pub supervision: Option<Supervision>,
    /// How long a start may take.
    pub ready_within: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dockerd: None,
            install_packages: true,
            supervision: None,
            ready_within: READY_WITHIN,
        }
    }
}

/// The Docker engine of this host.
#[derive(Debug)]
pub struct DockerRuntime {
    paths: Paths,
    settings: Settings,
    supervision: Supervision,
    files: HostFiles,
    /// Asked once: a version does not change under a dockerd that shoal supervises without its
    /// program's path or size changing too.
    engine: Option<(Engine, u64)>,
}

impl DockerRuntime {
    /// An adapter for these paths. Touches nothing yet.
    pub fn new(paths: Paths, settings: Settings) -> Self {
        let supervision = settings
            .supervision
            .unwrap_or_else(|| Supervision::detect(&paths));
        let files = HostFiles::listed_in(paths.manifest());
        Self {
            paths,
            settings,
            supervision,
            files,
            engine: None,
        }
    }

    /// Where everything is.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// What is the case on the host, as the planner needs it.
    pub async fn observe(
        &mut self,
        desired: &Desired,
        now: Time,
        wall: WallMs,
    ) -> Result<Observed, StepError> {
        let csr = match desired.names() {
            Some(names) => self.request(&names)?,
            None => None,
        };
        Ok(Observed {
            now,
            wall,
            engine: self.engine().await?.map(|engine| engine.version),
            csr,
            files: supervisor::config_files(&self.paths)?,
            daemon: self.daemon().await?,
            leftovers: self.files.any(),
            waiting: rest::any_waits(&self.paths),
            elsewhere: data_root::elsewhere(&self.paths),
        })
    }

    /// Keeps everybody but its owner from dockerd's key. Whether its mode let others have it.
    ///
    /// # Errors
    /// It could not be looked at, or not be closed.
    pub fn close_key(&self) -> Result<bool, StepError> {
        Ok(identity::close_key(&self.paths)?)
    }

    /// What is the case as far as it matters while the host comes to rest: dockerd, and the
    /// containers that run in it.
    pub async fn observe_rest(&self) -> Result<(Daemon, Vec<Running>), StepError> {
        let daemon = self.daemon().await?;
        let running = match &daemon {
            Daemon::Ours {
                answers: Some(_), ..
            } => self.engine_here().await?.running().await?,
            Daemon::Ours { answers: None, .. }
            | Daemon::Absent
            | Daemon::Adoptable { .. }
            | Daemon::Foreign { .. } => Vec::new(),
        };
        Ok((daemon, running))
    }

    async fn engine_here(&self) -> Result<DockerHost, DockerError> {
        DockerHost::connect_local(&self.paths.socket).await
    }

    /// The certificate request for these names (PKCS#10, DER); `None` before a key is made.
    pub fn request(&self, names: &CertificateNames) -> Result<Option<Vec<u8>>, StepError> {
        Ok(identity::request(&self.paths, names)?)
    }

    /// Carries one step out. A step that fails leaves the host as it was, or in a state from which
    /// the same step may be tried again.
    pub async fn perform(&mut self, step: Step) -> Result<(), StepError> {
        match step {
            Step::Install => self.install().await,
            Step::MakeKey => Ok(identity::make_key(&self.paths, &self.files)?),
            // The mesh's part, not the host's.
            Step::RequestCertificate { .. } => Ok(()),
            Step::WriteConfig(wanted) => {
                let engine = self.engine_or_install().await?;
                Ok(validate::write_config(&engine, &self.paths, &self.files, &wanted).await?)
            }
            Step::Start => self.start().await,
            Step::Reload => self.reload().await,
            Step::Restart => self.restart().await,
            Step::Probe => self.probe().await,
            Step::Stop => self.stop().await,
            Step::RemoveFiles => self.remove().await,
            Step::StopContainer(container) => {
                let host = self.engine_here().await?;
                rest::stop(&host, &self.paths, &self.files, &container).await
            }
            Step::Rest => self.end_daemon().await,
            Step::StartContainers => {
                let host = self.engine_here().await?;
                rest::start_waiting(&host, &self.paths, &self.files).await
            }
        }
    }

    /// Removes every file that shoal wrote on the host. Images, containers and volumes stay.
    pub async fn remove(&mut self) -> Result<(), StepError> {
        let had_drop_in = self.paths.drop_in.exists();
        self.files.remove_all()?;
        if had_drop_in && self.supervision == Supervision::Systemd {
            systemd::forget_drop_in().await?;
        }
        Ok(())
    }

    async fn engine(&mut self) -> Result<Option<Engine>, StepError> {
        let Ok(dockerd) = install::locate(self.settings.dockerd.as_deref()) else {
            self.engine = None;
            return Ok(None);
        };
        let size = std::fs::metadata(&dockerd).map_or(0, |metadata| metadata.len());
        if let Some((engine, known_size)) = &self.engine
            && engine.dockerd == dockerd
            && *known_size == size
        {
            return Ok(Some(engine.clone()));
        }
        let engine = install::inspect(dockerd).await?;
        self.engine = Some((engine.clone(), size));
        Ok(Some(engine))
    }

    async fn install(&mut self) -> Result<(), StepError> {
        let given = self.settings.dockerd.as_deref();
        let allowed = self.settings.install_packages;
        let engine = install::install(&self.paths, &self.files, given, allowed).await?;
        tracing::info!(dockerd = %engine.dockerd.display(), version = %engine.version, "engine found");
        Ok(())
    }

    async fn engine_or_install(&mut self) -> Result<Engine, StepError> {
        match self.engine().await? {
            Some(engine) => Ok(engine),
            None => {
                let given = self.settings.dockerd.as_deref();
                let allowed = self.settings.install_packages;
                Ok(install::install(&self.paths, &self.files, given, allowed).await?)
            }
        }
    }

    async fn daemon(&self) -> Result<Daemon, StepError> {
        Ok(match self.supervision.find(&self.paths).await? {
            Found::Absent => Daemon::Absent,
            Found::Adoptable { pid } => Daemon::Adoptable { pid },
            Found::Foreign { pid } => Daemon::Foreign { pid },
            Found::Ours(process) => Daemon::Ours {
                pid: process.identity.pid,
                started_with: process.started_with,
                answers: readiness::version(&self.paths.socket).await,
            },
        })
    }

    /// The process of ours; `None` if none runs. A foreign one is an error.
    async fn ours(&self) -> Result<Option<OurProcess>, StepError> {
        match self.supervision.find(&self.paths).await? {
            Found::Ours(process) => Ok(Some(process)),
            Found::Absent | Found::Adoptable { .. } => Ok(None),
            Found::Foreign { pid } => Err(supervisor::refuse_foreign(pid).into()),
        }
    }

    async fn start(&mut self) -> Result<(), StepError> {
        if self.ours().await?.is_some() {
            return self.probe().await;
        }
        let engine = self.engine_or_install().await?;
        let within = self.settings.ready_within;
        let version = self
            .supervision
            .start(&engine, &self.paths, &self.files, within)
            .await?;
        tracing::info!(%version, "dockerd is ready");
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), StepError> {
        let pause = Pause::begin().await;
        let restarted = self.stop_and_start().await;
        pause.end().await;
        restarted
    }

    async fn stop_and_start(&mut self) -> Result<(), StepError> {
        if let Some(process) = self.ours().await? {
            shutdown::stop_for_restart(self.supervision, &self.paths, &process).await?;
        }
        let engine = self.engine_or_install().await?;
        let within = self.settings.ready_within;
        let version = self
            .supervision
            .start(&engine, &self.paths, &self.files, within)
            .await?;
        tracing::info!(%version, "dockerd is ready again");
        Ok(())
    }

    async fn reload(&mut self) -> Result<(), StepError> {
        match self.ours().await? {
            Some(process) => Ok(self
                .supervision
                .reload(&self.paths, &self.files, process)
                .await?),
            None => self.start().await,
        }
    }

    async fn probe(&mut self) -> Result<(), StepError> {
        let Some(process) = self.ours().await? else {
            let said = self.supervision.ever_said(&self.paths);
            return Err(readiness::why(&said.text().await).into());
        };
        let within = self.settings.ready_within;
        let said = self.supervision.ever_said(&self.paths);
        readiness::wait(&self.paths, process.identity, &said, within).await?;
        Ok(())
    }

    /// Takes the mesh's networks out of Docker, as far as no container needs them: their bridges
    /// would stay on the host. What cannot be taken out stops nobody.
    async fn clear_networks(&self) {
        let cleared = async {
            let host = DockerHost::connect_local(&self.paths.socket).await?;
            host.bring_networks_in_line(&BTreeMap::new()).await
        };
        match cleared.await {
            Ok(done) => {
                for obstacle in done.obstacles {
                    tracing::warn!(%obstacle, "a network of Docker stays on this host");
                }
            }
            Err(error) => tracing::warn!(%error, "networks of Docker may stay on this host"),
        }
    }

    async fn stop(&mut self) -> Result<(), StepError> {
        if self.ours().await?.is_some() {
            self.clear_networks().await;
        }
        self.end_daemon().await
    }

    async fn end_daemon(&self) -> Result<(), StepError> {
        match self.ours().await? {
            Some(process) => {
                Ok(shutdown::stop(self.supervision, &self.paths, &self.files, process).await?)
            }
            None => Ok(()),
        }
    }
}
