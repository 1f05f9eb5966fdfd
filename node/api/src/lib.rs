//! The operator API's contract: HTTP and JSON, on a unix socket and on the overlay.
//!
//! Decides: routes, shapes, error codes. Never: what a command does.

mod access;
mod client;
mod error;
pub mod types;

pub use access::{Access, AccessRole, RULES, Rule, access};
pub use client::{
    Answer, Authority, Client, Download, Endpoint, EndpointError, Line, Lines, Route, TlsFiles,
};
pub use error::ApiError;

/// The daemon's socket unless configured otherwise.
pub const DEFAULT_SOCKET: &str = "/run/shoal/shoald.sock";
/// The daemon's data directory unless configured otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/shoal";
/// The API's port on overlay addresses.
pub const OVERLAY_API_PORT: u16 = 7443;
/// `GET` reads what is agreed by the time of the question. With this query parameter set to
/// `true` it reads what this node knows, at once and without asking anybody.
pub const STALE_QUERY: &str = "stale";
/// The header that says how fresh an answer is: `raft, index N` or `gossip, 0.4 s old`.
pub const FRESHNESS_HEADER: &str = "shoal-freshness";
/// Every route starts so.
pub const API_PREFIX: &str = "/v1";
