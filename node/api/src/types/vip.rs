//! The shapes of virtual IPs.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

/// A virtual IP, as `vip ls` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipView {
    /// Its name.
    pub name: String,
    /// The network that it is in, by name.
    pub network: String,
    /// Its /128.
    pub address: Ipv6Addr,
    /// Who holds it, by name.
    pub holder: Option<String>,
    /// How often it was given to a holder.
    pub epoch: u64,
    /// `held`, `moving` (its holder is to give it up, or is gone and its lease is not closed yet)
    /// or `unheld`.
    pub state: String,
    /// Who may hold it, by name, the most wanted first.
    pub candidates: Vec<String>,
}

/// A virtual IP with all that is known of it, as `vip show` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipDetails {
    /// What `vip ls` gives.
    #[serde(flatten)]
    pub vip: VipView,
    /// Its id.
    pub id: String,
    /// The durations of its lease: `lan`, `safe`, `wan` or `slow`.
    pub profile: String,
    /// What candidates are asked: `tcp:80`, `https:6443/readyz`, `command:/usr/bin/check`.
    pub check: Option<String>,
    /// From one question to the next.
    pub check_interval_ms: Option<u32>,
    /// How long an answer may take.
    pub check_timeout_ms: Option<u32>,
    /// How long the holder's lease runs without another renewal. Only the holder knows; none where
    /// it was asked and did not tell.
    pub lease_left_ms: Option<u64>,
    /// Whether the holder says that the address is open there; none where it did not tell.
    pub open: Option<bool>,
    /// By what the holder's kernel ends that with the lease: `nftables`, `ebpf`, or `lifetime`, where
    /// there is nothing but the lifetime of the address; none where the holder did not tell.
    pub held_by: Option<String>,
    /// The servers that vouch for the holder, by name.
    pub lease_voters: Vec<String>,
    /// The servers that are to vouch for it instead, while that changes.
    pub lease_voters_next: Option<Vec<String>>,
    /// To whom an operator wants it moved; `*` for the next candidate that is fit.
    pub wanted_on: Option<String>,
    /// Its candidates in their order, and how they are.
    pub readiness: Vec<VipCandidate>,
    /// The last changes of its holder, the newest first.
    pub moves: Vec<VipMoveView>,
}

/// A candidate, as the node that answers sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipCandidate {
    /// The node's name.
    pub node: String,
    /// Whether it may take the virtual IP now.
    pub fit: bool,
    /// Why not.
    pub reason: Option<String>,
    /// Since when it says so of itself, milliseconds since 1970.
    pub since_ms: Option<u64>,
}

/// A change of the holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipMoveView {
    /// Who held it, by name.
    pub from: Option<String>,
    /// Who holds it since, by name.
    pub to: Option<String>,
    /// The epoch that began.
    pub epoch: u64,
    /// Why.
    pub reason: String,
    /// When it was agreed on, milliseconds since 1970.
    pub at_ms: u64,
    /// The longest time without an answer that anybody saw, in microseconds; none if nobody told.
    pub outage_us: Option<u64>,
}

/// `POST /v1/vips`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VipRequest {
    /// Its name.
    pub name: String,
    /// The network, by name.
    pub network: String,
    /// Who may hold it, by name or id, the most wanted first. The first one holds it at once.
    pub candidates: Vec<String>,
    /// What candidates are asked; nothing unless given.
    #[serde(default)]
    pub check: VipCheckRequest,
    /// `lan`, `safe` (default), `wan` or `slow`.
    pub profile: Option<String>,
}

/// `PUT /v1/vips/{vip}/check`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VipCheckRequest {
    /// `tcp:PORT`, `http:PORT/PATH`, `https:PORT/PATH` or `command:/PROGRAM ARGUMENT…`; nothing is
    /// asked unless given.
    pub probe: Option<String>,
    /// From one question to the next; a second unless given.
    pub interval_ms: Option<u32>,
    /// How long an answer may take; a second unless given.
    pub timeout_ms: Option<u32>,
}

/// `PUT /v1/vips/{vip}/candidates`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VipCandidatesRequest {
    /// Who may hold it, by name or id, the most wanted first.
    pub candidates: Vec<String>,
}

/// `POST /v1/vips/{vip}/failover`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailoverRequest {
    /// With whom it is to be, by name or id; with the next candidate that is fit, unless given.
    pub to: Option<String>,
    /// Whether to answer only when the new holder says that the address is open there.
    #[serde(default)]
    pub wait: bool,
}

/// A failover that was agreed on and, where it was waited for, has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverView {
    /// The log index of the order.
    pub raft_index: u64,
    /// Whether the new holder says that the address is open there. Never where nobody waited.
    pub moved: bool,
    /// Who held it, by name.
    pub from: Option<String>,
    /// Who holds it now, by name, if it has moved.
    pub to: Option<String>,
    /// The epoch that began, if it has moved.
    pub epoch: Option<u64>,
    /// From the order to the new holder's word, in microseconds.
    pub took_us: Option<u64>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// `POST /v1/vips/{vip}/drill`, and `…/drill/kill`
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillRequest {
    /// With whom it is to be, by name or id; with the next candidate that is fit, unless given. Not
    /// to be given with a kill: nobody is asked then.
    pub to: Option<String>,
}

/// What a drill came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillView {
    /// The virtual IP, by name.
    pub vip: String,
    /// Its address.
    pub address: Ipv6Addr,
    /// Whether the holder's daemon was killed; else it was asked to let go.
    pub killed: bool,
    /// Whether the address moved in time.
    pub moved: bool,
    /// Who held it, by name.
    pub from: String,
    /// Who holds it now, by name, if it moved.
    pub to: Option<String>,
    /// The epoch that began, if it moved.
    pub epoch: Option<u64>,
    /// From the order to the new holder's word, or to the end of all patience, in microseconds.
    pub took_us: u64,
    /// The longest silence that any peer saw, in microseconds.
    pub outage_us: Option<u64>,
    /// How often each peer probed, in microseconds: a silence is known as exactly as that.
    pub every_us: u64,
    /// Every peer of the network, the longest silence first.
    pub peers: Vec<DrillPeer>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// What one peer saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillPeer {
    /// Its name.
    pub node: String,
    /// The longest time from one answer to the next, in microseconds; none where it did not look.
    pub outage_us: Option<u64>,
    /// Echo requests that it sent.
    pub sent: u64,
    /// Answers that it got.
    pub answers: u64,
    /// The longest time in which it did not even probe, in microseconds: it was busy elsewhere.
    pub pause_us: Option<u64>,
    /// Whether the address answered it at the end.
    pub answering: bool,
    /// Why it did not look, or what else is to be known.
    pub reason: Option<String>,
}
