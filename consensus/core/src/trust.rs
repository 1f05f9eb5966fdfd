//! What the agreed state says to a verifier, a signer and a holder of secrets.
//!
//! Decides which roots are trusted, which leaves of a retired intermediate are still good, which
//! intermediate a server signs with, and to whom a root key is to be sealed. Never looks into a
//! certificate: that is the verifier's work.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Agreed, Intermediate, LeafFingerprint, NodeId, Refusal, Root, RootFingerprint, RootState,
    State, WallMs,
};

impl Agreed {
    /// Every root that is trusted now, DER, oldest first.
    pub fn trusted_roots(&self) -> Vec<Vec<u8>> {
        let roots = self.authority.roots.iter();
        roots.map(|root| root.certificate.clone()).collect()
    }

    /// The root that signs intermediates.
    pub fn active_root(&self) -> Option<&Root> {
        self.root_in(RootState::Active)
    }

    /// The root in that state; there is never more than one.
    pub fn root_in(&self, state: RootState) -> Option<&Root> {
        self.authority.roots.iter().find(|root| root.state == state)
    }

    /// The root with that fingerprint.
    pub fn root(&self, fingerprint: &RootFingerprint) -> Option<&Root> {
        let mut roots = self.authority.roots.iter();
        roots.find(|root| root.fingerprint() == *fingerprint)
    }

    /// Serial numbers that no verifier accepts, of leaves and intermediates.
    pub fn revoked_serials(&self) -> BTreeSet<String> {
        self.revoked.keys().cloned().collect()
    }

    /// For each retired intermediate the leaves that are still good. Any other leaf that it
    /// signed is not.
    pub fn retired(&self) -> BTreeMap<String, BTreeSet<String>> {
        let retired = self.authority.intermediates.iter();
        let mut good: BTreeMap<String, BTreeSet<String>> = retired
            .filter(|(_, intermediate)| intermediate.retired)
            .map(|(serial, _)| (serial.clone(), BTreeSet::new()))
            .collect();
        if good.is_empty() {
            return good;
        }
        for (serial, record) in &self.certificates {
            if let Some(leaves) = good.get_mut(&record.issuer) {
                leaves.insert(serial.clone());
            }
        }
        good
    }

    /// Whether exactly this leaf, DER, is remembered under its serial number. Asked wherever a
    /// leaf's name alone gives power: an operator's at the API.
    pub fn remembers(&self, serial: &str, leaf: &[u8]) -> bool {
        let record = self.certificates.get(serial);
        record.is_some_and(|record| record.fingerprint == LeafFingerprint::of(leaf))
    }

    /// What a node that is a member no more is told when it asks for anything; none for a member
    /// and for a stranger.
    pub fn removal(&self, node: &NodeId) -> Option<Refusal> {
        let removed = self.removed.get(node)?;
        Some(Refusal::NodeRemoved {
            name: removed.name.clone(),
            at: removed.at,
            reason: removed.reason.clone(),
        })
    }

    /// What a server signs with now: of its intermediates in force under the active root, the one
    /// that ends last. None while it has to make one.
    pub fn signing_intermediate(
        &self,
        server: &NodeId,
        now: WallMs,
    ) -> Option<(&String, &Intermediate)> {
        let active = self.active_root()?.fingerprint();
        let own = self.authority.intermediates.iter();
        own.filter(|(_, own)| own.node == *server && own.root == active && !own.retired)
            .filter(|(_, own)| own.not_before <= now && now < own.not_after)
            .max_by_key(|(serial, own)| (own.not_after, *serial))
    }

    /// The chain that the holder of a leaf shows, DER: the leaf, its intermediate, and the root's
    /// cross certificate where it has one, for those who know only the root before.
    pub fn chain(&self, leaf: &[u8], issuer: &str) -> Option<Vec<Vec<u8>>> {
        let intermediate = self.authority.intermediates.get(issuer)?;
        let cross = self
            .root(&intermediate.root)
            .and_then(|root| root.cross.clone());
        let chain = [leaf.to_vec(), intermediate.certificate.clone()];
        Some(chain.into_iter().chain(cross).collect())
    }
}

impl State {
    /// Who has to be able to open a root key: every present server, and whoever keeps the
    /// recovery identity.
    pub fn sealing_recipients(&self) -> BTreeSet<String> {
        let servers = self.agreed.servers();
        servers
            .filter_map(|(id, _)| self.agreed.nodes.get(id))
            .map(|node| node.sealing_recipient.clone())
            .chain([self.recovery_recipient.clone()])
            .collect()
    }
}

/// To whom the root keys have to be sealed anew; none when all are sealed to the present servers.
pub fn reseal_due(state: &State) -> Option<BTreeSet<String>> {
    state.agreed.mesh.as_ref()?;
    let wanted = state.sealing_recipients();
    let stale = |key: &crate::SealedKey| key.recipients != wanted;
    state.root_keys.values().any(stale).then_some(wanted)
}
