//! Gossip: what any member may send to any other.
//!
//! Claims: of the bytes, as of every encoding; of a message within the limits, that it can be
//! written again; and of a member that hears it, that it neither breaks down nor holds or says
//! more than its limits allow, whoever it claims to be about.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use consensus_core::{NodeId, Time};
use overlay_core::membership::{
    Keys, Load, Membership, Output, Record, Settings, SimulatedKeys,
    wire::v1::{self as wire, DecodeError, MESSAGE_BYTES_MAX},
};

/// Members of the mesh that hears the message: more than a message holds facts about.
const MEMBERS: u32 = 20;
/// Rounds of timers that follow: past suspicion, its verdict and a repair.
const ROUNDS: u32 = 12;

pub(crate) fn message(data: &[u8]) {
    match wire::decode(data) {
        Ok(message) => {
            let bytes = wire::encode(&message);
            assert!(bytes.len() <= data.len(), "encoding again made it longer");
            assert_eq!(wire::decode(&bytes).as_ref(), Ok(&message));
            let longer = [&bytes, &[0][..]].concat();
            assert!(wire::decode(&longer).is_err(), "a byte follows");
            assert!(wire::decode(&bytes[..bytes.len() - 1]).is_err());
            hear(message);
        }
        Err(error) => hold_refused(data, &error),
    }
}

fn hold_refused(data: &[u8], error: &DecodeError) {
    assert!(error.code().starts_with("MembershipMessage"));
    assert_eq!(
        matches!(error, DecodeError::TooLong { .. }),
        data.len() > MESSAGE_BYTES_MAX
    );
    assert_eq!(matches!(error, DecodeError::Empty), data.is_empty());
    if let DecodeError::TooMany { count, limit, .. } = error {
        assert!(count > limit);
    }
}

/// The message comes from member 1 to member 0, as the first and again as a later word.
fn hear(message: overlay_core::membership::Message) {
    let mut member = Membership::new(record(0), keys(0), Settings::lan(), 7, Time::ZERO);
    let roster: BTreeSet<NodeId> = (0..MEMBERS).map(id).collect();
    member.handle_roster(roster.clone(), 0, Time::ZERO);
    for n in 1..MEMBERS {
        member.handle_connected(&id(n), Time::ZERO);
    }
    let mut now = Time::ZERO;
    member.handle_message(&id(1), message.clone(), now);
    for _ in 0..ROUNDS {
        within_limits(&mut member, &roster);
        now = (now + Duration::from_secs(1)).max(member.poll_timeout().unwrap_or(now));
        member.handle_timeout(now);
    }
    member.handle_message(&id(1), message, now);
    within_limits(&mut member, &roster);
    assert_eq!(member.record().node, id(0), "it is made another");
}

fn within_limits(member: &mut Membership, roster: &BTreeSet<NodeId>) {
    let limit = Load::limit(roster.len());
    let load = member.load();
    assert!(load.outputs <= limit.outputs, "{load:?}");
    assert!(load.piggybacked <= limit.piggybacked, "{load:?}");
    assert!(load.probes <= limit.probes, "{load:?}");
    assert!(load.relays <= limit.relays, "{load:?}");
    while let Some(output) = member.poll_output() {
        if let Output::Send { to, message } = output {
            assert!(roster.contains(&to), "it speaks to a stranger");
            let bytes = wire::encode(&message);
            assert!(bytes.len() <= MESSAGE_BYTES_MAX);
            assert_eq!(wire::decode(&bytes).as_ref(), Ok(&message));
        }
    }
    assert!(member.members().all(|m| roster.contains(&m.record.node)));
}

fn record(n: u32) -> Record {
    Record {
        node: id(n),
        generation: 1,
        version: 1,
        addresses: Vec::new(),
        wireguard: Vec::new(),
        relays: Vec::new(),
        unreachable: Vec::new(),
        forwards: false,
    }
}

fn keys(n: u32) -> Arc<dyn Keys> {
    Arc::new(SimulatedKeys(id(n)))
}

/// Member `n`'s id. Shape alone counts; no key is behind it.
fn id(n: u32) -> NodeId {
    let digits = format!("{n:A>44}").replace('0', "z");
    let text = format!("12D3KooW{digits}");
    text.parse().expect("52 characters of base58")
}
