//! A server's return by itself when it starts, as `mesh::own_return` decides it.

use consensus_authority::Trust;
use consensus_core::{Agreed, MeshId};

use crate::mesh::{Host, own_return};

/// A new chain for this server, if the one it has is good for nothing by the last view.
pub(super) fn certificates(
    host: &Host,
    mesh: MeshId,
    agreed: &Agreed,
    chain: &[Vec<u8>],
) -> Option<Vec<Vec<u8>>> {
    own_return::certificates(host, &Trust::of(mesh, agreed), agreed, chain)
}
