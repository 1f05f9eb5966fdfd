//! systemd, by its own program.
//!
//! Decides: how long systemctl may take. Its refusals are told in its own words.

use std::{path::Path, time::Duration};

use crate::{
    exec::{self, Answer},
    process::Identity,
    programs,
};

/// `restart` waits for Type=notify, that is for all of a daemon's own start.
const SYSTEMCTL_WITHIN: Duration = Duration::from_secs(180);

/// systemctl could not be run, or refused.
#[derive(Debug, thiserror::Error)]
#[error("systemctl {what}: {reason}")]
pub struct Refused {
    /// What it was to do.
    pub what: String,
    /// Why it did not.
    pub reason: String,
}

/// Whether systemd is PID 1.
pub fn runs(marker: &Path) -> bool {
    marker.is_dir()
}

/// A unit's main process, if it runs. Between two starts of one that fails again and again none does.
///
/// # Errors
/// systemd did not say: that is not the same as none.
pub async fn main_process(unit: &str) -> Result<Option<Identity>, Refused> {
    let arguments = ["show", "--property=MainPID", "--value", unit];
    let answer = ask(&arguments).await?;
    if !answer.success {
        return Err(Refused {
            what: arguments.join(" "),
            reason: answer.tail,
        });
    }
    Ok(main_pid(&answer.stdout).and_then(Identity::of))
}

/// systemd says 0 where there is none.
pub fn main_pid(shown: &str) -> Option<u32> {
    shown.trim().parse().ok().filter(|pid| *pid != 0)
}

/// Has systemctl do something.
///
/// # Errors
/// It could not be run, or its exit code was not 0.
pub async fn tell(arguments: &[&str]) -> Result<(), Refused> {
    let answer = ask(arguments).await?;
    if answer.success {
        return Ok(());
    }
    Err(Refused {
        what: arguments.join(" "),
        reason: answer.tail,
    })
}

/// The same, where a refusal means nothing.
///
/// # Errors
/// It could not be run.
pub async fn ask(arguments: &[&str]) -> Result<Answer, Refused> {
    let failed = |reason: String| Refused {
        what: arguments.join(" "),
        reason,
    };
    let program = programs::find("systemctl").ok_or_else(|| failed("it is missing".to_owned()))?;
    exec::run(&program, arguments, &[("LC_ALL", "C")], SYSTEMCTL_WITHIN)
        .await
        .map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_does_not_run_has_no_main_process() {
        assert_eq!(main_pid("0\n"), None);
        assert_eq!(main_pid(""), None);
        assert_eq!(main_pid("812\n"), Some(812));
    }
}
