//! Where the host's own Docker keeps its data.
//!
//! Decides: what counts as the same place as ours. Never: changes anything, or reads more than the file that
//! dockerd reads by itself; who gives it another on its command line is not seen.

use std::{
    fs,
    path::{Path, PathBuf},
};

use runtimes_core::daemon_json::{DataElsewhere, data_root_of};

use crate::paths::Paths;

/// Where that is, if not where shoal's dockerd has its own. A file that is not there, or with which no dockerd
/// would start, says nothing.
pub(crate) fn elsewhere(paths: &Paths) -> Option<DataElsewhere> {
    let text = fs::read_to_string(&paths.host_daemon_json).ok()?;
    let theirs = data_root_of(&text)?;
    let is_ours = resolved(Path::new(&theirs)) == resolved(&paths.data_root);
    (!is_ours).then(|| DataElsewhere {
        file: paths.host_daemon_json.display().to_string(),
        theirs,
        ours: paths.data_root.display().to_string(),
    })
}

/// A link to a place is that place.
fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_another_place_is_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let paths = Paths {
            host_daemon_json: at("daemon.json"),
            data_root: at("ours"),
            ..Paths::under(root.path())
        };
        let named = |place: &str| {
            let place = at(place).display().to_string();
            let text = serde_json::json!({"data-root": place}).to_string();
            fs::write(&paths.host_daemon_json, text).unwrap();
            elsewhere(&paths)
        };
        assert_eq!(elsewhere(&paths), None);
        // Neither is there yet.
        assert_eq!(named("ours/"), None);
        let found = named("theirs").unwrap();
        assert_eq!(found.file, at("daemon.json").display().to_string());
        assert_eq!(found.theirs, at("theirs").display().to_string());
        assert_eq!(found.ours, at("ours").display().to_string());
        fs::create_dir(at("theirs")).unwrap();
        symlink(at("theirs"), at("ours")).unwrap();
        assert_eq!(named("theirs"), None);
        fs::write(&paths.host_daemon_json, "{\"data-root\":").unwrap();
        assert_eq!(elsewhere(&paths), None);
    }
}
