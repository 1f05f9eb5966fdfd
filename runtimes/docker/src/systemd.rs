//! dockerd as the distribution's docker.service.
//!
//! Decides: what the drop-in says. It clears the packaged `ExecStart`, whose `-H fd://` clashes
//! with `hosts` in the configuration, and names shoal's configuration file.
//! Never: edits the packaged unit.

use std::{path::Path, time::Duration};

use runtimes_host::{
    files::HostFiles,
    process::Identity,
    said::Said,
    units::{self, Refused},
};
use tokio::time::{Instant, sleep};

use crate::{
    install::Engine,
    log_tail,
    paths::Paths,
    readiness::{self, StartError},
};

pub(crate) const UNIT: &str = "docker.service";
/// Starts the unit when somebody connects.
const SOCKET: &str = "docker.socket";
const DROP_IN_MODE: u32 = 0o644;
/// The journal has a process's last words within milliseconds of its end.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(1);
/// How often they are looked for.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// The drop-in's text.
fn drop_in(dockerd: &Path, config: &Path) -> String {
    format!(
        "# Written by shoal; removed when docker-engine is unassigned.\n\
         [Service]\n\
         ExecStart=\n\
         ExecStart={} --config-file {}\n",
        dockerd.display(),
        config.display()
    )
}

/// The unit's main process, if it runs.
///
/// # Errors
/// systemd did not say.
pub(crate) async fn main_process() -> Result<Option<Identity>, Refused> {
    units::main_process(UNIT).await
}

/// Writes the drop-in and (re)starts the unit.
pub(crate) async fn start(
    engine: &Engine,
    paths: &Paths,
    files: &HostFiles,
    said: &Said,
) -> Result<Identity, StartError> {
    let text = drop_in(&engine.dockerd, &paths.daemon_json);
    files.write(&paths.drop_in, text.as_bytes(), DROP_IN_MODE)?;
    units::tell(&["daemon-reload"]).await?;
    // Forgets the start limit that earlier failures may have used up; nothing to forget is fine.
    units::ask(&["reset-failed", UNIT]).await?;
    if let Err(refused) = units::tell(&["restart", UNIT]).await {
        return Err(last_words(said).await.unwrap_or_else(|| refused.into()));
    }
    match main_process().await? {
        Some(identity) => Ok(identity),
        // It ended as soon as it was up.
        None => Err(last_words(said).await.unwrap_or_else(|| readiness::why(""))),
    }
}

/// Why dockerd ended, in its own words; systemctl only tells that it did.
async fn last_words(said: &Said) -> Option<StartError> {
    let deadline = Instant::now() + LAST_WORDS_WITHIN;
    loop {
        let words = said.text().await;
        if log_tail::complains(&words) {
            return Some(readiness::why(&words));
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(POLL_EVERY).await;
    }
}

/// Stops the unit and its socket, which would start it again.
pub(crate) async fn stop() -> Result<(), StartError> {
    // Not every distribution's package has the socket.
    units::ask(&["stop", SOCKET]).await?;
    Ok(units::tell(&["stop", UNIT]).await?)
}

/// Lets systemd forget a drop-in that was removed.
pub(crate) async fn forget_drop_in() -> Result<(), StartError> {
    Ok(units::tell(&["daemon-reload"]).await?)
}

impl From<Refused> for StartError {
    fn from(refused: Refused) -> Self {
        Self::Exec {
            program: format!("systemctl {}", refused.what),
            reason: refused.reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drop_in_clears_the_packaged_command_first() {
        let text = drop_in(
            Path::new("/usr/sbin/dockerd"),
            Path::new("/etc/shoal/docker/daemon.json"),
        );
        assert!(text.contains(
            "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd --config-file /etc/shoal/docker/daemon.json\n"
        ));
        assert!(!text.contains("fd://"));
    }
}
