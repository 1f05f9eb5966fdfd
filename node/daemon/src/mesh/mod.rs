//! A node's membership in a mesh, running: one task per duty, each with only what it uses.
//!
//! Decides nothing itself: it wires the network, the membership core, Raft, the overlay, the
//! runtimes and the issuer together. Tasks and their inputs:
//!
//! | task | reads | writes |
//! |---|---|---|
//! | `server::Supervisor` | view | this node's Raft, view, events, standing |
//! | `server::serve` (2) | Raft messages | answers |
//! | `watch::serve`, `watch::Follower` | view, events, standing | pushes; view, events, standing |
//! | `desk::serve`, `desk::serve_gate` | requests of other nodes and of machines at the gate | answers |
//! | `overlay::Overlay` | view, members, connections, bridges that Docker names | WireGuard interface, packet filter, overlay status, own record |
//! | `docker::Docker` | view, overlay status, where names are served | dockerd, reports |
//! | `k3s::K3s` | view, overlay status | K3s, reports |
//! | `k3s::Hosting` | view, members | tokens for who joins, names for the cluster to forget |
//! | `drain::Draining` | view, members, Docker and K3s status | orders for both, a cluster's pods, reports |
//! | `departure::Departure` | the order to leave, the others' refusals, overlay, Docker and K3s status | the last view |
//! | `containers::Containers` | view, members, overlay and Docker status, Docker's events, where the server for names listens | Docker's networks, bridges that Docker names, names, where they are served |
//! | `overlay_names::Server` | names | answers to DNS questions of containers and Docker hosts, where it listens |
//! | `readiness::Readiness` | view, overlay status, the gate's condition | reports |
//! | `ways::run` | view | whom the network asks for help with NATs |
//! | `upkeep` (3) | view, members, listeners | credentials' trust, dial addresses, own record, disk, reports |
//! | `wireguard_key::KeyKeeper` | view, members | this node's next WireGuard key, reports |
//! | `renewal::Renewal` | view, own certificate's age | credentials' chain, `mesh.json` |
//! | `intermediate::IntermediateKeeper` | view, state | this server's authority, sealed root keys |
//! | `lease::Leases` | view, members, Raft status, others' letters | letters, the virtual IPs' gate, closures on disk, proposals |
//! | `leader::run` | view, members, Raft status | Raft's voters, silences, prunings, rotation, warnings |
//! | `issuer::IssuerDesk::run` | view, this server's authority | dockerd's certificates |

mod asking;
pub(crate) mod clock;
pub(crate) mod cluster_desk;
mod containers;
pub(crate) mod departure;
pub(crate) mod desired;
pub(crate) mod desk;
pub(crate) mod docker;
mod drain;
pub(crate) mod drill;
pub(crate) mod enforcement;
mod filtering;
mod greeting;
mod intermediate;
pub(crate) mod issuer;
pub(crate) mod k3s;
mod leader;
pub(crate) mod lease;
mod leftovers;
mod news;
pub(crate) mod overlay;
pub(crate) mod own_return;
pub(crate) mod peer_wire;
mod pods;
pub(crate) mod probe;
pub(crate) mod proposer;
mod readiness;
pub(crate) mod renewal;
pub(crate) mod replica;
mod reports;
pub(crate) mod rotation;
pub(crate) mod server;
mod straight;
pub(crate) mod trust;
pub(crate) mod upkeep;
pub(crate) mod views;
pub(crate) mod vip_desk;
pub(crate) mod vip_wire;
mod watch;
mod ways;
mod wireguard_key;
mod wiring;

use std::{sync::Arc, time::Duration};

use consensus_core::{MeshId, NodeId, RaftId};
use consensus_raft::Agreement;
use overlay_net::{
    Credentials, Incoming, Net, NodeKey,
    membership::{LocalAddresses, Members, Roster},
};
use overlay_wireguard::Keyring;
use tokio::sync::{mpsc, watch as channel};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use zeroize::Zeroizing;

use self::{
    asking::Patience,
    clock::Clock,
    cluster_desk::ClusterDesk,
    departure::DepartureDesk,
    docker::DockerStatus,
    enforcement::Enforced,
    issuer::IssuerDesk,
    k3s::K3sStatus,
    overlay::OverlayStatus,
    proposer::Proposer,
    replica::Replica,
    rotation::Rotator,
    trust::bare_trust,
    views::Views,
    vip_desk::VipDesk,
    wiring::{Duties, Wiring},
};
use crate::{
    authority::AuthorityFiles,
    config::Config,
    data_dir::{DataDir, Membership},
    held_ports::HeldPorts,
};

/// Follows who is alive.
pub(crate) type MembersRx = channel::Receiver<Members>;

/// Tasks have this long to end after a stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// What the daemon has before it is a member of anything.
pub(crate) struct Host {
    pub(crate) config: Config,
    pub(crate) data: Arc<DataDir>,
    pub(crate) key: NodeKey,
    pub(crate) wireguard: Arc<Keyring>,
    pub(crate) authority: Arc<AuthorityFiles>,
    pub(crate) ports: HeldPorts,
    pub(crate) clock: Clock,
}

/// Parts that founding and starting both need.
pub(crate) struct Connected {
    pub(crate) credentials: channel::Sender<Arc<Credentials>>,
    pub(crate) net: Net,
    pub(crate) incoming: Incoming,
}

/// A running membership.
pub(crate) struct Mesh {
    pub(crate) id: MeshId,
    pub(crate) me: NodeId,
    pub(crate) clock: Clock,
    pub(crate) proposer: Proposer,
    pub(crate) overlay: channel::Receiver<OverlayStatus>,
    pub(crate) docker: channel::Receiver<DockerStatus>,
    pub(crate) k3s: channel::Receiver<K3sStatus>,
    /// What is wrong with containers' networks, in words.
    pub(crate) containers: channel::Receiver<Vec<String>>,
    pub(crate) raft_condition: channel::Receiver<Option<String>>,
    pub(crate) recoveries: mpsc::Sender<server::RecoverOrder>,
    pub(crate) shut_out: channel::Receiver<Option<String>>,
    pub(crate) credentials: channel::Receiver<Arc<Credentials>>,
    /// Signs, while this node is a server that can.
    pub(crate) issuer: IssuerDesk,
    pub(crate) enforced: Enforced,
    pub(crate) rotator: Rotator,
    pub(crate) vips: VipDesk,
    pub(crate) clusters: ClusterDesk,
    pub(crate) departure: DepartureDesk,
    /// Whether this node was removed, and nothing of shoal is left but its daemon.
    pub(crate) departed: channel::Receiver<bool>,
    key: NodeKey,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Mesh {
    /// The node key as PKCS#8, for TLS.
    pub(crate) fn key_der(&self) -> Zeroizing<Vec<u8>> {
        self.key.pkcs8_der()
    }
}

impl Host {
    /// This node.
    pub(crate) fn me(&self) -> NodeId {
        self.key.node_id()
    }

    /// Starts the network with the node's certificate.
    pub(crate) fn connect(
        &self,
        mesh: MeshId,
        roots: &[Vec<u8>],
        chain: Vec<Vec<u8>>,
    ) -> Result<Connected, overlay_net::ListenError> {
        let first = Credentials {
            chain,
            trust: Arc::new(bare_trust(mesh, roots)),
            removed: Arc::default(),
            revision: consensus_core::LogIndex(0),
        };
        let (credentials, watched) = channel::channel(Arc::new(first));
        let listen = self.config.listen.clone();
        let settings = overlay_net::Settings {
            local_discovery: self.config.mdns,
            ..overlay_net::Settings::new(self.key.clone(), listen, watched)
        };
        self.ports.release();
        let (net, incoming) = Net::start(settings)?;
        Ok(Connected {
            credentials,
            net,
            incoming,
        })
    }
}

/// Everything `Mesh::start` builds on.
pub(crate) struct Start {
    pub(crate) host: Arc<Host>,
    pub(crate) mesh: MeshId,
    pub(crate) membership: Membership,
    pub(crate) connected: Connected,
    pub(crate) views: Views,
    /// Raft, if founding opened it already.
    pub(crate) agreement: Option<(RaftId, Agreement<Replica>)>,
}

impl Mesh {
    /// Starts every task of a member.
    pub(crate) fn start(start: Start) -> Arc<Self> {
        let Start {
            host,
            mesh,
            membership,
            connected,
            views,
            agreement,
        } = start;
        let Connected {
            credentials,
            net,
            mut incoming,
        } = connected;
        let wiring = Wiring::new(host, net, views);
        let (gossip, members, clock) = wiring.gossip(&mut incoming, membership.generation);
        let (recoveries, orders) = mpsc::channel(1);
        let (agreement, raft_condition) = wiring.raft(&mut incoming, agreement, orders);
        let proposer = Proposer {
            me: wiring.host.me(),
            net: wiring.net.clone(),
            views: wiring.views.clone(),
            members,
            agreement,
            patience: Patience::of(&server::timers(wiring.host.config.raft_timers)),
        };
        let shut_out = wiring.followers(&mut incoming, &proposer);
        let (overlay, docker, containers) = wiring.runtimes(&proposer);
        let vips = wiring.leases(&mut incoming, &proposer, &overlay);
        let (enforced, rotator) = wiring.rotation(&proposer, &overlay, &credentials);
        let (k3s, clusters) = wiring.clusters(&proposer, &overlay, &docker);
        let issuer = wiring.desks(incoming, &proposer, &enforced, &rotator, (&vips, &clusters));
        let duties = Duties {
            mesh,
            membership,
            gossip,
            clock,
            proposer: &proposer,
            rotator: &rotator,
            issuer: &issuer,
            shut_out: &shut_out,
            overlay: &overlay,
        };
        let watched_credentials = credentials.subscribe();
        wiring.duties(duties, credentials);
        wiring.tasks.close();
        Arc::new(Self {
            id: mesh,
            me: wiring.host.me(),
            clock,
            proposer,
            overlay,
            docker,
            k3s,
            containers,
            raft_condition,
            recoveries,
            shut_out: shut_out.subscribe(),
            credentials: watched_credentials,
            issuer,
            enforced,
            rotator,
            vips,
            clusters,
            key: wiring.host.key.clone(),
            departure: wiring.departure,
            departed: wiring.departed.subscribe(),
            stop: wiring.stop,
            tasks: wiring.tasks,
        })
    }

    /// Ends every task: lets others have this node's virtual IPs, hands leadership over, says goodbye,
    /// keeps the overlay and dockerd running.
    pub(crate) async fn stop(&self) {
        self.vips.leave(self.overlay.clone()).await;
        upkeep::hand_over_leadership(&self.proposer).await;
        self.stop.cancel();
        if tokio::time::timeout(STOP_DEADLINE, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::debug!("some tasks are still waiting; the network ends them");
        }
        self.proposer.net.clone().stop().await;
    }
}

/// What gossip is told by this node.
pub(crate) struct Gossip {
    pub(crate) roster: channel::Sender<Roster>,
    pub(crate) local: channel::Sender<LocalAddresses>,
}
