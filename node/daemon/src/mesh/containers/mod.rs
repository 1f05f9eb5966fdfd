//! Keeps the networks of this node's containers as the mesh wants them, and their names known.
//!
//! Decides when Docker is asked what it has. Which networks it is to have is `zone`'s decision, what to
//! change in Docker that of `runtimes_core::networks`, what a name means that of
//! `overlay_core::names`. A dockerd that shoal did not start, or that is about to stop, is not asked.
//!
//! Never: stops a container, or takes a network from one. Networks and containers outlive this task;
//! names come back with it.

mod zone;

pub(crate) use zone::names_server;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use consensus_core::{Agreed, NodeId};
use futures::{FutureExt as _, Stream, StreamExt as _};
use overlay_core::membership::Condition;
use overlay_filter::ContainerBridge;
use overlay_names::{Conditions, Service};
use overlay_wireguard::check_overlap;
use runtimes_core::networks::BridgeNetwork;
use runtimes_docker::{DockerError, DockerHost, NetworkSurvey};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::zone::{Place, bridges, directory, places, wanted};
use super::{
    MembersRx,
    docker::DockerStatus,
    leftovers::is_there,
    overlay::{OverlayStatus, with_sources},
    views::Views,
};

/// Repairs what somebody else changed in Docker, and finds what an event did not tell.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// After Docker could not be asked, or something stood in the way.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// A container that starts is several events at once.
const EVENTS_APART: Duration = Duration::from_millis(30);

/// Docker's own word that something may have changed.
type Changes = Pin<Box<dyn Stream<Item = Result<(), DockerError>> + Send>>;

/// The task's inputs.
pub(crate) struct Containers {
    pub(crate) me: NodeId,
    pub(crate) views: Views,
    pub(crate) members: MembersRx,
    pub(crate) overlay: watch::Receiver<OverlayStatus>,
    pub(crate) docker: watch::Receiver<DockerStatus>,
    /// For the packet filter.
    pub(crate) bridges: watch::Sender<BTreeSet<ContainerBridge>>,
    /// For the names' server.
    pub(crate) names: watch::Sender<Service>,
    /// Where the names' server can't listen.
    pub(crate) unheard: watch::Receiver<Conditions>,
    /// What is wrong, in words.
    pub(crate) status: watch::Sender<Vec<String>>,
    pub(crate) stop: CancellationToken,
}

/// What is known of Docker from one turn to the next.
#[derive(Default)]
struct Known {
    host: Option<(DockerHost, Changes)>,
    survey: NetworkSurvey,
}

impl Containers {
    /// Runs until cancelled. Networks and containers stay.
    pub(crate) async fn run(self) {
        let (mut view, mut members) = (self.views.watch(), self.members.clone());
        let (mut overlay, mut docker) = (self.overlay.clone(), self.docker.clone());
        let mut unheard = self.unheard.clone();
        let mut known = Known::default();
        loop {
            let agreed = view.borrow_and_update().agreed.clone();
            members.mark_unchanged();
            unheard.mark_unchanged();
            let up = overlay.borrow_and_update().up.keys().copied().collect();
            let socket = docker.borrow_and_update().socket.clone();
            let places = places(&agreed, &self.me, &up);
            let conditions = self.turn(&agreed, &places, socket, &mut known).await;
            let pause = match conditions.is_empty() {
                true => LOOK_EVERY,
                false => RETRY_PAUSE,
            };
            self.publish(conditions);
            let until = Instant::now() + pause;
            // All arms only wait; everything is looked at anew above.
            let open = tokio::select! {
                () = self.stop.cancelled() => false,
                changed = view.changed() => changed.is_ok(),
                changed = members.changed() => changed.is_ok(),
                changed = overlay.changed() => changed.is_ok(),
                changed = docker.changed() => changed.is_ok(),
                changed = unheard.changed() => changed.is_ok(),
                () = known.changed() => true,
                () = sleep_until(until) => true,
            };
            if !open {
                return;
            }
        }
    }

    /// Brings Docker in line and tells the others what there is. Gives back what is wrong.
    async fn turn(
        &self,
        agreed: &Agreed,
        places: &[Place],
        socket: Option<PathBuf>,
        known: &mut Known,
    ) -> Vec<String> {
        // The filter is told first: it may as well know of a bridge that is not there yet.
        self.bridges.send_if_modified(|present| {
            let now = bridges(places);
            let differs = *present != now;
            *present = now;
            differs
        });
        let mut conditions: Vec<String> = zone::without_subnet(agreed, &self.me).collect();
        match socket {
            Some(socket) => {
                let (networks, blocked) = free_of_routes(wanted(places)).await;
                conditions.extend(blocked);
                match known.bring_in_line(&socket, &networks).await {
                    Ok(obstacles) => conditions.extend(obstacles),
                    Err(error) => {
                        known.host = None;
                        conditions.push(format!("container networks: {}", with_sources(&error)));
                    }
                }
            }
            // A dockerd that is away for a moment leaves its containers running.
            None => known.host = None,
        }
        self.tell_names(agreed, places, &known.survey);
        // Without dockerd there is no bridge, and nobody asks.
        if known.host.is_some() {
            conditions.extend(self.unheard.borrow().values().cloned());
        }
        conditions
    }

    fn tell_names(&self, agreed: &Agreed, places: &[Place], survey: &NetworkSurvey) {
        let members = self.members.borrow().clone();
        let alive = |node: &NodeId| {
            let known = members.get(node);
            known.is_none_or(|member| member.condition != Condition::Dead)
        };
        let directory = directory(agreed, &self.me, places, survey, alive);
        let listen: BTreeSet<IpAddr> = places.iter().flat_map(Place::listens_at).collect();
        self.names.send_if_modified(|present| {
            let differs = *present.directory != directory || present.listen != listen;
            if differs {
                *present = Service {
                    directory: Arc::new(directory),
                    listen,
                };
            }
            differs
        });
    }

    fn publish(&self, conditions: Vec<String>) {
        self.status.send_if_modified(|present| {
            for condition in conditions.iter().filter(|one| !present.contains(one)) {
                tracing::warn!(condition, "container networks");
            }
            let differs = *present != conditions;
            *present = conditions;
            differs
        });
    }
}

impl Known {
    async fn bring_in_line(
        &mut self,
        socket: &Path,
        wanted: &BTreeMap<String, BridgeNetwork>,
    ) -> Result<Vec<String>, DockerError> {
        let host = match self.host.take() {
            Some(known) => known,
            None => {
                let host = DockerHost::connect_local(socket).await?;
                // Before the first look: what changes after it is told.
                let changes: Changes = Box::pin(host.changes());
                (host, changes)
            }
        };
        let networks = host.0.bring_networks_in_line(wanted).await?;
        self.host = Some(host);
        self.survey = networks.survey;
        let obstacles = networks.obstacles.iter();
        Ok(obstacles
            .map(|obstacle| format!("{obstacle} ({}); {}", obstacle.code(), obstacle.hint()))
            .collect())
    }

    /// Waits until Docker says that something changed. Cancel-safe: an event that is lost with it
    /// was seen by whoever takes the next turn.
    async fn changed(&mut self) {
        let Some((_, changes)) = &mut self.host else {
            return std::future::pending().await;
        };
        match changes.next().await {
            Some(Ok(())) => {
                sleep(EVENTS_APART).await;
                while let Some(Some(Ok(()))) = changes.next().now_or_never() {}
            }
            // It ended or restarts. The next turn connects anew.
            Some(Err(_)) | None => self.host = None,
        }
    }
}

/// Those that this machine does not route elsewhere, and what is said of the others. One whose bridge
/// is there had its place before whatever came later.
async fn free_of_routes(
    networks: BTreeMap<String, BridgeNetwork>,
) -> (BTreeMap<String, BridgeNetwork>, Vec<String>) {
    let (mut free, mut blocked) = (BTreeMap::new(), Vec::new());
    for (name, network) in networks {
        if is_there(&network.bridge) {
            free.insert(name, network);
            continue;
        }
        match check_overlap(overlay_filter::cidr(network.subnet), &network.bridge).await {
            Ok(()) => drop(free.insert(name, network)),
            Err(error) => blocked.push(format!(
                "no network for containers of {}: {error} ({}); {}",
                network.network,
                error.code(),
                error.hint()
            )),
        }
    }
    (free, blocked)
}
