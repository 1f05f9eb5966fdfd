//! Firewall rules of networks.

use serde::{Deserialize, Serialize};

/// A network's rules, as `network rule ls` gives them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallView {
    /// The network's name.
    pub network: String,
    /// `allow` or `deny`: what becomes of connections that no rule fits.
    pub default: String,
    /// The rules; the first that fits decides.
    pub rules: Vec<FirewallRuleView>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallRuleView {
    /// Its number in the network; never another's.
    pub number: u32,
    /// Lower ones are asked first.
    pub priority: u16,
    /// Who opens the connection: `any`, `node:NAME`, `label:KEY=VALUE` or `cidr:PREFIX`.
    pub from: String,
    /// Who is asked for it: `any`, `node:NAME` or `label:KEY=VALUE`.
    pub to: String,
    /// `any`, `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// The ports at which it arrives, numbers or ranges (`8000-8100`); empty for any.
    pub ports: Vec<String>,
    /// `allow` or `deny`.
    pub verdict: String,
}

/// `network rule add`. At most one of `priority` and `before` is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirewallRuleRequest {
    /// Who opens the connection; `any` unless given.
    #[serde(default)]
    pub from: Option<String>,
    /// Who is asked for it; `any` unless given.
    #[serde(default)]
    pub to: Option<String>,
    /// `any` unless given.
    #[serde(default)]
    pub protocol: Option<String>,
    /// Numbers or ranges; any port unless given.
    #[serde(default)]
    pub ports: Vec<String>,
    /// `allow` or `deny`.
    pub verdict: String,
    /// Lower ones are asked first; 100 unless given.
    #[serde(default)]
    pub priority: Option<u16>,
    /// The number of the rule before which it goes.
    #[serde(default)]
    pub before: Option<u32>,
}

/// The answer to `network rule add`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallRuleAdded {
    /// The log index of the change.
    pub raft_index: u64,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// The number of the rule.
    pub number: u32,
}
