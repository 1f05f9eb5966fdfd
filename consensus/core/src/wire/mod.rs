//! Encodings of the replicated types, one module per version.
//!
//! The replicated types are their own wire format (postcard, field by field); a leading byte
//! names the version. A change of any of them is a new version, and the golden bytes say so.

pub mod v1;
