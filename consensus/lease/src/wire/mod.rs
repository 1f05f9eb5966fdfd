//! Messages of the lease protocol as bytes, one module per version.

pub mod v1;
