//! Shapes of backup, restore and recovery from a lost majority.

use serde::{Deserialize, Serialize};

/// `POST /v1/backup`. The answer is the file: age, opened with the recovery key.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// Further recipients (age), besides the recovery recipient.
    #[serde(default)]
    pub recipients: Vec<String>,
}

/// What a backup holds, as `backup show` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupView {
    /// The mesh's id.
    pub mesh_id: String,
    /// The mesh's name.
    pub mesh: String,
    /// When it was made, milliseconds since 1970.
    pub created_ms: u64,
    /// The last log index in it.
    pub raft_index: u64,
    /// The version of the daemon that made it.
    pub version: String,
    /// Members.
    pub nodes: Vec<String>,
    /// Those among them that were servers.
    pub servers: Vec<String>,
    /// The roots' fingerprints, hexadecimal, the signing one first.
    pub root_fingerprints: Vec<String>,
    /// What else is in it, by runtime.
    pub attachments: Vec<String>,
}

/// `POST /v1/restore`, on a machine that is in no mesh. Holds secrets: on the socket only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreRequest {
    /// The backup file, base64.
    pub backup: String,
    /// The identity that opens it (age).
    pub identity: String,
}

/// `GET /v1/recover`: what `recover` would do here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoverPlan {
    /// The mesh's name, which the operator types to confirm.
    pub mesh: String,
    /// This server, the one that would go on.
    pub survivor: String,
    /// Voters that do not answer, by name; they become agents.
    pub lost: Vec<String>,
    /// Voters that answer, by name.
    pub reachable: Vec<String>,
    /// Voters needed for a majority.
    pub needed: u64,
    /// The last entry that this server knows to be agreed.
    pub committed_index: u64,
    /// The last entry in this server's log; what lies between was perhaps never agreed, and is kept.
    pub last_index: u64,
    /// What may be lost, in words.
    pub may_be_lost: Vec<String>,
    /// Why it is not possible or not needed here, if so.
    pub refused: Option<crate::ApiError>,
}

/// `POST /v1/recover`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverRequest {
    /// The mesh's name, typed by the operator.
    pub confirm: String,
}

/// The answer to `recover`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovered {
    /// The log index of the first entry of the new group.
    pub raft_index: u64,
    /// Counts recoveries; the old voters' is lower.
    pub era: u64,
    /// Servers that became agents, by name.
    pub demoted: Vec<String>,
    /// What to do next.
    pub warnings: Vec<String>,
}
