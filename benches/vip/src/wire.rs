//! Probe and answer on the wire, both single datagrams.
//!
//! Decides: the layout. A probe is [`MAGIC`] and the time it was sent; an answer is [`MAGIC`], that
//! time again, the epoch, and the name of who answers. Numbers are big-endian. The time comes back
//! so that a watch keeps nothing.

use crate::Micros;

/// The first bytes of both.
pub const MAGIC: [u8; 4] = *b"VIP1";

/// Of a probe.
pub const PROBE_BYTES: usize = 12;

/// A name longer than this is cut; names of hosts have at most 63 bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// The largest answer.
pub const ANSWER_BYTES_MAX: usize = 20 + NAME_BYTES_MAX;

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// When the probe that it answers was sent.
    pub sent: Micros,
    /// In which epoch the responder holds the address; 0 where there are none.
    pub epoch: u64,
    /// Who answers.
    pub name: String,
}

/// A probe sent at that time.
pub fn probe(sent: Micros) -> [u8; PROBE_BYTES] {
    let mut bytes = [0; PROBE_BYTES];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..].copy_from_slice(&sent.0.to_be_bytes());
    bytes
}

/// The answer to `datagram`, if that is a probe.
pub fn answer(datagram: &[u8], name: &str, epoch: u64) -> Option<Vec<u8>> {
    if datagram.len() != PROBE_BYTES || !datagram.starts_with(&MAGIC) {
        return None;
    }
    let mut bytes = datagram.to_vec();
    bytes.extend(epoch.to_be_bytes());
    bytes.extend(name.bytes().take(NAME_BYTES_MAX));
    Some(bytes)
}

/// What `datagram` says, if it is an answer.
pub fn read_answer(datagram: &[u8]) -> Option<Reply> {
    let rest = datagram.strip_prefix(&MAGIC)?;
    let (sent, rest) = rest.split_first_chunk()?;
    let (epoch, name) = rest.split_first_chunk()?;
    let name = std::str::from_utf8(name).ok()?;
    // It becomes a word of a line of the log.
    let is_word = !name.is_empty() && !name.contains(char::is_whitespace);
    is_word.then(|| Reply {
        sent: Micros(u64::from_be_bytes(*sent)),
        epoch: u64::from_be_bytes(*epoch),
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_when_it_was_asked_and_who_answers() {
        let bytes = answer(&probe(Micros(77)), "s1", 5).expect("it is a probe");
        let reply = Reply {
            sent: Micros(77),
            epoch: 5,
            name: "s1".to_owned(),
        };
        assert_eq!(read_answer(&bytes), Some(reply));
    }

    #[test]
    fn what_is_no_probe_is_not_answered_and_what_is_no_answer_is_not_read() {
        let probe = probe(Micros(1));
        for bytes in [
            &probe[..11],
            b"",
            b"VIP2aaaaaaaa",
            &[&probe[..], b"x"].concat(),
        ] {
            assert_eq!(answer(bytes, "s1", 1), None);
        }
        for bytes in [
            &probe[..],
            b"",
            b"VIP1",
            &[&probe[..], &[0; 8], b"a b"].concat(),
        ] {
            assert_eq!(read_answer(bytes), None);
        }
        let loud = answer(&probe, &"x".repeat(500), 1).expect("it is a probe");
        assert_eq!(loud.len(), ANSWER_BYTES_MAX);
    }
}
