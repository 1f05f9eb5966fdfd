//! A peer's "no", as it travels over the wire and reaches a user.
//!
//! Decides nothing. The code is stable text, so that scripts can match on it.

use serde::{Deserialize, Serialize};

/// Longest text kept of each field of a received refusal: enough for a sentence, too short to
/// flood a log.
const TEXT_CHARS_MAX: usize = 512;

/// Why a node refused what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// Stable code, e.g. `AdmissionExpiredError`.
    pub code: String,
    /// The fact, as one sentence.
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

impl Refused {
    /// A refusal with a code, a sentence and what to do.
    pub fn new(
        code: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// Cuts texts that came from a peer to a sane length.
    pub(crate) fn clipped(mut self) -> Self {
        for text in [&mut self.code, &mut self.message, &mut self.hint] {
            if let Some((end, _)) = text.char_indices().nth(TEXT_CHARS_MAX) {
                text.truncate(end);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_text_is_cut_at_a_character_boundary() {
        let refused = Refused::new("é".repeat(2000), "m", "").clipped();
        assert_eq!(refused.code.chars().count(), TEXT_CHARS_MAX);
        assert_eq!(refused.message, "m");
    }
}
