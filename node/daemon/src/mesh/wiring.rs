//! How a member's tasks are wired together while they start.
//!
//! Decides nothing: each method starts the tasks of one concern with only what they use, and gives
//! back what others need of them.

mod leaving;
mod threads;

use std::{collections::BTreeSet, sync::Arc};

use consensus_core::{MeshId, RaftId, Time};
use consensus_raft::{Agreement, Lane};
use overlay_core::membership::{Membership as Core, Record, Settings as MembershipSettings};
use overlay_net::{
    Channel, Credentials, Incoming, Net,
    membership::{Inputs, LocalAddresses, LocalPaths, Members, Roster},
};
use runtimes_core::drain::Orders;
use tokio::sync::{mpsc, watch as channel};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Gossip, Host, MembersRx,
    clock::Clock,
    cluster_desk::ClusterDesk,
    containers::{Containers, Served},
    departure::DepartureDesk,
    desired::is_server,
    desk::{self, Desk},
    docker::{self, DockerStatus},
    drill::Observers,
    enforcement::Enforced,
    intermediate::IntermediateKeeper,
    issuer::{IssuerDesk, IssuerRx},
    k3s::{Hosting, K3s, K3sStatus},
    leader,
    lease::{HeldLeases, Leases, Obstacles},
    overlay::{Overlay, OverlayStatus},
    proposer::{AgreementRx, Proposer},
    readiness::Readiness,
    renewal::Renewal,
    replica::Replica,
    rotation::Rotator,
    server, upkeep,
    views::Views,
    vip_desk::VipDesk,
    watch, ways,
    wireguard_key::KeyKeeper,
};
use crate::data_dir::Membership;

/// What a member's own duties are wired with.
pub(super) struct Duties<'a> {
    pub(super) mesh: MeshId,
    pub(super) membership: Membership,
    pub(super) gossip: Gossip,
    pub(super) clock: Clock,
    pub(super) proposer: &'a Proposer,
    pub(super) rotator: &'a Rotator,
    pub(super) issuer: &'a IssuerDesk,
    pub(super) shut_out: &'a channel::Sender<Option<String>>,
    pub(super) overlay: &'a channel::Receiver<OverlayStatus>,
}

/// What the tasks are wired with while they start.
pub(super) struct Wiring {
    pub(super) host: Arc<Host>,
    pub(super) net: Net,
    pub(super) views: Views,
    pub(super) orders: channel::Sender<Option<Orders>>,
    /// From the overlay to gossip.
    paths: channel::Sender<LocalPaths>,
    /// Of a node that is emptied or removed, see [`leaving`].
    pub(super) departure: DepartureDesk,
    pub(super) removed: channel::Sender<bool>,
    pub(super) departed: channel::Sender<bool>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Wiring {
    /// Nothing runs yet.
    pub(super) fn new(host: Arc<Host>, net: Net, views: Views) -> Self {
        // Its kernel goes on forwarding while a daemon starts again.
        let paths = LocalPaths {
            forwards: host.config.relay && is_server(&views.view().agreed, &host.me()),
            ..LocalPaths::default()
        };
        Self {
            departure: DepartureDesk::new(host.data.clone()),
            host,
            net,
            views,
            orders: channel::Sender::new(None),
            paths: channel::Sender::new(paths),
            removed: channel::Sender::new(false),
            departed: channel::Sender::new(false),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// For tasks that answer others: what they are at is given up at a stop.
    pub(super) fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = self.stop.clone();
        self.track(name, async move {
            let _ = stop.run_until_cancelled(task).await;
        });
    }

    /// For tasks that end by themselves at a stop.
    pub(super) fn track<T>(
        &self,
        name: &'static str,
        task: impl Future<Output = T> + Send + 'static,
    ) {
        self.tasks.spawn(async move {
            let _ = task.await;
            tracing::debug!(task = name, "ended");
        });
    }

    /// The membership core and its clock, which starts with it.
    pub(super) fn gossip(
        &self,
        incoming: &mut Incoming,
        generation: u64,
    ) -> (Gossip, MembersRx, Clock) {
        let record = Record {
            node: self.host.me(),
            generation,
            version: 0,
            addresses: Vec::new(),
            wireguard: Vec::new(),
            relays: Vec::new(),
            unreachable: Vec::new(),
            forwards: self.paths.borrow().forwards,
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
            paths: self.paths.subscribe(),
            streams,
        };
        let clock = Clock::start();
        let core = Core::new(
            record,
            self.net.membership_keys(),
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
        self.on_own_thread("membership", drive);
        (Gossip { roster, local }, members, clock)
    }

    /// This node's Raft, kept in line with its role.
    pub(super) fn raft(
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
    pub(super) fn followers(
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
            removed: self.removed.clone(),
            stop: self.stop.clone(),
        };
        self.track("follower", follower.run());
        shut_out
    }

    /// The leases of virtual IPs. Gives back who tells of them.
    pub(super) fn leases(
        &self,
        incoming: &mut Incoming,
        proposer: &Proposer,
        overlay: &channel::Receiver<OverlayStatus>,
    ) -> VipDesk {
        let streams = incoming.take_streams(Channel::Lease).expect("taken once");
        let (held, held_leases) = channel::channel(HeldLeases::new());
        let (obstacles_tx, obstacles) = channel::channel(Obstacles::default());
        let leaving = CancellationToken::new();
        let readiness = Readiness {
            me: self.host.me(),
            proposer: proposer.clone(),
            overlay: overlay.clone(),
            obstacles: obstacles.clone(),
            k3s: runtimes_k3s::Paths::under(self.host.data.root()),
            stop: self.stop.clone(),
        };
        self.track("readiness", readiness.run());
        let leases = Leases {
            me: self.host.me(),
            net: self.net.clone(),
            data: self.host.data.clone(),
            proposer: proposer.clone(),
            members: proposer.members.clone(),
            streams,
            gate: self.host.config.vip_gate,
            held,
            obstacles: obstacles_tx,
            leaving: leaving.clone(),
            beside: tokio::runtime::Handle::current(),
            stop: self.stop.clone(),
        };
        self.before_all_others("leases", leases.run());
        VipDesk {
            proposer: proposer.clone(),
            held: held_leases,
            observers: Observers::default(),
            obstacles,
            leaving,
        }
    }

    /// Who answers other nodes and machines at the gate, and signs while this node is a server.
    pub(super) fn desks(
        &self,
        mut incoming: Incoming,
        proposer: &Proposer,
        enforced: &Enforced,
        rotator: &Rotator,
        (vips, clusters): (&VipDesk, &ClusterDesk),
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
            vips: vips.clone(),
            clusters: clusters.clone(),
            departure: self.departure.clone(),
        };
        self.spawn("desk", desk::serve(calls, desk));
        self.spawn(
            "gate",
            desk::serve_gate(incoming.enrolments, proposer.clone(), issuer.clone()),
        );
        issuer
    }

    /// What is in force here, and the replacement of the root and of this node's WireGuard key, which
    /// wait for it everywhere.
    pub(super) fn rotation(
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
        let keeper = KeyKeeper {
            keys: self.host.wireguard.clone(),
            proposer: proposer.clone(),
            enforced: enforced.clone(),
        };
        self.spawn("wireguard key", keeper.run());
        (enforced, rotator)
    }

    /// What a member does of its own accord.
    pub(super) fn duties(
        &self,
        duties: Duties<'_>,
        credentials: channel::Sender<Arc<Credentials>>,
    ) {
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
        let config = self.host.config.clone();
        let (net, views) = (self.net.clone(), self.views.clone());
        self.spawn("ways", ways::run(proposer.me.clone(), config, net, views));
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
    pub(super) fn runtimes(
        &self,
        proposer: &Proposer,
    ) -> (
        channel::Receiver<OverlayStatus>,
        channel::Receiver<DockerStatus>,
        channel::Receiver<Vec<String>>,
    ) {
        let (status, overlay) = channel::channel(OverlayStatus::default());
        let (tell_tenants, tenants) = channel::channel(BTreeSet::new());
        let (tell_served, served) = channel::channel(Served::new());
        let overlay_task = Overlay {
            me: proposer.me.clone(),
            keys: self.host.wireguard.clone(),
            net: self.net.clone(),
            relaying: self.host.config.relay,
            paths: self.paths.clone(),
            views: self.views.clone(),
            members: proposer.members.clone(),
            tenants,
            status,
            stop: self.stop.clone(),
        };
        self.track("overlay", overlay_task.run());
        let (status, docker) = channel::channel(DockerStatus::default());
        let docker_task = docker::Docker {
            host: self.host.clone(),
            proposer: proposer.clone(),
            overlay: overlay.clone(),
            served,
            orders: self.orders.subscribe(),
            status,
            stop: self.stop.clone(),
        };
        self.track("docker", docker_task.run());
        let containers = self.containers(proposer, &overlay, &docker, (tell_tenants, tell_served));
        (overlay, docker, containers)
    }

    /// This node's K3s, what it does for its cluster, and what empties this node.
    pub(super) fn clusters(
        &self,
        proposer: &Proposer,
        overlay: &channel::Receiver<OverlayStatus>,
        docker: &channel::Receiver<DockerStatus>,
    ) -> (channel::Receiver<K3sStatus>, ClusterDesk) {
        let (status, k3s) = channel::channel(K3sStatus::default());
        let task = K3s {
            host: self.host.clone(),
            proposer: proposer.clone(),
            overlay: overlay.clone(),
            orders: self.orders.subscribe(),
            status,
            stop: self.stop.clone(),
        };
        self.track("k3s", task.run());
        let paths = runtimes_k3s::Paths::under(self.host.data.root());
        let hosting = Hosting {
            proposer: proposer.clone(),
            members: proposer.members.clone(),
            paths: paths.clone(),
            stop: self.stop.clone(),
        };
        self.spawn("k3s hosting", hosting.run());
        let clusters = ClusterDesk {
            proposer: proposer.clone(),
            paths,
        };
        self.leaving(proposer, overlay, docker, &k3s);
        (k3s, clusters)
    }

    /// The networks of this node's containers, and their names.
    fn containers(
        &self,
        proposer: &Proposer,
        overlay: &channel::Receiver<OverlayStatus>,
        docker: &channel::Receiver<DockerStatus>,
        (tenants, served): (channel::Sender<BTreeSet<String>>, channel::Sender<Served>),
    ) -> channel::Receiver<Vec<String>> {
        let (names, service) = channel::channel(overlay_names::Service::default());
        let (tell_listening, listening) = channel::channel(overlay_names::Listening::default());
        let server = overlay_names::Server {
            service,
            listening: tell_listening,
            stop: self.stop.clone(),
        };
        self.track("names", server.run());
        let (status, containers) = channel::channel(Vec::new());
        let task = Containers {
            me: proposer.me.clone(),
            views: self.views.clone(),
            members: proposer.members.clone(),
            overlay: overlay.clone(),
            docker: docker.clone(),
            tenants,
            names,
            listening,
            served,
            status,
            stop: self.stop.clone(),
        };
        self.track("containers", task.run());
        containers
    }
}
