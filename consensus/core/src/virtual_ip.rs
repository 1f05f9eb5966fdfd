//! Virtual IPs: what is agreed of each, and what follows from it.
//!
//! Decides: a virtual IP's id and address, which candidate comes next, which leases rest on which
//! servers, and when a lease's voters are to change. Never: who is alive (the asker says whom it
//! hears), nor whether a lease still runs: that is the lease protocol's.
//!
//! Invariants, kept by `apply`: an epoch only rises, by one with every change of the holder, so no
//! two holders share one; holder, epoch and voters change together; a candidate is a member with a
//! place in the network; a holder that was removed from the mesh stays named until its lease was
//! closed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    net::Ipv6Addr,
};

use serde::{Deserialize, Serialize};

use crate::{
    Agreed, Drain, Epoch, Ipv6Prefix64, LeaseProfile, LeaseVoters, LogIndex, MeshId, NetworkId,
    NodeId, Readiness, ReadinessCheck, VipId, WallMs,
};

/// One virtual IP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualIp {
    /// Unique in the mesh.
    pub name: String,
    /// Where it is reached.
    pub network: NetworkId,
    /// Its /128, out of the network's /64.
    pub address: Ipv6Addr,
    /// Who may hold it, the most wanted first.
    pub candidates: Vec<NodeId>,
    /// What a candidate is asked; without one every candidate is fit that says nothing else.
    pub check: Option<ReadinessCheck>,
    /// The durations of its lease.
    pub profile: LeaseProfile,
    /// Rises with every change of the holder.
    pub epoch: Epoch,
    /// Who holds this epoch; none when it was let go of and nobody could take it.
    pub holder: Option<NodeId>,
    /// Who renews and closes this epoch.
    pub voters: LeaseVoters,
    /// The entry that wrote `voters`: what the holder says of a set it says of this one.
    pub voters_since: LogIndex,
    /// What candidates said of themselves.
    pub readiness: BTreeMap<NodeId, Readiness>,
    /// A move that an operator asked for and that has not happened yet.
    pub wish: Option<FailoverWish>,
    /// The last changes of the holder, oldest first, bounded.
    pub moves: VecDeque<VipMove>,
    /// When it was made.
    pub created_at: WallMs,
}

/// A move that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverWish {
    /// To whom; to the next candidate that is fit, if to nobody in particular.
    pub to: Option<NodeId>,
    /// When it was asked for.
    pub at: WallMs,
}

/// One change of the holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipMove {
    /// Who held it.
    pub from: Option<NodeId>,
    /// Who holds it from this epoch on.
    pub to: Option<NodeId>,
    /// The epoch that began.
    pub epoch: Epoch,
    /// Why.
    pub reason: String,
    /// When it was agreed on.
    pub at: WallMs,
    /// The longest time without an answer that anybody saw, in microseconds.
    pub outage_us: Option<u64>,
}

/// What can be said of a virtual IP by what is agreed alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum VipState {
    /// Somebody holds it, and nothing else is wanted.
    Held,
    /// Its holder is to give it up, or is gone and its lease is not closed yet.
    Moving,
    /// Nobody holds it.
    Unheld,
}

impl VipState {
    /// The word in tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Moving => "moving",
            Self::Unheld => "unheld",
        }
    }
}

/// Why a candidate may not take a virtual IP now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unfit {
    /// It is none.
    NoCandidate,
    /// It left the mesh.
    NoMember,
    /// It has no place in the network.
    NoPeer,
    /// Whoever asks does not hear it.
    Unheard,
    /// It has not told whether it is ready.
    Untold,
    /// It is being emptied, or was.
    Draining,
    /// It is not ready, and said why.
    NotReady(String),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCandidate => f.write_str("no candidate"),
            Self::NoMember => f.write_str("not a member any more"),
            Self::NoPeer => f.write_str("without a place in the network"),
            Self::Unheard => f.write_str("not heard of"),
            Self::Untold => f.write_str("has not told yet whether it is ready"),
            Self::Draining => f.write_str("draining"),
            Self::NotReady(reason) => write!(f, "not ready: {reason}"),
        }
    }
}

impl VipId {
    /// The virtual IP that a log entry makes. No entry's place is taken twice, by no recovery
    /// either, so neither is an id.
    pub fn made_at(mesh: MeshId, index: LogIndex) -> Self {
        let mut both = [0; 24];
        both[..16].copy_from_slice(mesh.as_bytes());
        both[16..].copy_from_slice(&index.0.to_be_bytes());
        let hash = blake3::derive_key("shoal v1 virtual ip id", &both);
        let (id, _) = hash.split_first_chunk().expect("a hash has 32 bytes");
        Self::from_bytes(*id)
    }

    /// Its address in a network. Whether somebody else has it is for `apply` to see to.
    pub fn address(self, network: Ipv6Prefix64) -> Ipv6Addr {
        let hash = blake3::derive_key("shoal v1 virtual ip host part", self.as_bytes());
        let (host, _) = hash.split_first_chunk().expect("a hash has 32 bytes");
        let host = u128::from(u64::from_be_bytes(*host));
        Ipv6Addr::from_bits(network.network().to_bits() | host)
    }
}

impl VirtualIp {
    /// Whether the node may hold it at all.
    pub fn is_candidate(&self, node: &NodeId) -> bool {
        self.candidates.contains(node)
    }

    /// Whether this node was given it in this epoch.
    pub fn is_holder(&self, node: &NodeId) -> bool {
        self.holder.as_ref() == Some(node)
    }

    /// Whether its present lease, if there is one, may rest on this server.
    pub fn lease_uses(&self, node: &NodeId) -> bool {
        let among = match &self.voters {
            LeaseVoters::Stable(set) => set.contains(node),
            LeaseVoters::Joint { old, new } => old.contains(node) || new.contains(node),
        };
        self.holder.is_some() && among
    }

    /// What can be said of it without asking its holder.
    pub fn state(&self) -> VipState {
        match &self.holder {
            None => VipState::Unheld,
            Some(holder) if self.wish.is_some() || !self.is_candidate(holder) => VipState::Moving,
            Some(_) => VipState::Held,
        }
    }
}

impl Agreed {
    /// The virtual IP called so, by name or id.
    pub fn find_vip(&self, name_or_id: &str) -> Option<(VipId, &VirtualIp)> {
        let id = name_or_id.parse().ok();
        self.virtual_ips
            .iter()
            .find(|(key, vip)| vip.name == name_or_id || Some(**key) == id)
            .map(|(key, vip)| (*key, vip))
    }

    /// Why this node may not take it now; none when it may.
    pub fn unfit(
        &self,
        vip: &VirtualIp,
        node: &NodeId,
        reachable: &BTreeSet<NodeId>,
    ) -> Option<Unfit> {
        if !vip.is_candidate(node) {
            return Some(Unfit::NoCandidate);
        }
        if !self.nodes.contains_key(node) {
            return Some(Unfit::NoMember);
        }
        if !self.peers.contains_key(&(vip.network, node.clone())) {
            return Some(Unfit::NoPeer);
        }
        if !reachable.contains(node) {
            return Some(Unfit::Unheard);
        }
        // What a node has it keeps, where only nothing new is to come to it.
        let keeps = |drain: &Drain| {
            let may = || vip.is_holder(node) || self.is_last_resort(vip, node, reachable);
            drain.cordon_only && may()
        };
        if self.drains.get(node).is_some_and(|drain| !keeps(drain)) {
            return Some(Unfit::Draining);
        }
        match vip.readiness.get(node) {
            None if vip.check.is_some() => Some(Unfit::Untold),
            Some(said) if !said.ready => Some(Unfit::NotReady(said.reason.clone())),
            None | Some(_) => None,
        }
    }

    /// Whether a cluster's API would be reached by nobody unless this node takes its address, though
    /// nothing new is to come to it: its server works on.
    fn is_last_resort(&self, vip: &VirtualIp, node: &NodeId, reachable: &BTreeSet<NodeId>) -> bool {
        let mut clusters = self.clusters.values();
        let is_own = |id: &VipId| {
            let own = self.virtual_ips.get(id);
            own.is_some_and(|own| (own.network, own.address) == (vip.network, vip.address))
        };
        if !clusters.any(|cluster| is_own(&cluster.vip)) {
            return false;
        }
        let others = vip.candidates.iter();
        let mut others = others.filter(|id| *id != node && !self.drains.contains_key(*id));
        others.all(|id| self.unfit(vip, id, reachable).is_some())
    }

    /// The first fit candidate that does not hold it, or why each is not fit.
    ///
    /// # Errors
    /// Every other candidate in their order, with what is wrong with it.
    pub fn next_holder(
        &self,
        vip: &VirtualIp,
        reachable: &BTreeSet<NodeId>,
    ) -> Result<NodeId, Vec<(NodeId, Unfit)>> {
        let mut unfit = Vec::new();
        for node in vip.candidates.iter().filter(|node| !vip.is_holder(node)) {
            match self.unfit(vip, node, reachable) {
                None => return Ok(node.clone()),
                Some(why) => unfit.push((node.clone(), why)),
            }
        }
        Err(unfit)
    }

    /// Who is to have it after its holder: whom an operator wished, else the next candidate, else
    /// the same holder if it is fit; none while nobody is.
    pub fn heir(&self, vip: &VirtualIp, reachable: &BTreeSet<NodeId>) -> Option<NodeId> {
        let fit = |node: &&NodeId| self.unfit(vip, node, reachable).is_none();
        let wished = vip.wish.as_ref().and_then(|wish| wish.to.as_ref());
        let same = || vip.holder.as_ref().filter(fit).cloned();
        let next = || self.next_holder(vip, reachable).ok();
        wished.filter(fit).cloned().or_else(next).or_else(same)
    }

    /// Whether a lease may rest on this node: it must not leave Raft's voters before.
    pub fn lease_uses(&self, node: &NodeId) -> bool {
        self.virtual_ips.values().any(|vip| vip.lease_uses(node))
    }

    /// Who is to vouch for every lease: today's servers, as far as they vote in Raft. One that has
    /// not caught up would acknowledge nothing.
    pub fn lease_voters_wanted(&self, voting: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let servers = self.servers().map(|(id, _)| id);
        servers.filter(|id| voting.contains(id)).cloned().collect()
    }
}
