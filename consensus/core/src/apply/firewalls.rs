//! Firewall rules of networks: made, taken away, and what holds where none fits (SPEC 3.12).
//!
//! Decides which rules are well formed, and in which order they stand. A rule that names a node goes
//! with the node.

use super::{Change, check_label, done, invalid, networks, too_large};
use crate::{
    Applied, Done, EventKind, Firewall, FirewallRule, NetworkId, NewRule, NodeId, PortRange,
    Refusal, RuleEnd, RuleNumber, RulePlace, RuleProtocol, Verdict,
    limits::{FIREWALL_RULES_MAX, RULE_PORTS_MAX},
};

pub(super) fn add(change: &mut Change<'_>, new: &NewRule) -> Applied {
    let (network, place, rule) = check_new(change, new)?;
    event(change, EventKind::FirewallRuleAdded, network, &rule);
    let number = rule.number;
    let firewall = change.agreed_mut().firewalls.entry(network).or_default();
    firewall.numbered = number.0;
    firewall.rules.insert(place, rule);
    Ok(Done::RuleAdded { number })
}

/// The rule that would be made, and its place. Changes nothing.
fn check_new(
    change: &Change<'_>,
    new: &NewRule,
) -> Result<(NetworkId, usize, FirewallRule), Refusal> {
    let network = networks::find(change, &new.network)?;
    let firewall = change.agreed().firewall(network);
    if firewall.rules.len() >= FIREWALL_RULES_MAX {
        let what = "the number of firewall rules of a network";
        return Err(too_large(what, FIREWALL_RULES_MAX));
    }
    if new.ports.len() > RULE_PORTS_MAX {
        return Err(too_large("the number of ports of a rule", RULE_PORTS_MAX));
    }
    if !new.ports.is_empty() && new.protocol == RuleProtocol::Icmp {
        let ports: Vec<String> = new.ports.iter().map(PortRange::to_string).collect();
        let rule = "left out with icmp, which has none";
        return Err(invalid("port", &ports.join(","), rule));
    }
    if let RuleEnd::Prefix(prefix) = new.to {
        let rule = "any, node:NAME or label:KEY=VALUE";
        return Err(invalid("end of a rule", &format!("cidr:{prefix}"), rule));
    }
    let (place, priority) = place(&firewall, &new.network, new.place)?;
    let rule = FirewallRule {
        number: RuleNumber(firewall.numbered.saturating_add(1)),
        priority,
        from: check_end(change, &new.from)?,
        to: check_end(change, &new.to)?,
        protocol: new.protocol,
        ports: PortRange::merged(&new.ports),
        verdict: new.verdict,
    };
    Ok((network, place, rule))
}

fn check_end(change: &Change<'_>, end: &RuleEnd<String>) -> Result<RuleEnd, Refusal> {
    Ok(match end {
        RuleEnd::Any => RuleEnd::Any,
        RuleEnd::Node(node) => RuleEnd::Node(change.find_node(node)?),
        RuleEnd::Label { key, value } => {
            check_label(key, value)?;
            RuleEnd::Label {
                key: key.clone(),
                value: value.clone(),
            }
        }
        RuleEnd::Prefix(prefix) => RuleEnd::Prefix(*prefix),
    })
}

/// Where among the others a rule goes, and the priority that it has there.
fn place(firewall: &Firewall, network: &str, place: RulePlace) -> Result<(usize, u16), Refusal> {
    match place {
        RulePlace::Priority(priority) => {
            let before = |rule: &FirewallRule| rule.priority <= priority;
            Ok((firewall.rules.partition_point(before), priority))
        }
        RulePlace::Before(number) => {
            let at = position(firewall, network, number)?;
            Ok((at, firewall.rules[at].priority))
        }
    }
}

fn position(firewall: &Firewall, network: &str, number: RuleNumber) -> Result<usize, Refusal> {
    let mut rules = firewall.rules.iter();
    rules
        .position(|rule| rule.number == number)
        .ok_or_else(|| Refusal::FirewallRuleUnknown {
            network: network.to_owned(),
            rule: number.0,
        })
}

pub(super) fn remove(change: &mut Change<'_>, network: &str, number: RuleNumber) -> Applied {
    let id = networks::find(change, network)?;
    let at = position(&change.agreed().firewall(id), network, number)?;
    let firewall = change.agreed_mut().firewalls.entry(id).or_default();
    let rule = firewall.rules.remove(at);
    event(change, EventKind::FirewallRuleRemoved, id, &rule);
    done()
}

/// What holds where no rule fits. Says whether it is another than before.
pub(super) fn set_default(
    change: &mut Change<'_>,
    network: NetworkId,
    wanted: Option<Verdict>,
) -> bool {
    let present = change.agreed().firewall(network).default;
    let Some(wanted) = wanted.filter(|wanted| *wanted != present) else {
        return false;
    };
    let firewalls = &mut change.agreed_mut().firewalls;
    firewalls.entry(network).or_default().default = wanted;
    true
}

/// Takes the rules that name a node away with it.
pub(super) fn forget_node(change: &mut Change<'_>, node: &NodeId) {
    let named = RuleEnd::Node(node.clone());
    let names = |rule: &FirewallRule| rule.from == named || rule.to == named;
    let mut gone = Vec::new();
    for (network, firewall) in &*change.agreed().firewalls {
        let theirs = firewall.rules.iter().filter(|rule| names(rule));
        gone.extend(theirs.map(|rule| (*network, rule.clone())));
    }
    for (network, rule) in gone {
        if let Some(firewall) = change.agreed_mut().firewalls.get_mut(&network) {
            firewall.rules.retain(|other| other.number != rule.number);
        }
        event(change, EventKind::FirewallRuleRemoved, network, &rule);
    }
}

pub(super) fn forget_network(change: &mut Change<'_>, network: NetworkId) {
    if change.agreed().firewalls.contains_key(&network) {
        change.agreed_mut().firewalls.remove(&network);
    }
}

fn event(change: &mut Change<'_>, kind: EventKind, network: NetworkId, rule: &FirewallRule) {
    let agreed = change.agreed();
    let payload = [
        ("network", agreed.networks[&network].name.clone()),
        ("rule", rule.number.to_string()),
        ("from", rule.from.describe(agreed)),
        ("to", rule.to.describe(agreed)),
        ("verdict", rule.verdict.as_str().to_owned()),
    ];
    change.event(kind, None, payload);
}
