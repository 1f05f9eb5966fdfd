//! The node key below what members say of themselves and of each other.
//!
//! Decides nothing. A node's id is its public key, so that whatever it signed can be checked by
//! anybody who knows its name. What is signed begins with the mesh's id: a node that uses its key in
//! two meshes says nothing in one that counts in the other.

use std::fmt;

use consensus_core::{MeshId, NodeId};
use libp2p::identity::{Keypair, PublicKey};
use overlay_core::membership::{Keys, SIGNATURE_BYTES, Signature};

use crate::key::{NodeKey, peer_id_of};

/// An Ed25519 peer id is the identity multihash of its key: code and length, then the key itself in
/// libp2p's protobuf (libp2p specs, peer-ids).
const MULTIHASH_HEAD: [u8; 2] = [0x00, 0x24];

/// Signs with the node's key for one mesh.
pub(crate) struct MeshKeys {
    key: Keypair,
    mesh: MeshId,
}

impl MeshKeys {
    pub(crate) fn new(key: &NodeKey, mesh: MeshId) -> Self {
        let key = key.keypair();
        Self { key, mesh }
    }

    fn of_this_mesh(&self, text: &[u8]) -> Vec<u8> {
        [&self.mesh.as_bytes()[..], text].concat()
    }
}

impl fmt::Debug for MeshKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mesh = &self.mesh;
        f.debug_struct("MeshKeys")
            .field("mesh", mesh)
            .finish_non_exhaustive()
    }
}

impl Keys for MeshKeys {
    fn sign(&self, text: &[u8]) -> Signature {
        let signed = self.key.sign(&self.of_this_mesh(text));
        let signed = signed.expect("Ed25519 signing cannot fail");
        let mut bytes = [0; SIGNATURE_BYTES];
        bytes.copy_from_slice(&signed);
        Signature(bytes)
    }

    fn verify(&self, signer: &NodeId, text: &[u8], signature: &Signature) -> bool {
        public_key(signer).is_some_and(|key| key.verify(&self.of_this_mesh(text), &signature.0))
    }
}

/// The key in a node's id; none in a text that only looks like one.
fn public_key(node: &NodeId) -> Option<PublicKey> {
    let bytes = peer_id_of(node)?.to_bytes();
    PublicKey::try_decode_protobuf(bytes.strip_prefix(&MULTIHASH_HEAD)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(mesh: u8) -> (NodeId, MeshKeys) {
        let key = NodeKey::generate();
        (
            key.node_id(),
            MeshKeys::new(&key, MeshId::from_bytes([mesh; 16])),
        )
    }

    #[test]
    fn anybody_can_check_what_a_node_signed_by_its_name_alone() {
        let ((signer, own), (other, others)) = (keys(1), keys(1));
        let signature = own.sign(b"text");
        assert!(others.verify(&signer, b"text", &signature));
        assert!(!others.verify(&other, b"text", &signature), "another's");
        assert!(
            !others.verify(&signer, b"texts", &signature),
            "another text"
        );
        let mut bent = signature;
        bent.0[5] ^= 1;
        assert!(!others.verify(&signer, b"text", &bent), "bent");
    }

    #[test]
    fn what_was_signed_in_one_mesh_counts_in_no_other() {
        let ((signer, own), (_, foreign)) = (keys(1), keys(2));
        assert!(!foreign.verify(&signer, b"text", &own.sign(b"text")));
    }

    #[test]
    fn a_name_without_a_key_behind_it_signed_nothing() {
        let (_, own) = keys(1);
        let nobody: NodeId = format!("12D3KooW{}", "z".repeat(44)).parse().unwrap();
        assert!(!own.verify(&nobody, b"text", &own.sign(b"text")));
    }

    #[test]
    fn neither_key_nor_seed_is_shown() {
        let shown = format!("{:?}", keys(1).1);
        assert!(shown.ends_with(", .. }"), "{shown}");
    }
}
