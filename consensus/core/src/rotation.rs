//! When a rotation of the root takes its next step.
//!
//! Decides, from the agreed state and from what the leader was told by each node, whether the new
//! root may issue and whether the old one may be dropped; and what it waits for. `apply` holds
//! every step to its order once more. Never waits for a node that is silent: such a node is led to
//! the new root by its cross certificate when it comes back. Never waits for ever either: past a
//! deadline the rotation goes on, because the reason for it may be a thief.

use std::collections::{BTreeMap, BTreeSet};

use std::time::Duration;

use crate::{
    Agreed, CertificateProfile, CertificateRecord, Command, DockerPhase, Holder, LogIndex, Node,
    NodeId, NodeState, RootState, Rotation, RotationStep, WallMs,
};

/// How long a rotation waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RotationWaits {
    /// At least so long is the new root trusted before it issues.
    pub trusting_min: Duration,
    /// At most so long does a step wait for anybody.
    pub step_max: Duration,
}

impl Default for RotationWaits {
    /// Ten seconds outlast a view on its way to somebody who was not asked; a week outlasts every
    /// leaf but an operator's, who has had that long to fetch a new one.
    fn default() -> Self {
        Self {
            trusting_min: Duration::from_secs(10),
            step_max: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// What a node told the leader.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeFacts {
    /// Up to where in the log it has put into force what was agreed.
    pub enforced: LogIndex,
    /// The serial number of the leaf that it shows in its handshakes.
    pub leaf: Option<String>,
}

/// What the leader knows beside the agreed state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RotationFacts {
    /// The time.
    pub now: WallMs,
    /// What each node told.
    pub nodes: BTreeMap<NodeId, NodeFacts>,
    /// Who is not heard.
    pub silent: BTreeSet<NodeId>,
    /// How long to wait.
    pub waits: RotationWaits,
}

/// What a rotation waits for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum RotationHold {
    /// The new root has not been trusted for long enough.
    TooSoon,
    /// A node has not said that it knows the present step.
    NotEnforced(NodeId),
    /// A server has no intermediate under the new root.
    NoIntermediate(NodeId),
    /// A leaf under the old root is in force and has no successor.
    Unreplaced {
        /// Its serial number.
        serial: String,
        /// Who holds it.
        holder: Holder,
        /// What it is for.
        profile: CertificateProfile,
    },
    /// A leaf has a successor that its node does not use yet.
    NotInUse(NodeId, CertificateProfile),
}

/// The rotation's next step as a command, or none while there is nothing to do or it has to wait.
pub fn rotation_step(agreed: &Agreed, facts: &RotationFacts) -> Option<Command> {
    let rotation = agreed.authority.rotation.as_ref()?;
    let waited = Duration::from_millis(facts.now.0.saturating_sub(rotation.step_at.0));
    let overdue = waited >= facts.waits.step_max;
    if !overdue && !rotation_holds(agreed, facts).is_empty() {
        return None;
    }
    Some(match rotation.step {
        RotationStep::Trusting => Command::AdvanceRotation {
            to: RotationStep::Issuing,
        },
        RotationStep::Issuing => Command::FinishRotation {
            root: agreed.root_in(RootState::Outgoing)?.fingerprint(),
            leave_behind: overdue,
        },
    })
}

/// All that the rotation waits for now; empty without a rotation.
pub fn rotation_holds(agreed: &Agreed, facts: &RotationFacts) -> Vec<RotationHold> {
    let Some(rotation) = &agreed.authority.rotation else {
        return Vec::new();
    };
    let mut holds = not_enforced(agreed, facts, rotation);
    match rotation.step {
        RotationStep::Trusting => {
            let since = Duration::from_millis(facts.now.0.saturating_sub(rotation.step_at.0));
            if since < facts.waits.trusting_min {
                holds.push(RotationHold::TooSoon);
            }
        }
        RotationStep::Issuing => {
            holds.extend(without_intermediate(agreed, facts));
            let left = unreplaced(agreed, facts.now).into_iter();
            holds.extend(left.map(|(serial, record)| RotationHold::Unreplaced {
                serial: serial.clone(),
                holder: record.holder.clone(),
                profile: record.profile,
            }));
            holds.extend(not_in_use(agreed, facts));
        }
    }
    holds
}

/// The nodes that are up and heard.
fn present<'a>(
    agreed: &'a Agreed,
    facts: &'a RotationFacts,
) -> impl Iterator<Item = (&'a NodeId, &'a Node)> {
    let nodes = agreed.nodes.iter();
    nodes.filter(|(id, node)| node.state == NodeState::Running && !facts.silent.contains(*id))
}

fn not_enforced(agreed: &Agreed, facts: &RotationFacts, rotation: &Rotation) -> Vec<RotationHold> {
    let knows = |id: &NodeId| {
        let told = facts.nodes.get(id);
        told.is_some_and(|told| told.enforced >= rotation.step_index)
    };
    let missing = present(agreed, facts).filter(|(id, _)| !knows(id));
    let missing = missing.map(|(id, _)| RotationHold::NotEnforced(id.clone()));
    missing.collect()
}

fn without_intermediate(agreed: &Agreed, facts: &RotationFacts) -> Vec<RotationHold> {
    let servers = agreed.servers().map(|(id, _)| id);
    let heard = servers.filter(|id| !facts.silent.contains(*id));
    let missing = heard.filter(|id| agreed.signing_intermediate(id, facts.now).is_none());
    missing
        .map(|id| RotationHold::NoIntermediate(id.clone()))
        .collect()
}

/// Leaves in force under the outgoing root that their holders cannot do without yet.
///
/// A newer leaf of the same holder and profile replaces one, except a docker client's: those of
/// one node are handed to several people, who do not know of each other. They live for a day.
pub(crate) fn unreplaced(agreed: &Agreed, now: WallMs) -> Vec<(&String, &CertificateRecord)> {
    let mut replaced = BTreeSet::new();
    let mut old = Vec::new();
    for (serial, record) in &agreed.certificates {
        match root_state(agreed, record) {
            Some(RootState::Outgoing) if record.not_after > now => old.push((serial, record)),
            Some(RootState::Active) if record.not_after > now => {
                replaced.insert((&record.holder, record.profile));
            }
            Some(RootState::Outgoing | RootState::Active | RootState::Incoming) | None => {}
        }
    }
    old.retain(|(_, record)| {
        record.profile == CertificateProfile::DockerClient
            || !replaced.contains(&(&record.holder, record.profile))
    });
    old
}

/// The state of the root that a leaf rests on.
pub(crate) fn root_state(agreed: &Agreed, record: &CertificateRecord) -> Option<RootState> {
    let issuer = agreed.authority.intermediates.get(&record.issuer)?;
    agreed.root(&issuer.root).map(|root| root.state)
}

/// Nodes that still show a leaf under the old root, though they were given another.
fn not_in_use(agreed: &Agreed, facts: &RotationFacts) -> Vec<RotationHold> {
    let mut holds = Vec::new();
    for (id, _) in present(agreed, facts) {
        let told = facts.nodes.get(id);
        let shown = told
            .and_then(|told| told.leaf.as_ref())
            .and_then(|serial| agreed.certificates.get(serial));
        let renewed =
            shown.is_some_and(|shown| root_state(agreed, shown) == Some(RootState::Active));
        if !renewed {
            let profile = CertificateProfile::Node;
            holds.push(RotationHold::NotInUse(id.clone(), profile));
        }
        let dockerd = agreed.docker_hosts.get(id).map(|host| &host.phase);
        if matches!(
            dockerd,
            Some(DockerPhase::WantsCert { .. } | DockerPhase::WantsConfig)
        ) {
            let profile = CertificateProfile::DockerServer;
            holds.push(RotationHold::NotInUse(id.clone(), profile));
        }
    }
    holds
}
