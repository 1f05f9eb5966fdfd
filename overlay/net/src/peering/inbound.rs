//! Streams that peers open.
//!
//! Decides nothing: each goes to the door of its lane, or to the task that serves the lane.

use libp2p::PeerId;

use super::{Order, Peering, links::report_death, pulse, renewal, table::Way};
use crate::{
    call, channel::Lane, frame::FrameStream, key::node_id_of, reach, streams::InboundStream,
};

impl Peering {
    pub(super) fn on_inbound(&mut self, inbound: InboundStream) {
        let InboundStream {
            peer,
            connection,
            lane,
            stream,
        } = inbound;
        let Some(node) = node_id_of(&peer) else {
            return;
        };
        let order = self.wiring.order.clone();
        match lane {
            Lane::Call(channel) => {
                if let Some(calls) = self.wiring.doors.calls.get(&channel) {
                    tokio::spawn(call::serve(stream, node, channel, calls.clone()));
                }
            }
            Lane::Stream(channel) => {
                let stream = FrameStream::new(stream, channel);
                let taken = self
                    .wiring
                    .doors
                    .streams
                    .get(&channel)
                    .is_some_and(|door| door.try_send((node.clone(), stream)).is_ok());
                if !taken {
                    tracing::warn!(%node, ?channel, "inbound stream dropped: nobody takes it");
                }
            }
            Lane::Hold => {
                self.on_held(peer, connection, true);
                tokio::spawn(async move {
                    pulse::hold(stream).await;
                    if let Some(order) = order.upgrade() {
                        let _ = order.send(Order::LetGo(peer, connection)).await;
                    }
                });
            }
            Lane::Renewal => {
                tokio::spawn(async move {
                    if let (Some(chain), Some(order)) =
                        (renewal::read(stream).await, order.upgrade())
                    {
                        let _ = order.send(Order::Renewed(peer, connection, chain)).await;
                    }
                });
            }
            Lane::Reach => {
                if let Some(Way::Direct(remote, transport)) = self.way_of(peer, connection) {
                    let key = self.wiring.key.clone();
                    tokio::spawn(reach::answer(stream, key, peer, (remote, transport)));
                }
            }
            Lane::Pulse => {
                tokio::spawn(async move {
                    let ended = pulse::echo(stream).await;
                    report_death(order, connection, ended).await;
                });
            }
        }
    }

    fn way_of(&self, peer: PeerId, connection: libp2p::swarm::ConnectionId) -> Option<Way> {
        let mut links = self.peers.get(&peer)?.links.iter();
        links
            .find(|link| link.connection == connection)
            .map(|link| link.way)
    }
}
