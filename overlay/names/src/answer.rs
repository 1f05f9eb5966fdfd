//! From a question to its answer.
//!
//! Decides: in which order this node, the other hosts and the host's resolvers are asked. What this
//! node knows by itself is said at once. What has to wait for others waits only where there is room
//! for it (`capacity`); else it fails at once, rather than in silence: whoever asks then goes on to his
//! next resolver, and a question that goes in circles comes to its end.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use overlay_core::names::{Asker, Directory, Meaning, OtherHost};
use tokio::sync::watch;

use crate::{
    capacity::{Capacity, HOSTS, Permit},
    forward::{Forwarded, Outside, Transport},
    others::Others,
    recent::{Key, Said},
    resolvers::Resolvers,
    server::Service,
    wire::{Asked, Outcome},
};

/// Answers questions, many at a time.
pub(crate) struct Answerer {
    service: watch::Receiver<Service>,
    others: Others,
    room_for_hosts: Arc<Capacity>,
    outside: Outside,
}

/// What there is to say at once.
pub(crate) enum Reply {
    /// Nothing: there is nobody or nothing to be answered.
    Silence,
    /// This message.
    Message(Vec<u8>),
    /// Nothing yet: others are to be asked.
    Waits(Box<Waiting>),
}

/// A question that waits for others.
pub(crate) struct Waiting {
    message: Vec<u8>,
    asked: Asked,
    asker: Asker,
    source: IpAddr,
    transport: Transport,
    directory: Arc<Directory>,
    own: BTreeSet<IpAddr>,
    permit: Permit,
    step: Step,
}

/// Whom a question waits for.
enum Step {
    Hosts(HostsAsked),
    Resolvers,
}

/// Hosts to be asked for a container.
struct HostsAsked {
    key: Key,
    hosts: Vec<OtherHost>,
    /// This node's own containers of that name.
    own: BTreeSet<IpAddr>,
    /// Whether it may be a name of the outside.
    else_outside: bool,
}

/// What is known of an answer.
enum Known {
    Outcome(Outcome),
    Hosts(HostsAsked),
    /// It is not the mesh's.
    Outside,
}

impl Answerer {
    pub(crate) fn new(service: watch::Receiver<Service>, resolvers: Resolvers) -> Self {
        Self {
            service,
            others: Others::default(),
            room_for_hosts: Capacity::new(HOSTS),
            outside: Outside::new(resolvers),
        }
    }

    /// Who asks from this address.
    pub(crate) fn asker(&self, source: IpAddr) -> Option<Asker> {
        let directory = self.service.borrow().directory.clone();
        directory.asker(source.to_canonical())
    }

    /// What is said at once to a message.
    pub(crate) fn reply(&self, message: &[u8], source: IpAddr, transport: Transport) -> Reply {
        let source = source.to_canonical();
        let directory = self.service.borrow().directory.clone();
        let Some(asker) = directory.asker(source) else {
            return Reply::Silence;
        };
        let Some(asked) = Asked::decode(message) else {
            return Reply::Silence;
        };
        let known = self.known(&directory, asker, &asked);
        let (step, permit) = match known {
            Known::Outcome(outcome) => return said(&asked, &outcome),
            Known::Hosts(hosts) => match self.room_for_hosts.take(asker, source) {
                Some(permit) => (Step::Hosts(hosts), permit),
                None => return said(&asked, &hosts.without_answer()),
            },
            Known::Outside => match self.outside.room(asker, source) {
                Some(permit) => (Step::Resolvers, permit),
                None => return said(&asked, &Outcome::Failed),
            },
        };
        let own = self.service.borrow().listen.clone();
        Reply::Waits(Box::new(Waiting {
            message: message.to_vec(),
            asked,
            asker,
            source,
            transport,
            directory,
            own,
            permit,
            step,
        }))
    }

    /// The answer to a question, once others have said what they know.
    pub(crate) async fn finish(&self, mut waiting: Waiting) -> Option<Vec<u8>> {
        if let Step::Hosts(hosts) = &waiting.step {
            let (network, ..) = hosts.key;
            let said = match waiting.directory.networks.get(&network) {
                Some(names) => self.others.say(&hosts.key, names, &hosts.hosts).await,
                None => Said::silence(),
            };
            match hosts.conclude(&said) {
                Some(outcome) => return waiting.asked.answer(&outcome),
                None => match self.outside.room(waiting.asker, waiting.source) {
                    Some(permit) => waiting.permit = permit,
                    None => return waiting.asked.answer(&Outcome::Failed),
                },
            }
        }
        let question = Forwarded {
            message: &waiting.message,
            asked: &waiting.asked,
            transport: waiting.transport,
            source: waiting.source,
            own: &waiting.own,
        };
        match self.outside.ask(question).await {
            Some(answer) => Some(answer),
            None => waiting.asked.answer(&Outcome::Failed),
        }
    }

    /// What this node knows by itself.
    fn known(&self, directory: &Directory, asker: Asker, asked: &Asked) -> Known {
        let name = asked.name();
        if let Asker::Peer(network) = asker
            && !asked.wants_recursion()
        {
            return Known::Outcome(match directory.own(network, &name) {
                Some(addresses) => Outcome::Addresses(addresses),
                None => Outcome::NoSuchName,
            });
        }
        match directory.resolve(asker, &name) {
            Meaning::Known(addresses) => Known::Outcome(Outcome::Addresses(addresses)),
            Meaning::Called(name) => Known::Outcome(Outcome::Name(name)),
            Meaning::Unknown => Known::Outcome(Outcome::NoSuchName),
            Meaning::Refused => Known::Outcome(Outcome::Refused),
            Meaning::Outside => Known::Outside,
            Meaning::Ask {
                own,
                hosts,
                container,
                else_outside,
            } => {
                let (Asker::Container(network) | Asker::Peer(network)) = asker else {
                    return Known::Outcome(Outcome::Refused);
                };
                let addresses = hosts.iter().map(|host| host.address.into()).collect();
                let asked = HostsAsked {
                    key: (network, container, addresses),
                    hosts,
                    own,
                    else_outside,
                };
                let said = match asked.hosts.is_empty() {
                    true => Some(Said::default()),
                    false => self.others.known(&asked.key),
                };
                match said.map(|said| asked.conclude(&said)) {
                    None => Known::Hosts(asked),
                    Some(Some(outcome)) => Known::Outcome(outcome),
                    Some(None) => Known::Outside,
                }
            }
        }
    }
}

impl HostsAsked {
    /// What follows from what the hosts said; nothing where the outside is to be asked.
    fn conclude(&self, said: &Said) -> Option<Outcome> {
        let addresses: BTreeSet<IpAddr> = self.own.union(&said.addresses).copied().collect();
        match (addresses.is_empty(), said.some_are_silent) {
            (false, _) => Some(Outcome::Addresses(addresses)),
            (true, true) => Some(Outcome::Failed),
            (true, false) if self.else_outside => None,
            (true, false) => Some(Outcome::NoSuchName),
        }
    }

    /// What follows where they can't be asked.
    fn without_answer(&self) -> Outcome {
        let outcome = self.conclude(&Said::silence());
        outcome.unwrap_or(Outcome::Failed)
    }
}

fn said(asked: &Asked, outcome: &Outcome) -> Reply {
    match asked.answer(outcome) {
        Some(answer) => Reply::Message(answer),
        None => Reply::Silence,
    }
}
