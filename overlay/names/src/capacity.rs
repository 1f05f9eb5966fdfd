//! How much may wait at a time, and for whom.
//!
//! Decides: whether there is room for one more question that waits for somebody else, or for one more
//! connection. Each kind has bounds of its own, for the whole host, for one network's containers (its
//! peers, the containers of no network), and for one source.
//!
//! Never: queues. Whoever finds no room is told so at once.
//!
//! Invariants:
//! - What this node knows by itself waits for nobody, and takes no room: it is answered however much
//!   of everything else is going on.
//! - A source that has all that it may have leaves room to the others of its network, and a network
//!   that has all that it may have leaves room to another.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use overlay_core::names::Asker;

/// How many there may be at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    host: usize,
    network: usize,
    source: usize,
}

impl Bounds {
    /// Room is left for another network, and for the others of one.
    const fn new(host: usize, network: usize, source: usize) -> Self {
        assert!(source * 2 <= network && network * 2 <= host);
        Self {
            host,
            network,
            source,
        }
    }

    /// What one source may have.
    #[cfg(test)]
    pub(crate) const fn source(self) -> usize {
        self.source
    }
}

/// Questions to the outside: each has a socket, for up to 4.5 s where resolvers are dead. A program has
/// some of them at a time, a busy proxy a dozen. The daemon may have a thousand files open in all.
pub(crate) const OUTSIDE: Bounds = Bounds::new(256, 128, 32);
/// Questions for which other hosts are asked, 0.6 s at most. All for one name share a socket.
pub(crate) const HOSTS: Bounds = Bounds::new(256, 128, 32);
/// Connections, each as long as it is used. Programs ask by UDP first, one connection a question after
/// that.
pub(crate) const CONNECTIONS: Bounds = Bounds::new(64, 32, 8);

/// The room that there is for one kind of work.
#[derive(Debug)]
pub(crate) struct Capacity {
    bounds: Bounds,
    /// Taken and given back in passing; it is never held across a wait.
    taken: Mutex<Taken>,
}

/// Only those who have something are in it.
#[derive(Debug, Default)]
struct Taken {
    by_network: BTreeMap<Asker, usize>,
    by_source: BTreeMap<(Asker, IpAddr), usize>,
}

impl Capacity {
    pub(crate) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            taken: Mutex::default(),
        })
    }

    /// Room for one, until it is dropped; nothing, if there is none.
    pub(crate) fn take(self: &Arc<Self>, asker: Asker, source: IpAddr) -> Option<Permit> {
        let mut taken = self.taken();
        let host: usize = taken.by_network.values().sum();
        let network = taken.by_network.get(&asker).copied().unwrap_or_default();
        let own = taken.by_source.get(&(asker, source)).copied();
        let own = own.unwrap_or_default();
        let bounds = self.bounds;
        if host >= bounds.host || network >= bounds.network || own >= bounds.source {
            return None;
        }
        taken.by_network.insert(asker, network + 1);
        taken.by_source.insert((asker, source), own + 1);
        drop(taken);
        Some(Permit {
            capacity: self.clone(),
            asker,
            source,
        })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for one.
#[derive(Debug)]
pub(crate) struct Permit {
    capacity: Arc<Capacity>,
    asker: Asker,
    source: IpAddr,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut taken = self.capacity.taken();
        give_back(&mut taken.by_network, &self.asker);
        give_back(&mut taken.by_source, &(self.asker, self.source));
    }
}

fn give_back<K: Ord>(taken: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = taken.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            taken.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use consensus_core::NetworkId;

    use super::*;

    const BOUNDS: Bounds = Bounds::new(8, 4, 2);

    fn containers(network: u8) -> Asker {
        Asker::Container(NetworkId::from_bytes([network; 16]))
    }

    fn source(n: usize) -> IpAddr {
        format!("10.43.1.{n}").parse().unwrap()
    }

    /// Takes all that the source gets.
    fn all(capacity: &Arc<Capacity>, asker: Asker, n: usize) -> Vec<Permit> {
        std::iter::from_fn(|| capacity.take(asker, source(n))).collect()
    }

    #[test]
    fn a_source_that_takes_all_it_can_get_leaves_room_to_the_others() {
        let capacity = Capacity::new(BOUNDS);
        let greedy = all(&capacity, containers(1), 2);
        assert_eq!(greedy.len(), 2);
        assert!(capacity.take(containers(1), source(3)).is_some());
        drop(greedy);
        assert_eq!(all(&capacity, containers(1), 2).len(), 2);
    }

    #[test]
    fn a_network_whose_sources_take_all_they_can_get_leaves_room_to_another() {
        let capacity = Capacity::new(BOUNDS);
        let sources = (2..9).flat_map(|n| all(&capacity, containers(1), n));
        let greedy: Vec<Permit> = sources.collect();
        assert_eq!(greedy.len(), 4);
        assert!(capacity.take(containers(1), source(9)).is_none());
        // The same address may be in use elsewhere: containers of no network choose theirs.
        for other in [containers(2), Asker::Bystander] {
            assert!(capacity.take(other, source(2)).is_some(), "{other:?}");
        }
    }

    #[test]
    fn a_host_takes_no_more_than_it_can_and_remembers_nobody_who_has_nothing() {
        let capacity = Capacity::new(BOUNDS);
        let everybody = (1..9).flat_map(|network| {
            (2..9).flat_map({
                let capacity = &capacity;
                move |n| all(capacity, containers(network), n)
            })
        });
        let everybody: Vec<Permit> = everybody.collect();
        assert_eq!(everybody.len(), 8);
        drop(everybody);
        let taken = capacity.taken();
        assert!(taken.by_network.is_empty() && taken.by_source.is_empty());
    }
}
