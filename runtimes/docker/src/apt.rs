//! Packages through apt-get.
//!
//! Decides: how apt-get is asked, so that it neither asks back nor starts what it installs.
//! Never: adds a repository, upgrades what is installed, starts dockerd (`policy-rc.d`, Debian
//! Policy 9.3.3: shoal alone starts it, with its own configuration).

use std::{path::Path, time::Duration};

use runtimes_host::{
    exec::{self, Answer},
    files::{FileError, HostFiles},
};

use crate::{install::InstallError, paths::Paths};

/// Fetching 70 MB over a slow line and unpacking it on a slow disk.
const INSTALL_WITHIN: Duration = Duration::from_secs(15 * 60);
/// Fetching the package lists.
const UPDATE_WITHIN: Duration = Duration::from_secs(5 * 60);
/// Another package run (unattended-upgrades) is waited for so long.
const LOCK_TIMEOUT: &str = "DPkg::Lock::Timeout=300";
/// Answers "forbidden" to every start.
const POLICY_RC: &str =
    "#!/bin/sh\n# Written by shoal while it installs Docker; removed afterwards.\nexit 101\n";

/// Installs packages.
pub(crate) async fn install(
    apt_get: &Path,
    packages: &[&str],
    paths: &Paths,
    files: &HostFiles,
) -> Result<(), InstallError> {
    let forbids_starts = forbid_starts(paths, files)?;
    let installed = install_or_update_first(apt_get, packages).await;
    if forbids_starts {
        files.remove(&paths.policy_rc)?;
    }
    installed
}

/// An administrator's own policy stays; it is theirs to decide.
fn forbid_starts(paths: &Paths, files: &HostFiles) -> Result<bool, FileError> {
    if paths.policy_rc.exists() {
        return Ok(false);
    }
    files.write(&paths.policy_rc, POLICY_RC.as_bytes(), 0o755)?;
    Ok(true)
}

async fn install_or_update_first(apt_get: &Path, packages: &[&str]) -> Result<(), InstallError> {
    let mut arguments = vec![
        "-y",
        "-q",
        "--no-install-recommends",
        "-o",
        LOCK_TIMEOUT,
        "-o",
        "Dpkg::Options::=--force-confdef",
        "-o",
        "Dpkg::Options::=--force-confold",
        "install",
    ];
    arguments.extend(packages);
    let first = ask(apt_get, &arguments, INSTALL_WITHIN).await?;
    if first.success {
        return Ok(());
    }
    // Lists may be missing or name versions that the archive no longer has.
    let update = ask(
        apt_get,
        &["-q", "-o", LOCK_TIMEOUT, "update"],
        UPDATE_WITHIN,
    )
    .await?;
    if !update.success {
        return Err(failed("apt-get update", update));
    }
    let second = ask(apt_get, &arguments, INSTALL_WITHIN).await?;
    if second.success {
        Ok(())
    } else {
        let what = format!("apt-get install {}", packages.join(" "));
        Err(failed(&what, second))
    }
}

async fn ask(apt_get: &Path, arguments: &[&str], within: Duration) -> Result<Answer, InstallError> {
    let quiet = [
        ("DEBIAN_FRONTEND", "noninteractive"),
        ("NEEDRESTART_MODE", "l"),
        ("LC_ALL", "C"),
    ];
    Ok(exec::run(apt_get, arguments, &quiet, within).await?)
}

fn failed(program: &str, answer: Answer) -> InstallError {
    InstallError::PackageManager {
        program: program.to_owned(),
        output: answer.tail,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn paths_in(root: &Path) -> Paths {
        Paths {
            policy_rc: root.join("policy-rc.d"),
            ..Paths::under(root)
        }
    }

    #[tokio::test]
    async fn a_failed_installation_says_what_apt_said_and_leaves_no_policy_behind() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths_in(root.path());
        let files = HostFiles::listed_in(paths.manifest());
        let apt = root.path().join("apt-get");
        fs::write(&apt, "#!/bin/sh\necho E: no such package; exit 100\n").unwrap();
        fs::set_permissions(&apt, fs::Permissions::from_mode(0o755)).unwrap();
        let error = install(&apt, &["docker.io"], &paths, &files)
            .await
            .unwrap_err();
        assert_eq!(error.code(), "PackageManagerError");
        assert!(error.to_string().contains("E: no such package"));
        assert!(!paths.policy_rc.exists());
    }

    #[test]
    fn an_administrators_policy_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let paths = paths_in(root.path());
        let files = HostFiles::listed_in(paths.manifest());
        fs::write(&paths.policy_rc, "theirs").unwrap();
        assert!(!forbid_starts(&paths, &files).unwrap());
        assert_eq!(fs::read_to_string(&paths.policy_rc).unwrap(), "theirs");
    }
}
