//! What travels in the gate, apart from the types that decide.

pub(crate) mod v1;
