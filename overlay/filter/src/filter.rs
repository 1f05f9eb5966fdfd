//! The filter in force: written when it changes, put back when somebody else changed it.
//!
//! Decides when to write and when to look. The table is nobody's in the kernel's sense: one that is
//! owned goes with its owner's process, and rules have to outlive the daemon as the interfaces do. So
//! notices of the kernel tell when somebody else was at it, and looking tells what he did.
//!
//! Never: leaves the host without rules between two of them (one transaction), takes them away at the
//! end.

use std::{collections::BTreeSet, fs, time::Duration};

use overlay_core::peers::Cidr;
use tokio::time::{Instant, sleep_until};

use crate::{
    beside_docker::{self, Difference, PROGRAMS, difference},
    host::{Host, Machine},
    listener::{Listener, Told},
    program::{ProgramError, run},
    rules::{TABLE, absence, table, transit_mark},
    switches::{self, SwitchError},
};

/// The kernel's table of this network namespace's interfaces. `/sys/class/net` would show those of the
/// namespace that it was mounted in.
const LINKS: &str = "/proc/net/dev";
/// The bridges of Docker's and Kubernetes' own making.
const TENANTS: [&str; 2] = ["docker0", "cni0"];
/// Docker calls the bridge of another network so, and twelve digits. Other bridges called `br-…` may
/// have the wire of a LAN on them.
const BRIDGE_PREFIX: &str = "br-";
/// As many digits of a network's id are in its bridge's name.
const BRIDGE_DIGITS: usize = 12;
/// What the kernel takes for an interface's name (`IFNAMSIZ`, less the zero byte).
const NAME_BYTES_MAX: usize = 15;
/// A start of dockerd, or of a container, makes a burst of notices; one look answers them.
const LOOKS_APART: Duration = Duration::from_millis(200);
/// iptables' older variant tells nobody when dockerd makes its chains.
const DOCKER_ASKED_EVERY: Duration = Duration::from_secs(10);

/// Why the rules are not in force.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// They cannot be written.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// This host cannot forward.
    #[error(transparent)]
    Switch(#[from] SwitchError),
}

impl FilterError {
    /// Stable name of the failure.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Program(ProgramError::Missing(_)) => "NftMissing",
            Self::Program(ProgramError::NotRun { .. }) => "NftNotRun",
            Self::Program(ProgramError::Refused { .. }) => "NftRefused",
            Self::Switch(_) => "ForwardingSettingError",
        }
    }

    /// What the operator can do.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Program(ProgramError::Missing(_)) => {
                "install the package nftables; until then no firewall rule is carried out here, and \
                 machines on the underlay can reach this node's overlay addresses"
            }
            Self::Program(_) => {
                "check that the kernel has nf_tables and that shoald has CAP_NET_ADMIN"
            }
            Self::Switch(_) => "check that /proc/sys/net is writable",
        }
    }
}

/// Whoever holds iptables' lock is waited for so long: the interfaces wait for this too.
const PATIENCE_S: &str = "1";

/// The rules as they were written last.
#[derive(Debug)]
struct Written {
    text: String,
    /// As the kernel lists them. Counters are left out.
    listed: String,
}

/// An interface, whether this host is a hub there, and the networks behind it.
type Forwards = (String, bool, BTreeSet<Cidr>);

/// The packet filter of the network namespace that this process is in.
#[derive(Debug, Default)]
pub struct Filter {
    host: Host,
    written: Option<Written>,
    /// Families that shoal itself switched forwarding on for.
    transit_shut: Option<[bool; 2]>,
    /// None where the kernel does not tell; then every call looks.
    listener: Option<Listener>,
    /// Whether it was told of something.
    disturbed: bool,
    /// Whether that may concern the rules as they stand.
    look: bool,
    looked: Option<Instant>,
    /// Whether dockerd's chains may have rules of ours.
    beside_docker: bool,
    beside_docker_asked: Option<Instant>,
    /// What was told of it.
    forwards: Vec<Forwards>,
}

impl Filter {
    /// Has the kernel let through what this host should let through. Writes nothing that stands.
    pub async fn bring_in_line(&mut self, host: Host) -> Result<(), FilterError> {
        self.host = host;
        self.repair().await
    }

    /// Takes everything of it off this host: what it told dockerd's chains, then its own table.
    pub async fn uninstall() -> Result<(), FilterError> {
        let mut filter = Self::default();
        filter.bring_in_line(Host::default()).await?;
        run("nft", &["-f", "-"], &absence()).await?;
        if filter.transit_shut.is_some_and(|shut| shut.contains(&true)) {
            tracing::warn!(
                "forwarding was switched on for the overlay and stays on, for others may rely on it by \
                 now; nothing of shoal's keeps packets from passing this host any more"
            );
        }
        Ok(())
    }

    /// Waits until somebody else has done something that may concern the rules, at most as often as
    /// looking is worth it. Cancel safe: what it was told is kept for [`Filter::repair`].
    pub async fn disturbed(&mut self) {
        if !self.disturbed {
            let told = match &self.listener {
                Some(listener) => listener.concerned().await,
                None => std::future::pending().await,
            };
            self.disturbed = true;
            match told {
                Ok(Told::Rules) => self.look = true,
                Ok(Told::Links) => {}
                Err(error) => {
                    tracing::debug!(%error, "changes of rules are not told any more");
                    self.listener = None;
                }
            }
        }
        if let Some(looked) = self.looked {
            sleep_until(looked + LOOKS_APART).await;
        }
    }

    /// Writes the rules if they are not as they should be, or somebody was at them.
    pub async fn repair(&mut self) -> Result<(), FilterError> {
        self.looked = Some(Instant::now());
        self.disturbed = false;
        let look = self.look || self.listener.is_none();
        // Until it has succeeded.
        self.look = true;
        let machine = self.machine().await;
        let wanted = table(&self.host, &machine);
        let same = (self.written.as_ref()).is_some_and(|written| written.text == wanted);
        if same && look && !self.stands().await {
            tracing::warn!("somebody has removed or changed the packet filter; it is put back");
            self.write(wanted).await?;
        } else if !same {
            self.write(wanted).await?;
        }
        let asked = self.beside_docker_asked;
        let overdue = asked.is_none_or(|asked| asked.elapsed() >= DOCKER_ASKED_EVERY);
        if look || !same || overdue {
            self.beside_docker_asked = Some(Instant::now());
            self.beside_docker(&machine).await?;
        }
        self.look = false;
        Ok(())
    }

    /// Switches forwarding on where the host forwards; interfaces should be up.
    pub fn switch_forwarding_on(&mut self) -> Result<(), FilterError> {
        switches::switch_on(&self.host)?;
        let overlays = self.host.overlays.iter();
        let forwarding = overlays.filter(|overlay| overlay.forwards_ipv6());
        let forwards: Vec<Forwards> = forwarding
            .map(|overlay| (overlay.interface.clone(), overlay.hub, overlay.lan.clone()))
            .collect();
        let news = forwards.iter().filter(|one| !self.forwards.contains(one));
        for (interface, hub, lan) in news {
            tracing::info!(interface, hub, ?lan, "this node forwards");
        }
        self.forwards = forwards;
        Ok(())
    }

    async fn machine(&mut self) -> Machine {
        let needed = switches::needed(&self.host);
        let present = match self.transit_shut {
            Some(known) => known,
            // A daemon before this one may have switched forwarding on, and left its rules.
            None => {
                let listed = list().await.unwrap_or_default();
                self.beside_docker = !listed.is_empty();
                [0, 1].map(|family| listed.contains(&transit_mark(family)))
            }
        };
        let shut =
            [0, 1].map(|family| present[family] || (needed[family] && !switches::is_on(family)));
        self.transit_shut = Some(shut);
        Machine {
            tenants: tenants(&fs::read_to_string(LINKS).unwrap_or_default(), &self.host),
            transit_shut: shut,
        }
    }

    async fn stands(&self) -> bool {
        let listed = list().await.unwrap_or_default();
        (self.written.as_ref()).is_some_and(|written| written.listed == listed)
    }

    async fn write(&mut self, text: String) -> Result<(), FilterError> {
        if self.listener.is_none() {
            self.listener = Listener::open().ok();
        }
        self.written = None;
        run(
            "nft",
            &["-f", "-"],
            &format!("{}{text}", replaced(&self.host)),
        )
        .await?;
        // What is told from now on was done by others; what they did before is seen in the listing.
        if let Some(listener) = &self.listener
            && listener.forget().is_err()
        {
            self.listener = None;
        }
        let listed = list().await.unwrap_or_default();
        // Each rule is one line in both.
        if rules_in(&listed) == rules_in(&text) {
            self.written = Some(Written { text, listed });
        }
        Ok(())
    }

    /// Brings chains of others in line. Where there is no such program, or no such chain, nothing
    /// drops.
    async fn beside_docker(&mut self, machine: &Machine) -> Result<(), ProgramError> {
        let wanted = PROGRAMS.map(|program| beside_docker::wanted(&self.host, machine, program));
        let wants = wanted.iter().flatten().any(|(_, rules)| !rules.is_empty());
        if !wants && !self.beside_docker {
            return Ok(());
        }
        for (program, wanted) in PROGRAMS.into_iter().zip(wanted) {
            for (chains, rules) in wanted {
                let mut rules = Some(rules);
                for &chain in chains {
                    let Ok(listed) = run(program, &["-w", PATIENCE_S, "-S", chain], "").await
                    else {
                        continue;
                    };
                    // The first chain that is there takes them; in others they are too many.
                    let rules = rules.take().unwrap_or_default();
                    change(program, chain, &difference(&listed, chain, &rules)).await?;
                }
            }
        }
        self.beside_docker = wants;
        Ok(())
    }
}

/// The tables that the rules were in before they were one: they would drop what this one lets
/// through.
fn replaced(host: &Host) -> String {
    let fences = host.overlays.iter().map(|overlay| {
        let handle = overlay.interface.trim_start_matches("shoal-");
        handle.replace('-', "_")
    });
    let mut text = String::new();
    // The gate of virtual IPs has a table of that name.
    for name in fences
        .filter(|name| name != "gate")
        .chain(["forward".to_owned()])
    {
        text.push_str(&format!(
            "add table inet shoal_{name}\ndelete table inet shoal_{name}\n"
        ));
    }
    text
}

async fn change(
    program: &'static str,
    chain: &str,
    difference: &Difference,
) -> Result<(), ProgramError> {
    for (verb, rules) in [("-I", &difference.missing), ("-D", &difference.surplus)] {
        for rule in rules {
            let head = ["-w", PATIENCE_S, verb, chain].into_iter();
            let words: Vec<&str> = head.chain(rule.split(' ')).collect();
            match (verb, run(program, &words, "").await) {
                (_, Ok(_)) => {}
                // One that somebody else removed is gone all the same.
                ("-D", Err(_)) => {}
                (_, Err(error)) => return Err(error),
            }
        }
    }
    Ok(())
}

/// The table as it stands, without its counters.
async fn list() -> Result<String, ProgramError> {
    run("nft", &["-s", "list", "table", "inet", TABLE], "").await
}

/// How many rules there are in a table's text.
fn rules_in(text: &str) -> usize {
    let verdicts = ["accept", "drop", "goto ", "snat ", "masquerade"];
    text.lines()
        .filter(|line| line.starts_with("\t\t") && !line.starts_with("\t\ttype "))
        .filter(|line| verdicts.iter().any(|verdict| line.contains(verdict)))
        .count()
}

/// The bridges of containers that are no network's: those among this machine's interfaces that go by a
/// name of Docker's or Kubernetes' own making, and those that Docker names.
fn tenants(links: &str, host: &Host) -> BTreeSet<String> {
    let present = links.lines().filter_map(|line| line.split_once(':'));
    let present = present.map(|(name, _)| name.trim());
    let named = host.tenants.iter().map(String::as_str);
    present
        .filter(|name| is_of_dockers_making(name))
        .chain(named.filter(|name| is_plain(name)))
        .filter(|name| !host.has(name))
        .map(str::to_owned)
        .collect()
}

fn is_of_dockers_making(name: &str) -> bool {
    let digits = name.strip_prefix(BRIDGE_PREFIX).unwrap_or_default();
    let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    TENANTS.contains(&name) || (digits.len() == BRIDGE_DIGITS && digits.bytes().all(hexadecimal))
}

/// Somebody chose it: it must mean itself in a rule, and nothing more.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain) && name != "lo"
}

#[cfg(test)]
mod tests {
    use consensus_core::NetworkId;

    use super::*;
    use crate::host::ContainerBridge;

    #[test]
    fn containers_bridges_are_dockers_own_and_no_other_bridge() {
        let links = "Inter-|   Receive\n face |bytes\n    lo: 0\ndocker0: 0\nbr-0123456789ab: 0\n\
                     br-lan: 0\nbr-0123456789abc: 0\nbr-sh-default: 0\nbr-0123456789AB: 0\n";
        let found: Vec<_> = tenants(links, &Host::default()).into_iter().collect();
        assert_eq!(found, ["br-0123456789ab", "docker0"]);
    }

    #[test]
    fn a_bridge_that_docker_names_is_one_of_them_if_it_means_that_bridge_alone() {
        let bridge = ContainerBridge {
            interface: "br-sh-default".into(),
            subnet: "10.43.1.0/24".parse().unwrap(),
            network: NetworkId::from_bytes([1; 16]),
        };
        let named = [
            "web-bridge",
            "br_1.2",
            // Rules would take these for many, for the end of a text, for the machine itself, for
            // another network's.
            "shoal-*",
            "x\" } accept",
            "lo",
            "br-sh-default",
            "sixteen-letters-",
            "",
        ];
        let host = Host {
            bridges: [bridge].into(),
            tenants: named.map(str::to_owned).into(),
            ..Host::default()
        };
        let found: Vec<_> = tenants("docker0: 0\n", &host).into_iter().collect();
        assert_eq!(found, ["br_1.2", "docker0", "web-bridge"]);
    }
}
