//! What daemons ask of each other, the text of a token, and what a daemon finds in its own
//! directory.
//!
//! Claims: what is decoded becomes what it was again; a refusal has a code; a token that was
//! mistyped or cut is none; a member that comes back has all that it remembered, in a later
//! generation.

use node_api::ApiError;
use shoald::fuzzing;

/// Decodes and encodes again.
type Again = fn(&[u8]) -> Result<Vec<u8>, ApiError>;

/// One decoder for every kind of message.
const MESSAGES: [Again; 6] = [
    fuzzing::request,
    fuzzing::answer,
    fuzzing::gate_request,
    fuzzing::admission,
    fuzzing::subscribe,
    fuzzing::push,
];

/// The first byte chooses the kind of message, the rest is the message.
pub(crate) fn peer_message(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let again = MESSAGES[usize::from(*kind) % MESSAGES.len()];
    match again(data) {
        Ok(bytes) => {
            assert!(bytes.len() <= data.len(), "encoding again made it longer");
            assert_eq!(again(&bytes).as_ref(), Ok(&bytes));
            let longer = [&bytes, &[0][..]].concat();
            assert!(again(&longer).is_err(), "a byte follows");
            assert!(again(&bytes[..bytes.len() - 1]).is_err());
        }
        Err(error) => {
            let expected = match data.first() {
                None => "empty".to_owned(),
                Some(1) => "not understood".to_owned(),
                Some(version) => format!("version {version}"),
            };
            assert_eq!(error.code, "PeerMessageError");
            assert!(error.message.contains(&expected), "{}", error.message);
        }
    }
}

/// A text, and what could be in one.
pub(crate) fn token(data: &[u8]) {
    hold_token(&crate::text(data));
    hold_token(&fuzzing::token_around(data));
}

fn hold_token(text: &str) {
    if let Some(again) = fuzzing::token(text) {
        assert!(again.len() <= text.len(), "encoding again made it longer");
        assert_eq!(fuzzing::token(&again).as_ref(), Some(&again));
        let cut = &again[..again.len() - 1];
        assert!(fuzzing::token(cut).is_none(), "cut");
    }
}

/// `mesh.json`.
pub(crate) fn mesh_file(data: &[u8]) {
    let Ok(returning) = fuzzing::membership(data) else {
        return;
    };
    let [before, after] = &returning.written;
    let again = fuzzing::membership(before);
    assert_eq!(again.as_ref(), Ok(&returning));
    assert_ne!(before, after, "the same generation");
    // There may be no generation after the next one.
    if let Ok(next) = fuzzing::membership(after) {
        assert_eq!(next.mesh, returning.mesh);
        assert_eq!(next.roots, returning.roots);
        assert_eq!(next.chain, returning.chain);
        assert_eq!(next.written[0], *after);
    }
}

/// `view.bin`.
pub(crate) fn view_file(data: &[u8]) {
    if let Some((revision, bytes)) = fuzzing::view(data) {
        assert!(bytes.len() <= data.len(), "encoding again made it longer");
        assert_eq!(data[..8], revision.0.to_be_bytes());
        assert_eq!(fuzzing::view(&bytes), Some((revision, bytes.clone())));
        assert_eq!(fuzzing::view(&bytes[..bytes.len() - 1]), None);
    }
}

/// `intermediate.key`.
pub(crate) fn intermediate_file(data: &[u8]) {
    match fuzzing::intermediate(data) {
        Ok(Some(bytes)) => assert_eq!(bytes, data),
        Ok(None) => {
            let length = data.first_chunk().map(|length| u32::from_be_bytes(*length));
            let held = (data.len() as u64).saturating_sub(4);
            assert!(length.is_none_or(|length| u64::from(length) > held));
        }
        Err(error) => assert!(error.code.ends_with("Error")),
    }
}
