//! Programs on the host.
//!
//! Decides where they are looked for.

use std::{env, path::PathBuf};

/// Looked at after PATH: a daemon's PATH often lacks the sbin directories.
const USUAL_DIRECTORIES: [&str; 6] = [
    "/usr/sbin",
    "/usr/bin",
    "/sbin",
    "/bin",
    "/usr/local/sbin",
    "/usr/local/bin",
];

/// The program of that name.
pub fn find(name: &str) -> Option<PathBuf> {
    search_path()
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// PATH, then the usual directories.
pub fn search_path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let own: Vec<_> = env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .collect();
    own.into_iter()
        .chain(USUAL_DIRECTORIES.iter().map(PathBuf::from))
}
