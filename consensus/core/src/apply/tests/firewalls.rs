//! Firewall rules: their order, what they name, what is refused.

use std::collections::BTreeSet;

use super::world::*;
use crate::{
    Command, Done, EventKind, NetworkChange, NewRule, PortRange, Refusal, RuleEnd, RuleNumber,
    RulePlace, RuleProtocol, Verdict, limits::*,
};

fn new(verdict: Verdict) -> NewRule {
    NewRule {
        network: "default".into(),
        from: RuleEnd::Any,
        to: RuleEnd::Any,
        protocol: RuleProtocol::Any,
        ports: Vec::new(),
        verdict,
        place: RulePlace::Priority(100),
    }
}

fn at(place: RulePlace) -> Command {
    Command::AddFirewallRule(NewRule {
        place,
        ..new(Verdict::Deny)
    })
}

pub(super) fn remove(rule: u32) -> Command {
    Command::RemoveFirewallRule {
        network: "default".into(),
        rule: RuleNumber(rule),
    }
}

fn default(verdict: Verdict) -> Command {
    Command::SetNetwork {
        network: "default".into(),
        change: NetworkChange {
            firewall_default: Some(verdict),
            ..NetworkChange::default()
        },
    }
}

fn ports(texts: &[&str]) -> Vec<PortRange> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn label(value: &str) -> RuleEnd<String> {
    RuleEnd::Label {
        key: "zone".into(),
        value: value.into(),
    }
}

/// One rule with something in every field, and its end.
pub(super) fn commands() -> Vec<Command> {
    let full = NewRule {
        from: label("a"),
        to: RuleEnd::Node(name(2)),
        protocol: RuleProtocol::Tcp,
        ports: ports(&["80", "8000-8100"]),
        place: RulePlace::Priority(7),
        ..new(Verdict::Deny)
    };
    vec![Command::AddFirewallRule(full), remove(1)]
}

pub(super) fn refusals() -> Vec<Refusal> {
    vec![Refusal::FirewallRuleUnknown {
        network: "default".into(),
        rule: 7,
    }]
}

/// The codes of the refusals that are reached here.
pub(super) fn codes() -> BTreeSet<&'static str> {
    let mut world = World::of(1, 1);
    [world.refused(1, remove(7)).code()].into()
}

/// The numbers of the rules, in their order.
fn order(world: &World) -> Vec<u32> {
    let firewall = world.agreed().firewall(NETWORK);
    firewall.rules.iter().map(|rule| rule.number.0).collect()
}

#[test]
fn rules_stand_by_priority_then_by_age_or_where_they_are_put() {
    let mut world = World::of(1, 1);
    for priority in [100, 50, 100, 0, u16::MAX] {
        world.ok(1, at(RulePlace::Priority(priority)));
        assert_eq!(world.kinds(), [EventKind::FirewallRuleAdded]);
    }
    assert_eq!(order(&world), [4, 2, 1, 3, 5]);
    world.ok(1, at(RulePlace::Before(RuleNumber(3))));
    assert_eq!(order(&world), [4, 2, 1, 6, 3, 5]);
    let rules = world.agreed().firewall(NETWORK).rules;
    assert_eq!(rules[3].priority, 100, "that of the rule it stands before");
    world.ok(1, remove(1));
    assert_eq!(world.kinds(), [EventKind::FirewallRuleRemoved]);
    world.ok(1, at(RulePlace::Priority(100)));
    assert_eq!(order(&world), [4, 2, 6, 3, 7, 5], "no number comes again");
}

#[test]
fn a_rule_is_answered_with_its_number_and_ports_are_put_in_order() {
    let mut world = World::of(1, 2);
    let [add, _] = commands().try_into().unwrap();
    let number = RuleNumber(1);
    assert_eq!(world.ok(1, add), Done::RuleAdded { number });
    let rule = &world.agreed().firewall(NETWORK).rules[0];
    assert_eq!(rule.to, RuleEnd::Node(id(2)));
    assert_eq!(rule.from.describe(world.agreed()), "label:zone=a");
    let touching = NewRule {
        protocol: RuleProtocol::Any,
        ports: ports(&["90", "80-89", "7"]),
        ..new(Verdict::Allow)
    };
    world.ok(1, Command::AddFirewallRule(touching));
    let rule = &world.agreed().firewall(NETWORK).rules[1];
    assert_eq!(rule.ports, ports(&["7", "80-90"]));
}

#[test]
fn the_default_is_open_until_it_is_shut() {
    let mut world = World::of(1, 1);
    assert!(world.agreed().firewall(NETWORK).is_open());
    world.ignored(1, default(Verdict::Allow));
    world.ok(1, default(Verdict::Deny));
    assert_eq!(world.kinds(), [EventKind::NetworkChanged]);
    assert_eq!(world.agreed().firewall(NETWORK).default, Verdict::Deny);
    world.ignored(1, default(Verdict::Deny));
    world.ok(1, default(Verdict::Allow));
    assert!(world.agreed().firewall(NETWORK).is_open());
}

#[test]
fn a_label_means_whoever_has_it_at_the_time() {
    let mut world = World::of(1, 2);
    let end = RuleEnd::Label {
        key: "zone".into(),
        value: "a".into(),
    };
    assert!(!end.covers(world.agreed(), &id(2)));
    world.ok(1, super::world::label(2, &[("zone", "a")], &[]));
    assert!(end.covers(world.agreed(), &id(2)) && !end.covers(world.agreed(), &id(1)));
    assert!(RuleEnd::Any.covers(world.agreed(), &id(1)));
}

#[test]
fn rules_go_with_the_node_that_they_name_and_with_their_network() {
    let mut world = World::of(1, 2);
    let names = |node: u32| {
        Command::AddFirewallRule(NewRule {
            from: RuleEnd::Node(name(node)),
            ..new(Verdict::Deny)
        })
    };
    for command in [names(1), names(2), at(RulePlace::Priority(1))] {
        world.ok(1, command);
    }
    assert_eq!(order(&world), [3, 1, 2]);
    world.ok(1, super::world::remove(2));
    assert!(world.kinds().contains(&EventKind::FirewallRuleRemoved));
    assert_eq!(order(&world), [3, 1]);
    let blue = new_network(&world, "blue");
    let id = blue.id;
    world.ok(1, Command::CreateNetwork(blue));
    let of_blue = NewRule {
        network: "blue".into(),
        ..new(Verdict::Deny)
    };
    world.ok(1, Command::AddFirewallRule(of_blue));
    assert!(!world.agreed().firewall(id).is_open());
    let gone = Command::DeleteNetwork {
        network: "blue".into(),
    };
    world.ok(1, gone);
    assert!(!world.agreed().firewalls.contains_key(&id));
}

#[test]
fn a_rule_that_means_nothing_is_refused_by_name() {
    let mut world = World::of(1, 1);
    let base = || new(Verdict::Deny);
    let table = [
        (
            NewRule {
                network: "nothing".into(),
                ..base()
            },
            "NetworkNotFoundError",
        ),
        (
            NewRule {
                from: RuleEnd::Node("nobody".into()),
                ..base()
            },
            "NodeNotFoundError",
        ),
        (
            NewRule {
                to: RuleEnd::Node("nobody".into()),
                ..base()
            },
            "NodeNotFoundError",
        ),
        (
            NewRule {
                from: label("a,b"),
                ..base()
            },
            "InvalidInputError",
        ),
        (
            NewRule {
                to: RuleEnd::Prefix("10.0.0.0/8".parse().unwrap()),
                ..base()
            },
            "InvalidInputError",
        ),
        (
            NewRule {
                protocol: RuleProtocol::Icmp,
                ports: ports(&["80"]),
                ..base()
            },
            "InvalidInputError",
        ),
        (
            NewRule {
                place: RulePlace::Before(RuleNumber(9)),
                ..base()
            },
            "FirewallRuleNotFoundError",
        ),
        (
            NewRule {
                ports: vec!["80".parse().unwrap(); RULE_PORTS_MAX + 1],
                ..base()
            },
            "TooLargeError",
        ),
    ];
    for (rule, code) in table {
        let refusal = world.refused(1, Command::AddFirewallRule(rule));
        assert_eq!(refusal.code(), code, "{refusal}");
    }
}

#[test]
fn a_network_has_so_many_rules_and_no_more() {
    let mut world = World::of(1, 1);
    for _ in 0..FIREWALL_RULES_MAX {
        world.ok(1, at(RulePlace::Priority(1)));
    }
    let refusal = world.refused(1, at(RulePlace::Priority(1)));
    assert_eq!(refusal.code(), "TooLargeError");
    world.ok(1, remove(1));
    world.ok(1, at(RulePlace::Priority(1)));
}
