//! `shoal run`: becomes the daemon.
//!
//! Decides: where `shoald` is. Never: what its arguments mean; they pass through untouched.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
};

use crate::failure::Explained;

/// The daemon's program.
const DAEMON: &str = "shoald";

/// Run the daemon, shoald, in the foreground
///
/// Everything after `run` goes to `shoald run` as it is, --help included.
#[derive(Debug, clap::Args)]
#[command(
    disable_help_flag = true,
    override_usage = "shoal run --config FILE [OPTIONS OF shoald run]..."
)]
pub(crate) struct Run {
    /// Arguments of `shoald run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("there is no {DAEMON}, neither beside this program nor in PATH")]
    NotFound,
    #[error("{} cannot be run", program.display())]
    NotRunnable { program: PathBuf, source: io::Error },
}

impl Explained for RunError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotFound => "DaemonProgramNotFoundError",
            Self::NotRunnable { .. } => "DaemonProgramError",
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::NotFound => "install shoald beside shoal (both come from `cargo build`)".into(),
            Self::NotRunnable { .. } => "check that it is an executable for this machine".into(),
        }
    }
}

/// Cuts the arguments after `run`, if that is the command: the parser would take `--help` and
/// `--json` for its own.
pub(crate) fn split_off(mut args: Vec<OsString>) -> (Vec<OsString>, Option<Vec<OsString>>) {
    let mut at = 1;
    while let Some(arg) = args.get(at).and_then(|arg| arg.to_str()) {
        at += 1;
        match arg {
            "run" => {
                let rest = args.split_off(at);
                return (args, Some(rest));
            }
            "--connect" | "--tls-dir" => at += 1,
            option if option.starts_with('-') => {}
            _ => break,
        }
    }
    (args, None)
}

/// Replaces this process by the daemon; returns only if that fails.
pub(crate) fn exec(args: &[OsString]) -> RunError {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join(DAEMON)))
        .filter(|program| program.is_file());
    let program = beside.unwrap_or_else(|| Path::new(DAEMON).to_owned());
    let source = Command::new(&program).arg("run").args(args).exec();
    match source.kind() == io::ErrorKind::NotFound && program == Path::new(DAEMON) {
        true => RunError::NotFound,
        false => RunError::NotRunnable { program, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> (String, Option<String>) {
        let join = |args: Vec<OsString>| args.join(" ".as_ref()).into_string().unwrap();
        let (args, rest) = split_off(line.split(' ').map(Into::into).collect());
        (join(args), rest.map(join))
    }

    #[test]
    fn whatever_follows_run_is_the_daemons() {
        assert_eq!(
            split("shoal --json --connect x run --help --json -- run"),
            (
                "shoal --json --connect x run".into(),
                Some("--help --json -- run".into())
            )
        );
        assert_eq!(
            split("shoal run"),
            ("shoal run".into(), Some(String::new()))
        );
    }

    #[test]
    fn other_commands_that_say_run_are_left_alone() {
        for line in [
            "shoal docker run n image",
            "shoal --connect run status",
            "shoal",
        ] {
            assert_eq!(split(line), (line.to_owned(), None));
        }
    }
}
