//! What dockerd must let pass, beside this host's own rules.
//!
//! Decides: dockerd has the chain FORWARD of iptables drop what it does not know. An accept elsewhere
//! does not undo that: every base chain is asked. `DOCKER-USER` is the chain that dockerd leaves to
//! others and asks before its own; where there is none, it is FORWARD itself. Rules of shoal are
//! known by a comment, so that those of an earlier daemon are found again.
//!
//! Never: touches a rule without the comment.

use std::collections::BTreeSet;

use overlay_core::peers::Cidr;

use crate::host::Host;

/// The two programs, for IPv4 and IPv6.
pub(crate) const PROGRAMS: [&str; 2] = ["iptables", "ip6tables"];
/// Where the rules go, the best place first.
pub(crate) const CHAINS: [&str; 2] = ["DOCKER-USER", "FORWARD"];
/// What marks a rule, and ends it.
const OURS: &str = "-m comment --comment shoal -j ACCEPT";

/// The rules that one of the programs should have, as it lists them.
pub(crate) fn wanted(host: &Host, program: &str) -> BTreeSet<String> {
    let ipv4 = program == PROGRAMS[0];
    let is_of = |prefix: &Cidr| prefix.address().is_ipv4() == ipv4;
    let mut rules = BTreeSet::new();
    let mut add = |conditions: String| rules.insert(format!("{conditions} {OURS}"));
    for overlay in &host.overlays {
        let interface = &overlay.interface;
        if overlay.hub {
            add(format!("-i {interface} -o {interface}"));
        }
        for prefix in overlay.lan.iter().filter(|prefix| is_of(prefix)) {
            add(format!("-d {prefix} -i {interface}"));
            add(format!("-s {prefix} -o {interface}"));
        }
        let bridges = host.bridges_of(overlay);
        for bridge in bridges.filter(|bridge| is_of(&bridge.subnet)) {
            let (bridge, subnet) = (&bridge.interface, bridge.subnet);
            add(format!("-d {subnet} -i {interface} -o {bridge}"));
            add(format!("-s {subnet} -i {bridge} -o {interface}"));
        }
    }
    rules
}

/// What has to change in a chain.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) missing: Vec<String>,
    pub(crate) surplus: Vec<String>,
}

/// From a chain's rules, as `-S CHAIN` lists them, to the wanted ones.
pub(crate) fn difference(listed: &str, chain: &str, wanted: &BTreeSet<String>) -> Difference {
    let head = format!("-A {chain} ");
    let present = listed.lines().filter_map(|line| line.strip_prefix(&head));
    let mut seen = BTreeSet::new();
    let mut surplus = Vec::new();
    for rule in present.filter(|rule| rule.ends_with(OURS)) {
        // A rule that stands there twice goes once.
        if !wanted.contains(rule) || !seen.insert(rule.to_owned()) {
            surplus.push(rule.to_owned());
        }
    }
    Difference {
        missing: wanted.difference(&seen).cloned().collect(),
        surplus,
    }
}

#[cfg(test)]
mod tests {
    use consensus_core::{NetworkId, Verdict};

    use super::*;
    use crate::host::{ContainerBridge, Overlay};

    fn host() -> Host {
        let overlay = |n: u8, hub, lan: &[&str]| Overlay {
            network: NetworkId::from_bytes([n; 16]),
            interface: format!("shoal-{n}"),
            prefixes: ["fd00::/64", "100.96.0.0/16"].map(|text| text.parse().unwrap()),
            hub,
            lan: lan.iter().map(|text| text.parse().unwrap()).collect(),
            devices: BTreeSet::new(),
            own_ports: BTreeSet::new(),
            default: Verdict::Allow,
            rules: Vec::new(),
        };
        let bridge = ContainerBridge {
            interface: "br-sh-3".into(),
            subnet: "10.43.3.0/24".parse().unwrap(),
            network: NetworkId::from_bytes([3; 16]),
        };
        Host {
            overlays: vec![
                overlay(1, false, &["192.168.7.0/24"]),
                overlay(2, true, &[]),
                overlay(3, false, &[]),
            ],
            bridges: [bridge].into(),
        }
    }

    #[test]
    fn dockerd_lets_pass_what_is_forwarded_and_no_more() {
        let rules = |program| -> Vec<String> {
            let texts = wanted(&host(), program).into_iter();
            texts.map(|rule| rule.replace(OURS, "OURS")).collect()
        };
        assert_eq!(
            rules("iptables"),
            [
                "-d 10.43.3.0/24 -i shoal-3 -o br-sh-3 OURS",
                "-d 192.168.7.0/24 -i shoal-1 OURS",
                "-i shoal-2 -o shoal-2 OURS",
                "-s 10.43.3.0/24 -i br-sh-3 -o shoal-3 OURS",
                "-s 192.168.7.0/24 -o shoal-1 OURS",
            ]
        );
        assert_eq!(rules("ip6tables"), ["-i shoal-2 -o shoal-2 OURS"]);
    }

    #[test]
    fn what_is_missing_comes_what_is_no_more_wanted_goes_and_others_stay() {
        let rule = |interface: &str| format!("-i {interface} -o {interface} {OURS}");
        let listed = format!(
            "-N DOCKER-USER\n-A DOCKER-USER {}\n-A DOCKER-USER {}\n-A DOCKER-USER {}\n\
             -A DOCKER-USER -i eth0 -j ACCEPT\n-A DOCKER-USER -j RETURN\n",
            rule("a"),
            rule("a"),
            rule("old")
        );
        let wanted = [rule("a"), rule("new")].into();
        let found = difference(&listed, "DOCKER-USER", &wanted);
        assert_eq!(found.missing, [rule("new")]);
        assert_eq!(found.surplus, [rule("a"), rule("old")]);
        let settled = difference(
            &format!("-A X {}\n-A X {}\n", rule("a"), rule("new")),
            "X",
            &wanted,
        );
        assert!(settled.missing.is_empty() && settled.surplus.is_empty());
    }
}
