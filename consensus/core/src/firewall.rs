//! Firewall rules: who may reach whom inside a network, and at which ports (SPEC 3.12).
//!
//! Decides: the verdict on a new connection, by the first rule that fits it and else by the
//! network's default; which nodes a rule's end means. Never: asks which packets the mesh itself needs;
//! those are let through before any rule is asked (the packet filter's part).
//!
//! Invariants, kept by `apply`: rules are ordered by priority, and those of one priority as they were
//! put; a number is one rule's for ever; ports stand with protocols that have ports.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Agreed, InvalidId, IpPrefix, NetworkId, NodeId};

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum Verdict {
    /// It is let through.
    #[default]
    Allow,
    /// Its packets are dropped.
    Deny,
}

impl Verdict {
    /// The word in tables, flags and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }

    /// The verdict of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Allow, Self::Deny]
            .into_iter()
            .find(|verdict| verdict.as_str() == name)
    }
}

/// Which packets a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum RuleProtocol {
    /// All; with ports, TCP and UDP.
    #[default]
    Any,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and ICMPv6.
    Icmp,
}

impl RuleProtocol {
    /// The word in tables, flags and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }

    /// The protocol of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Any, Self::Tcp, Self::Udp, Self::Icmp]
            .into_iter()
            .find(|protocol| protocol.as_str() == name)
    }
}

/// Ports from one to another, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "(u16, u16)", into = "(u16, u16)")]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The lowest port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// The same ports in as few ranges as possible, in order.
    pub(crate) fn merged(ranges: &[Self]) -> Vec<Self> {
        let mut sorted = ranges.to_vec();
        sorted.sort();
        let mut merged: Vec<Self> = Vec::new();
        for range in sorted {
            match merged.last_mut() {
                Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                    last.last = last.last.max(range.last);
                }
                Some(_) | None => merged.push(range),
            }
        }
        merged
    }
}

impl TryFrom<(u16, u16)> for PortRange {
    type Error = InvalidId;

    fn try_from((first, last): (u16, u16)) -> Result<Self, InvalidId> {
        if first == 0 || first > last {
            return Err(invalid_ports(&format!("{first}-{last}")));
        }
        Ok(Self { first, last })
    }
}

impl From<PortRange> for (u16, u16) {
    fn from(range: PortRange) -> Self {
        (range.first, range.last)
    }
}

impl FromStr for PortRange {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| -> Option<u16> {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| digits)
        };
        match (port(first), port(last)) {
            (Some(first), Some(last)) => Self::try_from((first, last)),
            (None, _) | (_, None) => Err(invalid_ports(text)),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

fn invalid_ports(text: &str) -> InvalidId {
    InvalidId {
        what: "port",
        text: text.to_owned(),
        rule: "a number from 1 to 65535, or two with a - between, the lower first",
    }
}

/// One end of the connections that a rule is about; `N` names a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RuleEnd<N = NodeId> {
    /// Whoever it is.
    Any,
    /// A node: its addresses, the virtual IPs that it holds, its containers, and what lies behind
    /// it.
    Node(N),
    /// Every node with this label.
    Label {
        /// The label's key.
        key: String,
        /// Its value.
        value: String,
    },
    /// Whoever has an address in this prefix.
    Prefix(IpPrefix),
}

impl RuleEnd {
    /// As an operator writes it.
    pub fn describe(&self, agreed: &Agreed) -> String {
        match self {
            Self::Any => "any".to_owned(),
            Self::Node(id) => format!("node:{}", agreed.name_of(id)),
            Self::Label { key, value } => format!("label:{key}={value}"),
            Self::Prefix(prefix) => format!("cidr:{prefix}"),
        }
    }

    /// Whether the end is this node, among others perhaps. A prefix is of addresses, not of nodes.
    pub fn covers(&self, agreed: &Agreed, node: &NodeId) -> bool {
        match self {
            Self::Any => true,
            Self::Node(id) => id == node,
            Self::Label { key, value } => {
                let row = agreed.nodes.get(node);
                row.is_some_and(|row| row.labels.get(key) == Some(value))
            }
            Self::Prefix(_) => false,
        }
    }
}

/// A rule's number in its network, for people to name it by. Numbers are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleNumber(pub u32);

impl fmt::Display for RuleNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallRule {
    /// Its number.
    pub number: RuleNumber,
    /// Lower ones are asked first.
    pub priority: u16,
    /// Who opens the connection.
    pub from: RuleEnd,
    /// Who is asked for it; never a prefix.
    pub to: RuleEnd,
    /// Of which protocol it is.
    pub protocol: RuleProtocol,
    /// At which ports it arrives, in order; at any, if none are given.
    pub ports: Vec<PortRange>,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// Where a new rule goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RulePlace {
    /// Behind those of this priority.
    Priority(u16),
    /// Straight before another, with its priority.
    Before(RuleNumber),
}

/// A rule as it is asked for; nodes by name or id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewRule {
    /// The network's name.
    pub network: String,
    /// Who opens the connection.
    pub from: RuleEnd<String>,
    /// Who is asked for it.
    pub to: RuleEnd<String>,
    /// Of which protocol it is.
    pub protocol: RuleProtocol,
    /// At which ports it arrives.
    pub ports: Vec<PortRange>,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Where it goes.
    pub place: RulePlace,
}

/// The rules of a network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Firewall {
    /// What becomes of connections that no rule is about.
    pub default: Verdict,
    /// The rules, the first to be asked first.
    pub rules: Vec<FirewallRule>,
    /// How many rules were ever made.
    pub numbered: u32,
}

impl Firewall {
    /// Whether it lets everything through.
    pub fn is_open(&self) -> bool {
        self.default == Verdict::Allow && self.rules.is_empty()
    }
}

impl Agreed {
    /// The rules of a network.
    pub fn firewall(&self, network: NetworkId) -> Firewall {
        self.firewalls.get(&network).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Vec<PortRange> {
        let each = text.split(',').map(|text| text.parse().unwrap());
        each.collect()
    }

    #[test]
    fn ports_are_numbers_or_ranges_in_order() {
        for text in ["80", "8000-8100", "1-65535"] {
            assert_eq!(text.parse::<PortRange>().unwrap().to_string(), text);
        }
        assert_eq!("7-7".parse::<PortRange>().unwrap().to_string(), "7");
        for text in ["", "0", "65536", "9-8", "1-", "-1", "1-2-3", "http", "+1"] {
            assert!(text.parse::<PortRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let merged = PortRange::merged(&ports("90-95,80,81-85,84-89,100,65535,65534"));
        let texts: Vec<_> = merged.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["80-95", "100", "65534-65535"]);
    }

    #[test]
    fn a_range_the_wrong_way_round_is_not_read_from_the_wire() {
        let good = postcard::to_allocvec(&(7u16, 9u16)).unwrap();
        let range: PortRange = postcard::from_bytes(&good).unwrap();
        assert_eq!(range.to_string(), "7-9");
        let bad = postcard::to_allocvec(&(9u16, 7u16)).unwrap();
        assert!(postcard::from_bytes::<PortRange>(&bad).is_err());
    }
}
