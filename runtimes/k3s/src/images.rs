//! Images that are there before anything is pulled.
//!
//! Decides: nothing but what a link may take the place of. K3s takes images from a directory below its data
//! before it pulls any (docs.k3s.io: air-gap install). Never: removes a file of that directory.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use runtimes_host::files::{FileError, at};

use crate::paths::Paths;

/// Has K3s take them from the named directory: also where it took them from another one before.
pub(crate) fn link(paths: &Paths, images: &str) -> Result<(), FileError> {
    let link = paths.images();
    if let Some(directory) = link.parent() {
        fs::create_dir_all(directory).map_err(at("make directory", directory))?;
    }
    match fs::read_link(&link) {
        Ok(target) if target == Path::new(images) => return Ok(()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // K3s makes one of its own to look into; with somebody's images in it it stays.
        Err(_) => fs::remove_dir(&link).map_err(at("replace", &link))?,
    }
    let new = beside(&link);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(at("remove", &new)(error));
        }
        _ => {}
    }
    let linked = symlink(images, &new).and_then(|()| fs::rename(&new, &link));
    linked.map_err(at("link", &link))
}

/// Whether K3s takes those that are wanted.
pub(crate) fn are_linked(paths: &Paths, images: Option<&str>) -> bool {
    let linked = |images| fs::read_link(paths.images()).is_ok_and(|it| it == Path::new(images));
    images.is_none_or(linked)
}

fn beside(link: &Path) -> PathBuf {
    link.with_extension("shoal-new")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene() -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths {
            data_dir: root.path().join("k3s"),
            ..Paths::under(root.path())
        };
        (root, paths)
    }

    #[test]
    fn the_last_images_that_were_named_are_taken() {
        let (_root, paths) = scene();
        for images in ["/srv/old", "/srv/new", "/srv/new"] {
            link(&paths, images).unwrap();
            let target = fs::read_link(paths.images()).unwrap();
            assert_eq!(target, Path::new(images));
            assert!(are_linked(&paths, Some(images)) && are_linked(&paths, None));
            assert!(!are_linked(&paths, Some("/srv/other")));
        }
        let directory = paths.images();
        let entries = fs::read_dir(directory.parent().unwrap()).unwrap();
        assert_eq!(entries.count(), 1);
    }

    #[test]
    fn somebodys_own_images_stay_and_an_empty_directory_does_not() {
        let (_root, paths) = scene();
        fs::create_dir_all(paths.images()).unwrap();
        link(&paths, "/srv/new").unwrap();
        fs::remove_file(paths.images()).unwrap();
        fs::create_dir(paths.images()).unwrap();
        let own = paths.images().join("own.tar");
        fs::write(&own, "own").unwrap();
        let error = link(&paths, "/srv/new").unwrap_err();
        assert!(error.to_string().contains("agent/images"), "{error}");
        assert_eq!(fs::read_to_string(own).unwrap(), "own");
    }
}
