//! What must hold whatever strikes clusters and their nodes. One invariant per file, each with its source.
//!
//! | invariant | looked at | source |
//! |---|---|---|
//! | [`one_bootstrap`] | at every entry, and when a datastore is initialised | SPEC 5.1, 5.2: `--cluster-init` from the first alone |
//! | [`right_token`] | at every entry, and when a token is taken | SPEC 5.3: sealed to that node, for that stay |
//! | [`leaves_first`] | at every entry, when K3s comes up, when a name is forgotten | SPEC 5.4: leave, clean, join |
//! | [`turns`] | at every entry, and when K3s is stopped to be changed | SPEC 5.7: servers one at a time |
//! | `installs_once` | at every step | `runtimes_core::k3s`: a step done is not asked for again |
//! | [`ends`] | at the end | always ready, gone, or in error with a reason |
//!
//! All but the last are safety: they hold while faults strike. The last is liveness: it is asked for once
//! faults and wishes are over and the time to settle has passed.

pub mod ends;
pub mod leaves_first;
pub mod one_bootstrap;
pub mod right_token;
pub mod turns;

/// What the invariants remember.
#[derive(Debug, Default)]
pub(super) struct Witness {
    pub(super) foundings: one_bootstrap::Foundings,
    pub(super) tokens: right_token::Tokens,
    pub(super) stays: leaves_first::Stays,
    pub(super) turns: turns::Turns,
}
