//! What a unit's processes said, where systemd keeps it.
//!
//! Decides: which entries are a daemon's own words. systemd's remarks about the unit would pass for
//! its complaints, and containers may log to the journal too.

use std::{path::Path, time::Duration};

use crate::{exec, programs};

/// Reading some hundred lines takes milliseconds; a journal of gigabytes on a slow disk, seconds.
const JOURNALCTL_WITHIN: Duration = Duration::from_secs(10);
/// Lines that are searched for the reason of an end.
const LINES_MAX: &str = "200";
/// How journalctl introduces a cursor.
const CURSOR: &str = "-- cursor: ";

/// Where the journal ends now; `None` if it is empty or cannot be read.
pub async fn end() -> Option<String> {
    let answer = journalctl(&["--lines=1", "--show-cursor"]).await?;
    cursor(&answer)
}

/// What the unit's processes printed after that place; `None` if the journal cannot be read.
pub async fn since(unit: &str, after: Option<&str>) -> Option<String> {
    let lines = format!("--lines={LINES_MAX}");
    let unit = format!("_SYSTEMD_UNIT={unit}");
    let after = after.map(|cursor| format!("--after-cursor={cursor}"));
    let mut arguments = vec![lines.as_str(), unit.as_str(), "_TRANSPORT=stdout"];
    arguments.extend(after.as_deref());
    journalctl(&arguments).await
}

/// The place that journalctl shows after the entries.
pub fn cursor(shown: &str) -> Option<String> {
    let found = shown.lines().find_map(|line| line.strip_prefix(CURSOR));
    found.map(|cursor| cursor.trim().to_owned())
}

async fn journalctl(arguments: &[&str]) -> Option<String> {
    let program = programs::find("journalctl")?;
    let mut all = vec!["--quiet", "--no-pager", "--output=cat", "--boot"];
    all.extend(arguments);
    run(&program, &all).await
}

async fn run(program: &Path, arguments: &[&str]) -> Option<String> {
    let answer = exec::run(program, arguments, &[("LC_ALL", "C")], JOURNALCTL_WITHIN).await;
    match answer {
        Ok(answer) if answer.success => Some(answer.stdout),
        Ok(answer) => {
            tracing::debug!(reason = answer.tail, "the journal cannot be read");
            None
        }
        Err(error) => {
            tracing::debug!(%error, "the journal cannot be read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cursor_is_told_from_the_entry_before_it() {
        let shown = "Started docker.service.\n-- cursor: s=9f;i=2a;b=11\n";
        assert_eq!(cursor(shown).as_deref(), Some("s=9f;i=2a;b=11"));
        assert_eq!(cursor("-- No entries --\n"), None);
    }
}
