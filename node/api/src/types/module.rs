//! The shapes of modules and their assignments.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A module, as `module ls` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleView {
    /// Its name.
    pub name: String,
    /// `subscription` or `config`.
    pub variety: String,
    /// Nodes and selectors that it is assigned to.
    pub assigned_to: Vec<String>,
    /// The nodes that this comes to.
    pub nodes: Vec<String>,
}

/// `POST /v1/modules/assign` and `/v1/modules/unassign`: exactly one of `node` and `selector`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssignRequest {
    /// The module's name.
    pub module: String,
    /// One node, by name or id.
    pub node: Option<String>,
    /// Every node with all these labels.
    pub selector: Option<BTreeMap<String, String>>,
    /// Of a K3s module: the cluster, by name or id; the only one unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Of a K3s module: even if it wipes K3s off nodes. Left out unless it is said.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub consent: bool,
}
