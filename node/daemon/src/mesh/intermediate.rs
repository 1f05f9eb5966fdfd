//! A server's own authority: made when the server has none, renewed in time, given up when the
//! node is no server any more. Also seals the root keys to whoever is a server now.
//!
//! Decides nothing: `intermediate_due` and `reseal_due` do. The root key is in memory only while it
//! signs an intermediate or is sealed anew.

use std::{sync::Arc, time::Duration};

use consensus_authority::{Issuer, seal};
use consensus_core::{
    Agreed, Command, NewIntermediate, Role, RootFingerprint, State, intermediate_due, reseal_due,
};
use node_api::ApiError;
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{issuer::now, proposer::Proposer};
use crate::authority::{AuthorityError, AuthorityFiles};

/// How often ages are looked at; everything else is told.
const LOOK_AROUND: Duration = Duration::from_secs(60);
/// After a step that was refused or failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The servers that could seal do not all do it at once: each waits up to this long. The one whose
/// seal is agreed first wins, the others find nothing left to do.
const SEAL_SPREAD_MS: u64 = 300;

/// Keeps a server's authority.
pub(crate) struct IntermediateKeeper {
    pub(crate) files: Arc<AuthorityFiles>,
    pub(crate) proposer: Proposer,
    pub(crate) issuer: watch::Sender<Option<Arc<Issuer>>>,
    pub(crate) stop: CancellationToken,
}

impl IntermediateKeeper {
    /// Runs until stopped.
    pub(crate) async fn run(self) {
        let mut view = self.proposer.views.watch();
        let mut agreement = self.proposer.agreement.clone();
        loop {
            let agreed = view.borrow_and_update().agreed.clone();
            agreement.borrow_and_update();
            let state = self.proposer.state();
            let failed = match state {
                Some(state) if is_server(&agreed, &self.proposer) => {
                    self.step(&agreed, &state).await
                }
                // A server whose Raft is still opening knows its authority from the view.
                None if is_server(&agreed, &self.proposer) => Ok(()),
                Some(_) | None => {
                    if self.issuer.send_replace(None).is_some() {
                        self.files.forget_intermediate();
                    }
                    // An honest former server keeps no copy of what it may open no more.
                    self.files.keep_roots([]).map_err(ApiError::from)
                }
            };
            if let Err(error) = &failed {
                tracing::warn!(code = error.code, %error, "this server's authority is not in order yet");
            }
            let pause = if failed.is_err() {
                RETRY_PAUSE
            } else {
                LOOK_AROUND
            };
            // All arms only wait; everything is read anew above.
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = view.changed() => if changed.is_err() { return },
                changed = agreement.changed() => if changed.is_err() { return },
                () = sleep(pause) => {}
            }
        }
    }

    async fn step(&self, agreed: &Agreed, state: &State) -> Result<(), ApiError> {
        let keys = state
            .root_keys
            .iter()
            .map(|(root, key)| (root, key.age.as_slice()));
        self.files.keep_roots(keys)?;
        self.make(agreed, state).await?;
        self.reseal(state).await
    }

    /// Makes an intermediate if one is due, and signs with the one that is agreed.
    async fn make(&self, agreed: &Agreed, state: &State) -> Result<(), ApiError> {
        let me = &self.proposer.me;
        let agreed_now = agreed.signing_intermediate(me, now());
        let kept = self.files.intermediate()?;
        let usable = agreed_now
            .zip(kept)
            .filter(|((_, row), (_, certificate))| row.certificate == *certificate);
        if let Some(((serial, row), (key, certificate))) = usable {
            let signs_with = self.issuer.borrow().as_ref().map(|issuer| {
                let intermediate = issuer.intermediate();
                (intermediate.serial().to_owned(), issuer.cross().to_vec())
            });
            let cross: Vec<Vec<u8>> = agreed
                .root(&row.root)
                .and_then(|root| root.cross.clone())
                .into_iter()
                .collect();
            if signs_with != Some((serial.clone(), cross.clone())) {
                let issuer = Issuer::new(key, &certificate, cross).map_err(AuthorityError::from)?;
                self.issuer.send_replace(Some(Arc::new(issuer)));
            }
            if intermediate_due(agreed, me, now()).is_none() {
                return Ok(());
            }
        }
        let root = agreed
            .active_root()
            .ok_or(consensus_core::Refusal::NoMesh)?;
        let fingerprint = root.fingerprint();
        // A new server's own state is still on its way.
        let Some(sealed) = state.root_keys.get(&fingerprint) else {
            return Ok(());
        };
        let own = self.files.sealing_key()?.recipient();
        if !sealed.recipients.contains(&own) {
            // Another server seals it to this one as soon as it is told of it.
            return Ok(());
        }
        let opened = self.files.open_root(&sealed.age, &root.certificate)?;
        let (_, signed) = self.files.new_intermediate(&opened, me, now())?;
        drop(opened);
        let command = Command::RecordIntermediate(NewIntermediate {
            serial: signed.serial.clone(),
            certificate: signed.der,
            root: fingerprint,
            not_before: signed.validity.not_before,
            not_after: signed.validity.not_after,
        });
        self.proposer.submit(command).await?;
        tracing::info!(serial = signed.serial, "this server has a new intermediate");
        Ok(())
    }

    /// Seals the root keys to the present servers, if this one can open them.
    async fn reseal(&self, state: &State) -> Result<(), ApiError> {
        let Some(wanted) = reseal_due(state) else {
            return Ok(());
        };
        let own = self.files.sealing_key()?.recipient();
        let stale: Vec<RootFingerprint> = state
            .root_keys
            .iter()
            .filter(|(_, key)| key.recipients != wanted && key.recipients.contains(&own))
            .map(|(root, _)| *root)
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        sleep(Duration::from_millis(rand::random_range(0..SEAL_SPREAD_MS))).await;
        for root in stale {
            let Some(state) = self.proposer.state() else {
                return Ok(());
            };
            let due = reseal_due(&state).zip(state.root_keys.get(&root).cloned());
            let Some((wanted, key)) = due.filter(|(wanted, key)| key.recipients != *wanted) else {
                continue;
            };
            let opened = self
                .files
                .sealing_key()?
                .unseal(&key.age)
                .map_err(AuthorityError::from)?;
            let recipients: Vec<&String> = wanted.iter().collect();
            let age = seal(&opened, &recipients).map_err(AuthorityError::from)?;
            let command = Command::SealRootKey {
                root,
                key: consensus_core::SealedKey {
                    recipients: wanted,
                    age,
                },
            };
            self.proposer.submit(command).await?;
            tracing::info!(%root, "the root key is sealed to the present servers");
        }
        Ok(())
    }
}

fn is_server(agreed: &Agreed, proposer: &Proposer) -> bool {
    let node = agreed.nodes.get(&proposer.me);
    node.is_some_and(|node| node.role == Role::Server)
}
