//! A mesh's root and the certificates it issues.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use consensus_authority::{
    IntermediateKey, Issuer, LEAF_LIFETIME, Leaf, Names, PrivateKey, Root, Trust, wall,
};
use consensus_core::{CertificateProfile, Holder, LogIndex, MeshId, WallMs};
use overlay_net::{Credentials, NodeKey};

/// A server's week and a day back: what was issued then may still have its issuer.
const TWO_DAYS: Duration = Duration::from_secs(2 * 86_400);

pub(crate) struct Authority {
    pub(crate) mesh: MeshId,
    pub(crate) root: Root,
    issuer: Issuer,
}

impl Authority {
    pub(crate) fn new(mesh: u8) -> Self {
        let mesh = MeshId::from_bytes([mesh; 16]);
        let made = earlier(2 * TWO_DAYS);
        let root = Root::generate(mesh, made).unwrap();
        let issuer = issuer(&root, made, vec![]);
        Self { mesh, root, issuer }
    }

    /// The same mesh's next root, which this one vouches for.
    pub(crate) fn successor(&self) -> Self {
        let made = earlier(TWO_DAYS);
        let root = Root::generate(self.mesh, made).unwrap();
        let cross = self
            .root
            .cross_sign(root.certificate().der(), made)
            .unwrap();
        let issuer = issuer(&root, made, vec![cross]);
        Self {
            mesh: self.mesh,
            root,
            issuer,
        }
    }

    pub(crate) fn root_der(&self) -> Vec<u8> {
        self.root.certificate().der().to_vec()
    }

    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        self.root.certificate().fingerprint()
    }

    /// A day's leaf for the node, made so long ago.
    pub(crate) fn leaf(&self, key: &NodeKey, ago: Duration) -> Leaf {
        let key_pair = PrivateKey::from_pkcs8(&key.pkcs8_der()).unwrap();
        self.issuer
            .sign(
                &key_pair.request().unwrap(),
                CertificateProfile::Node,
                &Holder::Node(key.node_id()),
                &Names::default(),
                LEAF_LIFETIME,
                earlier(ago),
            )
            .unwrap()
    }

    pub(crate) fn credentials(&self, key: &NodeKey) -> Credentials {
        self.credentials_of(self.leaf(key, Duration::ZERO).chain)
    }

    /// Credentials whose leaf has ended.
    pub(crate) fn expired(&self, key: &NodeKey) -> Credentials {
        self.credentials_of(self.leaf(key, TWO_DAYS).chain)
    }

    pub(crate) fn credentials_of(&self, chain: Vec<Vec<u8>>) -> Credentials {
        Credentials {
            chain,
            trust: Arc::new(self.trust(&[])),
            removed: Arc::default(),
            revision: LogIndex(0),
        }
    }

    /// Trust in this root alone, with these serial numbers revoked.
    pub(crate) fn trust(&self, revoked: &[&str]) -> Trust {
        trust(&[self], revoked)
    }

    pub(crate) fn watched(
        credentials: Credentials,
    ) -> (
        tokio::sync::watch::Sender<Arc<Credentials>>,
        tokio::sync::watch::Receiver<Arc<Credentials>>,
    ) {
        tokio::sync::watch::channel(Arc::new(credentials))
    }
}

/// Trust in several roots of one mesh.
pub(crate) fn trust(authorities: &[&Authority], revoked: &[&str]) -> Trust {
    let roots: Vec<_> = authorities.iter().map(|one| one.root_der()).collect();
    let revoked: BTreeSet<String> = revoked.iter().map(ToString::to_string).collect();
    Trust::new(authorities[0].mesh, &roots, &revoked, &BTreeMap::new())
}

fn issuer(root: &Root, made: WallMs, cross: Vec<Vec<u8>>) -> Issuer {
    let key = IntermediateKey::generate().unwrap();
    let server = NodeKey::generate().node_id();
    let signed = root
        .sign_intermediate(&key.request().unwrap(), &server, made)
        .unwrap();
    Issuer::new(key, &signed.der, cross).unwrap()
}

fn earlier(ago: Duration) -> WallMs {
    wall(SystemTime::now() - ago)
}
