//! The root's replacement: begun on any server, driven by the leader.
//!
//! Decides nothing: `rotation_step` says when the next step may be taken, `rotation_holds` what it
//! waits for. Asks every node how far it is, only while a rotation is under way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use consensus_authority::{Certificate, Root, seal};
use consensus_core::{
    Command, LogIndex, NewRoot, NodeFacts, NodeId, RotationFacts, RotationWaits, SealedKey,
    rotation_holds, rotation_step,
};
use node_api::ApiError;
use overlay_core::membership::Condition;
use overlay_net::Credentials;
use tokio::sync::watch;

use super::{
    enforcement::{Enforced, ask_all},
    issuer::now,
    proposer::Proposer,
};
use crate::authority::{AuthorityError, AuthorityFiles};

/// The code of a node that can't open the root key; another server is asked then.
pub(crate) const NO_ROOT_KEY: &str = "RootKeyMissingError";

/// Begins rotations, and knows what the leader must know of each node.
#[derive(Clone)]
pub(crate) struct Rotator {
    pub(crate) files: Arc<AuthorityFiles>,
    pub(crate) proposer: Proposer,
    pub(crate) enforced: Enforced,
    pub(crate) credentials: watch::Receiver<Arc<Credentials>>,
}

impl Rotator {
    /// The serial number of the leaf that this node shows.
    pub(crate) fn own_leaf(&self) -> Option<String> {
        let leaf = self.credentials.borrow().leaf().to_vec();
        let leaf = Certificate::read(&leaf).ok()?;
        Some(leaf.serial().to_owned())
    }

    /// Makes a new root, signs it with the present one, and has every node told to trust it.
    pub(crate) async fn begin(
        &self,
        reason: String,
        operator: Option<String>,
    ) -> Result<LogIndex, ApiError> {
        let missing = || {
            ApiError::new(
                NO_ROOT_KEY,
                "this node can't open the mesh's root key",
                "ask a server",
            )
        };
        let state = self.proposer.state().ok_or_else(missing)?;
        let active = state.agreed.active_root().ok_or_else(missing)?;
        let sealed = state
            .root_keys
            .get(&active.fingerprint())
            .ok_or_else(missing)?;
        let own = self.files.sealing_key()?.recipient();
        if !sealed.recipients.contains(&own) {
            return Err(missing());
        }
        let mesh = state
            .agreed
            .mesh
            .as_ref()
            .ok_or(consensus_core::Refusal::NoMesh)?
            .id;
        let present = self.files.open_root(&sealed.age, &active.certificate)?;
        let next = Root::generate(mesh, now()).map_err(AuthorityError::from)?;
        let certificate = next.certificate().der().to_vec();
        let cross = present
            .cross_sign(&certificate, now())
            .map_err(AuthorityError::from)?;
        let recipients: BTreeSet<String> = state.sealing_recipients();
        let to: Vec<&String> = recipients.iter().collect();
        let age = seal(next.key().pkcs8(), &to).map_err(AuthorityError::from)?;
        let command = Command::BeginRotation {
            root: NewRoot {
                not_after: next.certificate().not_after(),
                certificate,
                cross: Some(cross),
            },
            key: SealedKey { recipients, age },
            reason,
        };
        let (index, _) = self.proposer.agree_for(command, operator).await?;
        Ok(index)
    }

    /// What the rotation waits for, in words, by what this node is told now.
    pub(crate) async fn waits_for(&self) -> Vec<String> {
        let Some(facts) = self.facts().await else {
            return Vec::new();
        };
        let agreed = self.proposer.views.view().agreed.clone();
        let holds = rotation_holds(&agreed, &facts);
        let words: BTreeSet<String> = holds.iter().map(|hold| words(&agreed, hold)).collect();
        words.into_iter().collect()
    }

    /// What every node says; none without a rotation.
    async fn facts(&self) -> Option<RotationFacts> {
        let agreed = self.proposer.views.view().agreed.clone();
        let step = agreed.authority.rotation.as_ref()?.step_index;
        let answers = ask_all(&self.proposer, &self.enforced, self.own_leaf(), step).await;
        let nodes: BTreeMap<NodeId, NodeFacts> = answers
            .into_iter()
            .filter_map(|(node, answer)| Some((node, answer?.0)))
            .collect();
        let members = self.proposer.members.borrow().clone();
        let silent = members
            .iter()
            .filter(|(_, member)| member.condition == Condition::Dead)
            .map(|(id, _)| id.clone())
            .collect();
        Some(RotationFacts {
            now: now(),
            nodes,
            silent,
            waits: RotationWaits::default(),
        })
    }

    /// The leader's turn at a rotation. True when a step was taken.
    pub(crate) async fn drive(&self) -> bool {
        let Some(facts) = self.facts().await else {
            return false;
        };
        let agreed = self.proposer.views.view().agreed.clone();
        let Some(command) = rotation_step(&agreed, &facts) else {
            return false;
        };
        let name = command.name();
        match self.proposer.submit(command).await {
            Ok((index, _)) => {
                tracing::info!(step = name, index = index.0, "the root's rotation goes on");
                true
            }
            Err(error) => {
                tracing::warn!(step = name, code = error.code, %error, "the root's rotation does not go on yet");
                false
            }
        }
    }
}

fn words(agreed: &consensus_core::Agreed, hold: &consensus_core::RotationHold) -> String {
    use consensus_core::RotationHold;
    match hold {
        RotationHold::TooSoon => "time, so that every node hears of the new root".to_owned(),
        RotationHold::NotEnforced(node) => {
            format!("{} to take the step", agreed.name_of(node))
        }
        RotationHold::NoIntermediate(node) => {
            format!("{} to make an intermediate", agreed.name_of(node))
        }
        RotationHold::Unreplaced {
            holder, profile, ..
        } => {
            let holder = match holder {
                consensus_core::Holder::Node(node) => agreed.name_of(node),
                consensus_core::Holder::Operator(name) => name.clone(),
            };
            format!("a new {} certificate of {holder}", profile.as_str())
        }
        RotationHold::NotInUse(node, profile) => format!(
            "{} to use its new {} certificate",
            agreed.name_of(node),
            profile.as_str()
        ),
    }
}
