//! The replicated state as Raft sees it: bytes in, bytes out.

use consensus_core::{Applied, Envelope, LogIndex, Refusal, State, apply, wire::v1};
use consensus_raft::Machine;

/// The state machine of every server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replica(pub(crate) State);

impl Machine for Replica {
    fn apply(&mut self, index: LogIndex, entry: &[u8]) -> Vec<u8> {
        let answer: Applied = match v1::decode::<Envelope>(entry) {
            Ok(envelope) => apply(&mut self.0, index, &envelope),
            Err(error) => Err(Refusal::Invalid {
                what: "log entry".into(),
                text: index.to_string(),
                rule: format!("readable by this version ({error})"),
            }),
        };
        v1::encode(&answer)
    }

    fn encode(&self) -> Vec<u8> {
        v1::encode(&self.0)
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        v1::decode(bytes)
            .map(Self)
            .map_err(|error| error.to_string())
    }
}
