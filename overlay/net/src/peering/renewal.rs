//! Certificates on connections that stand: renewed ones shown and taken over, those that are no
//! longer believed cut.
//!
//! Decides how long and how large a showing may be, and whether what was shown counts. Nobody
//! answers: a peer that does not believe the new chain goes on with the old one until that ends.

use std::{sync::Arc, time::Duration};

use libp2p::{PeerId, Stream, swarm::ConnectionId};
use tokio::{sync::oneshot, time::timeout};

use super::Peering;
use crate::{
    certificate::Proof,
    channel::Lane,
    frame::framed,
    gate::HELLO_BYTES_MAX,
    key::node_id_of,
    streams::OpenFailure,
    wire::v1::{self, Renewed},
};

/// One frame of some kilobytes: several round trips of a bad link.
const DEADLINE: Duration = Duration::from_secs(5);

impl Peering {
    /// Looks at every connection by the new credentials, and shows a new chain to every peer.
    pub(super) fn take_credentials(&mut self) {
        let credentials = Arc::clone(&self.wiring.credentials.borrow_and_update());
        self.cut_refused();
        if credentials.chain != self.shown {
            self.shown.clone_from(&credentials.chain);
            let links: Vec<_> = self
                .peers
                .iter()
                .flat_map(|(id, peer)| peer.links.iter().map(|link| (*id, link.connection)))
                .collect();
            for (id, connection) in links {
                let (reply, opened) = oneshot::channel();
                let streams = &mut self.swarm.behaviour_mut().streams;
                streams.open(id, connection, Lane::Renewal, reply);
                tokio::spawn(show(opened, credentials.chain.clone()));
            }
        }
        self.wiring.enforced.send_replace(credentials.revision);
    }

    /// Cuts live connections of peers whose certificates are no longer believed.
    pub(super) fn cut_refused(&mut self) {
        let credentials = Arc::clone(&self.wiring.credentials.borrow());
        let mut refused = Vec::new();
        for (id, peer) in &self.peers {
            let Some(node) = node_id_of(id) else { continue };
            for link in &peer.links {
                if let Err(error) = link.proof.recheck(&credentials, &node) {
                    tracing::warn!(%node, code = error.code(), %error, "cutting a connection");
                    refused.push(link.connection);
                }
            }
        }
        for connection in refused {
            self.swarm.close_connection(connection);
        }
    }

    /// A peer's new chain counts from now on, if it is good; if not, the former one does.
    pub(super) fn on_renewed(&mut self, id: PeerId, connection: ConnectionId, chain: Vec<Vec<u8>>) {
        let (Some(node), Some(peer)) = (node_id_of(&id), self.peers.get_mut(&id)) else {
            return;
        };
        let credentials = Arc::clone(&self.wiring.credentials.borrow());
        match credentials.admit(&chain, &node) {
            Ok(verified) => {
                let links = peer.links.iter_mut();
                for link in links.filter(|link| link.connection == connection) {
                    link.proof = Proof {
                        chain: chain.clone(),
                        verified: verified.clone(),
                    };
                }
                tracing::debug!(%node, serial = verified.serial(), "a peer has renewed its certificate");
                self.settle(id);
            }
            Err(error) => {
                tracing::warn!(%node, code = error.code(), %error, "a peer's new certificate is refused");
            }
        }
    }
}

/// Shows this node's chain.
pub(super) async fn show(
    opened: oneshot::Receiver<Result<Stream, OpenFailure>>,
    chain: Vec<Vec<u8>>,
) {
    let Ok(Ok(stream)) = opened.await else {
        tracing::debug!("a renewed certificate was not shown: the connection is gone");
        return;
    };
    let (_, mut writer) = framed(stream, HELLO_BYTES_MAX);
    let shown = async {
        writer.queue(&[&v1::encode(&Renewed { chain })]).ok()?;
        writer.flush().await.ok()?;
        writer.close().await.ok()
    };
    if timeout(DEADLINE, shown).await.ok().flatten().is_none() {
        tracing::debug!("a renewed certificate was not shown");
    }
}

/// The chain that a peer shows.
pub(super) async fn read(stream: Stream) -> Option<Vec<Vec<u8>>> {
    let (mut reader, _) = framed(stream, HELLO_BYTES_MAX);
    let bytes = timeout(DEADLINE, reader.next()).await.ok()?.ok()??;
    match v1::decode::<Renewed>(&bytes) {
        Ok(renewed) => Some(renewed.chain),
        Err(_) => {
            tracing::warn!("a peer's renewed certificate cannot be read");
            None
        }
    }
}
