//! Programs that are run to their end.
//!
//! Decides: what of their output is kept. Every run has a deadline.

use std::{ffi::OsStr, path::Path, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt, process::Command};

/// How much of a program's output an error carries.
const OUTPUT_KEPT_BYTES: usize = 2000;

/// What a program answered.
#[derive(Debug)]
pub struct Answer {
    /// Whether its exit code was 0.
    pub success: bool,
    /// What it printed there.
    pub stdout: String,
    /// The end of what it printed, both streams.
    pub tail: String,
}

/// A program could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It was not started.
    #[error("cannot run {program}")]
    Spawn {
        /// Its name.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It was killed.
    #[error("{program} did not end within {within:?}")]
    Deadline {
        /// Its name.
        program: String,
        /// How long it had.
        within: Duration,
    },
}

/// Runs a program; one that misses its deadline is killed.
pub async fn run<S: AsRef<OsStr>>(
    program: &Path,
    arguments: &[S],
    environment: &[(&str, &str)],
    within: Duration,
) -> Result<Answer, ExecError> {
    let name = || program.display().to_string();
    let output = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(within, output)
        .await
        .map_err(|_| ExecError::Deadline {
            program: name(),
            within,
        })?
        .map_err(|source| ExecError::Spawn {
            program: name(),
            source,
        })?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let both = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    Ok(Answer {
        success: output.status.success(),
        tail: last_bytes(both.trim(), OUTPUT_KEPT_BYTES).to_owned(),
        stdout,
    })
}

/// Gives a program something to read, and waits for its end.
///
/// # Errors
/// It could not be run, did not end in time, or its exit code was not 0.
pub async fn feed(
    program: &Path,
    arguments: &[&str],
    input: &[u8],
    within: Duration,
) -> Result<(), ExecError> {
    let name = || program.display().to_string();
    let failed = |source| ExecError::Spawn {
        program: name(),
        source,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let stdin = child.stdin.take();
    let fed = async {
        if let Some(mut stdin) = stdin {
            stdin.write_all(input).await?;
        }
        child.wait_with_output().await
    };
    let late = |_| ExecError::Deadline {
        program: name(),
        within,
    };
    let output = tokio::time::timeout(within, fed).await.map_err(late)?;
    let output = output.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(std::io::Error::other(
        last_bytes(said.trim(), OUTPUT_KEPT_BYTES).to_owned(),
    )))
}

/// The end of a text, cut at a character.
pub fn last_bytes(text: &str, bytes: usize) -> &str {
    let mut start = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(last_bytes("aé", 1), "");
        assert_eq!(last_bytes("aé", 2), "é");
        assert_eq!(last_bytes("aé", 9), "aé");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_ended_at_its_deadline() {
        let error = run(Path::new("sleep"), &["60"], &[], Duration::from_millis(50))
            .await
            .unwrap_err();
        assert!(matches!(error, ExecError::Deadline { .. }));
    }
}
