//! Whom the network asks for help with nodes that cannot be dialled, and where it looks for members
//! when it has lost all of them.
//!
//! Decides who may be a relay: the servers. Whether one is depends on its own settings; one that is
//! not says so when it is asked. What the operator advertises or says of this node's reachability
//! is believed.

use overlay_net::{Net, Ways};

use super::views::Views;
use crate::config::{Config, Reachable};
use consensus_core::{Agreed, NodeId, Role};

/// Follows the agreed state until it ends.
pub(super) async fn run(me: NodeId, config: Config, net: Net, views: Views) {
    let mut view = views.watch();
    loop {
        let agreed = view.borrow_and_update().agreed.clone();
        net.set_ways(ways(&me, &config, &agreed));
        if view.changed().await.is_err() {
            return;
        }
    }
}

fn ways(me: &NodeId, config: &Config, agreed: &Agreed) -> Ways {
    let is_server = (agreed.nodes.get(me)).is_some_and(|node| node.role == Role::Server);
    let others = agreed.servers().map(|(id, _)| id).filter(|id| *id != me);
    let reachable = match config.reachable {
        Reachable::Auto => (!config.advertise.is_empty()).then_some(true),
        Reachable::Yes => Some(true),
        Reachable::No => Some(false),
    };
    Ways {
        relaying: config.relay && is_server,
        relays: others.cloned().collect(),
        reachable,
        seeds: config.seeds.iter().copied().collect(),
    }
}
