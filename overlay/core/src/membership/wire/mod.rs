//! Membership messages as bytes, one module per version.

mod refusal;
pub mod v1;
