//! The way of a node into a K3s cluster and out of it, one step at a time (SPEC 5.1 to 5.3).
//!
//! Decides: the phase that a node's K3s is in and the single next step towards what is desired.
//! Never: performs a step, knows a token, remembers anything between calls.
//!
//! Invariants, each a test below:
//! - At most one step at a time; none while a failure's pause runs. Who wants something else of it than
//!   before has the failure forgotten, so that the first try to stop waits for nothing.
//! - A K3s that shoal did not start, and data that it did not make, are never touched.
//! - A cluster is initialised by its founder alone, in the stay that founded it, and not again once
//!   the cluster was active.
//! - What an earlier stay left is taken off before the next one begins.
//! - Who lost what it had begun does not go on as if nothing had happened: the mesh is told, and gives
//!   it another stay.
//! - A K3s that was ready in its stay changes its settings or its program only in its turn, also while
//!   it is not ready for a moment. In its turn one that is not is changed only once it is down.
//! - A K3s that was ready since it was started is not restarted as it is because its cluster does not
//!   answer: only if it listens no more itself.
//! - A step performed with success leads to an observation that asks for a later step; those that wait
//!   for others, to become ready or empty, are asked for again until these are.

pub mod eviction;
mod observed;
mod obstacles;
mod running;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod wish;

use std::time::Duration;

use consensus_core::{K3sBinary, K3sRole, LogIndex, Time};
use serde::{Deserialize, Serialize};

use self::{
    observed::is_same,
    obstacles::{disk_away, foreign, misfits, strange_data},
    running::{is_ready, not_ready, plan_running, running_phase},
};
pub use self::{
    observed::{Daemon, Observed, Program, ProgramSum, Record, StartedWith},
    obstacles::Misfit,
    running::{NOT_READY, REFUSED_MAX, UNANSWERED_PROBES_MAX},
    settings::{Entrance, Membership, Place, SecretFiles},
};
use crate::retries::Retries;

/// What is said of a K3s that ended by itself.
pub const EXITED: &str = "K3sExitedError";

/// For so long data that are not there may yet come: a disk that a machine's start does not wait for,
/// one that asks for its key, is mounted a little later.
pub const LOST_AFTER: Duration = Duration::from_secs(60);

/// Tells one sealed token from another, and says nothing of what is in it: BLAKE3 of the sealed
/// bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenMark(pub [u8; 32]);

/// What the mesh wants of this node's K3s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The stay in a cluster; none if it is to be in none.
    pub stay: Option<Stay>,
}

/// A stay in a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stay {
    /// The entry that began it.
    pub attempt: LogIndex,
    /// Server or agent.
    pub role: K3sRole,
    /// What its settings follow from; why it cannot have any, while it has no place in the
    /// cluster's network or is too small.
    pub membership: Result<Membership, Misfit>,
    /// With which settings of the cluster it is to run.
    pub generation: LogIndex,
    /// Whether the cluster's API has answered.
    pub active: bool,
    /// With which K3s; its version is the cluster's unless it has one.
    pub binary: K3sBinary,
    /// The sealed token that was issued for this stay.
    pub token: Option<TokenMark>,
    /// Whether a K3s that was ready may be changed now.
    pub turn: bool,
    /// Whether it holds the API's address, and somebody else could take it now.
    pub holds_api: bool,
    /// Whether the mesh was told already that it had begun.
    pub begun: bool,
    /// Whether it was ready in this stay, so that there must be data.
    pub settled: bool,
}

/// One thing to do on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write down that this stay begins, before anything of it is on the host.
    Begin {
        /// Which.
        attempt: LogIndex,
    },
    /// Say that it is not ready to hold the API's address, and have pods moved to other nodes. Asked for
    /// again until none is left.
    Vacate,
    /// Let pods come back.
    Return,
    /// Put the program in place and look at what it says its version is.
    Install {
        /// Which.
        binary: K3sBinary,
    },
    /// Make the cluster's secrets.
    MakeSecrets,
    /// Ask the cluster's servers for a token; nothing is done on the host.
    RequestToken,
    /// Open the token and put it in place.
    WriteToken(TokenMark),
    /// Put the settings in place.
    WriteSettings(String),
    /// Start K3s.
    Start(StartedWith),
    /// Stop K3s, leave pods running, start it.
    Restart(StartedWith),
    /// Wait until it is ready.
    Probe,
    /// Stop K3s and what it started.
    Stop,
    /// Take everything off that the stay left: settings, secrets; and, if K3s was started in it, what K3s
    /// left: data, interfaces.
    Clean,
}

/// How far the node is, as the mesh shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Nothing of the stay is there, though it had begun: the disk was lost.
    Lost,
    /// K3s is being looked for or installed, or its cluster is not active yet.
    Installing,
    /// The founder's K3s runs and is not ready.
    Bootstrap,
    /// It asks for the token.
    JoinRequest,
    /// K3s runs and is not ready.
    Starting,
    /// K3s is ready.
    Ready {
        /// Its version.
        version: String,
        /// With which settings of the cluster.
        generation: LogIndex,
    },
    /// It is being stopped and taken off.
    Leaving,
    /// Nothing of it is there.
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
    files: &SecretFiles,
    retries: &Retries,
) -> Plan {
    let plan = match &desired.stay {
        Some(stay) => plan_towards(stay, observed, files, retries),
        None => plan_away(observed),
    };
    match &plan.step {
        Some(step) => gate(step, observed.now, retries).unwrap_or(plan),
        None => plan,
    }
}

/// Whether the stay on the host began after the last entry that is known here: what the mesh wants of
/// it is not known then. A node that starts knows the last state that it kept, which may be a little
/// older, and must not take off what it was told to put there.
#[must_use]
pub fn is_behind(observed: &Observed, known: LogIndex) -> bool {
    let record = observed.record.as_ref();
    record.is_some_and(|record| record.attempt > known)
}

/// What K3s left is taken off where shoal started it, else only what shoal itself put there.
fn plan_away(observed: &Observed) -> Plan {
    let started = observed.record.as_ref().is_some_and(|it| it.started);
    match (
        &observed.daemon,
        observed.leftovers || observed.record.is_some(),
    ) {
        (Daemon::Ours { .. }, _) => does(Phase::Leaving, Step::Stop),
        // What it left may be in use by now, unless that one does not run.
        (Daemon::Foreign { pid: Some(pid) }, true) if started => foreign(Some(*pid)),
        (Daemon::Absent | Daemon::Foreign { .. }, true) => does(Phase::Leaving, Step::Clean),
        (Daemon::Absent | Daemon::Foreign { .. }, false) => rests(Phase::Stopped),
    }
}

fn plan_towards(stay: &Stay, observed: &Observed, files: &SecretFiles, retries: &Retries) -> Plan {
    let membership = match &stay.membership {
        Ok(membership) => membership,
        Err(misfit) => return misfits(misfit),
    };
    if let Daemon::Foreign { pid } = observed.daemon {
        return foreign(pid);
    }
    let record = match &observed.record {
        Some(record) if record.attempt == stay.attempt => {
            if let Some(plan) = plan_data(stay, observed, record) {
                return plan;
            }
            record
        }
        // Whatever is there is of an earlier stay: it goes first.
        Some(_) => return plan_away(observed),
        None if observed.data => return strange_data(),
        // Its cluster still knows it as it was, and would not let it in again under its name.
        None if stay.begun => return rests(Phase::Lost),
        None => {
            let attempt = stay.attempt;
            return does(Phase::Installing, Step::Begin { attempt });
        }
    };
    let membership = &entering(membership, stay, record);
    let settings = settings::render(membership, files);
    let runs = is_ready(observed);
    if stays_as_it_is(stay, observed) {
        return plan_running(stay, membership, observed, retries);
    }
    // First of all: a program that is of no use must not cost a node that works its pods.
    let program = match &observed.program {
        Some(program) if is_to_run(program, stay) => program,
        Some(_) | None => return plan_program(stay, observed),
    };
    if runs && differs(stay, observed, &settings) {
        match (observed.vacated, stay.holds_api) {
            (false, _) => return does(running_phase(observed), Step::Vacate),
            // The address goes where it is wanted first.
            (true, true) => return rests(running_phase(observed)),
            (true, false) => {}
        }
    }
    if let Some(plan) = plan_secrets(stay, membership, observed, record) {
        return plan;
    }
    if observed.settings.as_ref() != Some(&settings) {
        return does(not_ready(stay, membership), Step::WriteSettings(settings));
    }
    let wanted = StartedWith {
        settings,
        version: program.version.clone(),
        generation: stay.generation,
        token: stay.token,
        founds: membership.entrance == Entrance::Found,
        sum: program.sum,
    };
    let started_with = match &observed.daemon {
        Daemon::Ours { started_with, .. } => started_with,
        Daemon::Absent | Daemon::Foreign { .. } => {
            return does(not_ready(stay, membership), Step::Start(wanted));
        }
    };
    match started_with {
        Some(started) if started.is_as(&wanted) => {
            plan_running(stay, membership, observed, retries)
        }
        Some(_) | None => does(not_ready(stay, membership), Step::Restart(wanted)),
    }
}

/// What keeps a K3s that does not run from being started on the data that are there, or are not.
fn plan_data(stay: &Stay, observed: &Observed, record: &Record) -> Option<Plan> {
    if observed.daemon != Daemon::Absent {
        return None;
    }
    if !record.started {
        return observed.data.then(strange_data);
    }
    if observed.data {
        return None;
    }
    // Started like this it would be a new node, or a founder would found again.
    match &observed.unmounted {
        Some(place) => Some(disk_away(place)),
        None if !stay.settled => None,
        None if observed.bare_for < LOST_AFTER => Some(rests(Phase::Starting)),
        None => Some(rests(Phase::Lost)),
    }
}

/// A cluster that was active is initialised by nobody any more: a founder whose disk was lost joins
/// the others like anybody else.
fn entering(membership: &Membership, stay: &Stay, record: &Record) -> Membership {
    let founds = membership.entrance == Entrance::Found && (record.founded || !stay.active);
    Membership {
        entrance: if founds {
            Entrance::Found
        } else {
            Entrance::Join
        },
        ..membership.clone()
    }
}

/// Whether the K3s that runs is not to be changed now, whatever it should be.
fn stays_as_it_is(stay: &Stay, observed: &Observed) -> bool {
    let (runs, started) = match &observed.daemon {
        Daemon::Ours {
            started_with,
            ready,
        } => (*ready, started_with.is_some()),
        Daemon::Absent | Daemon::Foreign { .. } => return false,
    };
    if !stay.turn {
        // A moment's silence of one that was ready gives it no turn.
        return runs || (stay.settled && started);
    }
    // Nor is it a reason to stop it with its pods. One that is down is mended.
    !runs && started && !observed.down && !observed.vacated
}

fn plan_program(stay: &Stay, observed: &Observed) -> Plan {
    // One that is ready stays so meanwhile.
    let phase = match is_ready(observed) {
        true => running_phase(observed),
        false => Phase::Installing,
    };
    let binary = stay.binary.clone();
    does(phase, Step::Install { binary })
}

/// Whether a program in place is the one that is to run. A file that was put where it came from counts
/// where K3s is to be changed anyhow, or was never ready: else it would come in by a crash.
const fn is_to_run(program: &Program, stay: &Stay) -> bool {
    let looked_at = stay.turn || !stay.settled;
    program.wanted && !(program.stale && looked_at)
}

/// Whether the K3s that runs is another than it should be.
fn differs(stay: &Stay, observed: &Observed, settings: &str) -> bool {
    let program = observed.program.as_ref().filter(|program| program.wanted);
    let started_with = match &observed.daemon {
        Daemon::Ours { started_with, .. } => started_with.as_ref(),
        Daemon::Absent | Daemon::Foreign { .. } => None,
    };
    let same = |started: &StartedWith, program: &Program| {
        started.settings == settings
            && started.version == program.version
            && is_same(started.sum, program.sum)
            && started.generation == stay.generation
    };
    !started_with
        .zip(program)
        .is_some_and(|(started, program)| same(started, program))
}

/// What has to be there before K3s can be started: a founder's own secrets, or a token from the
/// others.
fn plan_secrets(
    stay: &Stay,
    membership: &Membership,
    observed: &Observed,
    record: &Record,
) -> Option<Plan> {
    if membership.entrance == Entrance::Found {
        return (!observed.secrets).then(|| does(Phase::Installing, Step::MakeSecrets));
    }
    // What it founded it needs no token for.
    if record.founded {
        return None;
    }
    match stay.token {
        Some(mark) if record.token == Some(mark) => None,
        Some(mark) => Some(does(Phase::Starting, Step::WriteToken(mark))),
        None if stay.active => Some(does(Phase::JoinRequest, Step::RequestToken)),
        // The founder is not ready yet; the mesh says when it is.
        None => Some(rests(Phase::Installing)),
    }
}

/// What is shown instead of a step whose pause still runs.
fn gate(step: &Step, now: Time, retries: &Retries) -> Option<Plan> {
    if *step == Step::RequestToken {
        return None;
    }
    let crash = retries.crash(EXITED, "K3s ended without being told to");
    let crash = crash.filter(|_| matches!(step, Step::Start(_)));
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

fn does(phase: Phase, step: Step) -> Plan {
    Plan {
        phase,
        step: Some(step),
    }
}

fn rests(phase: Phase) -> Plan {
    Plan { phase, step: None }
}
