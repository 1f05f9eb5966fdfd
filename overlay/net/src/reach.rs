//! Whether this node can be dialled from elsewhere: advice, asked of relays.
//!
//! Decides what is asked, what is dialled back, and what follows from the answers. The asked node
//! dials from a socket that the asker has never spoken to, and only the very IP address that it
//! sees the asker at, so that nobody can be made to dial a third party (AutoNAT; libp2p specs,
//! autonat). A node is held to be reachable only if everyone that answered reached it: a relay on
//! the same side of a NAT proves nothing for the others. What the operator says counts more. An
//! answer that names other addresses than could have been dialled is believed without them, so that
//! no relay makes a node advertise whom it likes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use libp2p::{PeerId, Stream};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::{
    enrolment::dial, frame::framed, key::NodeKey, peering::Transport, transport::quic, wire::v1,
};

/// Relays asked in each round: one may be on this side of the NAT.
pub(crate) const ASKED: usize = 3;
/// Time between two rounds; a NAT changes seldom, and each answer is a handshake for a relay.
const ROUND_EVERY: Duration = Duration::from_secs(300);
/// Time to the next round when nobody has answered yet.
const ROUND_AGAIN: Duration = Duration::from_secs(5);
/// Ports dialled back, besides the one that was observed.
const PORTS_MAX: usize = 3;
/// How long a dial back may take: a handshake over a bad link.
const DIAL_BACK: Duration = Duration::from_secs(2);
/// How long the whole conversation may take.
const DEADLINE: Duration = Duration::from_secs(12);
/// A question and an answer are some hundred bytes.
const BYTES_MAX: usize = 1024;
/// Dials back at once, for all askers together.
static DIALLING: Semaphore = Semaphore::const_new(8);

/// "Can you dial me?"
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Question {
    /// UDP ports that the asker listens on.
    pub(crate) ports: Vec<u16>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Where the asker is seen.
    pub(crate) observed: SocketAddr,
    /// Where it was reached.
    pub(crate) reached: Vec<SocketAddr>,
}

/// The asker's side.
pub(crate) async fn ask(stream: Stream, ports: Vec<u16>) -> Option<Answer> {
    let (mut reader, mut writer) = framed(stream, BYTES_MAX);
    let conversation = async {
        let question = Question { ports };
        writer.queue(&[&v1::encode(&question)]).ok()?;
        writer.flush().await.ok()?;
        let bytes = reader.next().await.ok()??;
        let answer = v1::decode::<Answer>(&bytes).ok()?;
        Some(credible(answer, &question.ports))
    };
    timeout(DEADLINE, conversation).await.ok().flatten()
}

/// The asked node's side. `observed` is where the asker's connection comes from.
pub(crate) async fn answer(
    stream: Stream,
    key: NodeKey,
    asker: PeerId,
    observed: (SocketAddr, Transport),
) {
    let (mut reader, mut writer) = framed(stream, BYTES_MAX);
    let conversation = async {
        let bytes = reader.next().await.ok()??;
        let question = v1::decode::<Question>(&bytes).ok()?;
        let _slot = DIALLING.acquire().await.ok()?;
        let mut reached = Vec::new();
        for address in to_dial(observed, &question.ports) {
            // A socket of its own for each: what one dial opens in a NAT helps no other.
            let mut transport = quic(&key);
            let attempt = dial(&mut transport, address, Transport::Quic);
            if matches!(timeout(DIAL_BACK, attempt).await, Ok(Ok((peer, _))) if peer == asker) {
                reached.push(address);
            }
        }
        let answer = Answer {
            observed: observed.0,
            reached,
        };
        writer.queue(&[&v1::encode(&answer)]).ok()?;
        writer.flush().await.ok()?;
        writer.close().await.ok()
    };
    if timeout(DEADLINE, conversation)
        .await
        .ok()
        .flatten()
        .is_none()
    {
        tracing::debug!(%asker, "a node that asked whether it can be dialled got no answer");
    }
}

/// The asker's ports at the address that it is seen at, and at no other.
pub(crate) fn to_dial(
    (observed, over): (SocketAddr, Transport),
    ports: &[u16],
) -> BTreeSet<SocketAddr> {
    let own = ports.iter().copied().filter(|port| *port != 0);
    let mut addresses: BTreeSet<_> = own
        .take(PORTS_MAX)
        .map(|port| SocketAddr::new(observed.ip(), port))
        .collect();
    // A TCP connection's source port says nothing of UDP.
    if over == Transport::Quic && observed.port() != 0 {
        addresses.insert(observed);
    }
    addresses
}

/// The answer without what nobody can have dialled who was asked with these ports.
pub(crate) fn credible(answer: Answer, ports: &[u16]) -> Answer {
    let dialled = to_dial((answer.observed, Transport::Quic), ports);
    let reached = answer.reached.into_iter().collect::<BTreeSet<_>>();
    Answer {
        reached: reached.intersection(&dialled).copied().collect(),
        ..answer
    }
}

/// What the relays said.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    answers: BTreeMap<PeerId, Answer>,
    next: Option<Instant>,
}

impl Reach {
    /// Whom to ask now, of relays in the order of preference.
    pub(crate) fn round(&mut self, relays: &[PeerId], now: Instant) -> Vec<PeerId> {
        self.answers.retain(|relay, _| relays.contains(relay));
        if self.next.is_some_and(|next| next > now) {
            return Vec::new();
        }
        self.next = Some(now + ROUND_AGAIN);
        relays.iter().take(ASKED).copied().collect()
    }

    /// When the next round is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// The own addresses have changed: earlier answers are about others.
    pub(crate) fn again(&mut self, now: Instant) {
        self.next = self.next.map(|next| next.min(now + ROUND_AGAIN));
    }

    /// Takes an answer in.
    pub(crate) fn learn(&mut self, from: PeerId, answer: Answer, now: Instant) {
        self.answers.insert(from, answer);
        self.next = Some(now + ROUND_EVERY);
    }

    /// Whether this node can be dialled; `None` while nobody has said anything.
    pub(crate) fn reachable(&self) -> Option<bool> {
        let mut answers = self.answers.values();
        (!self.answers.is_empty()).then(|| answers.all(|answer| !answer.reached.is_empty()))
    }

    /// Where it was reached, or at least seen.
    pub(crate) fn observed(&self) -> BTreeSet<SocketAddr> {
        self.answers
            .values()
            .map(|answer| answer.observed)
            .collect()
    }

    /// Where everyone who sees it at that address has reached it.
    pub(crate) fn reached(&self) -> BTreeSet<SocketAddr> {
        self.answers
            .values()
            .flat_map(|answer| answer.reached.iter().copied())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> PeerId {
        NodeKey::generate().keypair().public().to_peer_id()
    }

    fn said(observed: &str, reached: &[&str]) -> Answer {
        Answer {
            observed: observed.parse().unwrap(),
            reached: reached.iter().map(|a| a.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn only_the_observed_ip_is_dialled_back_and_few_ports_of_it() {
        let observed = "192.0.2.7:4000".parse().unwrap();
        let dialled = to_dial((observed, Transport::Quic), &[7440, 0, 22, 23, 24]);
        let ports: Vec<u16> = dialled.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, [22, 23, 4000, 7440]);
        assert!(dialled.iter().all(|address| address.ip() == observed.ip()));
        assert!(!to_dial((observed, Transport::Tcp), &[7440]).contains(&observed));
    }

    #[test]
    fn a_relay_makes_nobody_believe_in_an_address_that_it_cannot_have_dialled() {
        let own = ["192.0.2.7:4000", "192.0.2.7:7440"];
        let foreign = ["203.0.113.1:7440", "192.0.2.7:22", "[::1]:7440"];
        let all = [&own[..], &foreign[..], &own[..]].concat();
        let heard = credible(said("192.0.2.7:4000", &all), &[7440]);
        assert_eq!(heard, said("192.0.2.7:4000", &own));
        assert_eq!(credible(heard.clone(), &[7440]), heard);
    }

    #[test]
    fn one_relay_that_cannot_dial_back_outweighs_those_that_can() {
        let mut reach = Reach::default();
        let now = Instant::now();
        assert_eq!(reach.reachable(), None);
        reach.learn(peer(), said("10.0.0.2:7440", &["10.0.0.2:7440"]), now);
        assert_eq!(reach.reachable(), Some(true));
        reach.learn(peer(), said("192.0.2.7:4000", &[]), now);
        assert_eq!(reach.reachable(), Some(false));
    }

    #[test]
    fn a_round_asks_three_and_silence_is_asked_again_soon() {
        let relays: Vec<PeerId> = (0..5).map(|_| peer()).collect();
        let mut reach = Reach::default();
        let now = Instant::now();
        assert_eq!(reach.round(&relays, now), relays[..3]);
        assert_eq!(reach.round(&relays, now), []);
        let soon = now + ROUND_AGAIN;
        assert_eq!(reach.round(&relays, soon), relays[..3]);
        reach.learn(relays[0], said("192.0.2.7:4000", &[]), soon);
        assert_eq!(reach.deadline(), Some(soon + ROUND_EVERY));
        assert_eq!(reach.round(&relays[1..], soon), []);
        assert_eq!(
            reach.reachable(),
            None,
            "a relay that is none any more says nothing"
        );
    }
}
