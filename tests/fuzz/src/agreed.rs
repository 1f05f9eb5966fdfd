//! The replicated types: commands that peers hand in, state and views that servers push and disks
//! keep.
//!
//! Claims: a value survives its bytes; its own encoding is the shortest that is read as it; a byte
//! too many or too few is refused; each refusal has the reason that the bytes give. And whatever
//! commands are agreed, two replicas that apply them are alike to the byte, and a refusal changes
//! nothing but what is remembered of it.

use std::fmt::Debug;

use consensus_core::{
    Agreed, Applied, Envelope, Event, LogIndex, State, apply,
    wire::v1::{self as wire, DecodeError},
};

/// Commands in one input of [`commands`]: enough for a mesh with nodes, tokens and modules.
const COMMANDS_MAX: usize = 64;

/// A type's encoder and decoder.
struct Codec<T> {
    encode: fn(&T) -> Vec<u8>,
    decode: fn(&[u8]) -> Result<T, DecodeError>,
}

impl<T: PartialEq + Debug> Codec<T> {
    fn hold(&self, data: &[u8]) {
        match (self.decode)(data) {
            Ok(value) => self.hold_accepted(data, &value),
            Err(error) => hold_refused(data, &error),
        }
    }

    fn hold_accepted(&self, data: &[u8], value: &T) {
        let bytes = (self.encode)(value);
        assert!(bytes.len() <= data.len(), "encoding again made it longer");
        assert_eq!((self.decode)(&bytes).as_ref(), Ok(value));
        let longer = [&bytes, &[0][..]].concat();
        assert!((self.decode)(&longer).is_err(), "a byte follows");
        let cut = &bytes[..bytes.len() - 1];
        assert!((self.decode)(cut).is_err(), "the last byte is missing");
    }
}

fn hold_refused(data: &[u8], error: &DecodeError) {
    // The version is whatever the encoder writes first.
    let own = wire::encode(&State::default())[0];
    match error {
        DecodeError::Empty => assert!(data.is_empty()),
        DecodeError::Version { found } => {
            assert_ne!(*found, own);
            assert_eq!(data.first(), Some(found));
        }
        DecodeError::Malformed { reason } => {
            assert_eq!(data.first(), Some(&own));
            assert!(!reason.is_empty());
        }
    }
}

pub(crate) fn applied(data: &[u8]) {
    let codec: Codec<Applied> = Codec {
        encode: wire::encode,
        decode: wire::decode,
    };
    codec.hold(data);
}

pub(crate) fn envelope(data: &[u8]) {
    let codec: Codec<Envelope> = Codec {
        encode: wire::encode,
        decode: wire::decode,
    };
    codec.hold(data);
}

pub(crate) fn event(data: &[u8]) {
    let codec: Codec<Event> = Codec {
        encode: wire::encode,
        decode: wire::decode,
    };
    codec.hold(data);
}

pub(crate) fn state(data: &[u8]) {
    let codec: Codec<State> = Codec {
        encode: wire::encode,
        decode: wire::decode,
    };
    codec.hold(data);
}

pub(crate) fn view(data: &[u8]) {
    let codec: Codec<Agreed> = Codec {
        encode: wire::encode,
        decode: wire::decode,
    };
    codec.hold(data);
}

/// Commands, each behind two bytes of big-endian length; the end may be cut.
pub(crate) fn commands(mut data: &[u8]) {
    let mut ours = State::default();
    let mut theirs = State::default();
    for _ in 0..COMMANDS_MAX {
        let Some((length, rest)) = data.split_at_checked(2) else {
            break;
        };
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let (body, rest) = rest.split_at(length.min(rest.len()));
        data = rest;
        if let Ok(envelope) = wire::decode::<Envelope>(body) {
            give(&mut ours, &mut theirs, &envelope);
        }
    }
    let bytes = wire::encode(&ours);
    assert_eq!(wire::decode(&bytes).as_ref(), Ok(&ours));
}

/// Has a command applied by two replicas, of which one has come back from its disk just now.
fn give(ours: &mut State, theirs: &mut State, envelope: &Envelope) {
    let before = ours.clone();
    let index = LogIndex(ours.applied.0 + 1);
    let answer = apply(ours, index, envelope);
    *theirs = wire::decode(&wire::encode(theirs)).expect("a replica's own bytes are read");
    assert_eq!(apply(theirs, index, envelope), answer);
    assert!(
        wire::encode(ours) == wire::encode(theirs),
        "replicas differ"
    );
    if answer.is_err() {
        assert_eq!(ours.agreed, before.agreed, "a refusal changed the mesh");
        assert_eq!(ours.tokens, before.tokens, "a refusal changed a token");
        assert_eq!(ours.events, before.events, "a refusal wrote an event");
    }
}
