//! Nodes that take part in membership.

use consensus_core::{NodeId, Time};
use overlay_core::membership::{Condition, Membership, Record, Settings};
use overlay_net::{
    Channel,
    membership::{Inputs, LocalAddresses, LocalPaths, Members, Roster, drive},
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::nodes::Node;

/// A node with its running membership core.
pub(crate) struct Living {
    pub(crate) node: Node,
    pub(crate) members: watch::Receiver<Members>,
    pub(crate) leave: oneshot::Sender<()>,
    pub(crate) driver: JoinHandle<Record>,
    _local: watch::Sender<LocalAddresses>,
    _paths: watch::Sender<LocalPaths>,
}

pub(crate) fn live(
    node: Node,
    roster: &watch::Sender<Roster>,
    settings: Settings,
    seed: u64,
) -> Living {
    let addresses = vec![node.address()];
    live_at(node, roster, settings, seed, addresses)
}

/// A node that tells others of these addresses and no more.
pub(crate) fn live_at(
    mut node: Node,
    roster: &watch::Sender<Roster>,
    settings: Settings,
    seed: u64,
    addresses: Vec<std::net::SocketAddr>,
) -> Living {
    let record = Record {
        node: node.id.clone(),
        generation: 1,
        version: 0,
        addresses: addresses.clone(),
        wireguard: Vec::new(),
        relays: Vec::new(),
        unreachable: Vec::new(),
        forwards: false,
    };
    let core = Membership::new(
        record,
        node.net.membership_keys(),
        settings,
        seed,
        Time::ZERO,
    );
    let (local, local_addresses) = watch::channel(LocalAddresses {
        addresses,
        wireguard: Vec::new(),
    });
    let (own_paths, local_paths) = watch::channel(LocalPaths::default());
    let (snapshot, members) = watch::channel(Members::default());
    let (leave, leaving) = oneshot::channel();
    let inputs = Inputs {
        roster: roster.subscribe(),
        local: local_addresses,
        paths: local_paths,
        streams: node.incoming.take_streams(Channel::Membership).unwrap(),
    };
    let driver = tokio::spawn(drive(node.net.clone(), core, inputs, snapshot, async {
        let _ = leaving.await;
    }));
    Living {
        node,
        members,
        leave,
        driver,
        _local: local,
        _paths: own_paths,
    }
}

pub(crate) fn holds(living: &Living, node: &NodeId, condition: Condition) -> bool {
    living
        .members
        .borrow()
        .get(node)
        .is_some_and(|member| member.condition == condition)
}
