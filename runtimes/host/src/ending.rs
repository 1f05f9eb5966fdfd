//! Ending a process.
//!
//! Decides: how long one is asked before it is killed. Never: leaves one behind that it reported as
//! ended.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::process::Identity;

/// How often an end is looked for.
const POLL_EVERY: Duration = Duration::from_millis(15);
/// A killed process is gone at once, unless the kernel hangs in a disk.
const KILLED_WITHIN: Duration = Duration::from_secs(5);

/// It outlived SIGKILL.
#[derive(Debug, thiserror::Error)]
#[error("process {pid} does not end, not even when killed")]
pub struct DoesNotEnd {
    /// The process.
    pub pid: u32,
}

/// Asks a process to end, and kills it when it has not within that time.
///
/// # Errors
/// It lives on.
pub async fn end(identity: Identity, within: Duration) -> Result<(), DoesNotEnd> {
    identity.signal(Signal::TERM);
    if ended(identity, within).await {
        return Ok(());
    }
    tracing::warn!(pid = identity.pid, "does not end when asked; killed");
    identity.signal(Signal::KILL);
    if ended(identity, KILLED_WITHIN).await {
        return Ok(());
    }
    Err(DoesNotEnd { pid: identity.pid })
}

/// Asks all of them to end, at once, and kills those that have not within that time.
///
/// # Errors
/// One lives on.
pub async fn end_all(identities: &[Identity], within: Duration) -> Result<(), DoesNotEnd> {
    send(identities, Signal::TERM);
    let rest = outliving(identities, within).await;
    if rest.is_empty() {
        return Ok(());
    }
    tracing::warn!(count = rest.len(), "do not end when asked; killed");
    send(&rest, Signal::KILL);
    match outliving(&rest, KILLED_WITHIN).await.first() {
        Some(identity) => Err(DoesNotEnd { pid: identity.pid }),
        None => Ok(()),
    }
}

fn send(identities: &[Identity], signal: Signal) {
    for identity in identities {
        identity.signal(signal);
    }
}

/// Those that live when the time is up.
async fn outliving(identities: &[Identity], within: Duration) -> Vec<Identity> {
    let deadline = Instant::now() + within;
    let mut rest = identities.to_vec();
    loop {
        rest.retain(|identity| identity.lives());
        if rest.is_empty() || Instant::now() >= deadline {
            return rest;
        }
        sleep(POLL_EVERY).await;
    }
}

async fn ended(identity: Identity, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while identity.lives() {
        if Instant::now() >= deadline {
            return false;
        }
        sleep(POLL_EVERY).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, kill_process_group};
    use tokio::{
        io::AsyncReadExt,
        process::{Child, Command},
    };

    use super::*;

    /// A process that does not end when asked.
    fn stubborn() -> Child {
        let script = "trap '' TERM; echo; while :; do sleep 86397 & wait; done";
        let mut command = Command::new("sh");
        command.args(["-c", script]).process_group(0);
        command.stdout(std::process::Stdio::piped());
        command.kill_on_drop(true).spawn().unwrap()
    }

    /// Waits until it has said that it does not listen.
    async fn deaf(child: &mut Child) -> Identity {
        let mut line = [0; 1];
        let said = child.stdout.as_mut().unwrap().read_exact(&mut line).await;
        said.unwrap();
        Identity::of(child.id().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn those_that_do_not_listen_are_killed_and_those_that_ended_are_no_trouble() {
        let (mut one, mut other) = (stubborn(), stubborn());
        let mut listens = Command::new("sleep").arg("86397").spawn().unwrap();
        let all = [
            deaf(&mut one).await,
            deaf(&mut other).await,
            Identity::of(listens.id().unwrap()).unwrap(),
        ];
        end_all(&all, Duration::from_millis(50)).await.unwrap();
        assert!(all.iter().all(|identity| !identity.lives()));
        end_all(&all, Duration::from_millis(50)).await.unwrap();
        listens.wait().await.unwrap();
        for identity in &all[..2] {
            // What the shell itself waited for.
            let group = i32::try_from(identity.pid).ok().and_then(Pid::from_raw);
            let _ = kill_process_group(group.unwrap(), Signal::KILL);
        }
    }
}
