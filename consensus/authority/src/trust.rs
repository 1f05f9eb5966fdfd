//! Which chains are believed: the one verifier of the mesh.
//!
//! Decides the path from a leaf to a trusted root, and that nothing on it is of another mesh,
//! another profile, revoked, retired or out of time. Path validation is the part of RFC 5280,
//! section 6, that such chains need: names, signatures, basic constraints with path length, key
//! usage, extended key usage, critical extensions. No clock: the time is an argument.
//!
//! Invariant: any doubt refuses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use consensus_core::{Agreed, CertificateProfile, Holder, LeafFingerprint, MeshId, NodeId, WallMs};

use crate::{
    certificate::Certificate,
    issue::Names,
    key::PublicKey,
    profile::{INTERMEDIATE_UNIT, ROOT_UNIT, holder_of, outlives_issuer},
    refusal::Refusal,
    validity::Validity,
};

/// Most certificates in a shown chain: a leaf, its intermediate and the cross certificates of two
/// rotations on end.
const CHAIN_CERTIFICATES_MAX: usize = 4;
/// What an intermediate must have as its path length.
const INTERMEDIATE_PATH_LEN: u32 = 0;

/// What a node holds chains against.
#[derive(Clone, PartialEq, Eq)]
pub struct Trust {
    mesh: MeshId,
    roots: Vec<Certificate>,
    revoked: BTreeSet<String>,
    retired: BTreeMap<String, BTreeSet<LeafFingerprint>>,
    remembered: BTreeSet<LeafFingerprint>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("mesh", &self.mesh)
            .field("roots", &self.roots.len())
            .field("revoked", &self.revoked.len())
            .field("retired", &self.retired.len())
            .field("remembered", &self.remembered.len())
            .finish()
    }
}

impl Trust {
    /// Trusts `roots` (DER) to speak for `mesh`. A root that can't be read is trusted with
    /// nothing.
    ///
    /// `revoked` holds serial numbers of leaves, intermediates and cross certificates; `retired`
    /// the serial numbers of intermediates that no longer issue, each with the fingerprints of
    /// the leaves by it that are still good: whoever keeps such a key chooses serial numbers.
    /// Leading zeros and letter case of serial numbers do not matter.
    pub fn new(
        mesh: MeshId,
        roots: &[Vec<u8>],
        revoked: &BTreeSet<String>,
        retired: &BTreeMap<String, BTreeSet<LeafFingerprint>>,
    ) -> Self {
        Self {
            mesh,
            roots: roots
                .iter()
                .filter_map(|der| Certificate::read(der).ok())
                .collect(),
            revoked: bare_serials(revoked),
            retired: retired
                .iter()
                .map(|(issuer, leaves)| (bare_serial(issuer), leaves.clone()))
                .collect(),
            remembered: BTreeSet::new(),
        }
    }

    /// Names operators' leaves (fingerprints) that the mesh remembers. Only these are believed
    /// after their intermediate's end; any other leaf ends with its intermediate, so that a key
    /// that leaks after its certificate's end makes nobody an operator.
    #[must_use]
    pub fn remembering(mut self, leaves: impl IntoIterator<Item = LeafFingerprint>) -> Self {
        self.remembered = leaves.into_iter().collect();
        self
    }

    /// What the agreed state says is to be trusted.
    pub fn of(mesh: MeshId, agreed: &Agreed) -> Self {
        let intermediates = agreed.authority.intermediates.iter();
        let mut retired: BTreeMap<String, BTreeSet<LeafFingerprint>> = intermediates
            .filter(|(_, intermediate)| intermediate.retired)
            .map(|(serial, _)| (serial.clone(), BTreeSet::new()))
            .collect();
        let mut operators = Vec::new();
        for record in agreed.certificates.values() {
            let leaf = record.fingerprint;
            if let Some(good) = retired.get_mut(&record.issuer) {
                good.insert(leaf);
            }
            if outlives_issuer(record.profile) {
                operators.push(leaf);
            }
        }
        let roots = agreed.trusted_roots();
        Self::new(mesh, &roots, &agreed.revoked_serials(), &retired).remembering(operators)
    }

    /// The same with other serial numbers revoked.
    #[must_use]
    pub fn revoking(mut self, revoked: &BTreeSet<String>) -> Self {
        self.revoked = bare_serials(revoked);
        self
    }

    /// The trust domain.
    pub fn mesh(&self) -> MeshId {
        self.mesh
    }

    /// The roots that could be read.
    pub fn roots(&self) -> &[Certificate] {
        &self.roots
    }

    /// Whether this certificate was revoked.
    pub fn is_revoked(&self, serial: &str) -> bool {
        self.revoked.contains(&bare_serial(serial))
    }

    /// Whether `chain` (leaf first; the root may be left out) is to be believed at `now`, and what
    /// it says. What follows the first certificate of a trusted root must be well formed and is
    /// otherwise of no account.
    pub fn verify(&self, chain: &[Vec<u8>], now: WallMs) -> Result<Verified, Refusal> {
        if chain.len() > CHAIN_CERTIFICATES_MAX {
            return Err(Refusal::Malformed("too many certificates"));
        }
        let shown = chain
            .iter()
            .map(|der| Certificate::read(der))
            .collect::<Result<Vec<_>, _>>()?;
        let leaf = shown
            .first()
            .ok_or(Refusal::WrongRoot("it showed no certificate"))?;
        let (path, root) = self
            .path(&shown)
            .map_err(|refusal| self.of_other_mesh(leaf, refusal))?;
        let (profile, holder) = self.verify_names(leaf, path, root)?;
        let serials: Vec<_> = path.iter().map(|link| link.serial().to_owned()).collect();
        let fingerprint = LeafFingerprint::of(leaf.der());
        self.verify_standing(&serials, &fingerprint)?;
        let validity = self.period(profile, path, root);
        verify_time(validity, now)?;
        Ok(Verified {
            profile,
            holder,
            public_key: leaf.public_key().clone(),
            names: leaf.names().clone(),
            serials,
            fingerprint,
            not_before: validity.not_before,
            not_after: validity.not_after,
        })
    }

    /// Whether a chain verified earlier may no longer be believed at `now`. Its roots are not
    /// looked at again.
    pub fn recheck(&self, verified: &Verified, now: WallMs) -> Result<(), Refusal> {
        self.verify_standing(&verified.serials, &verified.fingerprint)?;
        verify_time(verified.validity(), now)
    }

    /// The shown certificates up to the first that a trusted root signed, and that root.
    fn path<'a>(
        &'a self,
        shown: &'a [Certificate],
    ) -> Result<(&'a [Certificate], &'a Certificate), Refusal> {
        for (place, link) in shown.iter().enumerate() {
            if place > 0 {
                verify_link(&shown[place - 1], link, place - 1)?;
            } else if link.is_authority() {
                return Err(Refusal::other_profile(
                    link.unit(),
                    &CertificateProfile::ALL,
                ));
            }
            if let Some(root) = self.roots.iter().find(|root| link.is_signed_by(root)) {
                verify_link(link, root, place)?;
                return Ok((&shown[..=place], root));
            }
        }
        Err(Refusal::WrongRoot("no trusted root signed it"))
    }

    /// A stranger that says it is of another mesh is told so.
    fn of_other_mesh(&self, leaf: &Certificate, refusal: Refusal) -> Refusal {
        let other = leaf.mesh().filter(|mesh| *mesh != self.mesh);
        match (&refusal, other) {
            (Refusal::WrongRoot(_), Some(mesh)) => Refusal::WrongMesh {
                shown: mesh.to_string(),
            },
            _ => refusal,
        }
    }

    /// Everybody on the path is of this mesh, and the leaf is what its profile asks.
    fn verify_names(
        &self,
        leaf: &Certificate,
        path: &[Certificate],
        root: &Certificate,
    ) -> Result<(CertificateProfile, Holder), Refusal> {
        let mesh = self.mesh.to_string();
        if let Some(other) = path
            .iter()
            .chain([root])
            .find(|link| link.mesh_text() != mesh)
        {
            return Err(Refusal::WrongMesh {
                shown: other.mesh_text().to_owned(),
            });
        }
        let profile = leaf
            .profile()
            .ok_or_else(|| Refusal::other_profile(leaf.unit(), &CertificateProfile::ALL))?;
        if !leaf.fits(profile) {
            return Err(Refusal::Malformed(
                "its key or its use is not its profile's",
            ));
        }
        let holder = holder_of(profile, leaf.name())
            .ok_or(Refusal::Malformed("its name is not one of its profile"))?;
        let owner = leaf.public_key().node_id().map(Holder::Node);
        if profile == CertificateProfile::Node && owner.as_ref() != Some(&holder) {
            return Err(Refusal::WrongNode {
                expected: holder.to_string(),
                shown: owner.map_or_else(String::new, |owner| owner.to_string()),
            });
        }
        Ok((profile, holder))
    }

    /// When the whole path holds. A remembered operator's leaf holds on after the intermediate
    /// that was in force when it was made.
    fn period(
        &self,
        profile: CertificateProfile,
        path: &[Certificate],
        root: &Certificate,
    ) -> Validity {
        let Some((leaf, issuers)) = path.split_first() else {
            return root.validity();
        };
        let may_outlive =
            outlives_issuer(profile) && self.remembered.contains(&LeafFingerprint::of(leaf.der()));
        let whole = leaf.validity().within(root.validity());
        issuers
            .iter()
            .enumerate()
            .fold(whole, |whole, (place, issuer)| {
                let issuer = issuer.validity();
                let made_within = issuer.contains(leaf.validity().not_before);
                if place == 0 && may_outlive && made_within {
                    whole
                } else {
                    whole.within(issuer)
                }
            })
    }

    /// Nothing on the path is revoked, and a leaf of a retired intermediate is known.
    fn verify_standing(&self, serials: &[String], leaf: &LeafFingerprint) -> Result<(), Refusal> {
        if let Some(serial) = serials.iter().find(|serial| self.is_revoked(serial)) {
            return Err(Refusal::Revoked {
                serial: serial.clone(),
            });
        }
        let Some((serial, issuers)) = serials.split_first() else {
            return Err(Refusal::WrongRoot("it showed no certificate"));
        };
        for issuer in issuers {
            let good = self.retired.get(&bare_serial(issuer));
            if good.is_some_and(|leaves| !leaves.contains(leaf)) {
                return Err(Refusal::Retired {
                    issuer: issuer.clone(),
                    serial: serial.clone(),
                });
            }
        }
        Ok(())
    }
}

/// `issuer`, with `below` intermediates between it and the leaf, may have signed `subject`, and
/// did.
fn verify_link(subject: &Certificate, issuer: &Certificate, below: usize) -> Result<(), Refusal> {
    let signing = issuer
        .signing()
        .filter(|signing| signing.certificates)
        .ok_or(Refusal::WrongRoot("its issuer is not an authority"))?;
    let below = u32::try_from(below).unwrap_or(u32::MAX);
    if signing.path_len.is_some_and(|limit| below > limit) {
        return Err(Refusal::WrongRoot(
            "its chain is longer than its issuer allows",
        ));
    }
    let named = match issuer.unit() {
        ROOT_UNIT => true,
        // Whoever holds an intermediate's key makes no further authority, whatever it says.
        INTERMEDIATE_UNIT => signing.path_len == Some(INTERMEDIATE_PATH_LEN),
        _ => false,
    };
    if !named {
        return Err(Refusal::WrongRoot("its issuer is not an authority"));
    }
    if !subject.is_signed_by(issuer) {
        return Err(Refusal::WrongRoot(
            "a certificate is not signed by the next",
        ));
    }
    Ok(())
}

fn verify_time(validity: Validity, now: WallMs) -> Result<(), Refusal> {
    if validity.contains(now) {
        return Ok(());
    }
    if now < validity.not_before {
        return Err(Refusal::NotYetValid {
            from: validity.not_before,
        });
    }
    Err(Refusal::Expired {
        since: validity.not_after,
    })
}

fn bare_serials<'a>(serials: impl IntoIterator<Item = &'a String>) -> BTreeSet<String> {
    serials
        .into_iter()
        .map(|serial| bare_serial(serial))
        .collect()
}

/// A serial number however it was written.
fn bare_serial(serial: &str) -> String {
    serial.trim_start_matches('0').to_ascii_lowercase()
}

/// What a believed chain says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What the leaf is for.
    pub profile: CertificateProfile,
    /// Whose it is.
    pub holder: Holder,
    /// The leaf's key. A node's own is its identity key; dockerd's is not.
    pub public_key: PublicKey,
    /// The names that the leaf is good for besides its subject.
    pub names: Names,
    /// Serial numbers of the leaf and of the authorities above it, without the root, so that a
    /// later revocation finds the connection.
    pub serials: Vec<String>,
    /// BLAKE3 of the leaf in DER.
    pub fingerprint: LeafFingerprint,
    /// The latest beginning on the path.
    pub not_before: WallMs,
    /// The earliest end on the path, but for an intermediate that the leaf may outlive.
    pub not_after: WallMs,
}

impl Verified {
    /// The leaf's serial number.
    pub fn serial(&self) -> &str {
        self.serials.first().map_or("", String::as_str)
    }

    /// The period in which the whole path holds.
    pub fn validity(&self) -> Validity {
        Validity {
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }

    /// Refuses unless the leaf is for one of these.
    pub fn require_profile(&self, expected: &[CertificateProfile]) -> Result<(), Refusal> {
        if expected.contains(&self.profile) {
            Ok(())
        } else {
            Err(Refusal::other_profile(self.profile.as_str(), expected))
        }
    }

    /// Refuses unless this is the identity of `node`: a node's leaf, on that node's own key.
    pub fn require_node(&self, node: &NodeId) -> Result<(), Refusal> {
        self.require_profile(&[CertificateProfile::Node])?;
        self.require_holder(node)?;
        // The verifier has seen to it; a `Verified` made otherwise must not get around it.
        match self.public_key.node_id() {
            Some(owner) if owner == *node => Ok(()),
            Some(owner) => Err(Refusal::other_node(node, &Holder::Node(owner))),
            None => Err(Refusal::other_node(node, &self.holder)),
        }
    }

    /// Refuses unless the leaf is this node's, whatever it is for.
    pub fn require_holder(&self, node: &NodeId) -> Result<(), Refusal> {
        match &self.holder {
            Holder::Node(holder) if holder == node => Ok(()),
            Holder::Node(_) | Holder::Operator(_) => Err(Refusal::other_node(node, &self.holder)),
        }
    }
}

/// A trust that its owner replaces and many connections read.
///
/// A lock, because TLS verifiers are called from any thread and must see a revocation at once;
/// it is held for the copy of a pointer only.
#[derive(Debug, Clone)]
pub struct SharedTrust(Arc<RwLock<Arc<Trust>>>);

impl SharedTrust {
    /// Starts with `trust`.
    pub fn new(trust: Trust) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(trust))))
    }

    /// The trust of this moment.
    pub fn current(&self) -> Arc<Trust> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is trusted from now on, by every holder of a clone.
    pub fn replace(&self, trust: Trust) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(trust);
    }
}
