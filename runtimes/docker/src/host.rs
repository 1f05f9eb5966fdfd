//! What can be done with an engine: list, pull, import, run, read logs, stop, remove; networks.
//!
//! Decides: how a container is published. Its ports are bound to the host's overlay addresses and
//! to nothing else; there is no way to ask for 0.0.0.0.
//! Never: leaves half of a `run` behind (a container that was created and cannot be started is
//! removed), pulls all tags of a repository when one was not named.

mod error;
mod networks;
pub(crate) mod shape;

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use bollard::{
    Docker, body_try_stream,
    query_parameters::{
        CreateContainerOptionsBuilder, CreateImageOptionsBuilder, ListContainersOptionsBuilder,
        ListImagesOptions, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
        RemoveImageOptionsBuilder, StopContainerOptionsBuilder,
    },
};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use runtimes_core::docker::{Listen, Restarts, Running};
use rustls::ClientConfig;
use serde::Deserialize;

pub use error::DockerError;
pub use networks::{AttachedContainer, NetworkSurvey, Networks};
pub use shape::{
    ContainerSpec, ContainerSummary, ImageSummary, LogLine, LogStream, Protocol, PublishedPort,
    PullProgress, RestartPolicy, ShownPort,
};

use crate::transport::Endpoint;
use error::Subject;

/// Reading the version also proves that the engine is there. Longer than a connection may take.
const VERSION_WITHIN: Duration = Duration::from_secs(25);
/// An answer's first byte. Stopping a container answers only when it has stopped, which has its
/// own limit below this one.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);
/// An import answers when all of it has been sent and unpacked, a stop when the container has taken
/// all the time that it was made with.
const PATIENT_WITHIN: Duration = Duration::from_secs(60 * 60);
/// What `docker stop` gives a container by default.
const STOP_GRACE_SECONDS_MAX: u16 = 100;

/// What an engine says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct EngineInfo {
    /// dockerd's version.
    pub version: String,
    /// The newest API version it speaks.
    pub api_version: String,
    /// Its machine's architecture, in Go's words.
    #[serde(default)]
    pub arch: String,
}

/// An engine that answers.
#[derive(Clone)]
pub struct DockerHost {
    endpoint: Endpoint,
    info: EngineInfo,
    client: Docker,
    /// Of those that may take their time.
    patient: Docker,
}

impl fmt::Debug for DockerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerHost")
            .field("endpoint", &self.endpoint.name())
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl DockerHost {
    /// Connects over mutual TLS and agrees on an API version. `config` says whom to believe and
    /// what to show.
    pub async fn connect(
        address: SocketAddr,
        config: Arc<ClientConfig>,
    ) -> Result<Self, DockerError> {
        Self::over(Endpoint::Tls { address, config }).await
    }

    /// Connects to the engine of this node through its unix socket.
    pub async fn connect_local(socket: &std::path::Path) -> Result<Self, DockerError> {
        Self::over(Endpoint::Unix(socket.to_owned())).await
    }

    async fn over(endpoint: Endpoint) -> Result<Self, DockerError> {
        let failed = error::of(Subject::Engine, endpoint.name());
        let info = ask_version(&endpoint).await?;
        let version = shape::api_version(&info.api_version);
        let client = |within| endpoint.client(&version, within);
        Ok(Self {
            client: client(ANSWER_WITHIN).map_err(&failed)?,
            patient: client(PATIENT_WITHIN).map_err(&failed)?,
            endpoint,
            info,
        })
    }

    /// What the engine said when it was connected to.
    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// Whether it still answers.
    pub async fn ping(&self) -> Result<EngineInfo, DockerError> {
        ask_version(&self.endpoint).await
    }

    /// Containers, stopped ones only with `all`.
    pub async fn containers(&self, all: bool) -> Result<Vec<ContainerSummary>, DockerError> {
        let options = ListContainersOptionsBuilder::new().all(all).build();
        let listed = self.client.list_containers(Some(options)).await;
        let listed = listed.map_err(self.failed(Subject::Engine))?;
        Ok(listed.into_iter().map(ContainerSummary::from).collect())
    }

    /// Images.
    pub async fn images(&self) -> Result<Vec<ImageSummary>, DockerError> {
        let listed = self.client.list_images(None::<ListImagesOptions>).await;
        let listed = listed.map_err(self.failed(Subject::Engine))?;
        Ok(listed.into_iter().map(ImageSummary::from).collect())
    }

    /// Pulls one image. The pull is over when the stream ends without an error; it is given up
    /// when the stream is dropped.
    pub fn pull(
        &self,
        image: &str,
    ) -> impl Stream<Item = Result<PullProgress, DockerError>> + Send + use<> {
        let reference = shape::with_tag(image);
        let failed = self.failed(Subject::Image(reference.clone()));
        let options = CreateImageOptionsBuilder::new()
            .from_image(&reference)
            .build();
        self.client
            .create_image(Some(options), None, None)
            .map(move |progress| progress.map(PullProgress::from).map_err(&failed))
    }

    /// Makes an image of a root file system given as a tar stream. Returns its id.
    pub async fn import(
        &self,
        tar: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
        image: &str,
    ) -> Result<String, DockerError> {
        let reference = shape::with_tag(image);
        let (repo, tag) = shape::split_tag(&reference);
        let options = CreateImageOptionsBuilder::new()
            .from_src("-")
            .repo(repo)
            .tag(tag)
            .build();
        let body = body_try_stream(tar);
        let mut answers = self.patient.create_image(Some(options), Some(body), None);
        let failed = self.failed(Subject::Image(reference.clone()));
        let mut id = None;
        while let Some(answer) = answers.try_next().await.map_err(&failed)? {
            id = answer.status.or(id);
        }
        id.ok_or_else(|| DockerError::NoAnswer {
            endpoint: self.endpoint.name(),
        })
    }

    /// Creates and starts a container whose ports answer on the host's overlay addresses. Returns
    /// its id. If it cannot be started it is removed.
    pub async fn run(&self, spec: &ContainerSpec, on: Listen) -> Result<String, DockerError> {
        let body = shape::create_body(spec, on)?;
        let mut options = CreateContainerOptionsBuilder::new();
        if let Some(name) = &spec.name {
            options = options.name(name);
        }
        let created = self.client.create_container(Some(options.build()), body);
        let failed = self.failed(Subject::NewContainer {
            image: spec.image.clone(),
            name: spec.name.clone().unwrap_or_default(),
        });
        let id = created.await.map_err(&failed)?.id;
        match self.client.start_container(&id, None).await {
            Ok(()) => Ok(id),
            Err(error) => {
                self.undo(&id).await;
                Err(failed(error))
            }
        }
    }

    async fn undo(&self, id: &str) {
        let options = RemoveContainerOptionsBuilder::new()
            .force(true)
            .v(true)
            .build();
        if let Err(error) = self.client.remove_container(id, Some(options)).await {
            tracing::warn!(%error, container = id, "a container that did not start stays behind");
        }
    }

    /// A container's output, from the last `tail` lines on; all of it when absent. With `follow`
    /// the stream lasts as long as the container runs.
    pub fn logs(
        &self,
        container: &str,
        follow: bool,
        tail: Option<u32>,
    ) -> impl Stream<Item = Result<LogLine, DockerError>> + Send + use<> {
        let tail = tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .follow(follow)
            .tail(&tail)
            .build();
        let failed = self.failed(Subject::Container(container.to_owned()));
        self.client
            .logs(container, Some(options))
            .map(move |line| line.map(LogLine::from).map_err(&failed))
    }

    /// Stops a container; one that has not ended after `grace_seconds` is killed. Docker's own
    /// default of 10 s when absent. A container that is stopped already is no error.
    pub async fn stop(
        &self,
        container: &str,
        grace_seconds: Option<u16>,
    ) -> Result<(), DockerError> {
        let options = grace_seconds.map(|seconds| {
            let seconds = seconds.min(STOP_GRACE_SECONDS_MAX);
            StopContainerOptionsBuilder::new()
                .t(i32::from(seconds))
                .build()
        });
        let stopped = self.client.stop_container(container, options).await;
        stopped.map_err(self.failed(Subject::Container(container.to_owned())))
    }

    /// Stops a container with the time that it was made with, however long.
    pub(crate) async fn stop_in_its_time(&self, container: &str) -> Result<(), DockerError> {
        let stopped = self.patient.stop_container(container, None).await;
        stopped.map_err(self.failed(Subject::Container(container.to_owned())))
    }

    /// Starts a container. One that runs is no error.
    pub(crate) async fn start(&self, container: &str) -> Result<(), DockerError> {
        let started = self.client.start_container(container, None).await;
        started.map_err(self.failed(Subject::Container(container.to_owned())))
    }

    /// The containers that run, and what becomes of each when it ends.
    pub(crate) async fn running(&self) -> Result<Vec<Running>, DockerError> {
        let options = ListContainersOptionsBuilder::new().build();
        let listed = self.client.list_containers(Some(options)).await;
        let mut running = Vec::new();
        for container in listed.map_err(self.failed(Subject::Engine))? {
            let created = container.created.unwrap_or_default();
            let ContainerSummary { id, name, .. } = container.into();
            match self.restarts(&id).await {
                Ok(restarts) => running.push(Running {
                    id,
                    name,
                    restarts,
                    created,
                }),
                // It has ended meanwhile, and was to be removed then.
                Err(DockerError::ContainerNotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(running)
    }

    async fn restarts(&self, container: &str) -> Result<Restarts, DockerError> {
        let asked = self.client.inspect_container(container, None).await;
        let failed = self.failed(Subject::Container(container.to_owned()));
        let config = asked.map_err(failed)?.host_config;
        let policy = config.and_then(|config| config.restart_policy);
        Ok(shape::restarts(policy.and_then(|policy| policy.name)))
    }

    /// Removes a container; a running one only with `force`.
    pub async fn remove(&self, container: &str, force: bool) -> Result<(), DockerError> {
        let options = RemoveContainerOptionsBuilder::new().force(force).build();
        let removed = self.client.remove_container(container, Some(options)).await;
        removed.map_err(self.failed(Subject::Container(container.to_owned())))
    }

    /// Removes an image, or one of its names.
    pub async fn remove_image(&self, image: &str, force: bool) -> Result<(), DockerError> {
        let options = RemoveImageOptionsBuilder::new().force(force).build();
        let removed = self.client.remove_image(image, Some(options), None).await;
        removed
            .map(|_| ())
            .map_err(self.failed(Subject::Image(image.to_owned())))
    }

    fn failed(
        &self,
        subject: Subject,
    ) -> impl Fn(bollard::errors::Error) -> DockerError + Send + use<> {
        error::of(subject, self.endpoint.name())
    }
}

async fn ask_version(endpoint: &Endpoint) -> Result<EngineInfo, DockerError> {
    let failed = error::of(Subject::Engine, endpoint.name());
    let body = endpoint.version(VERSION_WITHIN).await.map_err(&failed)?;
    serde_json::from_slice(&body).map_err(|error| failed(error.into()))
}
