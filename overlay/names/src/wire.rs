//! Messages (RFC 1035, section 4).
//!
//! Decides: what an answer looks like. Never: sends one.

use std::{collections::BTreeSet, net::IpAddr};

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{PTR, SOA},
    },
};
use overlay_core::names::ZONE;

/// How long an answer may be believed, in seconds: a container that is started anew elsewhere is
/// found there by then.
const TTL_S: u32 = 2;
/// So many addresses fit, with the longest name, into the 512 bytes that every asker takes: an answer
/// of this server's own is never cut short.
const ADDRESSES_MAX: usize = 12;
/// What an answer may have over UDP without being cut on the way (DNS flag day 2020).
const PAYLOAD_BYTES_MAX: u16 = 1232;
/// The id, the flags and four counters.
const HEADER_BYTES: usize = 12;
/// What an asker takes that says nothing about it (RFC 1035, section 4.2.1).
const PLAIN_BYTES_MAX: u16 = 512;

/// A question, as far as it can be answered.
pub(crate) struct Asked {
    request: Metadata,
    query: Query,
    /// What its asker takes over UDP, if he says so (RFC 6891).
    payload_bytes: Option<u16>,
}

/// What a question is about, however it was written down: name, type, class.
pub(crate) type Subject = (String, u16, u16);

/// What there is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The name exists, with these addresses.
    Addresses(BTreeSet<IpAddr>),
    /// It is an address read backwards, of whoever is called so.
    Name(String),
    /// It does not exist.
    NoSuchName,
    /// It is not this server's business.
    Refused,
    /// Nobody knows at this moment.
    Failed,
}

/// What another host said of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    /// Its containers of that name.
    Addresses(BTreeSet<IpAddr>),
    /// It has none.
    Nothing,
}

impl Asked {
    /// The question in a message; none if it is no question that somebody waits for.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let message = Message::from_vec(bytes).ok()?;
        let request = message.metadata;
        let [query] = &message.queries[..] else {
            return None;
        };
        let is_question =
            request.message_type == MessageType::Query && request.op_code == OpCode::Query;
        is_question.then(|| Self {
            request,
            query: query.clone(),
            payload_bytes: message.edns.as_ref().map(Edns::max_payload),
        })
    }

    /// The name, in lower case and without its last dot.
    pub(crate) fn name(&self) -> String {
        text(self.query.name())
    }

    /// The same for every way to ask it.
    pub(crate) fn subject(&self) -> Subject {
        let (kind, class) = (self.query.query_type(), self.query.query_class());
        (self.name(), kind.into(), class.into())
    }

    /// How long an answer over UDP may be.
    pub(crate) fn payload_bytes_max(&self) -> u16 {
        let told = self.payload_bytes.unwrap_or_default();
        told.max(PLAIN_BYTES_MAX)
    }

    /// Whether the asker wants the whole answer, rather than what this node has itself.
    pub(crate) fn wants_recursion(&self) -> bool {
        self.request.recursion_desired
    }

    /// The message that says it.
    pub(crate) fn answer(&self, outcome: &Outcome) -> Option<Vec<u8>> {
        let mut message = Message::response(self.request.id, OpCode::Query);
        message.metadata = Metadata::response_from_request(&self.request);
        message.metadata.recursion_available = true;
        message.metadata.response_code = match outcome {
            Outcome::Addresses(_) | Outcome::Name(_) => ResponseCode::NoError,
            Outcome::NoSuchName => ResponseCode::NXDomain,
            Outcome::Refused => ResponseCode::Refused,
            Outcome::Failed => ResponseCode::ServFail,
        };
        message.add_query(self.query.clone());
        message.answers = match outcome {
            Outcome::Addresses(addresses) => self.records(addresses),
            Outcome::Name(name) => self.pointer(name).into_iter().collect(),
            Outcome::NoSuchName | Outcome::Refused | Outcome::Failed => Vec::new(),
        };
        let is_ours = !matches!(outcome, Outcome::Refused | Outcome::Failed);
        message.metadata.authoritative = is_ours;
        if is_ours && message.answers.is_empty() {
            message.authorities.extend(authority());
        }
        if self.payload_bytes.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD_BYTES_MAX);
            message.set_edns(edns);
        }
        message.to_vec().ok()
    }

    fn pointer(&self, target: &str) -> Option<Record> {
        let (kind, class) = (self.query.query_type(), self.query.query_class());
        let wanted = matches!(kind, RecordType::PTR | RecordType::ANY) && class == DNSClass::IN;
        let data = RData::PTR(PTR(name(target).filter(|_| wanted)?));
        Some(Record::from_rdata(self.query.name().clone(), TTL_S, data))
    }

    fn records(&self, addresses: &BTreeSet<IpAddr>) -> Vec<Record> {
        if self.query.query_class() != DNSClass::IN {
            return Vec::new();
        }
        let kind = self.query.query_type();
        let wanted = |address: &&IpAddr| {
            kind == RecordType::ANY
                || kind
                    == match address {
                        IpAddr::V4(_) => RecordType::A,
                        IpAddr::V6(_) => RecordType::AAAA,
                    }
        };
        let mut addresses: Vec<&IpAddr> = addresses.iter().filter(wanted).collect();
        // Most askers take the first: it is another one each time.
        if let Some(turn) = usize::from(self.request.id).checked_rem(addresses.len()) {
            addresses.rotate_left(turn);
        }
        let addresses = addresses.into_iter().take(ADDRESSES_MAX);
        addresses
            .map(|address| {
                let data = match *address {
                    IpAddr::V4(v4) => RData::A(v4.into()),
                    IpAddr::V6(v6) => RData::AAAA(v6.into()),
                };
                Record::from_rdata(self.query.name().clone(), TTL_S, data)
            })
            .collect()
    }
}

/// By which negative answers say how long they hold (RFC 2308).
fn authority() -> Option<Record> {
    let zone = name(ZONE)?;
    let hour = 3600;
    let soa = SOA::new(zone.clone(), zone.clone(), 1, hour, hour, hour, TTL_S);
    Some(Record::from_rdata(zone, TTL_S, RData::SOA(soa)))
}

/// Asks a host for a container's addresses, and for nothing that it would have to ask others.
pub(crate) fn question(id: u16, asked: &str) -> Option<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name(asked)?, RecordType::A));
    message.to_vec().ok()
}

/// What a message says to that question; none if it is no answer to it.
pub(crate) fn told(bytes: &[u8], id: u16, asked: &str) -> Option<Told> {
    let message = Message::from_vec(bytes).ok()?;
    let metadata = message.metadata;
    let [query] = &message.queries[..] else {
        return None;
    };
    let fits = metadata.id == id
        && metadata.message_type == MessageType::Response
        && text(query.name()) == asked.to_ascii_lowercase();
    if !fits {
        return None;
    }
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other code says that the host does not know"
    )]
    match metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return Some(Told::Nothing),
        _ => return None,
    }
    let addresses = message.answers.iter().take(ADDRESSES_MAX);
    let addresses: BTreeSet<IpAddr> = addresses
        .filter_map(|record| record.data.ip_addr())
        .collect();
    Some(match addresses.is_empty() {
        true => Told::Nothing,
        false => Told::Addresses(addresses),
    })
}

/// The id in a message's first bytes.
pub(crate) fn id_of(bytes: &[u8]) -> Option<u16> {
    let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
    Some(u16::from_be_bytes([header[0], header[1]]))
}

/// Whether a message says that its sender can't tell: another may (resolv.conf(5) has it asked).
pub(crate) fn is_at_a_loss(bytes: &[u8]) -> bool {
    let code = bytes
        .get(3)
        .map(|flags| ResponseCode::from(0, flags & 0x0f));
    matches!(
        code,
        Some(ResponseCode::ServFail | ResponseCode::NotImp | ResponseCode::Refused)
    )
}

/// The same message with another id.
pub(crate) fn with_id(bytes: &[u8], id: u16) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(place) = bytes.first_chunk_mut::<2>() {
        *place = id.to_be_bytes();
    }
    bytes
}

/// A name of labels as they are: containers' may have underscores.
fn name(text: &str) -> Option<Name> {
    let mut name = Name::from_labels(text.split('.').map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn text(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(kind: RecordType) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        let name = name("My_App.blue.shoal.internal").unwrap();
        message.add_query(Query::query(name, kind));
        message.to_vec().unwrap()
    }

    fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn answered(kind: RecordType, outcome: &Outcome) -> Message {
        let question = Asked::decode(&asked(kind)).unwrap();
        assert_eq!(question.name(), "my_app.blue.shoal.internal");
        assert!(question.wants_recursion());
        Message::from_vec(&question.answer(outcome).unwrap()).unwrap()
    }

    #[test]
    fn an_answer_has_the_addresses_of_the_family_that_was_asked_for() {
        let both = Outcome::Addresses(addresses(&["10.43.1.2", "fd00::2"]));
        for (kind, expected) in [
            (RecordType::A, &["10.43.1.2"][..]),
            (RecordType::AAAA, &["fd00::2"]),
            (RecordType::ANY, &["10.43.1.2", "fd00::2"]),
            (RecordType::MX, &[]),
        ] {
            let message = answered(kind, &both);
            assert_eq!(message.metadata.response_code, ResponseCode::NoError);
            assert!(message.metadata.authoritative);
            let got = message.answers.iter();
            let got: BTreeSet<_> = got.filter_map(|record| record.data.ip_addr()).collect();
            assert_eq!(got, addresses(expected), "{kind}");
            // Without one, the answer says itself how long it holds.
            assert_eq!(message.authorities.len(), usize::from(expected.is_empty()));
        }
    }

    #[test]
    fn an_address_read_backwards_is_answered_by_a_name() {
        let called = Outcome::Name("my_app.n1.blue.shoal.internal".into());
        for (kind, expected) in [(RecordType::PTR, 1), (RecordType::A, 0)] {
            let message = answered(kind, &called);
            assert_eq!(message.metadata.response_code, ResponseCode::NoError);
            assert_eq!(message.answers.len(), expected, "{kind}");
            let target = PTR(name("my_app.n1.blue.shoal.internal").unwrap());
            let is_right = |record: &Record| record.data == RData::PTR(target.clone());
            assert!(message.answers.iter().all(is_right));
        }
    }

    #[test]
    fn what_there_is_not_is_said_by_its_code() {
        for (outcome, code) in [
            (Outcome::NoSuchName, ResponseCode::NXDomain),
            (Outcome::Refused, ResponseCode::Refused),
            (Outcome::Failed, ResponseCode::ServFail),
        ] {
            let message = answered(RecordType::A, &outcome);
            assert_eq!(message.metadata.response_code, code);
            assert_eq!(message.metadata.id, 7);
        }
    }

    #[test]
    fn a_full_answer_to_the_longest_name_fits_into_every_askers_buffer() {
        let label = "x".repeat(63);
        let long = [label.as_str(), &label, &label, &"x".repeat(60)].join(".");
        let bytes = question(1, &long).unwrap();
        let many: Vec<String> = (0..40).map(|n| format!("10.43.1.{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let outcome = Outcome::Addresses(addresses(&many));
        let answer = Asked::decode(&bytes).unwrap().answer(&outcome).unwrap();
        assert!(answer.len() <= 512, "{} bytes", answer.len());
        let message = Message::from_vec(&answer).unwrap();
        assert!(!message.metadata.truncation);
    }

    #[test]
    fn each_of_many_containers_of_a_name_is_the_first_in_some_answer() {
        let many: Vec<String> = (0..20).map(|n| format!("10.43.1.{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let outcome = Outcome::Addresses(addresses(&many));
        let first = |id| {
            let bytes = question(id, "web.blue.shoal.internal").unwrap();
            let answer = Asked::decode(&bytes).unwrap().answer(&outcome).unwrap();
            let message = Message::from_vec(&answer).unwrap();
            assert_eq!(message.answers.len(), ADDRESSES_MAX);
            message.answers[0].data.ip_addr().unwrap()
        };
        let firsts: BTreeSet<IpAddr> = (0..20).map(first).collect();
        assert_eq!(firsts, addresses(&many));
    }

    #[test]
    fn a_name_is_found_in_any_case_and_said_as_it_was_asked_for() {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        let asked = name("wEb.BLUE.shoal.Internal").unwrap();
        message.add_query(Query::query(asked, RecordType::A));
        let decoded = Asked::decode(&message.to_vec().unwrap()).unwrap();
        assert_eq!(decoded.name(), "web.blue.shoal.internal");
        assert_eq!(decoded.subject().0, "web.blue.shoal.internal");
        let outcome = Outcome::Addresses(addresses(&["10.43.1.2"]));
        let answer = decoded.answer(&outcome).unwrap();
        let message = Message::from_vec(&answer).unwrap();
        let spelled = "wEb.BLUE.shoal.Internal.";
        assert_eq!(message.queries[0].name().to_ascii(), spelled);
        assert_eq!(message.answers[0].name.to_ascii(), spelled);
        assert_eq!(message.answers[0].ttl, TTL_S);
    }

    #[test]
    fn how_much_an_asker_takes_is_what_he_says_and_512_bytes_at_least() {
        for (said, expected) in [(None, 512), (Some(100), 512), (Some(4096), 4096)] {
            let mut message = Message::new(7, MessageType::Query, OpCode::Query);
            let asked = name("web.blue.shoal.internal").unwrap();
            message.add_query(Query::query(asked, RecordType::A));
            if let Some(bytes) = said {
                let mut edns = Edns::new();
                edns.set_max_payload(bytes);
                message.set_edns(edns);
            }
            let decoded = Asked::decode(&message.to_vec().unwrap()).unwrap();
            assert_eq!(decoded.payload_bytes_max(), expected, "{said:?}");
        }
    }

    #[test]
    fn a_resolver_that_fails_or_refuses_is_at_a_loss_and_one_that_knows_no_such_name_is_not() {
        let asked = Asked::decode(&asked(RecordType::A)).unwrap();
        for (outcome, expected) in [
            (Outcome::Failed, true),
            (Outcome::Refused, true),
            (Outcome::NoSuchName, false),
            (Outcome::Addresses(addresses(&["10.43.1.2"])), false),
        ] {
            let answer = asked.answer(&outcome).unwrap();
            assert_eq!(is_at_a_loss(&answer), expected, "{outcome:?}");
        }
        assert!(!is_at_a_loss(&[0; 3]));
    }

    #[test]
    fn hosts_understand_each_other_and_not_what_was_not_asked() {
        let name = "my_app.n2.blue.shoal.internal";
        let bytes = question(9, name).unwrap();
        let asked = Asked::decode(&bytes).unwrap();
        assert!(!asked.wants_recursion());
        let there = addresses(&["10.43.2.2"]);
        let answer = asked.answer(&Outcome::Addresses(there.clone())).unwrap();
        assert_eq!(told(&answer, 9, name), Some(Told::Addresses(there)));
        assert_eq!(told(&answer, 8, name), None);
        assert_eq!(told(&answer, 9, "other.n2.blue.shoal.internal"), None);
        assert_eq!(told(&bytes, 9, name), None, "a question is no answer");
        let nothing = asked.answer(&Outcome::NoSuchName).unwrap();
        assert_eq!(told(&nothing, 9, name), Some(Told::Nothing));
        let failed = asked.answer(&Outcome::Failed).unwrap();
        assert_eq!(told(&failed, 9, name), None);
    }

    #[test]
    fn what_is_no_question_is_not_answered() {
        let question = asked(RecordType::A);
        for cut in 0..question.len() {
            assert!(Asked::decode(&question[..cut]).is_none(), "cut at {cut}");
        }
        let answer = Asked::decode(&question).unwrap();
        let answer = answer.answer(&Outcome::NoSuchName).unwrap();
        assert!(Asked::decode(&answer).is_none(), "answers go in circles");
        assert_eq!(id_of(&with_id(&question, 4711)), Some(4711));
        assert_eq!(id_of(&[1, 2, 3]), None);
    }
}
