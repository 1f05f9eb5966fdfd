//! From a question to its answer.
//!
//! Decides: in which order this node, the other hosts and the host's resolvers are asked.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use consensus_core::NetworkId;
use overlay_core::names::{Asker, Directory, Meaning, Names, OtherHost};
use tokio::{sync::watch, time::Instant};

use crate::{
    ask::ask,
    forward::{Transport, forward},
    recent::{Recent, Said},
    server::Service,
    wire::{Asked, Outcome},
};

/// Answers questions, many at a time.
pub(crate) struct Answerer {
    service: watch::Receiver<Service>,
    /// Many questions look it up; it is never held across a wait.
    recent: Mutex<Recent>,
}

impl Answerer {
    pub(crate) fn new(service: watch::Receiver<Service>) -> Self {
        Self {
            service,
            recent: Mutex::default(),
        }
    }

    /// The answer to a message; none if there is nobody or nothing to be answered.
    pub(crate) async fn answer(
        &self,
        message: &[u8],
        source: IpAddr,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        let (directory, own) = {
            let service = self.service.borrow();
            (service.directory.clone(), service.listen.clone())
        };
        let asker = directory.asker(source.to_canonical())?;
        let asked = Asked::decode(message)?;
        let outcome = match asker {
            Asker::Peer(network) if !asked.wants_recursion() => {
                match directory.own(network, &asked.name()) {
                    Some(addresses) => Outcome::Addresses(addresses),
                    None => Outcome::NoSuchName,
                }
            }
            Asker::Peer(_) | Asker::Container(_) | Asker::Bystander => {
                match self.resolve(&directory, asker, &asked.name()).await {
                    Some(outcome) => outcome,
                    None => match forward(message, transport, &own).await {
                        Some(answer) => return Some(answer),
                        None => Outcome::Failed,
                    },
                }
            }
        };
        asked.answer(&outcome)
    }

    /// What the mesh says; nothing where the outside is to be asked.
    async fn resolve(&self, directory: &Directory, asker: Asker, name: &str) -> Option<Outcome> {
        match directory.resolve(asker, name) {
            Meaning::Known(addresses) => Some(Outcome::Addresses(addresses)),
            Meaning::Unknown => Some(Outcome::NoSuchName),
            Meaning::Refused => Some(Outcome::Refused),
            Meaning::Outside => None,
            Meaning::Ask {
                own,
                hosts,
                container,
                else_outside,
            } => {
                let (Asker::Container(network) | Asker::Peer(network)) = asker else {
                    return Some(Outcome::Refused);
                };
                let names = directory.networks.get(&network)?;
                let said = self.said(network, names, &hosts, &container).await;
                let addresses: BTreeSet<IpAddr> = own.union(&said.addresses).copied().collect();
                match (addresses.is_empty(), else_outside) {
                    (false, _) => Some(Outcome::Addresses(addresses)),
                    (true, true) if said.some_are_silent => Some(Outcome::Failed),
                    (true, true) => None,
                    (true, false) if said.some_are_silent => Some(Outcome::Failed),
                    (true, false) => Some(Outcome::NoSuchName),
                }
            }
        }
    }

    async fn said(
        &self,
        network: NetworkId,
        names: &Names,
        hosts: &[OtherHost],
        container: &str,
    ) -> Said {
        let addresses = hosts.iter().map(|host| host.address.into()).collect();
        let key = (network, container.to_owned(), addresses);
        let recent = || self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = recent().get(&key, Instant::now());
        if let Some(said) = known {
            return said;
        }
        let said = ask(names, hosts, container).await;
        recent().keep(key, said.clone(), Instant::now());
        said
    }
}
