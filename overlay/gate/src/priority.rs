//! How urgently the gate's thread runs, and the one that keeps its leases.
//!
//! Decides: the scheduling class and that memory stays in. Neither is needed for safety: a thread
//! that comes late finds the gate shut. They keep a loaded host from losing its address.

use rustix::mm::{MlockAllFlags, mlockall};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// The lowest of the real-time priorities: before every ordinary thread, after whatever else
/// somebody gave one (the kernel's interrupt threads have 50).
const REAL_TIME: u8 = 1;

/// What the thread was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priority {
    /// SCHED_FIFO; else why not, and the thread is an ordinary one.
    pub real_time: Result<(), String>,
    /// The process's memory stays in once it was touched; else why not.
    pub locked: Result<(), String>,
}

/// Asks for both for the calling thread.
pub(crate) fn claim(lock_memory: bool) -> Priority {
    Priority {
        real_time: claim_real_time(),
        locked: if lock_memory {
            // On fault: pages that nobody touches take no memory.
            let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
            mlockall(all).map_err(|errno| errno.to_string())
        } else {
            Err("not asked for".to_owned())
        },
    }
}

/// Has the calling thread, and those that it starts, come before all ordinary ones from now on, like
/// the gate's. Only for threads that work for a moment and then wait.
///
/// # Errors
/// Says why the host does not grant it; the thread stays an ordinary one.
pub fn take_precedence() -> Result<(), String> {
    claim_real_time()
}

fn claim_real_time() -> Result<(), String> {
    let value = ThreadPriorityValue::try_from(REAL_TIME)?;
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let priority = ThreadPriority::Crossplatform(value);
    set_thread_priority_and_policy(thread_native_id(), priority, policy)
        .map_err(|error| format!("{error:?}"))
}
