//! The host's one table of rules, as `nft` reads it.
//!
//! Decides, for every packet that has to do with an overlay network:
//!
//! - *prerouting*, before any DNAT: overlay addresses, and those of networks' containers, take
//!   packets from their own network, from this host and from its containers alone. Linux answers for
//!   any of its addresses on any interface (the weak host model); so a machine on the underlay would
//!   reach them in clear. Questions for names come to a bridge's address from all local bridges.
//! - *input*: what a peer sends to this host passes the network's firewall.
//! - *forward*: what came in by an overlay leaves by the same one if this host is a hub there, goes
//!   into a LAN that the network was given, to its containers, or to a port published at this host's
//!   address in that network; nowhere else. What was opened from there passes the firewall as well.
//!   Into an overlay goes only what comes from it or from its containers: not what a LAN sends.
//! - *postrouting*: into a LAN in this host's name, since machines there need no route to the overlay;
//!   from a network's containers in their own.
//!
//! Pods of a K3s cluster that the overlay routes are such containers; those with a tunnel of their own
//! reach the cluster's network in the host's name. Between other interfaces K3s judges itself.
//!
//! Answers pass always. Names of interfaces stand for themselves, so that rules are there before an
//! interface is, and stay when it fails. Never: asks whether packets leave this host (the other end
//! judges), nor what dockerd makes of them (`beside_docker`).

use std::{collections::BTreeSet, fmt::Write as _, net::IpAddr};

use consensus_core::{PortRange, RuleProtocol, Verdict};
use overlay_core::peers::Cidr;

use crate::host::{ContainerBridge, Host, Machine, Overlay, POD_INTERFACES, Rule};

/// The table. No network's, since those are called by what they are for.
pub(crate) const TABLE: &str = "shoal_filter";

/// Questions for names (RFC 1035): shoald answers them where a network has containers.
const NAMES: &str = "meta l4proto { tcp, udp } th dport 53";

/// As rules name the families of addresses.
const FAMILIES: [(&str, &str); 2] = [("ipv4", "ip"), ("ipv6", "ip6")];

/// One chain's lines.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn push(&mut self, rule: &str) {
        writeln!(self.0, "\t\t{rule}").expect("writing to a String cannot fail");
    }

    fn chain(&self, name: &str, kind: &str) -> String {
        let kind = match kind {
            "" => String::new(),
            kind => format!("\t\ttype {kind}; policy accept;\n"),
        };
        format!("\tchain {name} {{\n{kind}{}\t}}\n", self.0)
    }
}

/// What makes the table what it should be, whatever it was, in one transaction.
pub(crate) fn table(host: &Host, machine: &Machine) -> String {
    let mut text = absence();
    if host.overlays.is_empty() && machine.transit_shut == [false, false] {
        return text;
    }
    writeln!(text, "table inet {TABLE} {{").expect("writing to a String cannot fail");
    for (place, overlay) in host.overlays.iter().enumerate() {
        text.push_str(&firewall(overlay, place));
    }
    for (lines, name, kind) in [
        (
            fence(host, machine),
            "prerouting",
            "filter hook prerouting priority raw",
        ),
        (input(host), "input", "filter hook input priority filter"),
        (
            forward(host, machine),
            "forward",
            "filter hook forward priority filter",
        ),
        // Before dockerd's: the first that decides on a connection's address has decided.
        (
            own_name(host),
            "container_sources",
            "nat hook postrouting priority srcnat - 1",
        ),
        (
            masquerade(host, machine),
            "lan_sources",
            "nat hook postrouting priority srcnat",
        ),
    ] {
        // What a hook is not needed for costs packets nothing.
        if !lines.0.is_empty() {
            text.push_str(&lines.chain(name, kind));
        }
    }
    text.push_str("}\n");
    text
}

/// Deleting a table that is not there is an error, adding one that is there is not.
pub(crate) fn absence() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}

/// How the rule begins by which transit is shut: where it is found, somebody before has switched
/// forwarding on.
pub(crate) fn transit_mark(family: usize) -> String {
    let (name, _) = FAMILIES[family];
    format!("meta nfproto {name} iifname !=")
}

/// `{ "a", "b" }`; nothing for nothing.
fn interfaces<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let names: BTreeSet<&str> = names.into_iter().collect();
    let quoted: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    (!quoted.is_empty()).then(|| format!("{{ {} }}", quoted.join(", ")))
}

/// For each family that has any, its word and its prefixes.
fn by_family(prefixes: &BTreeSet<Cidr>) -> impl Iterator<Item = (&'static str, String)> {
    FAMILIES.iter().filter_map(|(name, word)| {
        let of = |prefix: &&Cidr| prefix.address().is_ipv4() == (*name == "ipv4");
        let texts: Vec<_> = prefixes.iter().filter(of).map(written).collect();
        (!texts.is_empty()).then(|| (*word, format!("{{ {} }}", texts.join(", "))))
    })
}

/// A single address without its length, as nft itself shows it.
fn written(prefix: &Cidr) -> String {
    match (prefix.address(), prefix.length()) {
        (IpAddr::V4(address), 32) => address.to_string(),
        (IpAddr::V6(address), 128) => address.to_string(),
        _ => prefix.to_string(),
    }
}

fn word(prefix: &Cidr) -> &'static str {
    match prefix.address() {
        IpAddr::V4(_) => "ip",
        IpAddr::V6(_) => "ip6",
    }
}

/// The interfaces of this host from which an overlay's addresses are reached, besides its own.
/// Containers that are no network's belong to where dockerd listens.
fn local<'a>(
    host: &'a Host,
    machine: &'a Machine,
    overlay: &'a Overlay,
) -> impl Iterator<Item = &'a str> {
    let tenants = machine
        .tenants
        .iter()
        .filter(move |tenant| host.home_of(tenant) == Some(overlay.network));
    let bridges = host.bridges_of(overlay).map(|bridge| &bridge.interface);
    tenants.chain(bridges).map(String::as_str)
}

/// The interfaces from which containers ask for names. dockerd has all of them ask one address: that
/// of some network's bridge. What each may learn there, its own address decides.
pub(crate) fn asking<'a>(host: &'a Host, machine: &'a Machine) -> impl Iterator<Item = &'a str> {
    let bridges = host.bridges.iter().map(|bridge| &bridge.interface);
    bridges.chain(&machine.tenants).map(String::as_str)
}

fn fence(host: &Host, machine: &Machine) -> Lines {
    let mut lines = Lines::default();
    let asking = interfaces(asking(host, machine));
    for bridge in &host.bridges {
        if let (Some(asking), Some(gateway)) = (&asking, bridge.gateway()) {
            let to = format!("ip daddr {gateway} {NAMES}");
            lines.push(&format!("iifname {asking} {to} accept"));
        }
    }
    for overlay in &host.overlays {
        let inside = ["lo", &overlay.interface].into_iter();
        let inside = inside.chain(local(host, machine, overlay));
        let inside = interfaces(inside).expect("there is one at least");
        let containers = host.bridges_of(overlay).map(|bridge| &bridge.subnet);
        for prefix in overlay.prefixes.iter().chain(containers) {
            let to = format!("{} daddr {}", word(prefix), prefix);
            lines.push(&format!("iifname != {inside} {to} counter drop"));
        }
    }
    for bridge in &host.bridges {
        // A question in another network's name would have its answer sent there.
        let from = format!("iifname {:?}", bridge.interface);
        let strange = format!("{} saddr != {}", word(&bridge.subnet), bridge.subnet);
        lines.push(&format!("{from} {strange} counter drop"));
    }
    lines
}

fn input(host: &Host) -> Lines {
    let mut lines = Lines::default();
    for (place, overlay) in host.overlays.iter().enumerate() {
        if !overlay.is_open() {
            let from = format!("iifname {:?}", overlay.interface);
            lines.push(&format!("{from} ct state established,related accept"));
            let ports: Vec<_> = overlay.own_ports.iter().map(u16::to_string).collect();
            if !ports.is_empty() {
                // What the mesh is run by. Whoever connects has to prove himself there.
                let ports = format!("tcp dport {{ {} }} accept", ports.join(", "));
                lines.push(&format!("{from} {ports}"));
            }
            if host.bridges_of(overlay).any(|bridge| !bridge.has_pods()) {
                // Docker hosts ask each other for their containers.
                lines.push(&format!("{from} {NAMES} accept"));
            }
            lines.push(&format!("{from} goto {}", to_host(place)));
        }
    }
    lines
}

/// The chain with a network's rules about this host.
fn to_host(place: usize) -> String {
    format!("to_host_{place}")
}

/// The chain with a network's rules about the devices behind this host.
fn to_devices(place: usize) -> String {
    format!("to_devices_{place}")
}

/// The network's rules: its order, then its default.
fn firewall(overlay: &Overlay, place: usize) -> String {
    if overlay.is_open() {
        return String::new();
    }
    let chain = |name: String, about: fn(&Rule) -> bool| {
        let mut lines = Lines::default();
        for rule in overlay.rules.iter().filter(|rule| about(rule)) {
            carry_out(rule, &mut lines);
        }
        if overlay.default == Verdict::Deny {
            // Whether a node answers is asked by drills, too; a rule about icmp can still deny it.
            lines.push("icmp type echo-request accept");
            lines.push("icmpv6 type echo-request accept");
        }
        lines.push(&format!("counter {}", word_of(overlay.default)));
        lines.chain(&name, "")
    };
    let mut text = chain(to_host(place), |rule| rule.to_host);
    if !overlay.devices.is_empty() {
        text.push_str(&chain(to_devices(place), |rule| rule.to_devices));
    }
    text
}

fn word_of(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "accept",
        Verdict::Deny => "drop",
    }
}

fn carry_out(rule: &Rule, lines: &mut Lines) {
    let what = [matched(rule.protocol, &rule.ports), "counter".to_owned()];
    let what = what.iter().filter(|part| !part.is_empty());
    let what: Vec<&str> = what.map(String::as_str).collect();
    let what = format!(
        "{} {} comment \"rule {}\"",
        what.join(" "),
        word_of(rule.verdict),
        rule.number
    );
    match &rule.from {
        None => lines.push(&what),
        Some(from) => {
            for (family, prefixes) in by_family(from) {
                lines.push(&format!("{family} saddr {prefixes} {what}"));
            }
        }
    }
}

/// Ports are those that were asked for: of a published one not the container's.
fn matched(protocol: RuleProtocol, ports: &[PortRange]) -> String {
    let protocol = match protocol {
        RuleProtocol::Any if ports.is_empty() => return String::new(),
        RuleProtocol::Any => "meta l4proto { tcp, udp }",
        RuleProtocol::Tcp => "meta l4proto tcp",
        RuleProtocol::Udp => "meta l4proto udp",
        RuleProtocol::Icmp => return "meta l4proto { icmp, ipv6-icmp }".to_owned(),
    };
    if ports.is_empty() {
        return protocol.to_owned();
    }
    let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
    format!(
        "{protocol} ct original proto-dst {{ {} }}",
        ports.join(", ")
    )
}

fn forward(host: &Host, machine: &Machine) -> Lines {
    let mut lines = Lines::default();
    lines.push("ct state established,related accept");
    for (place, overlay) in host.overlays.iter().enumerate() {
        from_overlay(host, overlay, place, &mut lines);
    }
    for (place, overlay) in host.overlays.iter().enumerate() {
        into_overlay(host, machine, overlay, place, &mut lines);
    }
    let known: Vec<&str> = host
        .overlays
        .iter()
        .map(|overlay| &overlay.interface)
        .chain(&machine.tenants)
        .chain(host.bridges.iter().map(|bridge| &bridge.interface))
        .map(String::as_str)
        .chain(["lo"])
        .collect();
    let known = interfaces(known).expect("there is one at least");
    for (family, shut) in machine.transit_shut.iter().enumerate() {
        // Who has K3s wants forwarding: it switches it on itself, and judges what passes.
        if *shut && host.pods.is_none() {
            let mark = transit_mark(family);
            // dockerd shuts its bridges only where it switched forwarding on itself.
            if let Some(tenants) = interfaces(machine.tenants.iter().map(String::as_str)) {
                let to = format!("{mark} {known} oifname {tenants}");
                lines.push(&format!("{to} ct status dnat accept"));
                lines.push(&format!("{to} counter drop"));
            }
            lines.push(&format!("{mark} {known} oifname != {known} counter drop"));
        }
    }
    lines
}

/// What a peer sends on through this host.
fn from_overlay(host: &Host, overlay: &Overlay, place: usize, lines: &mut Lines) {
    let interface = &overlay.interface;
    let from = format!("iifname {interface:?}");
    if overlay.hub {
        if !overlay.is_open() {
            for (family, devices) in by_family(&overlay.devices) {
                let to = format!("oifname {interface:?} {family} daddr {devices}");
                lines.push(&format!("{from} {to} goto {}", to_devices(place)));
            }
        }
        lines.push(&format!("{from} oifname {interface:?} accept"));
    }
    let end = match overlay.is_open() {
        true => "accept".to_owned(),
        false => format!("goto {}", to_host(place)),
    };
    if let Some(pods) = host.pods_in(overlay).and_then(|pods| pods.prefix) {
        // A port of the cluster may be asked for at any of its nodes, and lead to a pod on another.
        for prefix in overlay.prefixes.iter().filter(|p| word(p) == word(&pods)) {
            let asked = format!("ct status dnat ct original {} daddr {prefix}", word(prefix));
            let to = format!("oifname {interface:?} {} daddr {pods}", word(&pods));
            lines.push(&format!("{from} {to} {asked} {end}"));
        }
    }
    let overlays = host
        .overlays
        .iter()
        .map(|overlay| overlay.interface.as_str());
    if let Some(overlays) = interfaces(overlays) {
        lines.push(&format!("{from} oifname {overlays} counter drop"));
    }
    let others = host
        .bridges
        .iter()
        .filter(|bridge| bridge.network != overlay.network);
    let others = others.map(|bridge| bridge.interface.as_str());
    let strangers = host.pods.is_some() && host.pods_in(overlay).is_none();
    let pods = POD_INTERFACES.iter().filter(|_| strangers).copied();
    if let Some(others) = interfaces(others.chain(pods)) {
        // A port that such a container publishes everywhere is published in its own network.
        lines.push(&format!("{from} oifname {others} counter drop"));
    }
    for prefix in &overlay.prefixes {
        // What was sent to an address of this host in that network; the fence keeps others away.
        let published = format!("ct status dnat ct original {} daddr {prefix}", word(prefix));
        lines.push(&format!("{from} {published} {end}"));
    }
    for ContainerBridge {
        interface, subnet, ..
    } in host.bridges_of(overlay)
    {
        let to = format!("oifname {interface:?} {} daddr {subnet}", word(subnet));
        lines.push(&format!("{from} {to} {end}"));
    }
    for (family, lan) in by_family(&overlay.lan) {
        lines.push(&format!("{from} {family} daddr {lan} {end}"));
    }
    lines.push(&format!("{from} counter drop"));
}

/// What others than its peers send into a network through this host.
fn into_overlay(
    host: &Host,
    machine: &Machine,
    overlay: &Overlay,
    place: usize,
    lines: &mut Lines,
) {
    let to = format!("oifname {:?}", overlay.interface);
    for bridge in host.bridges_of(overlay) {
        let from = format!("iifname {:?}", bridge.interface);
        let family = word(&bridge.subnet);
        let own = format!("{family} saddr {}", bridge.subnet);
        // Nobody else judges what this host's containers send to the devices behind it.
        for devices in own_devices(overlay).filter(|(of, _)| *of == family) {
            let end = format!("daddr {} goto {}", devices.1, to_devices(place));
            lines.push(&format!("{from} {to} {own} {family} {end}"));
        }
        lines.push(&format!("{from} {to} {own} accept"));
        lines.push(&format!("{from} {to} counter drop"));
    }
    let Some(inside) = interfaces(local(host, machine, overlay)) else {
        lines.push(&format!("{to} counter drop"));
        return;
    };
    lines.push(&format!("{to} iifname != {inside} counter drop"));
    for (family, devices) in own_devices(overlay) {
        let end = format!("daddr {devices} goto {}", to_devices(place));
        lines.push(&format!("{to} {family} {end}"));
    }
}

/// The devices behind this host, where a firewall is about them.
fn own_devices(overlay: &Overlay) -> impl Iterator<Item = (&'static str, String)> {
    by_family(&overlay.devices).filter(|_| !overlay.is_open())
}

/// Containers are seen by their own addresses: such a connection's source is mapped onto itself.
fn own_name(host: &Host) -> Lines {
    let mut lines = Lines::default();
    for overlay in &host.overlays {
        for bridge in host.bridges_of(overlay) {
            let ContainerBridge {
                interface, subnet, ..
            } = bridge;
            let way = format!("iifname {interface:?} oifname {:?}", overlay.interface);
            let (family, same) = (word(subnet), format!("{{ {subnet} : {subnet} }}"));
            let itself = format!("snat {family} prefix to {family} saddr map {same}");
            lines.push(&format!("{way} {family} saddr {subnet} {itself}"));
        }
    }
    lines
}

fn masquerade(host: &Host, machine: &Machine) -> Lines {
    let mut lines = Lines::default();
    for overlay in &host.overlays {
        let bridges = host.bridges.iter().map(|bridge| &bridge.interface);
        let here = machine.tenants.iter().chain(bridges).map(String::as_str);
        let here = interfaces(here.chain(["lo"])).expect("there is one at least");
        for (family, lan) in by_family(&overlay.lan) {
            let way = format!("iifname {:?} oifname != {here}", overlay.interface);
            lines.push(&format!("{way} {family} daddr {lan} masquerade"));
        }
    }
    lines
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
