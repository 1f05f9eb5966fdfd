//! Claims about the table, and its text for a host with everything.

use consensus_core::{NetworkId, PortRange, RuleNumber};

use super::*;
use crate::host::Pods;

fn prefixes(texts: &[&str]) -> BTreeSet<Cidr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn network(n: u8) -> NetworkId {
    NetworkId::from_bytes([n; 16])
}

fn overlay(n: u8, name: &str) -> Overlay {
    let prefixes = [format!("fd00:{n}::/64"), format!("100.{}.0.0/16", 95 + n)];
    Overlay {
        network: network(n),
        interface: format!("shoal-{name}"),
        prefixes: prefixes.map(|text| text.parse().unwrap()),
        hub: false,
        lan: BTreeSet::new(),
        devices: BTreeSet::new(),
        own_ports: [7443, 2376].into(),
        default: Verdict::Allow,
        rules: Vec::new(),
    }
}

fn bridge(n: u8, name: &str) -> ContainerBridge {
    ContainerBridge {
        interface: name.to_owned(),
        subnet: format!("10.43.{n}.0/24").parse().unwrap(),
        network: network(n),
    }
}

fn rule(number: u32, verdict: Verdict) -> Rule {
    Rule {
        number: RuleNumber(number),
        from: None,
        to_host: true,
        to_devices: true,
        protocol: RuleProtocol::Any,
        ports: Vec::new(),
        verdict,
    }
}

fn ports(text: &str) -> Vec<PortRange> {
    text.split(',').map(|port| port.parse().unwrap()).collect()
}

fn host(overlays: Vec<Overlay>) -> Host {
    Host {
        overlays,
        ..Host::default()
    }
}

fn written(host: &Host) -> String {
    table(host, &Machine::default())
}

#[test]
fn a_plain_host_is_fenced_off_and_sends_nothing_on() {
    let text = written(&host(vec![overlay(1, "a")]));
    assert_eq!(text, include_str!("golden/plain.nft"), "{text}");
}

#[test]
fn a_host_with_everything_has_one_table() {
    let mut first = overlay(1, "a");
    first.hub = true;
    first.devices = prefixes(&["fd00:1::99/128", "100.96.0.9/32"]);
    first.default = Verdict::Deny;
    first.rules = vec![
        Rule {
            from: Some(prefixes(&[
                "fd00:1::2/128",
                "100.96.0.2/32",
                "10.43.2.0/24",
            ])),
            protocol: RuleProtocol::Tcp,
            ports: ports("80,8000-8100"),
            ..rule(1, Verdict::Allow)
        },
        Rule {
            protocol: RuleProtocol::Icmp,
            to_devices: false,
            ..rule(7, Verdict::Deny)
        },
        Rule {
            ports: ports("53"),
            ..rule(3, Verdict::Allow)
        },
    ];
    let mut second = overlay(2, "b");
    second.lan = prefixes(&["192.168.7.0/24", "fd99:7::/48"]);
    let host = Host {
        overlays: vec![first, second],
        bridges: [bridge(1, "br-sh-a"), bridge(2, "br-sh-b")].into(),
        ..Host::default()
    };
    let machine = Machine {
        tenants: ["docker0".to_owned()].into(),
        transit_shut: [true, true],
    };
    let text = table(&host, &machine);
    assert_eq!(text, include_str!("golden/everything.nft"), "{text}");
}

/// The lines that drop and say something of all of these.
fn drops<'a>(text: &'a str, parts: &[&str]) -> Vec<&'a str> {
    let lines = text.lines().filter(|line| line.ends_with("drop"));
    lines
        .filter(|line| parts.iter().all(|part| line.contains(part)))
        .collect()
}

#[test]
fn hubs_of_two_networks_do_not_exclude_each_other_nor_let_them_meet() {
    let hub = |n, name| Overlay {
        hub: true,
        ..overlay(n, name)
    };
    let text = written(&host(vec![hub(1, "a"), hub(2, "b")]));
    for name in ["a", "b"] {
        let from = format!("iifname \"shoal-{name}\"");
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(&from)).collect();
        let within = format!("{from} oifname \"shoal-{name}\" accept");
        assert!(lines[0].ends_with(&within), "{lines:?}");
        assert!(lines[1].ends_with("oifname { \"shoal-a\", \"shoal-b\" } counter drop"));
        let last = lines.last().unwrap();
        assert!(last.ends_with(&format!("{from} counter drop")), "{last}");
    }
}

#[test]
fn what_a_lan_sends_goes_into_no_overlay() {
    let mut first = overlay(1, "a");
    first.lan = prefixes(&["192.168.7.0/24"]);
    let text = written(&host(vec![first]));
    let into = "\t\toifname \"shoal-a\" counter drop";
    assert!(text.lines().any(|line| line == into), "{text}");
}

#[test]
fn containers_of_no_network_belong_to_the_first() {
    let host = host(vec![overlay(1, "a"), overlay(2, "b")]);
    let machine = Machine {
        tenants: ["docker0".to_owned()].into(),
        ..Machine::default()
    };
    let text = table(&host, &machine);
    let open: Vec<_> = text
        .lines()
        .filter(|line| line.contains("docker0"))
        .collect();
    assert_eq!(
        open.len(),
        3,
        "its two prefixes and its interface: {open:?}"
    );
    assert!(
        open.iter()
            .all(|line| line.contains("shoal-a") && !line.contains("shoal-b"))
    );
}

#[test]
fn a_networks_containers_reach_no_other_network() {
    let host = Host {
        overlays: vec![overlay(1, "a"), overlay(2, "b")],
        bridges: [bridge(2, "br-sh-b")].into(),
        ..Host::default()
    };
    let text = written(&host);
    assert_eq!(drops(&text, &["oifname \"shoal-a\" counter"]).len(), 1);
    let fenced = drops(&text, &["daddr 100.96.0.0/16"]);
    assert!(!fenced[0].contains("br-sh-b"), "{fenced:?}");
    let own = "iifname \"br-sh-b\" oifname \"shoal-b\" ip saddr 10.43.2.0/24 accept";
    let place = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"));
    assert!(place(own) < place("iifname \"br-sh-b\" oifname \"shoal-b\" counter drop"));
}

#[test]
fn the_meshs_own_ports_come_before_every_rule() {
    let mut only = overlay(1, "a");
    only.rules = vec![rule(1, Verdict::Deny)];
    only.default = Verdict::Deny;
    let text = written(&host(vec![only]));
    let input = text.split("chain input").nth(1).unwrap();
    let place = |part: &str| input.find(part).unwrap();
    assert!(place("tcp dport { 2376, 7443 } accept") < place("goto to_host_0"));
}

#[test]
fn transit_is_shut_where_shoal_opened_it_and_told_by_its_mark() {
    let machine = Machine {
        transit_shut: [false, true],
        ..Machine::default()
    };
    let text = table(&host(vec![overlay(1, "a")]), &machine);
    assert!(!text.contains(&transit_mark(0)) && text.contains(&transit_mark(1)));
}

/// A host in two networks with a cluster in the second.
fn with_pods(prefix: Option<&str>, subnets: &[&str]) -> Host {
    let pods = Pods {
        network: network(2),
        prefix: prefix.map(|prefix| prefix.parse().unwrap()),
        subnets: prefixes(subnets),
    };
    Host {
        bridges: pods.bridges().collect(),
        pods: Some(pods),
        ..host(vec![overlay(1, "a"), overlay(2, "b")])
    }
}

/// K3s's bridge is there, and forwarding was off before shoal came.
fn machine_with_pods() -> Machine {
    Machine {
        tenants: ["docker0".to_owned(), "cni0".to_owned()].into(),
        transit_shut: [true, true],
    }
}

fn has(text: &str, line: &str) -> bool {
    text.lines().any(|other| other.trim() == line)
}

#[test]
fn routed_pods_are_let_through_as_their_networks_containers_and_no_others() {
    let host = with_pods(Some("10.42.0.0/16"), &["10.42.1.0/24"]);
    let mut machine = machine_with_pods();
    machine.tenants.remove("cni0");
    let text = table(&host, &machine);
    for line in [
        "iifname \"shoal-b\" oifname \"cni0\" ip daddr 10.42.1.0/24 accept",
        "iifname \"cni0\" oifname \"shoal-b\" ip saddr 10.42.1.0/24 accept",
        "iifname \"cni0\" ip saddr != 10.42.1.0/24 counter drop",
        "iifname \"shoal-a\" oifname { \"cni0\", \"flannel.1\" } counter drop",
        // A port of the cluster that leads to a pod on another node.
        "iifname \"shoal-b\" oifname \"shoal-b\" ip daddr 10.42.0.0/16 ct status dnat \
         ct original ip daddr 100.97.0.0/16 accept",
        "iifname != { \"cni0\", \"lo\", \"shoal-b\" } ip daddr 10.42.1.0/24 counter drop",
    ] {
        assert!(has(&text, line), "{line} is missing: {text}");
    }
    assert!(
        !text.contains("iifname \"cni0\" oifname \"shoal-a\""),
        "{text}"
    );
    assert!(!text.contains("dport 53"), "pods ask Kubernetes: {text}");
}

#[test]
fn pods_with_a_tunnel_of_their_own_reach_their_clusters_network_alone() {
    let text = table(&with_pods(None, &[]), &machine_with_pods());
    for line in [
        "oifname \"shoal-b\" iifname != { \"cni0\" } counter drop",
        "oifname \"shoal-a\" iifname != { \"docker0\" } counter drop",
        "iifname != { \"cni0\", \"lo\", \"shoal-b\" } ip daddr 100.97.0.0/16 counter drop",
        "iifname \"shoal-a\" oifname { \"cni0\", \"flannel.1\" } counter drop",
    ] {
        assert!(has(&text, line), "{line} is missing: {text}");
    }
}

#[test]
fn whoever_has_k3s_wants_transit() {
    let machine = machine_with_pods();
    let text = table(&with_pods(None, &[]), &machine);
    assert!(
        [0, 1]
            .iter()
            .all(|family| !text.contains(&transit_mark(*family)))
    );
    let without = table(&host(vec![overlay(1, "a")]), &machine);
    assert!(
        [0, 1]
            .iter()
            .all(|family| without.contains(&transit_mark(*family)))
    );
}
