//! Membership messages as bytes, one module per version.

pub mod v1;
