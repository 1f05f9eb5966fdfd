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
//! | `overlay::Overlay` | view, members, connections | WireGuard interface, overlay status |
//! | `docker::Docker` | view, overlay status | dockerd, reports |
//! | `upkeep` (3) | view, members, listeners | credentials' trust, dial addresses, own record, disk, reports |
//! | `renewal::Renewal` | view, own certificate's age | credentials' chain, `mesh.json` |
//! | `intermediate::IntermediateKeeper` | view, state | this server's authority, sealed root keys |
//! | `leader::run` | view, members, Raft status | Raft's voters, silences, prunings, rotation, warnings |
//! | `issuer::IssuerDesk::run` | view, this server's authority | dockerd's certificates |

pub(crate) mod clock;
pub(crate) mod desk;
pub(crate) mod docker;
pub(crate) mod enforcement;
mod intermediate;
pub(crate) mod issuer;
mod leader;
pub(crate) mod overlay;
pub(crate) mod own_return;
pub(crate) mod peer_wire;
pub(crate) mod proposer;
pub(crate) mod renewal;
pub(crate) mod replica;
pub(crate) mod rotation;
pub(crate) mod server;
pub(crate) mod trust;
pub(crate) mod upkeep;
pub(crate) mod views;
mod watch;

use std::{sync::Arc, time::Duration};

use consensus_core::{MeshId, NodeId, RaftId, Time};
use consensus_raft::{Agreement, Lane};
use overlay_core::membership::{Membership as Core, Record, Settings as MembershipSettings};
use overlay_net::{
    Channel, Credentials, Incoming, Net, NodeKey,
    membership::{Inputs, LocalAddresses, Members, Roster},
};
use overlay_wireguard::PrivateKey;
use tokio::sync::{mpsc, watch as channel};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use zeroize::Zeroizing;

use self::{
    clock::Clock,
    desk::Desk,
    docker::DockerStatus,
    enforcement::Enforced,
    intermediate::IntermediateKeeper,
    issuer::{IssuerDesk, IssuerRx},
    overlay::{Overlay, OverlayStatus},
    proposer::{AgreementRx, Proposer},
    renewal::Renewal,
    replica::Replica,
    rotation::Rotator,
    trust::bare_trust,
    views::Views,
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
    pub(crate) wireguard: PrivateKey,
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
    pub(crate) raft_condition: channel::Receiver<Option<String>>,
    pub(crate) recoveries: mpsc::Sender<server::RecoverOrder>,
    pub(crate) shut_out: channel::Receiver<Option<String>>,
    pub(crate) credentials: channel::Receiver<Arc<Credentials>>,
    /// Signs, while this node is a server that can.
    pub(crate) issuer: IssuerDesk,
    pub(crate) enforced: Enforced,
    pub(crate) rotator: Rotator,
    key: NodeKey,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Mesh {
    /// The node key as PKCS#8, for TLS.
    pub(crate) fn key_der(&self) -> Zeroizing<Vec<u8>> {
        self.key.pkcs8_der()
    }

    /// The node key as PKCS#8 in PEM, for TLS.
    pub(crate) fn key_pem(&self) -> Zeroizing<String> {
        consensus_authority::key_to_pem(&self.key_der())
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
            revision: consensus_core::LogIndex(0),
        };
        let (credentials, watched) = channel::channel(Arc::new(first));
        let settings = overlay_net::Settings {
            key: self.key.clone(),
            listen: self.config.listen.clone(),
            credentials: watched,
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
        let wiring = Wiring {
            host,
            net,
            views,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let (gossip, members, clock) = wiring.gossip(&mut incoming, membership.generation);
        let (recoveries, orders) = mpsc::channel(1);
        let (agreement, raft_condition) = wiring.raft(&mut incoming, agreement, orders);
        let proposer = Proposer {
            me: wiring.host.me(),
            net: wiring.net.clone(),
            views: wiring.views.clone(),
            members,
            agreement,
        };
        let shut_out = wiring.followers(&mut incoming, &proposer);
        let (overlay, docker) = wiring.runtimes(&proposer);
        let (enforced, rotator) = wiring.rotation(&proposer, &overlay, &credentials);
        let issuer = wiring.desks(incoming, &proposer, &enforced, &rotator);
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
            raft_condition,
            recoveries,
            shut_out: shut_out.subscribe(),
            credentials: watched_credentials,
            issuer,
            enforced,
            rotator,
            key: wiring.host.key.clone(),
            stop: wiring.stop,
            tasks: wiring.tasks,
        })
    }

    /// Ends every task: says goodbye to the others, hands leadership over, keeps the overlay and
    /// dockerd running.
    pub(crate) async fn stop(&self) {
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

/// What a member's own duties are wired with.
struct Duties<'a> {
    mesh: MeshId,
    membership: Membership,
    gossip: Gossip,
    clock: Clock,
    proposer: &'a Proposer,
    rotator: &'a Rotator,
    issuer: &'a IssuerDesk,
    shut_out: &'a channel::Sender<Option<String>>,
    overlay: &'a channel::Receiver<OverlayStatus>,
}

/// What the tasks are wired with while they start.
struct Wiring {
    host: Arc<Host>,
    net: Net,
    views: Views,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Wiring {
    /// For tasks that answer others: what they are at is given up at a stop.
    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.track(name, async move {
            let _ = stop.run_until_cancelled(task).await;
        });
    }

    /// For tasks that end by themselves at a stop.
    fn track<T>(&self, name: &'static str, task: impl Future<Output = T> + Send + 'static) {
        self.tasks.spawn(async move {
            let _ = task.await;
            tracing::debug!(task = name, "ended");
        });
    }

    /// The membership core and its clock, which starts with it.
    fn gossip(&self, incoming: &mut Incoming, generation: u64) -> (Gossip, MembersRx, Clock) {
        let record = Record {
            node: self.host.me(),
            generation,
            version: 0,
            addresses: Vec::new(),
            wireguard: Vec::new(),
        };
        let (roster, roster_rx) = channel::channel(Roster::default());
        let (local, local_rx) = channel::channel(LocalAddresses::default());
        let (members_tx, members) = channel::channel(Members::default());
        let streams = incoming
            .take_streams(Channel::Membership)
            .expect("taken once");
        let inputs = Inputs {
            roster: roster_rx,
            local: local_rx,
            streams,
        };
        let clock = Clock::start();
        let core = Core::new(
            record,
            MembershipSettings::lan(),
            rand::random(),
            Time::ZERO,
        );
        let leaving = self.stop.clone();
        let drive = overlay_net::membership::drive(
            self.net.clone(),
            core,
            inputs,
            members_tx,
            async move {
                leaving.cancelled().await;
            },
        );
        self.track("membership", drive);
        (Gossip { roster, local }, members, clock)
    }

    /// This node's Raft, kept in line with its role.
    fn raft(
        &self,
        incoming: &mut Incoming,
        founded: Option<(RaftId, Agreement<Replica>)>,
        recoveries: mpsc::Receiver<server::RecoverOrder>,
    ) -> (AgreementRx, channel::Receiver<Option<String>>) {
        let opened = founded.as_ref().map(|(id, _)| *id);
        let (agreement_tx, agreement) = channel::channel(founded.map(|(_, agreement)| agreement));
        let (condition, raft_condition) = channel::channel(None);
        let supervisor = server::Supervisor {
            data: self.host.data.clone(),
            me: self.host.me(),
            profile: self.host.config.raft_timers,
            net: self.net.clone(),
            views: self.views.clone(),
            agreement: agreement_tx,
            condition,
            recoveries,
            stop: self.stop.clone(),
        };
        self.track("raft", supervisor.run(opened));
        for (lane, channel) in [
            (Lane::Rpc, Channel::Raft),
            (Lane::Snapshot, Channel::Snapshot),
        ] {
            let calls = incoming.take_calls(channel).expect("taken once");
            self.spawn(
                "raft messages",
                server::serve(lane, calls, agreement.clone(), self.views.clone()),
            );
        }
        (agreement, raft_condition)
    }

    /// Views pushed to others and from others.
    fn followers(
        &self,
        incoming: &mut Incoming,
        proposer: &Proposer,
    ) -> channel::Sender<Option<String>> {
        let shut_out = channel::Sender::new(None);
        let watchers = incoming.take_streams(Channel::Watch).expect("taken once");
        self.spawn(
            "watchers",
            watch::serve(watchers, self.views.clone(), proposer.agreement.clone()),
        );
        let follower = watch::Follower {
            me: proposer.me.clone(),
            net: self.net.clone(),
            views: self.views.clone(),
            members: proposer.members.clone(),
            agreement: proposer.agreement.clone(),
            shut_out: shut_out.clone(),
            stop: self.stop.clone(),
        };
        self.track("follower", follower.run());
        shut_out
    }

    /// Who answers other nodes and machines at the gate, and signs while this node is a server.
    fn desks(
        &self,
        mut incoming: Incoming,
        proposer: &Proposer,
        enforced: &Enforced,
        rotator: &Rotator,
    ) -> IssuerDesk {
        let (issuer_tx, issuer): (_, IssuerRx) = channel::channel(None);
        let keeper = IntermediateKeeper {
            files: self.host.authority.clone(),
            proposer: proposer.clone(),
            issuer: issuer_tx,
            stop: self.stop.clone(),
        };
        self.spawn("authority", keeper.run());
        let issuer = IssuerDesk {
            issuer,
            proposer: proposer.clone(),
        };
        self.spawn("issuer", issuer.clone().run(self.stop.clone()));
        let calls = incoming.take_calls(Channel::Command).expect("taken once");
        let desk = Desk {
            proposer: proposer.clone(),
            issuer: issuer.clone(),
            enforced: enforced.clone(),
            rotator: rotator.clone(),
        };
        self.spawn("desk", desk::serve(calls, desk));
        self.spawn(
            "gate",
            desk::serve_gate(incoming.enrolments, proposer.clone(), issuer.clone()),
        );
        issuer
    }

    /// What is in force here, and the root's replacement, which waits for it everywhere.
    fn rotation(
        &self,
        proposer: &Proposer,
        overlay: &channel::Receiver<OverlayStatus>,
        credentials: &channel::Sender<Arc<Credentials>>,
    ) -> (Enforced, Rotator) {
        let enforced = Enforced {
            net: self.net.enforced(),
            overlay: overlay.clone(),
        };
        let rotator = Rotator {
            files: self.host.authority.clone(),
            proposer: proposer.clone(),
            enforced: enforced.clone(),
            credentials: credentials.subscribe(),
        };
        (enforced, rotator)
    }

    /// What a member does of its own accord.
    fn duties(&self, duties: Duties<'_>, credentials: channel::Sender<Arc<Credentials>>) {
        let Duties {
            mesh,
            membership,
            gossip,
            clock,
            proposer,
            rotator,
            issuer,
            shut_out,
            overlay,
        } = duties;
        let stop = self.stop.clone();
        let leader = leader::run(proposer.clone(), rotator.clone(), clock, stop);
        self.spawn("leader", leader);
        let renewal = Renewal {
            host: self.host.clone(),
            proposer: proposer.clone(),
            desk: issuer.clone(),
            credentials: credentials.clone(),
            shut_out: shut_out.clone(),
            membership,
            taken_at: None,
        };
        self.spawn("renewal", renewal.run());
        let upkeep = upkeep::Upkeep {
            mesh,
            host: self.host.clone(),
            proposer: proposer.clone(),
            overlay: overlay.clone(),
            gossip,
            credentials,
            stop: self.stop.clone(),
        };
        upkeep.start(&self.tasks);
    }

    /// The overlay interface, and dockerd on it.
    fn runtimes(
        &self,
        proposer: &Proposer,
    ) -> (
        channel::Receiver<OverlayStatus>,
        channel::Receiver<DockerStatus>,
    ) {
        let (status, overlay) = channel::channel(OverlayStatus::default());
        let overlay_task = Overlay {
            me: proposer.me.clone(),
            key: self.host.wireguard.clone(),
            net: self.net.clone(),
            views: self.views.clone(),
            members: proposer.members.clone(),
            status,
            stop: self.stop.clone(),
        };
        self.track("overlay", overlay_task.run());
        let (status, docker) = channel::channel(DockerStatus::default());
        let docker_task = docker::Docker {
            host: self.host.clone(),
            proposer: proposer.clone(),
            overlay: overlay.clone(),
            status,
            stop: self.stop.clone(),
        };
        self.track("docker", docker_task.run());
        (overlay, docker)
    }
}
