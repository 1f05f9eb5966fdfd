//! A server's return after a time in which every certificate has ended: it signs itself a new one.
//!
//! A mesh of which every server was switched off for longer than a leaf lives could otherwise not
//! come back: nobody is left who is let in. A server that can open the root key was trusted with
//! exactly this. What it signs here is not agreed yet; it is replaced by what is, as soon as there
//! is a leader.
//!
//! The same holds for servers that were all asleep, and wake up with their daemons running, and
//! where all certificates were signed by one server that was compromised and removed. One that was cut off
//! before it heard of that is told at another's gate, which nobody can sign for it.
//!
//! Never done while the present certificate holds, nor by a node that the last view calls no
//! server.

use consensus_authority::{Certificate, Issuer, LEAF_LIFETIME, Trust};
use consensus_core::{Agreed, CertificateProfile, Holder, Role};
use node_api::ApiError;

use super::{
    Host,
    issuer::{node_names, now},
    renewal::node_request,
};
use crate::authority::AuthorityError;

/// A new chain for this server, if the one it has is good for nothing any more by that trust.
pub(crate) fn certificates(
    host: &Host,
    trust: &Trust,
    agreed: &Agreed,
    chain: &[Vec<u8>],
) -> Option<Vec<Vec<u8>>> {
    let me = host.me();
    let server = agreed.nodes.get(&me)?;
    let ended = trust.verify(chain, now()).is_err();
    if !ended || server.role != Role::Server {
        return None;
    }
    match signed(host, agreed, &server.name) {
        Ok(chain) => {
            let until = chain
                .first()
                .and_then(|leaf| Certificate::read(leaf).ok())
                .map(|leaf| leaf.not_after().0);
            tracing::warn!(
                until_ms = until,
                "this server's certificates hold no more; it has signed itself new ones"
            );
            Some(chain)
        }
        Err(error) => {
            tracing::warn!(code = error.code, %error, "this server's certificates hold no more, and it can't sign new ones");
            None
        }
    }
}

fn signed(host: &Host, agreed: &Agreed, name: &str) -> Result<Vec<Vec<u8>>, ApiError> {
    let me = host.me();
    let files = &host.authority;
    let root = agreed
        .active_root()
        .ok_or(consensus_core::Refusal::NoMesh)?;
    let sealed = files.sealed_root(&root.fingerprint())?.ok_or_else(|| {
        ApiError::new(
            "RootKeyMissingError",
            "no sealed copy of the root key is on this server",
            "start another server of the mesh first",
        )
    })?;
    let opened = files.open_root(&sealed, &root.certificate)?;
    let (key, intermediate) = files.new_intermediate(&opened, &me, now())?;
    let cross = root.cross.clone().into_iter().collect();
    let issuer = Issuer::new(key, &intermediate.der, cross).map_err(AuthorityError::from)?;
    let networks = agreed.networks.values();
    let leaf = issuer
        .sign(
            &node_request(&host.key)?,
            CertificateProfile::Node,
            &Holder::Node(me.clone()),
            &node_names(name, networks.map(|network| network.ipv6.host(&me))),
            LEAF_LIFETIME,
            now(),
        )
        .map_err(AuthorityError::from)?;
    Ok(leaf.chain)
}
