//! Taking a mesh over from a backup, on a machine that is in no mesh.
//!
//! Decides the order, which is that of founding: everything that can fail comes before `mesh.json`
//! is written, and what was made until then is removed when it fails. The mesh keeps its id, its
//! root and its members; this machine is its only server, in the next era.

use std::{collections::BTreeSet, fs};

use consensus_authority::{Issuer, LEAF_LIFETIME, Root, RootKey, seal};
use consensus_core::{
    CertificateProfile, DEFAULT_NETWORK, Enrolment, Holder, LogIndex, NewIntermediate, RaftId,
    Restorer, SealedKey, State, restore,
};
use consensus_raft::{Era, NewPart};
use node_api::{
    ApiError,
    types::{JoinRequest, Joined},
};

use super::{Entered, Node, found::Plain as _, listen_error};
use crate::{
    authority::{self, AuthorityError},
    backup::{self, Backup},
    mesh::{
        Host,
        issuer::{node_names, now, record},
        proposer::wall_now,
        renewal::node_request,
        replica::Replica,
        server,
        views::View,
    },
};

impl Node {
    /// Makes this node the server of the mesh that the backup holds.
    pub(crate) async fn restore(
        &self,
        file: Vec<u8>,
        identity: String,
    ) -> Result<Joined, ApiError> {
        let _entering = self.entering.lock().await;
        self.refuse_second_mesh()?;
        let identity = zeroize::Zeroizing::new(identity);
        let opened =
            tokio::task::spawn_blocking(move || backup::open(&file, identity.as_str())).await;
        let opened = opened.map_err(|error| internal(&error.to_string()))??;
        let era = Era::begun_at(wall_now(), opened.state.applied, Era(0))
            .ok_or_else(|| internal("this was the last era"))?;
        let at = era.first_index();
        let restored = self.take_over(opened, era, at).await;
        if restored.is_err() {
            authority::forget(&self.host.data.authority());
            let _ = fs::remove_dir_all(self.host.data.raft(RaftId(at.0)));
        }
        restored
    }

    async fn take_over(&self, opened: Backup, era: Era, at: LogIndex) -> Result<Joined, ApiError> {
        let host = &self.host;
        let raft_id = RaftId(at.0);
        let first = self.enrolment(&JoinRequest::plain(), None)?;
        let (restorer, chain) = restorer(host, &opened, first)?;
        let mut state = opened.state;
        restore(&mut state, at, wall_now(), raft_id, &restorer)?;
        let mesh = state
            .agreed
            .mesh
            .as_ref()
            .ok_or(consensus_core::Refusal::NoMesh)?
            .id;
        // That machine gets a place there, and perhaps others later.
        if let Some((_, network)) = state.agreed.find_network(DEFAULT_NETWORK) {
            super::check_prefix(network.ipv4).await?;
        }
        let roots = state.agreed.trusted_roots();
        let view = View {
            revision: state.applied,
            agreed: state.agreed.clone(),
        };
        let part = NewPart {
            dir: host.data.raft(raft_id),
            raft_id,
            node: host.me(),
            era,
            at,
        };
        // Left over from a restore that was cut short; this node is a member of nothing.
        let _ = fs::remove_dir_all(&part.dir);
        host.data.forget_opened_raft();
        let written = tokio::task::spawn_blocking(move || {
            consensus_raft::restore(&part, Replica(state), Replica::default())
        })
        .await;
        written
            .map_err(|error| internal(&error.to_string()))?
            .map_err(|error| {
                ApiError::new(error.code(), error.to_string(), error.hint()).caused_by(&error)
            })?;
        let connected = host
            .connect(mesh, &roots, chain.clone())
            .map_err(|error| listen_error(&error))?;
        let timers = host.config.raft_timers;
        let raft = server::open(&host.data, &host.me(), raft_id, timers, &connected.net).await;
        match raft {
            Ok(agreement) => {
                let entered = Entered {
                    mesh,
                    chain,
                    view,
                    raft: Some((raft_id, agreement)),
                    recovery_key: None,
                };
                self.enter(connected, entered)
            }
            Err(error) => {
                connected.net.stop().await;
                Err(ApiError::new(error.code(), error.to_string(), error.hint()).caused_by(&error))
            }
        }
    }
}

/// What this machine brings into the mesh, and what it shows of itself.
fn restorer(
    host: &Host,
    opened: &Backup,
    enrolment: Enrolment,
) -> Result<(Restorer, Vec<Vec<u8>>), ApiError> {
    let issue =
        |error: consensus_authority::IssueError| ApiError::from(AuthorityError::from(error));
    let Backup { state, root_keys } = opened;
    let active = state
        .agreed
        .active_root()
        .ok_or(consensus_core::Refusal::NoMesh)?;
    let key = root_keys
        .get(&active.fingerprint())
        .ok_or_else(|| internal("the backup holds no key of its active root"))?;
    let key = RootKey::from_pkcs8(key).map_err(AuthorityError::from)?;
    let root = Root::open(key, &active.certificate).map_err(issue)?;
    let files = &host.authority;
    let (key, intermediate) = files.new_intermediate(&root, &enrolment.node, now())?;
    let cross = active.cross.clone().into_iter().collect();
    let issuer = Issuer::new(key, &intermediate.der, cross).map_err(issue)?;
    let holder = Holder::Node(enrolment.node.clone());
    let networks = state.agreed.networks.values();
    let addresses = networks.map(|network| network.ipv6.host(&enrolment.node));
    let leaf = issuer
        .sign(
            &node_request(&host.key)?,
            CertificateProfile::Node,
            &holder,
            &node_names(&enrolment.name, addresses),
            LEAF_LIFETIME,
            now(),
        )
        .map_err(issue)?;
    let restorer = Restorer {
        intermediate: NewIntermediate {
            serial: intermediate.serial,
            certificate: intermediate.der,
            root: active.fingerprint(),
            not_before: intermediate.validity.not_before,
            not_after: intermediate.validity.not_after,
        },
        certificate: record(&leaf, holder, CertificateProfile::Node),
        root_keys: sealed(root_keys, state, &enrolment)?,
        enrolment,
    };
    Ok((restorer, leaf.chain))
}

/// The root keys, for this machine and for whoever keeps the recovery key.
fn sealed(
    root_keys: &std::collections::BTreeMap<
        consensus_core::RootFingerprint,
        zeroize::Zeroizing<Vec<u8>>,
    >,
    state: &State,
    enrolment: &Enrolment,
) -> Result<std::collections::BTreeMap<consensus_core::RootFingerprint, SealedKey>, ApiError> {
    let recipients = BTreeSet::from([
        enrolment.sealing_recipient.clone(),
        state.recovery_recipient.clone(),
    ]);
    let to: Vec<&String> = recipients.iter().collect();
    root_keys
        .iter()
        .map(|(root, key)| {
            let age = seal(key, &to).map_err(AuthorityError::from)?;
            let recipients = recipients.clone();
            Ok((*root, SealedKey { recipients, age }))
        })
        .collect()
}

fn internal(reason: &str) -> ApiError {
    ApiError::new(
        "RestoreError",
        format!("the backup can't be restored: {reason}"),
        "look into the daemon's log",
    )
}
