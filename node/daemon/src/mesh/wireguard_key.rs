//! This node's WireGuard key, replaced when the mesh wants it.
//!
//! Decides nothing of the order: `wireguard_key_step` says what is next, from what is agreed and
//! from the keys on the disk, so that a daemon that was killed goes on where it was. Before a key is
//! announced this node learns what is agreed by now: on a disk that was put back from an older copy the
//! state is as old as the keys. Decides how long the others are waited for before the new key is used:
//! those that live, and not for ever.

use std::{sync::Arc, time::Duration};

use consensus_core::{
    Command, KeysAtHand, LogIndex, Node, NodeId, WireguardKeyStep, wireguard_key_step,
};
use node_api::ApiError;
use overlay_core::{membership::Condition, peers::PublicKey};
use overlay_wireguard::{Interface, KeyError, Keyring};
use tokio::time::{Instant, sleep};

use super::{
    enforcement::{Enforced, ask_these},
    overlay::{OverlayStatus, with_sources},
    proposer::Proposer,
};

/// Whoever lives but does not take the new key in this time has other troubles; it gets the key with
/// the state that it lacks. Gossip notices the dead in a sixth of it.
const WAIT_FOR_PEERS: Duration = Duration::from_secs(30);
/// Between two rounds of asking those who were late.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// A leader answers within milliseconds; an election in between takes a second.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(3);
/// Keys change hands in the overlay's task, which wakes nobody here.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// After a step that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// What a condition of the key is called in the node's status.
const CONDITION: &str = "wireguard key";

/// The task's inputs.
pub(super) struct KeyKeeper {
    pub(super) keys: Arc<Keyring>,
    pub(super) proposer: Proposer,
    pub(super) enforced: Enforced,
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error("the new WireGuard key cannot be made")]
    Key(#[from] KeyError),
    #[error("the mesh did not agree")]
    Agree(#[from] ApiError),
    #[error("no leader says what is agreed by now")]
    Behind,
}

/// Gives the interfaces the key that is agreed, and marks those whose peers have not shaken hands
/// with it. First of all that is done to them: the others move this node's addresses to that key at
/// this moment.
pub(super) async fn follow_key(
    keys: &Keyring,
    row: &Node,
    interfaces: impl Iterator<Item = (&mut Interface, &mut bool)>,
    status: &mut OverlayStatus,
) {
    let wanted = PublicKey::from_bytes(row.wireguard_public_key);
    let (key, kept) = keys.follow(&wanted);
    if let Err(error) = kept {
        let reason = with_sources(&error);
        status.conditions.insert(CONDITION.to_owned(), reason);
    }
    for (interface, is_new) in interfaces {
        match interface.take_key(&key).await {
            Ok(new) => *is_new |= new,
            // A device that is gone is found out when it is looked at.
            Err(error) => {
                let error = with_sources(&error);
                tracing::warn!(error, "an interface does not take its new key");
                let reason = format!("an interface does not take it: {error}");
                status.conditions.insert(CONDITION.to_owned(), reason);
            }
        }
    }
}

impl KeyKeeper {
    /// Runs until cancelled.
    pub(super) async fn run(self) {
        let mut following = self.proposer.views.watch();
        loop {
            drop(following.borrow_and_update());
            let pause = match self.take(self.next_step()).await {
                Ok(true) => continue,
                Ok(false) => LOOK_EVERY,
                Err(error) => {
                    let error = with_sources(&error);
                    tracing::warn!(error, "the WireGuard key is not replaced yet");
                    RETRY_PAUSE
                }
            };
            // Both arms only wait.
            tokio::select! {
                changed = following.changed() => if changed.is_err() {
                    return;
                },
                () = sleep(pause) => {}
            }
        }
    }

    /// By the newest view: the one that is followed comes in a pace.
    fn next_step(&self) -> WireguardKeyStep {
        let view = self.proposer.views.view();
        wireguard_key_step(&view.agreed, &self.proposer.me, self.at_hand())
    }

    fn at_hand(&self) -> KeysAtHand {
        let next = self.keys.next();
        KeysAtHand {
            current: *self.keys.current().public().as_bytes(),
            next: next.map(|key| *key.as_bytes()),
        }
    }

    /// True when a step was taken, and there may be another.
    async fn take(&self, step: WireguardKeyStep) -> Result<bool, StepError> {
        let command = match step {
            WireguardKeyStep::Rest => return Ok(false),
            WireguardKeyStep::Announce(_) => {
                if !self.proposer.catch_up(CATCH_UP_WITHIN).await {
                    return Err(StepError::Behind);
                }
                let WireguardKeyStep::Announce(key) = self.next_step() else {
                    return Ok(true);
                };
                let key =
                    key.map_or_else(|| self.keys.prepare(), |key| Ok(PublicKey::from_bytes(key)))?;
                Command::AnnounceWireguardKey {
                    key: *key.as_bytes(),
                }
            }
            WireguardKeyStep::Switch { key, since } => {
                self.wait_for_peers(since).await;
                Command::TakeWireguardKey { key }
            }
        };
        let name = command.name();
        let (index, _) = self.proposer.submit(command).await?;
        tracing::info!(
            step = name,
            index = index.0,
            "the WireGuard key is being replaced"
        );
        Ok(true)
    }

    /// Waits until every node that lives has the new key for a peer.
    async fn wait_for_peers(&self, since: LogIndex) {
        let until = Instant::now() + WAIT_FOR_PEERS;
        let mut late = self.living();
        loop {
            let answers = ask_these(late, &self.proposer, &self.enforced, None, since).await;
            let living = self.living();
            late = answers
                .into_iter()
                .filter(|(_, answer)| {
                    answer
                        .as_ref()
                        .is_none_or(|(facts, _)| facts.enforced < since)
                })
                .map(|(node, _)| node)
                .filter(|node| living.contains(node))
                .collect();
            if late.is_empty() {
                return;
            }
            if Instant::now() >= until {
                tracing::warn!(
                    ?late,
                    "nodes that do not know the new WireGuard key are not waited for"
                );
                return;
            }
            sleep(ASK_AGAIN).await;
        }
    }

    /// The members that are not believed dead: of those of whom a daemon that has just started has
    /// heard nothing yet, most live.
    fn living(&self) -> Vec<NodeId> {
        let members = self.proposer.members.borrow().clone();
        let agreed = self.proposer.views.view().agreed.clone();
        let nodes = agreed.nodes.keys();
        let living = nodes.filter(|node| {
            let member = members.get(node);
            member.is_none_or(|member| member.condition != Condition::Dead)
        });
        living.cloned().collect()
    }
}
