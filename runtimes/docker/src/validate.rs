//! Whether dockerd would accept a configuration, asked before it is put in place.
//!
//! Decides: how to ask. dockerd 23 and newer has `--validate`. An older one is given the file and
//! a flag with an impossible value: it reads and checks the whole file, then gives up on the flag
//! before it touches anything. Any other complaint is about the file.

use std::{path::Path, time::Duration};

use runtimes_core::docker::ConfigFiles;
use serde_json::Value;

use runtimes_host::{
    exec::{self, ExecError},
    files::{FileError, HostFiles},
};

use crate::{install::Engine, paths::Paths};

/// dockerd answers in tens of milliseconds; this is for a machine that swaps.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// The first series with `--validate`.
const VALIDATE_SINCE: u16 = 23;
/// Flags with an impossible value, the key they stand for, and the complaint about it. The first
/// one that the file does not set is used: both at once would be a complaint of its own.
const IMPOSSIBLE: [(&str, &str, &str); 2] = [
    (
        "--max-concurrent-downloads=-1",
        "max-concurrent-downloads",
        "invalid max concurrent downloads: -1",
    ),
    (
        "--max-concurrent-uploads=-1",
        "max-concurrent-uploads",
        "invalid max concurrent uploads: -1",
    ),
];
/// Key and certificate texts are no secrets, the key is written elsewhere.
const PUBLIC_MODE: u32 = 0o644;

/// The configuration was not put in place.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// dockerd does not accept it; the files in place are unchanged.
    #[error("dockerd refuses the configuration: {complaint}")]
    Refused {
        /// What dockerd says.
        complaint: String,
    },
    /// dockerd could not be asked.
    #[error("dockerd cannot be asked about the configuration: {reason}")]
    Exec {
        /// Why not.
        reason: String,
    },
    /// A file on the host.
    #[error(transparent)]
    File(#[from] FileError),
}

impl From<ExecError> for ConfigError {
    fn from(error: ExecError) -> Self {
        Self::Exec {
            reason: error.to_string(),
        }
    }
}

impl ConfigError {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "InvalidDaemonConfigError",
            Self::Exec { .. } => "RuntimeExecError",
            Self::File(error) => error.code(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Refused { .. } => {
                "correct the daemon.json override; dockerd keeps running as it was".to_owned()
            }
            Self::Exec { .. } => "run `dockerd --version` on the host".to_owned(),
            Self::File(error) => error.hint(),
        }
    }
}

/// Checks the files and puts them in place: certificates first, the configuration that names
/// them last.
pub(crate) async fn write_config(
    engine: &Engine,
    paths: &Paths,
    files: &HostFiles,
    wanted: &ConfigFiles,
) -> Result<(), ConfigError> {
    let candidate = paths.daemon_json.with_extension("json.candidate");
    files.write(&candidate, wanted.daemon_json.as_bytes(), PUBLIC_MODE)?;
    let accepted = check(engine, &candidate, &wanted.daemon_json).await;
    files.remove(&candidate)?;
    accepted?;
    files.write(&paths.tls_ca(), wanted.ca_pem.as_bytes(), PUBLIC_MODE)?;
    files.write(&paths.tls_cert(), wanted.chain_pem.as_bytes(), PUBLIC_MODE)?;
    files.write(
        &paths.daemon_json,
        wanted.daemon_json.as_bytes(),
        PUBLIC_MODE,
    )?;
    Ok(())
}

async fn check(engine: &Engine, candidate: &Path, text: &str) -> Result<(), ConfigError> {
    let file = candidate.display().to_string();
    if engine.version.major >= VALIDATE_SINCE {
        let arguments = ["--validate", "--config-file", &file];
        let answer = exec::run(&engine.dockerd, &arguments, &[], ANSWER_WITHIN).await?;
        return if answer.success {
            Ok(())
        } else {
            Err(refused(&answer.tail))
        };
    }
    let document: Value =
        serde_json::from_str(text).map_err(|error| refused(&error.to_string()))?;
    let unused = |key: &str| document.get(key).is_none();
    let Some((flag, _, expected)) = IMPOSSIBLE.iter().find(|(_, key, _)| unused(key)) else {
        // Both are set: nothing to ask with. dockerd's own start is the check.
        return Ok(());
    };
    let arguments = ["--config-file", &file, flag];
    let answer = exec::run(&engine.dockerd, &arguments, &[], ANSWER_WITHIN).await?;
    if answer.tail.contains(expected) {
        Ok(())
    } else {
        Err(refused(&answer.tail))
    }
}

/// dockerd's last line, without the name of a file that is already gone.
pub(crate) fn refused(tail: &str) -> ConfigError {
    let line = tail.lines().last().unwrap_or("it says nothing").trim();
    let complaint = match line.split_once(".candidate: ") {
        Some((_, complaint)) => complaint,
        None => line,
    };
    ConfigError::Refused {
        complaint: complaint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_complaint_is_told_without_the_name_of_the_candidate() {
        let error = refused(
            "unable to configure the Docker daemon with file /etc/shoal/docker/daemon.json.candidate: the following directives don't match any configuration option: foo",
        );
        assert_eq!(
            error.to_string(),
            "dockerd refuses the configuration: the following directives don't match any configuration option: foo"
        );
    }
}
