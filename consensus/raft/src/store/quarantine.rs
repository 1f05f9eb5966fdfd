//! Setting a damaged store aside.
//!
//! Decides under which name it is kept. Never removes or changes anything in it: the operator may
//! want to know what happened, or have nothing else left.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use super::{sync_names, take_lock};

/// Renames the store's directory to `DIR.damaged-N`, with the first `N` from 1 on that is free, and
/// gives the new name. The server that joins again does so under a new Raft id, in a new
/// directory.
///
/// # Errors
/// When there is no such directory, a process uses it, or the disk refuses.
pub fn quarantine(dir: &Path) -> io::Result<PathBuf> {
    // Taking the lock would make the file.
    File::open(dir)?;
    let Some(_lock) = take_lock(dir)? else {
        let used = format!("another process uses the store at {}", dir.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, used));
    };
    let mut number = 1;
    let aside = loop {
        let mut name = dir.as_os_str().to_owned();
        name.push(format!(".damaged-{number}"));
        let aside = PathBuf::from(name);
        // A broken link counts as taken too.
        match aside.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => break aside,
            Err(error) => return Err(error),
            Ok(_) => number += 1,
        }
    };
    fs::rename(dir, &aside)?;
    sync_names(&aside)?;
    Ok(aside)
}
