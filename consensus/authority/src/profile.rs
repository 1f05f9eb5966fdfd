//! What each profile of certificate may contain.
//!
//! Decides, for a profile, its key algorithms, its extended key usage, its longest lifetime and
//! who may hold it; and which holder a common name stands for.

use std::time::Duration;

use consensus_core::{CertificateProfile, Holder};

use crate::{
    key::KeyAlgorithm,
    validity::{INTERMEDIATE_LIFETIME, LEAF_LIFETIME, OPERATOR_LIFETIME_MAX},
};

/// The organizational unit of a root and of a cross certificate of one.
pub(crate) const ROOT_UNIT: &str = "root";
/// The organizational unit of a server's intermediate.
pub(crate) const INTERMEDIATE_UNIT: &str = "intermediate";
/// A common name's longest text (RFC 5280, ub-common-name).
const NAME_CHARS_MAX: usize = 64;

/// The longest lifetime that a leaf of this profile may be asked for. A docker client's is a file
/// that somebody fetched, so it may live as long as its issuer.
pub fn lifetime_max(profile: CertificateProfile) -> Duration {
    match profile {
        CertificateProfile::Operator => OPERATOR_LIFETIME_MAX,
        CertificateProfile::DockerClient => INTERMEDIATE_LIFETIME,
        CertificateProfile::Node
        | CertificateProfile::DockerServer
        | CertificateProfile::Browser => LEAF_LIFETIME,
    }
}

/// Whether a leaf of this profile may outlive its intermediate, because every use of it is looked
/// up in the agreed state anyway.
pub(crate) fn outlives_issuer(profile: CertificateProfile) -> bool {
    profile == CertificateProfile::Operator
}

/// Whether a leaf of this profile may hold a key of this algorithm. Browsers do not take Ed25519.
pub fn allows_key(profile: CertificateProfile, algorithm: KeyAlgorithm) -> bool {
    match profile {
        CertificateProfile::Node
        | CertificateProfile::DockerServer
        | CertificateProfile::DockerClient => algorithm == KeyAlgorithm::Ed25519,
        CertificateProfile::Operator => true,
        CertificateProfile::Browser => algorithm == KeyAlgorithm::P256,
    }
}

/// Whether a leaf of this profile identifies the server of a TLS connection.
pub(crate) fn is_server(profile: CertificateProfile) -> bool {
    match profile {
        CertificateProfile::Node
        | CertificateProfile::DockerServer
        | CertificateProfile::Browser => true,
        CertificateProfile::DockerClient | CertificateProfile::Operator => false,
    }
}

/// Whether a leaf of this profile identifies the client of a TLS connection.
pub(crate) fn is_client(profile: CertificateProfile) -> bool {
    match profile {
        CertificateProfile::Node
        | CertificateProfile::DockerClient
        | CertificateProfile::Operator => true,
        CertificateProfile::DockerServer | CertificateProfile::Browser => false,
    }
}

/// The holder that a common name stands for in a leaf of this profile: a node by its id,
/// otherwise an operator by name.
pub(crate) fn holder_of(profile: CertificateProfile, name: &str) -> Option<Holder> {
    let holder = match name.parse() {
        Ok(node) => Holder::Node(node),
        Err(_) if is_operator_name(name) => Holder::Operator(name.to_owned()),
        Err(_) => return None,
    };
    let fits = match profile {
        CertificateProfile::Node
        | CertificateProfile::DockerServer
        | CertificateProfile::Browser => matches!(holder, Holder::Node(_)),
        CertificateProfile::Operator => matches!(holder, Holder::Operator(_)),
        CertificateProfile::DockerClient => true,
    };
    fits.then_some(holder)
}

/// Wider than the mesh's own rule (DNS labels), and safe to print anywhere.
fn is_operator_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    !name.is_empty() && name.len() <= NAME_CHARS_MAX && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm";

    #[test]
    fn a_node_id_is_no_operators_name_and_a_name_is_no_nodes() {
        assert!(holder_of(CertificateProfile::Operator, NODE).is_none());
        assert!(holder_of(CertificateProfile::Node, "anna").is_none());
        for profile in CertificateProfile::ALL {
            let either = holder_of(profile, NODE).or(holder_of(profile, "anna"));
            assert!(either.is_some(), "{profile:?} has no holder");
        }
    }

    #[test]
    fn names_that_could_mislead_a_reader_are_nobodys() {
        let long = "a".repeat(65);
        for name in ["", "a b", "a\n", "ä", "a/b", "a=b", long.as_str()] {
            assert!(
                holder_of(CertificateProfile::Operator, name).is_none(),
                "{name:?}"
            );
        }
        assert!(holder_of(CertificateProfile::Operator, &"a".repeat(64)).is_some());
    }

    #[test]
    fn every_profile_is_a_servers_or_a_clients_and_has_a_key_it_allows() {
        for profile in CertificateProfile::ALL {
            assert!(is_server(profile) || is_client(profile), "{profile:?}");
            let keys = [KeyAlgorithm::Ed25519, KeyAlgorithm::P256];
            assert!(
                keys.into_iter().any(|key| allows_key(profile, key)),
                "{profile:?}"
            );
        }
    }
}
