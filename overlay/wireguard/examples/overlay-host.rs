//! One host's overlay interface, driven by lines on the standard input: for the tests, which run
//! it inside network namespaces, and for trying things out by hand.
//!
//! `overlay-host wireguard-device --interface NAME --pidfile PATH` is a device process.
//! `overlay-host` alone answers every line with one line, `ok …` or `err CODE MESSAGE`:
//!
//! ```text
//! up NAME PORT FOLDER          bring the interface up, with key and files in FOLDER
//! address ADDRESS              add to the plan
//! route PREFIX
//! unroute PREFIX               take a route out of the plan
//! peer KEY ENDPOINT|- PREFIX,…|-
//! forget KEY                   take a peer out of the plan
//! apply                        observe, plan, apply: `ok STEPS`
//! newkey                       make the next key: `ok KEY`
//! takekey                      give it to the interface and the disk
//! peers                        `ok KEY=HANDSHAKE_NS,RX,TX,ENDPOINT …`
//! fence HANDLE PREFIX,…        the packet filter of a host in such a network
//! filter HANDLE PREFIX,… [hub] [deny] [allow:PORT] [deny:PORT]    … with a firewall, the first rule first
//! overlap PREFIX
//! down
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    io::{BufRead as _, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use overlay_core::{
    mtu::OVERLAY_MTU,
    peers::{Cidr, InterfacePlan, PeerPlan, plan},
};
use overlay_wireguard::{
    DeviceSettings, Interface, InterfaceSettings, Keyring, bring_up, check_overlap, run_device,
};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [
            "wireguard-device",
            "--interface",
            interface,
            "--pidfile",
            pidfile,
        ] => {
            let settings = DeviceSettings {
                interface: interface.to_owned(),
                pidfile: PathBuf::from(pidfile),
            };
            match run_device(&settings) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => ExitCode::from(error.exit_status()),
            }
        }
        [] => converse(),
        _ => ExitCode::from(64),
    }
}

fn converse() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built");
    let mut host = Host::default();
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let answer = match runtime.block_on(host.answer(&line)) {
            Ok(answer) => format!("ok {answer}"),
            Err(failure) => format!("err {failure}"),
        };
        if writeln!(out, "{answer}")
            .and_then(|()| out.flush())
            .is_err()
        {
            break;
        }
    }
    ExitCode::SUCCESS
}

/// A place in a network of these two prefixes, with nothing behind it.
fn place(
    interface: &str,
    name: &str,
    prefixes: &[Cidr],
) -> Result<overlay_filter::Overlay, String> {
    let mut id = [0; 16];
    let name = name.as_bytes();
    id[..name.len().min(16)].copy_from_slice(&name[..name.len().min(16)]);
    Ok(overlay_filter::Overlay {
        network: consensus_core::NetworkId::from_bytes(id),
        interface: interface.to_owned(),
        prefixes: prefixes.try_into().map_err(|_| "TwoPrefixesWanted")?,
        hub: false,
        lan: BTreeSet::new(),
        devices: BTreeSet::new(),
        own_ports: BTreeSet::new(),
        default: consensus_core::Verdict::Allow,
        rules: Vec::new(),
    })
}

/// A rule about TCP connections from anybody to this host.
fn rule(number: u32, verdict: &str, port: &str) -> Result<overlay_filter::Rule, String> {
    Ok(overlay_filter::Rule {
        number: consensus_core::RuleNumber(number),
        from: None,
        to_host: true,
        to_devices: false,
        protocol: consensus_core::RuleProtocol::Tcp,
        ports: vec![port.parse().map_err(plain)?],
        verdict: match verdict {
            "allow" => consensus_core::Verdict::Allow,
            "deny" => consensus_core::Verdict::Deny,
            _ => return Err(format!("UnknownWord {verdict:?}")),
        },
    })
}

#[derive(Default)]
struct Host {
    filter: overlay_filter::Filter,
    interface: Option<Interface>,
    keys: Option<Keyring>,
    port: u16,
    addresses: BTreeSet<std::net::IpAddr>,
    routes: BTreeSet<Cidr>,
    peers: BTreeMap<overlay_core::peers::PublicKey, PeerPlan>,
}

impl Host {
    async fn answer(&mut self, line: &str) -> Result<String, String> {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            ["up", name, port, folder] => self.up(name, port, folder).await,
            ["address", address] => {
                self.addresses.insert(address.parse().map_err(plain)?);
                Ok(String::new())
            }
            ["route", prefix] => {
                self.routes.insert(prefix.parse().map_err(plain)?);
                Ok(String::new())
            }
            ["unroute", prefix] => {
                self.routes.remove(&prefix.parse().map_err(plain)?);
                Ok(String::new())
            }
            ["peer", key, endpoint, prefixes] => {
                let peer = PeerPlan {
                    endpoint: (endpoint != "-")
                        .then(|| endpoint.parse().map_err(plain))
                        .transpose()?,
                    allowed_ips: parse_list(prefixes)?.into_iter().collect(),
                    keepalive_s: None,
                };
                self.peers.insert(key.parse().map_err(plain)?, peer);
                Ok(String::new())
            }
            ["forget", key] => {
                self.peers.remove(&key.parse().map_err(plain)?);
                Ok(String::new())
            }
            ["apply"] => self.apply().await,
            ["newkey"] => {
                let keys = self.keys.as_ref().ok_or("NotUp")?;
                let made = keys.prepare().map_err(|e| coded(e.code(), &e))?;
                Ok(made.to_string())
            }
            ["takekey"] => self.take_key().await,
            ["peers"] => self.describe_peers().await,
            ["fence", handle, prefixes] => self.let_through(handle, prefixes, &[]).await,
            ["filter", handle, prefixes, ref words @ ..] => {
                self.let_through(handle, prefixes, words).await
            }
            ["overlap", prefix] => {
                let prefix = prefix.parse().map_err(plain)?;
                let checked = check_overlap(prefix, "shoal0").await;
                checked.map_err(|e| coded(e.code(), &e))?;
                Ok(String::new())
            }
            ["down"] => {
                let interface = self.interface.take().ok_or("NotUp")?;
                interface.down().await.map_err(|e| coded(e.code(), &e))?;
                let filtered = self.filter.bring_in_line(overlay_filter::Host::default());
                filtered.await.map_err(|e| coded(e.code(), &e))?;
                Ok(String::new())
            }
            _ => Err(format!("UnknownCommand {line:?}")),
        }
    }

    async fn up(&mut self, name: &str, port: &str, folder: &str) -> Result<String, String> {
        let folder = PathBuf::from(folder);
        std::fs::create_dir_all(&folder).map_err(plain)?;
        let keys = Keyring::open(&folder.join("wireguard.key")).map_err(|e| coded(e.code(), &e))?;
        let private_key = keys.current();
        let public_key = private_key.public();
        self.port = port.parse().map_err(plain)?;
        let settings = InterfaceSettings {
            name: name.to_owned(),
            private_key,
            listen_port: self.port,
            mtu: OVERLAY_MTU,
            run_folder: folder,
            device_command: InterfaceSettings::own_device_command(),
        };
        let interface = bring_up(settings).await.map_err(|e| coded(e.code(), &e))?;
        let answer = format!("{:?} {public_key}", interface.backend());
        self.interface = Some(interface);
        self.keys = Some(keys);
        Ok(answer)
    }

    async fn let_through(
        &mut self,
        handle: &str,
        prefixes: &str,
        words: &[&str],
    ) -> Result<String, String> {
        let interface = self.interface.as_ref().ok_or("NotUp")?;
        let mut place = place(interface.name(), handle, &parse_list(prefixes)?)?;
        for (number, word) in (1..).zip(words) {
            match word.split_once(':') {
                None if *word == "hub" => place.hub = true,
                None if *word == "deny" => place.default = consensus_core::Verdict::Deny,
                Some((verdict, port)) => place.rules.push(rule(number, verdict, port)?),
                None => return Err(format!("UnknownWord {word:?}")),
            }
        }
        let host = overlay_filter::Host {
            overlays: vec![place],
            ..overlay_filter::Host::default()
        };
        let filtered = self.filter.bring_in_line(host).await;
        filtered.map_err(|e| coded(e.code(), &e))?;
        let forwards = self.filter.switch_forwarding_on();
        forwards.map_err(|e| coded(e.code(), &e))?;
        Ok(String::new())
    }

    async fn take_key(&mut self) -> Result<String, String> {
        let keys = self.keys.as_ref().ok_or("NotUp")?;
        let next = keys.next().ok_or("NoNextKey")?;
        let (key, kept) = keys.follow(&next);
        kept.map_err(|e| coded(e.code(), &e))?;
        let interface = self.interface.as_mut().ok_or("NotUp")?;
        let taken = interface.take_key(&key).await;
        taken.map_err(|e| coded(e.code(), &e))?;
        Ok(next.to_string())
    }

    async fn apply(&mut self) -> Result<String, String> {
        let interface = self.interface.as_mut().ok_or("NotUp")?;
        let desired = InterfacePlan {
            addresses: self.addresses.clone(),
            routes: self.routes.clone(),
            mtu: OVERLAY_MTU,
            listen_port: self.port,
            peers: self.peers.clone(),
        };
        let observed = interface.observe().await.map_err(|e| coded(e.code(), &e))?;
        let steps = plan(&desired, &observed);
        let applied = interface.apply(&steps).await;
        applied.map_err(|e| coded(e.code(), &e))?;
        Ok(steps.len().to_string())
    }

    async fn describe_peers(&self) -> Result<String, String> {
        let interface = self.interface.as_ref().ok_or("NotUp")?;
        let stats = interface.stats().await.map_err(|e| coded(e.code(), &e))?;
        let words = stats.into_iter().map(|(key, peer)| {
            let since = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH);
            let handshake = peer.last_handshake.map(since).and_then(Result::ok);
            let endpoint = peer.endpoint.map_or("-".to_owned(), |at| at.to_string());
            format!(
                "{key}={},{},{},{endpoint}",
                handshake.as_ref().map_or(0, Duration::as_nanos),
                peer.rx_bytes,
                peer.tx_bytes
            )
        });
        Ok(words.collect::<Vec<_>>().join(" "))
    }
}

fn parse_list(text: &str) -> Result<Vec<Cidr>, String> {
    text.split(',')
        .filter(|prefix| *prefix != "-")
        .map(|prefix| prefix.parse().map_err(plain))
        .collect()
}

fn coded(code: &str, error: &dyn std::error::Error) -> String {
    let mut text = format!("{code} {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text.replace('\n', " ")
}

fn plain(error: impl Display) -> String {
    format!("Unreadable {error}")
}
