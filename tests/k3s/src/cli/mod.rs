//! What a person or a supervisor tells `k3s`: commands, flags, files of settings, tokens.

pub(crate) mod configuration;
pub(crate) mod flags;
#[cfg(test)]
mod from_shoal;
pub(crate) mod settings;
pub(crate) mod table;
pub(crate) mod token;
