//! K3s's data, before it is started on them.
//!
//! Decides: whether there are any that shoal did not put there for it, and whether the disk they were on
//! is mounted. Never: looks into them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use runtimes_core::k3s::Record;
use runtimes_host::{
    files::{FileError, at},
    mounts,
};

use crate::paths::Paths;

/// Where K3s unpacks its own programs, whatever it is asked to do: nothing of a cluster is in there.
const PROGRAMS: &str = "data";
/// Where the images are linked that were named with a program.
const AGENT: &str = "agent";

/// Whether there are any. What cannot be read is not gone: a stay that lost its data is taken off.
pub(crate) fn is_there(paths: &Paths) -> bool {
    let mut entries = match fs::read_dir(&paths.data_dir) {
        Ok(entries) => entries,
        Err(error) => return error.kind() != io::ErrorKind::NotFound,
    };
    entries.any(|entry| {
        let Ok(entry) = entry else { return true };
        let name = entry.file_name();
        name != PROGRAMS && !(name == AGENT && has_only_our_images(&entry.path(), paths))
    })
}

fn has_only_our_images(agent: &Path, paths: &Paths) -> bool {
    // Also one that was cut off beside its place.
    let ours = |path: PathBuf| path.is_symlink() && path.file_stem() == paths.images().file_name();
    let entries = fs::read_dir(agent).map(|entries| entries.map(|entry| Ok(entry?.path())));
    entries.is_ok_and(|mut entries| entries.all(|path: io::Result<_>| path.is_ok_and(ours)))
}

/// Where the disk is mounted that they are on, or will be.
pub(crate) fn disk(paths: &Paths) -> Result<String, FileError> {
    let place = mounts::place_of(&paths.data_dir)?;
    Ok(place.to_string_lossy().into_owned())
}

/// Where nothing is mounted now though a disk with the data of this stay was.
pub(crate) fn unmounted(record: &Record) -> Result<Option<String>, FileError> {
    let Some(disk) = &record.disk else {
        return Ok(None);
    };
    let places = mounts::places()?;
    let mounted = places.iter().any(|place| place.to_string_lossy() == *disk);
    Ok((!mounted).then(|| disk.clone()))
}

/// Takes off what was put here for a K3s that was never started.
pub(crate) fn withdraw(paths: &Paths) -> Result<(), FileError> {
    let images = paths.images();
    if !images.is_symlink() {
        return Ok(());
    }
    fs::remove_file(&images).map_err(at("remove", &images))?;
    // As far as they were made for it: those that are not empty stay.
    let above = images.ancestors().skip(1).take(3);
    let _ = above.map(fs::remove_dir).take_while(Result::is_ok).count();
    Ok(())
}

#[cfg(test)]
mod tests {
    use consensus_core::LogIndex;

    use super::*;
    use crate::images;

    fn scene() -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths {
            data_dir: root.path().join("lib/rancher/k3s"),
            ..Paths::under(root.path())
        };
        fs::create_dir_all(root.path().join("lib/other")).unwrap();
        (root, paths)
    }

    #[test]
    fn what_shoal_linked_and_k3s_unpacked_are_no_data() {
        let (_root, paths) = scene();
        assert!(!is_there(&paths));
        images::link(&paths, "/srv/images").unwrap();
        fs::create_dir_all(paths.data_dir.join("data/ab12/bin")).unwrap();
        assert!(!is_there(&paths));
        fs::create_dir(paths.data_dir.join("agent/etc")).unwrap();
        assert!(is_there(&paths));
        fs::remove_dir(paths.data_dir.join("agent/etc")).unwrap();
        fs::create_dir(paths.data_dir.join("server")).unwrap();
        assert!(is_there(&paths));
    }

    #[test]
    fn data_that_cannot_be_read_are_not_taken_for_lost() {
        let (_root, paths) = scene();
        assert!(!is_there(&paths));
        // As a disk that fails, it is no directory with nothing in it.
        fs::create_dir_all(paths.data_dir.parent().unwrap()).unwrap();
        fs::write(&paths.data_dir, "").unwrap();
        assert!(is_there(&paths));
    }

    #[test]
    fn images_that_somebody_put_there_are_his() {
        let (_root, paths) = scene();
        fs::create_dir_all(paths.images()).unwrap();
        assert!(is_there(&paths));
        withdraw(&paths).unwrap();
        assert!(paths.images().is_dir());
    }

    #[test]
    fn the_link_goes_with_the_directories_that_were_made_for_it() {
        let (root, paths) = scene();
        images::link(&paths, "/srv/images").unwrap();
        withdraw(&paths).unwrap();
        assert!(!root.path().join("lib/rancher").exists());
        assert!(root.path().join("lib/other").exists());
        images::link(&paths, "/srv/images").unwrap();
        fs::create_dir(paths.data_dir.join("server")).unwrap();
        withdraw(&paths).unwrap();
        assert!(paths.data_dir.join("server").exists());
        assert!(!paths.data_dir.join("agent").exists());
    }

    #[test]
    fn a_disk_that_is_not_mounted_is_known_by_where_it_was() {
        let (_root, paths) = scene();
        let record = |disk: Option<String>| Record {
            disk,
            ..Record::of(LogIndex(7))
        };
        let present = record(Some(disk(&paths).unwrap()));
        assert_eq!(unmounted(&present).unwrap(), None);
        assert_eq!(unmounted(&record(None)).unwrap(), None);
        let elsewhere = Some(paths.data_dir.display().to_string());
        assert_eq!(unmounted(&record(elsewhere.clone())).unwrap(), elsewhere);
    }
}
