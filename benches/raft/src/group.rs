//! Three members of etcd's, or of ours, on loopback: started, asked, killed, started again.
//!
//! Decides when a group is settled: every member names the same leader and has what the others
//! have. Both kinds run with the durability and the settings of their defaults.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use futures::future::BoxFuture;
use raft_bench::{
    calls::{Caller, Message},
    client_words::{DONE, PROPOSE, STATUS, Standing},
};

use crate::{etcd, load::Client, process::Process};

/// The smallest group that survives a death.
pub(crate) const MEMBERS: usize = 3;
/// Starting and electing take seconds at most; beyond it something is wrong.
const SETTLE_WAIT: Duration = Duration::from_secs(60);
/// Between two questions while it settles.
const SETTLE_POLL: Duration = Duration::from_millis(20);
/// The heartbeat of our profile.
const ETCD_LAN_HEARTBEAT_MS: &str = "20";
/// etcd waits once to twice that; our profile 180 to 240 ms, the lease included.
const ETCD_LAN_ELECTION_MS: &str = "120";
/// Enough for a median, in a moment.
const EMPTY_CALLS: u32 = 1000;
/// An answer about its standing takes a moment, or the member is busy electing.
const STANDING_WAIT: Duration = Duration::from_secs(1);

/// Whose members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Etcd,
    /// `raft-member`.
    Raft,
}

/// How members are started.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) kind: Kind,
    pub(crate) program: PathBuf,
    /// Where logs and data are; must not exist.
    pub(crate) dir: PathBuf,
    /// The profile for one place and good disks; etcd gets the same patience.
    pub(crate) lan: bool,
    /// etcd's members talk TLS to each other, as our daemons do.
    pub(crate) peer_tls: bool,
    /// How many connections clients share at most.
    pub(crate) connections: usize,
}

/// A running group. Dropped, it is killed; its directory stays.
pub(crate) struct Group {
    settings: Settings,
    /// Where clients ask.
    addresses: Vec<SocketAddr>,
    /// Where etcd's members talk to each other.
    peers: Vec<SocketAddr>,
    members: Vec<Process>,
    ways: Vec<Way>,
    /// Who leads, as of the last time that it was settled.
    leader: usize,
}

/// A connection to a member; clones share it.
#[derive(Clone)]
pub(crate) enum Way {
    Etcd(etcd::Connection),
    Raft(Caller),
}

impl Group {
    pub(crate) async fn start(settings: Settings) -> anyhow::Result<Self> {
        fs::create_dir(&settings.dir).with_context(|| format!("{:?}", settings.dir))?;
        let (addresses, peers) = (free_addresses()?, free_addresses()?);
        let ways = addresses
            .iter()
            .map(|address| Way::to(settings.kind, *address));
        let mut group = Self {
            ways: ways.collect::<anyhow::Result<_>>()?,
            settings,
            addresses,
            peers,
            members: Vec::new(),
            leader: 0,
        };
        for number in 0..MEMBERS {
            let member = group.start_member(number, true)?;
            group.members.push(member);
        }
        group.settle().await?;
        Ok(group)
    }

    fn start_member(&self, number: usize, first_time: bool) -> anyhow::Result<Process> {
        let Settings { dir, program, .. } = &self.settings;
        let mut command = Command::new(program);
        match self.settings.kind {
            Kind::Etcd => self.etcd_arguments(&mut command, number),
            Kind::Raft => {
                let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
                command.arg("--dir").arg(self.data_of(number));
                command.args(["--id", &(number + 1).to_string()]);
                command.args(["--members", &addresses.join(",")]);
                if self.settings.lan {
                    command.arg("--lan");
                }
                if first_time && number == 0 {
                    command.arg("--found");
                }
            }
        }
        Process::start(&mut command, &dir.join(format!("member-{number}.log")))
    }

    fn etcd_arguments(&self, command: &mut Command, number: usize) {
        let client = format!("http://{}", self.addresses[number]);
        let peers = self.peers.iter().map(|peer| {
            let scheme = if self.settings.peer_tls {
                "https"
            } else {
                "http"
            };
            format!("{scheme}://{peer}")
        });
        let peers: Vec<_> = peers.collect();
        let peer = &peers[number];
        let everybody = peers.iter().enumerate();
        let everybody: Vec<_> = everybody
            .map(|(number, peer)| format!("member-{number}={peer}"))
            .collect();
        if self.settings.peer_tls {
            command.arg("--peer-auto-tls");
        }
        command.arg("--data-dir").arg(self.data_of(number));
        command.args(["--name", &format!("member-{number}")]);
        command.args(["--listen-client-urls", &client]);
        command.args(["--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", peer]);
        command.args(["--initial-advertise-peer-urls", peer]);
        command.args(["--initial-cluster", &everybody.join(",")]);
        command.args(["--initial-cluster-state", "new"]);
        if self.settings.lan {
            command.args(["--heartbeat-interval", ETCD_LAN_HEARTBEAT_MS]);
            command.args(["--election-timeout", ETCD_LAN_ELECTION_MS]);
        }
    }

    fn data_of(&self, number: usize) -> PathBuf {
        self.settings.dir.join(format!("member-{number}"))
    }

    /// Waits until all members agree on a leader and are level, and gives the leader.
    pub(crate) async fn settle(&mut self) -> anyhow::Result<usize> {
        let deadline = Instant::now() + SETTLE_WAIT;
        loop {
            for (number, member) in self.members.iter_mut().enumerate() {
                ensure!(!member.has_ended(), "member {number} has ended");
            }
            match self.settled().await {
                Ok(leader) => {
                    self.leader = leader;
                    return Ok(leader);
                }
                Err(error) if Instant::now() >= deadline => {
                    return Err(error.context("the group does not settle"));
                }
                Err(_) => tokio::time::sleep(SETTLE_POLL).await,
            }
        }
    }

    async fn settled(&mut self) -> anyhow::Result<usize> {
        let mut leaders = Vec::new();
        let mut places = Vec::new();
        for (number, way) in self.ways.iter_mut().enumerate() {
            let (leads, leader, place) =
                tokio::time::timeout(STANDING_WAIT, way.standing(number)).await??;
            ensure!(leader != 0, "member {number} knows no leader");
            if leads {
                leaders.push(number);
            }
            places.push((leader, place));
        }
        let level = places.windows(2).all(|pair| pair[0] == pair[1]);
        ensure!(level, "the members are not level: {places:?}");
        match leaders[..] {
            [leader] => Ok(leader),
            _ => bail!("{} members lead", leaders.len()),
        }
    }

    pub(crate) fn leader(&self) -> usize {
        self.leader
    }

    /// How long it takes to ask the leader something that it knows by heart, again and again.
    pub(crate) async fn empty_calls(&self) -> anyhow::Result<Vec<Duration>> {
        let mut way = self.way(self.leader);
        let mut taken = Vec::new();
        for _ in 0..EMPTY_CALLS {
            let asked = Instant::now();
            way.standing(self.leader).await?;
            taken.push(asked.elapsed());
        }
        Ok(taken)
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        self.members.iter().map(Process::pid).collect()
    }

    /// Kills a member with `kill -9`; returns at once.
    pub(crate) fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        self.members[number].kill()
    }

    /// Starts a killed member again, with what it has on disk.
    pub(crate) fn restart(&mut self, number: usize) -> anyhow::Result<()> {
        self.members[number].wait()?;
        self.members[number] = self.start_member(number, false)?;
        Ok(())
    }

    /// Clients of one member, sharing connections.
    pub(crate) fn clients(
        &self,
        number: usize,
        count: usize,
    ) -> anyhow::Result<Vec<Box<dyn Client>>> {
        let address = self.addresses[number];
        let connections = self.settings.connections.clamp(1, count);
        let ways = (0..connections).map(|_| Way::to(self.settings.kind, address));
        let ways = ways.collect::<anyhow::Result<Vec<_>>>()?;
        let clients = (0..count).map(|client| ways[client % connections].client(client));
        Ok(clients.collect())
    }

    /// The connection on which a member was asked last.
    pub(crate) fn way(&self, number: usize) -> Way {
        self.ways[number].clone()
    }
}

impl Way {
    /// Connects when it is used.
    fn to(kind: Kind, address: SocketAddr) -> anyhow::Result<Self> {
        match kind {
            Kind::Etcd => etcd::Connection::to(address).map(Self::Etcd),
            Kind::Raft => Ok(Self::Raft(Caller::new(address))),
        }
    }

    /// One more client on this connection.
    pub(crate) fn client(&self, client: usize) -> Box<dyn Client> {
        match self {
            Self::Etcd(connection) => Box::new(etcd::Writer {
                connection: connection.clone(),
                key: format!("bench-{client}"),
            }),
            Self::Raft(caller) => Box::new(RaftWriter {
                caller: caller.clone(),
                client,
            }),
        }
    }

    /// Whether member `number` leads, whom it takes for the leader, and how far it is.
    async fn standing(&mut self, number: usize) -> anyhow::Result<(bool, u64, u64)> {
        match self {
            Self::Etcd(connection) => {
                let standing = connection.standing().await?;
                let leads = standing.leader == standing.member;
                Ok((leads, standing.leader, standing.index))
            }
            Self::Raft(caller) => {
                let Message { body, .. } = caller.call(STATUS, Vec::new()).await?;
                let standing = Standing::decode(&body)?;
                ensure!(standing.voters == MEMBERS as u64, "not all vote yet");
                let leads = standing.leader == number as u64 + 1;
                Ok((leads, standing.leader, standing.applied))
            }
        }
    }
}

/// A client of a `raft-member`.
struct RaftWriter {
    caller: Caller,
    client: usize,
}

impl Client for RaftWriter {
    fn write(&mut self, value: String) -> BoxFuture<'_, anyhow::Result<()>> {
        let entry = format!("bench-{}={value}", self.client).into_bytes();
        Box::pin(async {
            let Message { tag, body } = self.caller.call(PROPOSE, entry).await?;
            let why = || format!("refused: {tag} {}", String::from_utf8_lossy(&body));
            ensure!(tag == DONE, why());
            Ok(())
        })
    }
}

/// Addresses that nobody listens at now; taken all at once, so that they differ.
fn free_addresses() -> anyhow::Result<Vec<SocketAddr>> {
    let listeners = (0..MEMBERS).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let listeners = listeners.collect::<Result<Vec<_>, _>>()?;
    let addresses = listeners.iter().map(TcpListener::local_addr);
    Ok(addresses.collect::<Result<_, _>>()?)
}
