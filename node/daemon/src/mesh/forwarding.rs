//! What this node's kernel is told about packets that are not its own: between the peers of a
//! network where it is their hub, into the networks behind it, and never from one overlay network
//! into another.
//!
//! Decides what is allowed: packets that come in by an overlay interface may leave by the same one
//! if this node is a hub there, go into a LAN that the network was given, or go to this node's own
//! containers as before; nowhere else. One table for all networks of the node, because each of
//! several tables would drop what only another allows. Switching forwarding on makes Linux pass
//! packets on between all interfaces and, for IPv6, ignore router advertisements: advertisements
//! are kept for interfaces that follow them, and transit between others is dropped by a rule of
//! this node's own, unless forwarding was on before.
//!
//! What goes into a LAN goes in this node's name (masquerade): machines there need no route to the
//! overlay, and the fence, which lets nothing from outside to overlay addresses, stays whole.
//!
//! Never: switches forwarding off, touches another table of nftables.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use overlay_core::peers::Cidr;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

/// Where the kernel's network settings are.
const SETTINGS: &str = "/proc/sys/net";
/// Loading a few rules takes tens of milliseconds.
const WITHIN: Duration = Duration::from_secs(10);
/// The table of this module.
const TABLE: &str = "shoal_forward";
/// Where this node's own containers are.
const LOCAL: &str = "\"lo\", \"docker0\", \"cni0\", \"br-*\", \"flannel*\"";

/// A family whose forwarding shoal switched on, and what marks that in the table.
struct Family {
    /// As rules name it.
    name: &'static str,
    /// The switch, below [`SETTINGS`].
    switch: &'static str,
    /// Addresses of the family in a rule.
    address: &'static str,
    /// The program by whose chain FORWARD dockerd drops.
    program: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        name: "ipv4",
        switch: "ipv4/conf/all/forwarding",
        address: "ip",
        program: "iptables",
    },
    Family {
        name: "ipv6",
        switch: "ipv6/conf/all/forwarding",
        address: "ip6",
        program: "ip6tables",
    },
];

impl Family {
    fn is_of(&self, prefix: &Cidr) -> bool {
        prefix.address().is_ipv4() == (self.name == "ipv4")
    }

    /// What marks, in the table, that transit of this family is not somebody else's choice.
    fn transit(&self) -> String {
        format!("meta nfproto {} iifname", self.name)
    }
}

/// Why a node does not forward.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardingError {
    #[error("the kernel setting {path:?} cannot be changed, so this node does not forward")]
    Setting { path: PathBuf, source: io::Error },
    #[error("{program} cannot be run, so this node does not forward")]
    NotRun {
        program: &'static str,
        source: io::Error,
    },
    #[error("{program} refused the rules of forwarding: {reason}")]
    Refused {
        program: &'static str,
        reason: String,
    },
}

/// What may cross one overlay interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Crossing {
    /// Whether this node forwards between its peers.
    pub(super) hub: bool,
    /// The networks behind this node that its peers may reach.
    pub(super) lan: BTreeSet<Cidr>,
}

impl Crossing {
    fn forwards(&self) -> bool {
        self.hub || !self.lan.is_empty()
    }
}

/// What may cross each overlay interface of this node, by its name.
pub(super) type Crossings = BTreeMap<String, Crossing>;

/// What the kernel was told last.
#[derive(Debug, Default)]
pub(super) struct Forwarding {
    told: Option<Crossings>,
    /// Rules in dockerd's chain.
    accepted: BTreeSet<(&'static str, Vec<String>)>,
}

impl Forwarding {
    /// Has the kernel do what is wanted. Nothing is done where it was told so before.
    pub(super) async fn bring_in_line(
        &mut self,
        wanted: &Crossings,
    ) -> Result<(), ForwardingError> {
        if self.told.as_ref() == Some(wanted) {
            return Ok(());
        }
        // A daemon before this one may have switched forwarding on, and left its rules.
        let present = run("nft", &["list", "table", "inet", TABLE], "").await;
        let present = present.unwrap_or_default();
        let marked = FAMILIES
            .iter()
            .any(|family| present.contains(&family.transit()));
        // One interface that forwards nothing needs no rules, and so no nft.
        let bare = wanted.len() < 2 && !wanted.values().any(Crossing::forwards);
        let done = match bare && !marked {
            true => self.remove().await,
            false => self.install(wanted, &present).await,
        };
        if done.is_ok() {
            self.told = Some(wanted.clone());
        }
        done
    }

    /// Takes away what this daemon, or one before it, wrote.
    async fn remove(&mut self) -> Result<(), ForwardingError> {
        let absence = format!("add table inet {TABLE}\ndelete table inet {TABLE}\n");
        match run("nft", &["-f", "-"], &absence).await {
            // Without the program there are no rules either.
            Err(ForwardingError::NotRun { source, .. })
                if source.kind() == io::ErrorKind::NotFound => {}
            done => drop(done?),
        }
        self.accept(BTreeSet::new()).await
    }

    async fn install(&mut self, wanted: &Crossings, present: &str) -> Result<(), ForwardingError> {
        // Between peers it is enough that the interface itself forwards IPv4.
        let into_lan = wanted.values().any(|crossing| !crossing.lan.is_empty());
        let forwards = wanted.values().any(Crossing::forwards);
        let ours = |needed: bool, family: &Family| {
            let on = fs::read_to_string(Path::new(SETTINGS).join(family.switch))
                .is_ok_and(|text| text.trim() != "0");
            present.contains(&family.transit()) || (needed && !on)
        };
        let [ipv4, ipv6] = &FAMILIES;
        let ours = [ours(into_lan, ipv4), ours(forwards, ipv6)];
        // The rules first: nothing passes that they would have dropped.
        run("nft", &["-f", "-"], &rules(wanted, ours)).await?;
        for (interface, crossing) in wanted.iter().filter(|(_, crossing)| crossing.forwards()) {
            set(&format!("ipv4/conf/{interface}/forwarding"), "1")?;
            set(&format!("ipv4/conf/{interface}/send_redirects"), "0")?;
            tracing::info!(interface, hub = crossing.hub, lan = ?crossing.lan, "this node forwards");
        }
        if ours[0] && into_lan {
            set(ipv4.switch, "1")?;
        }
        if ours[1] && forwards {
            keep_advertisements()?;
            set(ipv6.switch, "1")?;
        }
        self.accept(beside_docker(wanted)).await
    }

    /// dockerd has the chain FORWARD drop what it does not know. Where there is no such program
    /// there is no such chain.
    async fn accept(
        &mut self,
        wanted: BTreeSet<(&'static str, Vec<String>)>,
    ) -> Result<(), ForwardingError> {
        let gone: Vec<_> = self.accepted.difference(&wanted).cloned().collect();
        for (program, rule) in gone {
            // One that somebody else removed is gone all the same.
            let _ = run(program, &in_forward("-D", &rule), "").await;
            self.accepted.remove(&(program, rule));
        }
        for (program, rule) in wanted {
            match run(program, &in_forward("-C", &rule), "").await {
                Ok(_) => {}
                Err(ForwardingError::NotRun { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    continue;
                }
                Err(_) => drop(run(program, &in_forward("-I", &rule), "").await?),
            }
            self.accepted.insert((program, rule));
        }
        Ok(())
    }
}

fn in_forward<'a>(verb: &'a str, rule: &'a [String]) -> Vec<&'a str> {
    let head = ["-w", verb, "FORWARD"].into_iter();
    head.chain(rule.iter().map(String::as_str)).collect()
}

/// What dockerd's chain must let pass.
fn beside_docker(wanted: &Crossings) -> BTreeSet<(&'static str, Vec<String>)> {
    let mut rules = BTreeSet::new();
    for (interface, crossing) in wanted {
        for family in &FAMILIES {
            let mut add = |conditions: &[&str]| {
                let rule = conditions.iter().chain(&["-j", "ACCEPT"]);
                rules.insert((family.program, rule.map(ToString::to_string).collect()));
            };
            if crossing.hub {
                add(&["-i", interface, "-o", interface]);
            }
            for prefix in crossing.lan.iter().filter(|prefix| family.is_of(prefix)) {
                let prefix = prefix.to_string();
                add(&["-i", interface, "-d", &prefix]);
                add(&["-o", interface, "-s", &prefix]);
            }
        }
    }
    rules
}

/// Interfaces that follow router advertisements go on doing so on a router (ip-sysctl, accept_ra).
fn keep_advertisements() -> Result<(), ForwardingError> {
    let folder = Path::new(SETTINGS).join("ipv6/conf");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path().join("accept_ra");
        if fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1") {
            write(path, "2")?;
        }
    }
    Ok(())
}

fn set(setting: &str, value: &str) -> Result<(), ForwardingError> {
    let path = Path::new(SETTINGS).join(setting);
    match fs::read_to_string(&path) {
        Ok(text) if text.trim() == value => Ok(()),
        Ok(_) | Err(_) => write(path, value),
    }
}

fn write(path: PathBuf, value: &str) -> Result<(), ForwardingError> {
    fs::write(&path, value).map_err(|source| ForwardingError::Setting { path, source })
}

/// The node's one table. Of a family that is not `ours`, transit between other interfaces is
/// somebody else's choice.
fn rules(wanted: &Crossings, ours: [bool; 2]) -> String {
    let mut forward = String::new();
    let mut masquerade = String::new();
    for (interface, crossing) in wanted {
        let inward = format!("iifname {interface:?}");
        for family in &FAMILIES {
            let prefixes: Vec<_> = crossing
                .lan
                .iter()
                .filter(|prefix| family.is_of(prefix))
                .map(Cidr::to_string)
                .collect();
            if !prefixes.is_empty() {
                let to = format!("{} daddr {{ {} }}", family.address, prefixes.join(", "));
                line(&mut forward, &format!("{inward} {to} accept"));
                let outward = format!("oifname != {{ {LOCAL} }}");
                line(
                    &mut masquerade,
                    &format!("{inward} {outward} {to} masquerade"),
                );
            }
        }
        if !crossing.hub {
            line(
                &mut forward,
                &format!("{inward} oifname {interface:?} counter drop"),
            );
        }
        line(
            &mut forward,
            &format!("{inward} oifname != {{ {LOCAL}, {interface:?} }} counter drop"),
        );
    }
    let overlays: Vec<_> = wanted.keys().map(|name| format!("{name:?}")).collect();
    let known = format!("{{ {LOCAL}, {} }}", overlays.join(", "));
    for (family, ours) in FAMILIES.iter().zip(ours) {
        if ours {
            let text = format!("{} != {known} oifname != {known}", family.transit());
            line(&mut forward, &format!("{text} counter drop"));
        }
    }
    format!(
        "add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n  chain forward {{\n    type filter hook forward priority filter; policy accept;\n{forward}  }}\n  chain postrouting {{\n    type nat hook postrouting priority srcnat; policy accept;\n{masquerade}  }}\n}}\n"
    )
}

fn line(text: &mut String, rule: &str) {
    writeln!(text, "    {rule}").expect("writing to a String cannot fail");
}

/// What the program wrote.
async fn run(
    program: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<String, ForwardingError> {
    let conversation = async {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let not_run = |source| ForwardingError::NotRun { program, source };
    let output = timeout(WITHIN, conversation)
        .await
        .map_err(|_| not_run(io::ErrorKind::TimedOut.into()))?
        .map_err(not_run)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(ForwardingError::Refused {
        program,
        reason: reason.lines().next().unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: [bool; 2] = [true, true];

    fn crossings(rows: &[(&str, bool, &[&str])]) -> Crossings {
        let row = |(name, hub, lan): &(&str, bool, &[&str])| {
            let lan = lan.iter().map(|prefix| prefix.parse().unwrap()).collect();
            (format!("shoal-{name}"), Crossing { hub: *hub, lan })
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn what_comes_by_the_overlay_leaves_by_it_or_stays() {
        let text = rules(&crossings(&[("default", true, &[])]), [false, false]);
        assert!(text.contains(
            "iifname \"shoal-default\" oifname != { \"lo\", \"docker0\", \"cni0\", \"br-*\", \"flannel*\", \"shoal-default\" } counter drop"
        ));
        assert!(!text.contains("oifname \"shoal-default\" counter drop"));
        assert!(
            !text.contains("nfproto"),
            "transit was allowed before: {text}"
        );
    }

    #[test]
    fn switching_forwarding_on_lets_nobody_else_through() {
        let text = rules(&crossings(&[("default", true, &[])]), OURS);
        for family in ["ipv4", "ipv6"] {
            assert!(
                text.contains(&format!("meta nfproto {family} iifname !=")),
                "{text}"
            );
        }
    }

    #[test]
    fn hubs_of_two_networks_do_not_exclude_each_other_nor_let_them_meet() {
        let text = rules(&crossings(&[("a", true, &[]), ("b", true, &[])]), OURS);
        let drops: Vec<_> = text.lines().filter(|line| line.ends_with("drop")).collect();
        // Each network's own rule, and one of transit for each family.
        assert_eq!(drops.len(), 4, "{text}");
        for (one, other) in [("a", "b"), ("b", "a")] {
            let within = |line: &&&str| line.contains(&format!("iifname \"shoal-{one}\""));
            let own = drops.iter().find(within).unwrap();
            assert!(
                own.contains(&format!("\"shoal-{one}\" }}")),
                "stays within: {own}"
            );
            assert!(!own.contains(&format!("shoal-{other}")), "meets: {own}");
        }
        for transit in drops.iter().filter(|line| line.contains("nfproto")) {
            assert!(transit.contains("\"shoal-a\", \"shoal-b\" }"), "{transit}");
        }
    }

    #[test]
    fn a_lan_is_open_to_its_own_network_and_in_this_nodes_name() {
        let lan: &[&str] = &["192.168.7.0/24", "fd99:7::/48"];
        let text = rules(&crossings(&[("a", false, lan), ("b", false, &[])]), OURS);
        assert!(text.contains("iifname \"shoal-a\" ip daddr { 192.168.7.0/24 } accept"));
        assert!(text.contains("iifname \"shoal-a\" ip6 daddr { fd99:7::/48 } accept"));
        assert!(text.contains("oifname \"shoal-a\" counter drop"), "no hub");
        let nat = text.split("chain postrouting").nth(1).unwrap();
        assert_eq!(nat.matches("masquerade").count(), 2, "{nat}");
        assert!(!nat.contains("shoal-b"), "{nat}");
    }

    #[test]
    fn dockerd_lets_pass_what_is_forwarded_and_no_more() {
        let lan: &[&str] = &["192.168.7.0/24"];
        let wanted = crossings(&[("a", false, lan), ("b", true, &[]), ("c", false, &[])]);
        let rules = beside_docker(&wanted);
        let texts: Vec<_> = rules
            .iter()
            .map(|(program, rule)| format!("{program} {}", rule.join(" ")))
            .collect();
        assert_eq!(
            texts,
            [
                "ip6tables -i shoal-b -o shoal-b -j ACCEPT",
                "iptables -i shoal-a -d 192.168.7.0/24 -j ACCEPT",
                "iptables -i shoal-b -o shoal-b -j ACCEPT",
                "iptables -o shoal-a -s 192.168.7.0/24 -j ACCEPT",
            ]
        );
    }
}
