//! Programs that change the kernel's rules: found, fed, waited for.
//!
//! Decides how long one may take. Never: starts one out of the working folder.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

/// Where programs are installed when the daemon's PATH leaves out the system directories.
const SYSTEM_FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// Loading a few rules takes tens of milliseconds.
const WITHIN: Duration = Duration::from_secs(10);

/// Why a program did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// There is no such program.
    #[error("the program {0} is not installed")]
    Missing(&'static str),
    /// It did not run to its end.
    #[error("{program} cannot be run")]
    NotRun {
        /// Which.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It refused.
    #[error("{program} refused the rules: {reason}")]
    Refused {
        /// Which.
        program: &'static str,
        /// The first line that it wrote.
        reason: String,
    },
}

/// Runs a program with an input; what it wrote.
pub(crate) async fn run(
    program: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<String, ProgramError> {
    let path = find(program, std::env::var_os("PATH")).ok_or(ProgramError::Missing(program))?;
    let conversation = async {
        let mut child = Command::new(path)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let not_run = |source| ProgramError::NotRun { program, source };
    let output = timeout(WITHIN, conversation)
        .await
        .map_err(|_| not_run(io::ErrorKind::TimedOut.into()))?
        .map_err(not_run)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(ProgramError::Refused {
        program,
        reason: reason
            .lines()
            .next()
            .unwrap_or("no reason given")
            .to_owned(),
    })
}

fn find(program: &str, path: Option<OsString>) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = path.iter().flat_map(std::env::split_paths).collect();
    let system = SYSTEM_FOLDERS.iter().map(PathBuf::from);
    folders
        .into_iter()
        .filter(|folder| folder.is_absolute())
        .chain(system)
        .map(|folder| folder.join(program))
        .find(|program| Path::is_file(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_up_in_the_path_and_never_in_the_working_folder() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("nft");
        std::fs::write(&program, "").unwrap();
        let path = std::env::join_paths([Path::new("."), folder.path()]).unwrap();
        assert_eq!(find("nft", Some(path)), Some(program));
    }
}
