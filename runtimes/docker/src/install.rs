//! Finding the engine, or installing it.
//!
//! Decides: which programs an engine consists of, where they are looked for, and when the package
//! manager is asked. A given binary is used as it is.
//! Never: downloads a script, replaces a program that is there.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use runtimes_core::version::{EngineVersion, VersionRefused};

use runtimes_host::{
    exec::{self, ExecError},
    files::{FileError, HostFiles},
    programs::find,
};

use crate::{apt, paths::Paths};

/// What dockerd cannot run without, besides itself.
const COMPANIONS: [&str; 3] = ["containerd", "runc", "iptables"];
/// `dockerd --version` takes tens of milliseconds; this is for a machine that swaps.
const VERSION_WITHIN: Duration = Duration::from_secs(20);

/// The engine on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// The dockerd program.
    pub dockerd: PathBuf,
    /// Its version.
    pub version: EngineVersion,
}

/// The engine cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Programs are missing and shoal cannot install them.
    #[error("{} missing and {because}", missing.join(", "))]
    RuntimeMissing {
        /// The programs.
        missing: Vec<String>,
        /// Why they were not installed.
        because: &'static str,
    },
    /// The package manager failed.
    #[error("{program} failed: {output}")]
    PackageManager {
        /// Its name and what it was to do.
        program: String,
        /// The end of what it printed.
        output: String,
    },
    /// dockerd is there and of no use.
    #[error("{} cannot be used", dockerd.display())]
    Unusable {
        /// The program.
        dockerd: PathBuf,
        /// Why not.
        source: VersionRefused,
    },
    /// A program could not be run.
    #[error("cannot run the engine's programs: {reason}")]
    Exec {
        /// Which one, and why.
        reason: String,
    },
    /// A file on the host.
    #[error(transparent)]
    File(#[from] FileError),
}

impl From<ExecError> for InstallError {
    fn from(error: ExecError) -> Self {
        Self::Exec {
            reason: error.to_string(),
        }
    }
}

impl InstallError {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::RuntimeMissing { .. } => "RuntimeMissingError",
            Self::PackageManager { .. } => "PackageManagerError",
            Self::Unusable { .. } => "RuntimeVersionError",
            Self::Exec { .. } => "RuntimeExecError",
            Self::File(error) => error.code(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::RuntimeMissing { .. } => {
                "install Docker 20.10 or newer and iptables with the host's package manager, or give the path of a dockerd in shoald's configuration".to_owned()
            }
            Self::PackageManager { .. } => {
                "run `apt-get update && apt-get install docker.io iptables` on the host and look at what it says".to_owned()
            }
            Self::Unusable { .. } => "upgrade Docker on the host to 20.10 or newer".to_owned(),
            Self::Exec { .. } => "run `dockerd --version` on the host".to_owned(),
            Self::File(error) => error.hint(),
        }
    }
}

/// Programs that were found, or names of those that were not.
pub(crate) fn locate(given: Option<&Path>) -> Result<PathBuf, Vec<String>> {
    let dockerd = match given {
        Some(path) => path.exists().then(|| path.to_owned()),
        None => find("dockerd"),
    };
    let beside = dockerd.as_deref().and_then(Path::parent);
    let mut missing: Vec<_> = COMPANIONS
        .iter()
        .filter(|name| {
            let there = beside.is_some_and(|directory| directory.join(name).exists());
            !there && find(name).is_none()
        })
        .map(|name| (*name).to_owned())
        .collect();
    match dockerd {
        Some(dockerd) if missing.is_empty() => Ok(dockerd),
        Some(_) => Err(missing),
        None => {
            let name = given.map_or("dockerd".into(), |path| path.display().to_string());
            missing.insert(0, name);
            Err(missing)
        }
    }
}

/// The engine that is installed, with its version.
pub(crate) async fn inspect(dockerd: PathBuf) -> Result<Engine, InstallError> {
    let answer = exec::run(&dockerd, &["--version"], &[], VERSION_WITHIN).await?;
    match EngineVersion::from_dockerd_output(&answer.stdout) {
        Ok(version) => Ok(Engine { dockerd, version }),
        Err(source) => Err(InstallError::Unusable { dockerd, source }),
    }
}

/// Finds the engine, and installs what is missing if that is allowed and possible.
pub(crate) async fn install(
    paths: &Paths,
    files: &HostFiles,
    given: Option<&Path>,
    allowed: bool,
) -> Result<Engine, InstallError> {
    let missing = match locate(given) {
        Ok(dockerd) => return inspect(dockerd).await,
        Err(missing) => missing,
    };
    let refuse = |missing, because| Err(InstallError::RuntimeMissing { missing, because });
    if given.is_some_and(|path| !path.exists()) {
        return refuse(missing, "the configuration names that path");
    }
    if !allowed {
        return refuse(missing, "the configuration forbids installing packages");
    }
    if !rustix::process::geteuid().is_root() {
        return refuse(missing, "shoald is not root");
    }
    let Some(apt_get) = find("apt-get") else {
        return refuse(missing, "there is no apt-get");
    };
    apt::install(&apt_get, packages(&missing), paths, files).await?;
    match locate(given) {
        Ok(dockerd) => inspect(dockerd).await,
        Err(missing) => refuse(missing, "the packages did not bring them"),
    }
}

/// Debian's packages for these programs. docker.io conflicts with docker-ce, so it is asked for
/// only where there is no dockerd at all.
fn packages(missing: &[String]) -> &'static [&'static str] {
    if missing.iter().any(|name| name == "dockerd") {
        &["docker.io", "iptables"]
    } else if missing
        .iter()
        .any(|name| name == "containerd" || name == "runc")
    {
        &["containerd", "runc", "iptables"]
    } else {
        &["iptables"]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_binary_that_is_not_there_is_named() {
        let missing = locate(Some(Path::new("/nowhere/dockerd"))).unwrap_err();
        assert_eq!(missing[0], "/nowhere/dockerd");
    }

    #[tokio::test]
    async fn a_given_binary_that_is_not_there_is_never_replaced_by_a_package() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::under(root.path());
        let files = HostFiles::listed_in(paths.manifest());
        let given = Path::new("/nowhere/dockerd");
        let error = install(&paths, &files, Some(given), true)
            .await
            .unwrap_err();
        assert_eq!(error.code(), "RuntimeMissingError");
        assert!(error.to_string().contains("/nowhere/dockerd"));
        assert!(!files.any());
    }

    #[test]
    fn docker_io_is_asked_for_only_where_there_is_no_dockerd() {
        let missing = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(packages(&missing(&["dockerd"])), ["docker.io", "iptables"]);
        assert_eq!(packages(&missing(&["iptables"])), ["iptables"]);
    }
}
