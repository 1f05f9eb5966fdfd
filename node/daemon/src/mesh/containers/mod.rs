//! Keeps the networks of this node's containers as the mesh wants them, and their names known.
//!
//! Decides when Docker is asked what it has, and when a bridge that it does not make is given up on:
//! dockerd is told of a server for names only where containers can ask it. Which networks it is to have is `zone`'s decision, what to
//! change in Docker that of `runtimes_core::networks`, what a name means that of
//! `overlay_core::names`. A dockerd that shoal did not start, or that is about to stop, is not asked.
//!
//! Never: stops a container, or takes a network from one. Networks and containers outlive this task;
//! names come back with it.

mod zone;

pub(crate) use zone::{NamesServer, Served, bridges, has_containers, names_server};

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
use overlay_names::{Listening, Service};
use overlay_wireguard::check_overlap;
use runtimes_core::networks::BridgeNetwork;
use runtimes_docker::{DockerError, DockerHost, NetworkSurvey, Networks};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use self::zone::{Place, directory, places, served, wanted};
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
const BURST: Duration = Duration::from_millis(30);
/// A look at all of Docker's networks and containers costs dockerd more than each event that leads to
/// one; a name is known by then soon enough.
const LOOKS_APART: Duration = Duration::from_millis(250);
/// A dockerd that hangs is not waited for: others depend on what is told here. Making a network takes
/// a second where all is slow.
const DOCKER_WITHIN: Duration = Duration::from_secs(20);
/// A bridge that Docker has not made by then is given up on until it is there.
const BRIDGE_WITHIN: Duration = Duration::from_secs(5);

/// Docker's own word that something may have changed.
type Changes = Pin<Box<dyn Stream<Item = Result<(), DockerError>> + Send>>;

/// The task's inputs.
pub(crate) struct Containers {
    pub(crate) me: NodeId,
    pub(crate) views: Views,
    pub(crate) members: MembersRx,
    pub(crate) overlay: watch::Receiver<OverlayStatus>,
    pub(crate) docker: watch::Receiver<DockerStatus>,
    /// The bridges of containers that are no network's, for the packet filter.
    pub(crate) tenants: watch::Sender<BTreeSet<String>>,
    /// For the names' server.
    pub(crate) names: watch::Sender<Service>,
    /// Where the names' server listens.
    pub(crate) listening: watch::Receiver<Listening>,
    /// Where containers can ask it, for dockerd.
    pub(crate) served: watch::Sender<Served>,
    /// What is wrong, in words.
    pub(crate) status: watch::Sender<Vec<String>>,
    pub(crate) stop: CancellationToken,
}

/// What is known of Docker from one turn to the next.
#[derive(Default)]
struct Known {
    host: Option<(DockerHost, Changes)>,
    /// When it was looked at last.
    looked: Option<Instant>,
    survey: NetworkSurvey,
    /// Since when Docker lacks a bridge that it was to make.
    missing: BTreeMap<String, Instant>,
}

impl Containers {
    /// Runs until cancelled. Networks and containers stay.
    pub(crate) async fn run(self) {
        let (mut view, mut members) = (self.views.watch(), self.members.clone());
        let (mut overlay, mut docker) = (self.overlay.clone(), self.docker.clone());
        let mut listening = self.listening.clone();
        let mut known = Known::default();
        loop {
            let agreed = view.borrow_and_update().agreed.clone();
            members.mark_unchanged();
            listening.mark_unchanged();
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
                changed = listening.changed() => changed.is_ok(),
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
        let mut conditions: Vec<String> = zone::without_subnet(agreed, &self.me).collect();
        let (networks, blocked) = free_of_routes(wanted(places)).await;
        // Before Docker is asked: dockerd may wait for it.
        self.tell_names(agreed, places, &known.survey);
        self.tell_dockerd(places, &networks, known);
        match socket {
            Some(socket) => {
                conditions.extend(blocked);
                match known.bring_in_line(&socket, &networks).await {
                    Ok(obstacles) => conditions.extend(obstacles),
                    Err(reason) => conditions.push(format!("container networks: {reason}")),
                }
                known.look_for_bridges(&networks);
                self.tell_filter(&known.survey);
                self.tell_names(agreed, places, &known.survey);
                self.tell_dockerd(places, &networks, known);
            }
            // A dockerd that is away for a moment leaves its containers running.
            None => known.host = None,
        }
        // Without dockerd there is no bridge, and nobody asks.
        if known.host.is_some() {
            conditions.extend(self.listening.borrow().failed.values().cloned());
        }
        conditions
    }

    fn tell_filter(&self, survey: &NetworkSurvey) {
        self.tenants.send_if_modified(|present| {
            let differs = *present != survey.other_bridges;
            present.clone_from(&survey.other_bridges);
            differs
        });
    }

    fn tell_dockerd(
        &self,
        places: &[Place],
        networks: &BTreeMap<String, BridgeNetwork>,
        known: &Known,
    ) {
        let can_be = |bridge: &BridgeNetwork| {
            networks.values().any(|network| network == bridge) && !known.lacks(&bridge.bridge)
        };
        let now = served(places, &self.listening.borrow(), can_be);
        self.served.send_if_modified(|present| {
            let differs = *present != now;
            *present = now;
            differs
        });
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
    ) -> Result<Vec<String>, String> {
        let host = self.host.take();
        self.looked = Some(Instant::now());
        let conversation = timeout(DOCKER_WITHIN, converse(host, socket, wanted)).await;
        let conversation = conversation.map_err(|_| "dockerd does not answer".to_owned())?;
        let (host, networks) = conversation.map_err(|error| with_sources(&error))?;
        self.host = Some(host);
        self.survey = networks.survey;
        let obstacles = networks.obstacles.iter();
        Ok(obstacles
            .map(|obstacle| format!("{obstacle} ({}); {}", obstacle.code(), obstacle.hint()))
            .collect())
    }

    /// Notes which bridges Docker was to make and has not.
    fn look_for_bridges(&mut self, wanted: &BTreeMap<String, BridgeNetwork>) {
        let now = Instant::now();
        let wanted = wanted.values().map(|network| &network.bridge);
        let missing = wanted.filter(|bridge| !is_there(bridge));
        self.missing = missing
            .map(|bridge| {
                let since = self.missing.get(bridge).copied();
                (bridge.clone(), since.unwrap_or(now))
            })
            .collect();
    }

    /// Whether it must be taken that this bridge can't be made.
    fn lacks(&self, bridge: &str) -> bool {
        let since = self.missing.get(bridge);
        since.is_some_and(|since| since.elapsed() >= BRIDGE_WITHIN)
    }

    /// Waits until Docker says that something changed and it is time to look. Cancel-safe: an event
    /// that is lost with it was seen by whoever takes the next turn.
    async fn changed(&mut self) {
        let Some((_, changes)) = &mut self.host else {
            return std::future::pending().await;
        };
        if !burst(changes, self.looked).await {
            // It ended or restarts. The next turn connects anew.
            self.host = None;
        }
    }
}

/// Has Docker's networks brought in line, over a connection that is there or a new one.
async fn converse(
    host: Option<(DockerHost, Changes)>,
    socket: &Path,
    wanted: &BTreeMap<String, BridgeNetwork>,
) -> Result<((DockerHost, Changes), Networks), DockerError> {
    let (host, changes) = match host {
        Some(known) => known,
        None => {
            let host = DockerHost::connect_local(socket).await?;
            // Before the first look: what changes after it is told.
            let changes: Changes = Box::pin(host.changes());
            (host, changes)
        }
    };
    let networks = host.bring_networks_in_line(wanted).await?;
    Ok(((host, changes), networks))
}

/// Waits for an event, and takes all that come until it is time to look again. Says whether there may
/// be more.
async fn burst(changes: &mut Changes, looked: Option<Instant>) -> bool {
    let Some(Ok(())) = changes.next().await else {
        return false;
    };
    let soon = Instant::now() + BURST;
    sleep_until(looked.map_or(soon, |looked| soon.max(looked + LOOKS_APART))).await;
    while let Some(Some(Ok(()))) = changes.next().now_or_never() {}
    true
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

#[cfg(test)]
mod tests;
