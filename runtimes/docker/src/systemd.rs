//! dockerd as the distribution's docker.service.
//!
//! Decides: what the drop-in says. It clears the packaged `ExecStart`, whose `-H fd://` clashes
//! with `hosts` in the configuration, and names shoal's configuration file.
//! Never: edits the packaged unit.

use std::{path::Path, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    exec::{self, Answer},
    files::HostFiles,
    install::{self, Engine},
    log_tail::{self, Said},
    paths::Paths,
    process::Identity,
    readiness::{self, StartError},
};

pub(crate) const UNIT: &str = "docker.service";
/// Starts the unit when somebody connects.
const SOCKET: &str = "docker.socket";
/// `restart` waits for Type=notify, that is for all of dockerd's own start.
const SYSTEMCTL_WITHIN: Duration = Duration::from_secs(180);
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
pub(crate) async fn main_process() -> Option<Identity> {
    let answer = systemctl(&["show", "--property=MainPID", "--value", UNIT])
        .await
        .ok()?;
    main_pid(&answer.stdout).and_then(Identity::of)
}

/// systemd says 0 where there is none.
pub(crate) fn main_pid(shown: &str) -> Option<u32> {
    shown.trim().parse().ok().filter(|pid| *pid != 0)
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
    succeed(&["daemon-reload"]).await?;
    // Forgets the start limit that earlier failures may have used up; nothing to forget is fine.
    systemctl(&["reset-failed", UNIT]).await?;
    if let Err(refused) = succeed(&["restart", UNIT]).await {
        return Err(last_words(said).await.unwrap_or(refused));
    }
    match main_process().await {
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
    systemctl(&["stop", SOCKET]).await?;
    succeed(&["stop", UNIT]).await
}

/// Lets systemd forget a drop-in that was removed.
pub(crate) async fn forget_drop_in() -> Result<(), StartError> {
    succeed(&["daemon-reload"]).await
}

async fn succeed(arguments: &[&str]) -> Result<(), StartError> {
    let answer = systemctl(arguments).await?;
    if answer.success {
        Ok(())
    } else {
        Err(StartError::Exec {
            program: format!("systemctl {}", arguments.join(" ")),
            reason: answer.tail,
        })
    }
}

async fn systemctl(arguments: &[&str]) -> Result<Answer, StartError> {
    let failed = |reason: String| StartError::Exec {
        program: "systemctl".to_owned(),
        reason,
    };
    let program = install::find("systemctl").ok_or_else(|| failed("it is missing".to_owned()))?;
    exec::run(&program, arguments, &[("LC_ALL", "C")], SYSTEMCTL_WITHIN)
        .await
        .map_err(|error| failed(error.to_string()))
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

    #[test]
    fn a_unit_that_does_not_run_has_no_main_process() {
        assert_eq!(main_pid("0\n"), None);
        assert_eq!(main_pid(""), None);
        assert_eq!(main_pid("812\n"), Some(812));
    }
}
