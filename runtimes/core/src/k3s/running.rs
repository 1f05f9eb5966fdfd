//! A K3s that runs, as it should be.
//!
//! Decides: what is shown of it, and when one that does not get ready, or is so no more, is started again.
//! Never: changes what it was started with.
//!
//! Invariant: one that was ready since it was started is started again only if nobody listens any more where
//! it answers its own host. A cluster that lost its majority, or stands still, answers none of its nodes;
//! another start of all of them mends nothing, and takes away what still works.

use std::time::Duration;

use consensus_core::LogIndex;

use super::{Daemon, Entrance, Membership, Observed, Phase, Plan, Stay, Step, does, rests};
use crate::retries::Retries;

/// What is said of a K3s that does not get ready, or is so no more.
pub const NOT_READY: &str = "K3sNotReadyError";

/// Probes that may fail in a row before a K3s that was never ready is restarted. Each waits for its own
/// deadline, so three are minutes.
pub const UNANSWERED_PROBES_MAX: u32 = 3;

/// For so long its port may refuse every connection before a K3s that was ready is restarted. It listens
/// from its first seconds to its end; one that is between two starts of its supervisor is back in a few.
pub const REFUSED_MAX: Duration = Duration::from_secs(300);

pub(super) fn plan_running(
    stay: &Stay,
    membership: &Membership,
    observed: &Observed,
    retries: &Retries,
) -> Plan {
    if is_ready(observed) {
        let phase = running_phase(observed);
        // Also where the change is not wanted any more, half-way.
        return match observed.vacated || observed.emptying {
            true => does(phase, Step::Return),
            false => rests(phase),
        };
    }
    let phase = silent_phase(stay, membership, observed, retries);
    match &observed.daemon {
        Daemon::Ours {
            started_with: Some(started),
            ..
        } if is_stuck(observed, retries) => does(phase, Step::Restart(started.clone())),
        Daemon::Ours { .. } | Daemon::Absent | Daemon::Foreign { .. } => does(phase, Step::Probe),
    }
}

pub(super) const fn is_ready(observed: &Observed) -> bool {
    matches!(observed.daemon, Daemon::Ours { ready: true, .. })
}

/// Whether another start may mend it.
fn is_stuck(observed: &Observed, retries: &Retries) -> bool {
    match observed.was_ready {
        true => observed.refused_for >= REFUSED_MAX,
        false => retries.unanswered_as(NOT_READY) >= UNANSWERED_PROBES_MAX,
    }
}

/// One that was ready and has not been for long says why, until it is again.
fn silent_phase(
    stay: &Stay,
    membership: &Membership,
    observed: &Observed,
    retries: &Retries,
) -> Phase {
    let failure = retries.lasting().filter(|it| it.code == NOT_READY);
    match failure.filter(|_| observed.was_ready) {
        Some(failure) => Phase::Failed {
            code: failure.code,
            reason: failure.reason.clone(),
            hint: None,
            retry_at: None,
        },
        None => not_ready(stay, membership),
    }
}

/// Ready, with what it was started with; one whose record is gone is shown as the oldest.
pub(super) fn running_phase(observed: &Observed) -> Phase {
    let started_with = match &observed.daemon {
        Daemon::Ours { started_with, .. } => started_with.as_ref(),
        Daemon::Absent | Daemon::Foreign { .. } => None,
    };
    let program = || {
        observed
            .program
            .as_ref()
            .map(|program| program.version.clone())
    };
    Phase::Ready {
        version: started_with
            .map(|started| started.version.clone())
            .or_else(program)
            .unwrap_or_default(),
        generation: started_with.map_or_else(LogIndex::default, |started| started.generation),
    }
}

pub(super) fn not_ready(stay: &Stay, membership: &Membership) -> Phase {
    match (membership.entrance, stay.active) {
        (Entrance::Found, false) => Phase::Bootstrap,
        (Entrance::Found, true) | (Entrance::Join, _) => Phase::Starting,
    }
}
