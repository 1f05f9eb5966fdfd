//! The way of a node to being a Docker host, one step at a time.
//!
//! Decides: the phase a Docker engine is in and the single next step towards what is desired.
//! Never: performs a step, remembers anything between calls. What has to be remembered (failures,
//! starts) is in [`Retries`], which the caller owns and hands in.
//!
//! Invariants, each a test below:
//! - At most one step at a time; none while a failure's pause runs, except to stop.
//! - A dockerd that shoal did not start is never touched.
//! - Data that the host's own Docker keeps elsewhere are not left behind unsaid.
//! - One of ours that does not answer is restarted for its silence alone, not for what else fails.
//! - A wrong override changes nothing: the running dockerd keeps its configuration.
//! - No dockerd is started without a certificate for exactly this node's key and addresses.
//! - A step performed with success leads to an observation that asks for a later step: the way
//!   ends in `Ready` or `Stopped`.

mod rest;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use consensus_core::{Time, WallMs};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::rest::{Rest, Restarts, Running, plan_rest};
use crate::{
    daemon_json::{self, Base, Change, DataElsewhere, HostLayout, Override},
    retries::Retries,
    version::EngineVersion,
};

/// What is said of a dockerd that lives and does not answer.
pub const NOT_READY: &str = "DockerNotReadyError";

/// Probes that may fail in a row before a dockerd that runs but does not answer is restarted.
/// Each probe waits for its own deadline, so three are minutes, not moments.
pub const UNANSWERED_PROBES_MAX: u32 = 3;

/// dockerd and the C library ask three at most (resolv.conf(5), MAXNS).
const DNS_SERVERS_MAX: usize = 3;

/// A node's addresses in the network that its Docker API is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// The overlay /128: dockerd listens here.
    pub ipv6: Ipv6Addr,
    /// The overlay /32: published ports answer here too.
    pub ipv4: Option<Ipv4Addr>,
}

/// The names that dockerd's certificate must carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateNames {
    /// The node's name in the mesh.
    pub node_name: String,
    /// Its overlay addresses.
    pub listen: Listen,
}

/// A certificate as the mesh issued it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// Serial number, hexadecimal.
    pub serial: String,
    /// The request it answers (PKCS#10, DER): tells key and names apart from older ones.
    pub csr: Vec<u8>,
    /// When it ends.
    pub not_after: WallMs,
    /// From when on a new one is asked for.
    pub renew_at: WallMs,
    /// Leaf first, then intermediates, PEM.
    pub chain_pem: String,
    /// The roots whose clients are let in, PEM; two while a rotation overlaps.
    pub ca_pem: String,
}

/// What the mesh wants of this node's Docker engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// Whether `docker-engine` is assigned.
    pub assigned: bool,
    /// The node's name in the mesh.
    pub node_name: String,
    /// Its overlay addresses; without them there is nothing to listen on.
    pub listen: Option<Listen>,
    /// The certificate issued last, whether or not it still fits.
    pub certificate: Option<IssuedCertificate>,
    /// Wishes about daemon.json.
    pub overrides: Vec<Override>,
    /// MTU for the default bridge; dockerd's own when absent.
    pub mtu: Option<u16>,
    /// Whom containers ask for names.
    pub dns: Option<Dns>,
}

/// Whom containers ask for names, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns {
    /// This node's own server.
    pub own: IpAddr,
    /// The host's resolvers, for while the own one is away. What they are is no reason to restart
    /// dockerd: those that it was started with are kept until it is restarted for another.
    pub fallback: Vec<IpAddr>,
}

impl Dns {
    fn servers(&self, started_with: Option<&ConfigFiles>) -> Vec<IpAddr> {
        let known = started_with.and_then(|files| {
            let document: Value = serde_json::from_str(&files.daemon_json).ok()?;
            serde_json::from_value::<Vec<IpAddr>>(document.get("dns")?.clone()).ok()
        });
        match known {
            Some(servers) if servers.first() == Some(&self.own) => servers,
            Some(_) | None => {
                let fallback = self.fallback.iter().filter(|server| **server != self.own);
                let servers = [self.own].into_iter().chain(fallback.copied());
                servers.take(DNS_SERVERS_MAX).collect()
            }
        }
    }
}

impl Desired {
    /// The names a certificate needs, once there is an address.
    pub fn names(&self) -> Option<CertificateNames> {
        self.listen.map(|listen| CertificateNames {
            node_name: self.node_name.clone(),
            listen,
        })
    }
}

/// The files that decide how dockerd runs. Public parts only: the key is never among them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFiles {
    /// daemon.json's text.
    pub daemon_json: String,
    /// The certificate chain, PEM.
    pub chain_pem: String,
    /// The roots, PEM.
    pub ca_pem: String,
}

/// The dockerd on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Daemon {
    /// None runs.
    Absent,
    /// One runs that shoal did not start.
    Foreign {
        /// Its process, where it is known.
        pid: Option<u32>,
    },
    /// One runs as the distribution's systemd unit, which shoal may take over when it is told
    /// to, and leaves alone otherwise.
    Adoptable {
        /// Its process.
        pid: u32,
    },
    /// The one that shoal started.
    Ours {
        /// Its process.
        pid: u32,
        /// What it was started with, or has reloaded since; unknown if shoal did not start it.
        started_with: Option<ConfigFiles>,
        /// Its version, if its socket answers.
        answers: Option<String>,
    },
}

/// What is the case on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// This moment.
    pub now: Time,
    /// This moment on the wall, for certificates.
    pub wall: WallMs,
    /// The engine that is installed.
    pub engine: Option<EngineVersion>,
    /// The request that the node's key gives with the desired names (PKCS#10, DER); absent
    /// without a key. Ed25519 signs without chance, so equal key and names give equal bytes.
    pub csr: Option<Vec<u8>>,
    /// The files in place, if all of them are.
    pub files: Option<ConfigFiles>,
    /// The daemon.
    pub daemon: Daemon,
    /// Whether files that shoal wrote are on the host.
    pub leftovers: bool,
    /// Whether containers wait to be started that were stopped when the host came to rest, and that
    /// dockerd does not start by itself.
    pub waiting: bool,
    /// Where the host's own configuration of Docker keeps data, if that is another place than ours.
    pub elsewhere: Option<DataElsewhere>,
}

/// One thing to do on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Find or install the engine.
    Install,
    /// Make the key.
    MakeKey,
    /// Ask the mesh for a certificate; nothing is done on the host.
    RequestCertificate {
        /// PKCS#10, DER.
        csr: Vec<u8>,
    },
    /// Validate the files and put them in place.
    WriteConfig(ConfigFiles),
    /// Start dockerd, taking an adoptable one over, and wait until it answers.
    Start,
    /// Let dockerd read its configuration again.
    Reload,
    /// Stop dockerd, leave the containers running, start it and wait until it answers.
    Restart,
    /// Wait until the running dockerd answers.
    Probe,
    /// Stop the containers, then dockerd.
    Stop,
    /// Remove every file that shoal wrote.
    RemoveFiles,
    /// Stop a container, with the time that it has for it.
    StopContainer(Running),
    /// Stop dockerd, and leave everything as it is for its next start.
    Rest,
    /// Start the containers that were stopped when the host came to rest.
    StartContainers,
}

/// How far the engine is, as the mesh shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// The engine is being looked for or installed.
    Installing,
    /// The node asks for a certificate; before its key is made there is no request yet.
    WantsCert {
        /// PKCS#10, DER.
        csr: Option<Vec<u8>>,
    },
    /// The files are being written, or dockerd starts with them.
    WantsConfig,
    /// dockerd listens.
    Ready {
        /// dockerd's version.
        version: String,
    },
    /// Unassigned; dockerd is being stopped.
    Stopping,
    /// Unassigned and stopped.
    Stopped,
    /// A step failed.
    Failed {
        /// Stable code.
        code: &'static str,
        /// The fact, for people.
        reason: String,
        /// What to do about it.
        hint: Option<String>,
        /// When it is tried again; absent if only a new wish or a changed host helps.
        retry_at: Option<Time>,
    },
}

/// The phase and the next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// For the mesh.
    pub phase: Phase,
    /// For the adapter; none when everything is as desired or must be waited for.
    pub step: Option<Step>,
}

/// The next step from what is observed to what is desired.
pub fn plan(
    desired: &Desired,
    observed: &Observed,
    layout: &HostLayout,
    retries: &Retries,
) -> Plan {
    if !desired.assigned {
        return plan_away(observed);
    }
    let plan = plan_towards(desired, observed, layout, retries);
    match &plan.step {
        Some(step) => gate(step, observed.now, retries).unwrap_or(plan),
        None => plan,
    }
}

fn plan_away(observed: &Observed) -> Plan {
    match (&observed.daemon, observed.leftovers) {
        (Daemon::Ours { .. }, _) => does(Phase::Stopping, Step::Stop),
        (_, true) => does(Phase::Stopping, Step::RemoveFiles),
        (_, false) => rests(Phase::Stopped),
    }
}

fn plan_towards(
    desired: &Desired,
    observed: &Observed,
    layout: &HostLayout,
    retries: &Retries,
) -> Plan {
    let Some(listen) = desired.listen else {
        return fails(
            "MissingSdwanPeerError",
            format!("node {} has no address in a network", desired.node_name),
            format!("shoal network attach {}", desired.node_name),
        );
    };
    if let Daemon::Foreign { pid } = observed.daemon {
        return foreign(pid);
    }
    // Once shoal has begun here, its data are where they are.
    if let Some(elsewhere) = observed.elsewhere.as_ref().filter(|_| !observed.leftovers) {
        return fails(elsewhere.code(), elsewhere.to_string(), elsewhere.hint());
    }
    let dns = desired.dns.as_ref();
    // A new certificate restarts dockerd anyway.
    let chain = desired.certificate.as_ref().map(|it| &it.chain_pem);
    let running = started_with(&observed.daemon);
    let running = running.filter(|files| chain == Some(&files.chain_pem));
    let dns = dns.map(|dns| dns.servers(running));
    let base = Base {
        layout,
        listen: listen.ipv6,
        mtu: desired.mtu,
        dns: &dns.unwrap_or_default(),
    };
    let document = match daemon_json::merged(&base, &desired.overrides) {
        Ok(document) => document,
        Err(error) => return fails(error.code(), error.to_string(), error.hint()),
    };
    if observed.engine.is_none() {
        return does(Phase::Installing, Step::Install);
    }
    let Some(csr) = &observed.csr else {
        return does(Phase::WantsCert { csr: None }, Step::MakeKey);
    };
    match usable(desired.certificate.as_ref(), csr, observed.wall) {
        Some(certificate) => plan_daemon(certificate, &document, observed, retries),
        None => asks(csr),
    }
}

/// What the dockerd that runs was started with. What the files in place say by now may be anybody's.
fn started_with(daemon: &Daemon) -> Option<&ConfigFiles> {
    match daemon {
        Daemon::Ours { started_with, .. } => started_with.as_ref(),
        Daemon::Absent | Daemon::Foreign { .. } | Daemon::Adoptable { .. } => None,
    }
}

/// The certificate, if it answers this very request and has not ended.
fn usable<'a>(
    certificate: Option<&'a IssuedCertificate>,
    csr: &[u8],
    wall: WallMs,
) -> Option<&'a IssuedCertificate> {
    certificate.filter(|certificate| certificate.csr == csr && certificate.not_after > wall)
}

fn plan_daemon(
    certificate: &IssuedCertificate,
    document: &Value,
    observed: &Observed,
    retries: &Retries,
) -> Plan {
    let wanted = ConfigFiles {
        daemon_json: daemon_json::render(document),
        chain_pem: certificate.chain_pem.clone(),
        ca_pem: certificate.ca_pem.clone(),
    };
    if observed.files.as_ref() != Some(&wanted) {
        return does(Phase::WantsConfig, Step::WriteConfig(wanted));
    }
    let Daemon::Ours {
        started_with,
        answers,
        ..
    } = &observed.daemon
    else {
        return does(Phase::WantsConfig, Step::Start);
    };
    match change(started_with.as_ref(), &wanted, document) {
        Change::Restart => return does(Phase::WantsConfig, Step::Restart),
        Change::Reload => return does(Phase::WantsConfig, Step::Reload),
        Change::None => {}
    }
    let Some(version) = answers else {
        // What failed for another reason says nothing about dockerd, which may only be slow this once.
        let unanswered = retries.unanswered_as(NOT_READY);
        let stuck = unanswered >= UNANSWERED_PROBES_MAX;
        let step = if stuck { Step::Restart } else { Step::Probe };
        return does(Phase::WantsConfig, step);
    };
    let renews = observed.wall >= certificate.renew_at;
    Plan {
        phase: Phase::Ready {
            version: version.clone(),
        },
        step: match (observed.waiting, renews) {
            (true, _) => Some(Step::StartContainers),
            (false, true) => Some(Step::RequestCertificate {
                csr: certificate.csr.clone(),
            }),
            (false, false) => None,
        },
    }
}

fn change(started_with: Option<&ConfigFiles>, wanted: &ConfigFiles, document: &Value) -> Change {
    let Some(running) = started_with else {
        return Change::Restart;
    };
    // dockerd reads certificates when it starts and at no other time.
    if running.chain_pem != wanted.chain_pem || running.ca_pem != wanted.ca_pem {
        return Change::Restart;
    }
    serde_json::from_str(&running.daemon_json).map_or(Change::Restart, |running: Value| {
        daemon_json::change_between(&running, document)
    })
}

/// What is shown instead of a step whose pause still runs.
fn gate(step: &Step, now: Time, retries: &Retries) -> Option<Plan> {
    if matches!(step, Step::RequestCertificate { .. }) {
        return None;
    }
    let crash = retries.crash("DockerExitedError", "dockerd ended without being told to");
    let crash = crash.filter(|_| *step == Step::Start);
    let failure = retries.failure().cloned();
    failure
        .into_iter()
        .chain(crash)
        .filter(|failure| failure.retry_at > now)
        .max_by_key(|failure| failure.retry_at)
        .map(|failure| {
            rests(Phase::Failed {
                code: failure.code,
                reason: failure.reason,
                hint: None,
                retry_at: Some(failure.retry_at),
            })
        })
}

fn foreign(pid: Option<u32>) -> Plan {
    let whose = pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
    fails(
        "DockerAlreadyRunningError",
        format!("a dockerd that shoal did not start runs here{whose}"),
        "stop it and disable its service, then shoal takes over its data; or unassign docker-engine"
            .to_owned(),
    )
}

fn asks(csr: &[u8]) -> Plan {
    does(
        Phase::WantsCert {
            csr: Some(csr.to_vec()),
        },
        Step::RequestCertificate { csr: csr.to_vec() },
    )
}

fn fails(code: &'static str, reason: String, hint: String) -> Plan {
    rests(Phase::Failed {
        code,
        reason,
        hint: Some(hint),
        retry_at: None,
    })
}

fn does(phase: Phase, step: Step) -> Plan {
    Plan {
        phase,
        step: Some(step),
    }
}

fn rests(phase: Phase) -> Plan {
    Plan { phase, step: None }
}

#[cfg(test)]
mod tests;
