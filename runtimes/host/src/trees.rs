//! Removing a directory with all that is in it.
//!
//! Never: goes into another mount, nor through a symbolic link below the directory. What is mounted there
//! may be a disk that is none of the caller's; whoever calls unmounts what is his before.
//!
//! Invariant: every directory is opened by its name in the one above it, so that nobody who renames
//! things meanwhile leads the removal elsewhere (openat(2)).

use std::{
    ffi::CStr,
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, StatxAttributes, StatxFlags},
    io::Errno,
};

use crate::files::{FileError, at};

/// File systems hide few entries from who removes others: the second reading is nearly always empty.
const READINGS_MAX: u32 = 10;

/// Removes a directory and all that is in it; none is as good as a removed one. One that something is
/// mounted on, or that a link leads to, is emptied and stays: it was there before.
///
/// # Errors
/// Something could not be removed, or is another mount.
pub fn remove(directory: &Path) -> Result<(), FileError> {
    let fd = match open(rustix::fs::CWD, directory) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(at("open", directory)(error.into())),
    };
    empty(&fd, directory)?;
    if fs::symlink_metadata(directory).is_ok_and(|metadata| metadata.is_symlink()) {
        return Ok(());
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy && is_mount(&fd, directory)? => {
            Ok(())
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(at("remove", directory)(error))
        }
        _ => Ok(()),
    }
}

/// The root is opened through a link, what is below it never.
fn open(above: BorrowedFd<'_>, name: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(above, name, flags, Mode::empty())
}

/// Entries that are removed while a directory is read may hide others: it is read until it is empty. One
/// that somebody fills meanwhile is told as not empty by the removal that follows.
fn empty(directory: &OwnedFd, path: &Path) -> Result<(), FileError> {
    for _ in 0..READINGS_MAX {
        if !remove_entries(directory, path)? {
            break;
        }
    }
    Ok(())
}

/// One reading; whether there was anything.
fn remove_entries(directory: &OwnedFd, path: &Path) -> Result<bool, FileError> {
    let failed = |error: Errno| at("read", path)(error.into());
    let mut any = false;
    for entry in Dir::read_from(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        any = true;
        remove_entry(directory, path, name, entry.file_type())?;
    }
    Ok(any)
}

fn remove_entry(
    directory: &OwnedFd,
    path: &Path,
    name: &CStr,
    kind: FileType,
) -> Result<(), FileError> {
    let below = || below(path, name);
    if !matches!(kind, FileType::Directory | FileType::Unknown) {
        return unlink(directory, name, AtFlags::empty(), &below());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let inner = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(inner) => inner,
        Err(Errno::NOENT) => return Ok(()),
        // It is none, or a link.
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return unlink(directory, name, AtFlags::empty(), &below());
        }
        Err(error) => return Err(at("open", &below())(error.into())),
    };
    let inner_path = below();
    if is_mount(&inner, &inner_path)? {
        let crosses = io::Error::new(io::ErrorKind::CrossesDevices, "something is mounted there");
        return Err(at("remove", &inner_path)(crosses));
    }
    empty(&inner, &inner_path)?;
    unlink(directory, name, AtFlags::REMOVEDIR, &inner_path)
}

/// The device alone does not tell: a subvolume has its own, and a bind mount has none of its own.
fn is_mount(directory: &OwnedFd, path: &Path) -> Result<bool, FileError> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    let seen = rustix::fs::statx(directory, c"", flags, StatxFlags::BASIC_STATS);
    let seen = seen.map_err(|error| at("read", path)(error.into()))?;
    if seen
        .stx_attributes_mask
        .contains(StatxAttributes::MOUNT_ROOT)
    {
        return Ok(seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    // Linux before 5.8 does not say.
    let above = rustix::fs::statx(directory, c"..", flags, StatxFlags::BASIC_STATS);
    let above = above.map_err(|error| at("read", path)(error.into()))?;
    let device = |stat: &rustix::fs::Statx| (stat.stx_dev_major, stat.stx_dev_minor);
    Ok(device(&seen) != device(&above))
}

fn unlink(directory: impl AsFd, name: &CStr, flags: AtFlags, path: &Path) -> Result<(), FileError> {
    match rustix::fs::unlinkat(directory, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(at("remove", path)(error.into())),
    }
}

fn below(path: &Path, name: &CStr) -> PathBuf {
    path.join(name.to_string_lossy().as_ref())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_tree_goes_and_what_its_links_lead_to_stays() {
        let root = tempfile::tempdir().unwrap();
        let outside = root.path().join("outside");
        fs::create_dir_all(outside.join("deep")).unwrap();
        fs::write(outside.join("deep/file"), "x").unwrap();
        let tree = root.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        for number in 0..300 {
            fs::write(tree.join(format!("a/b/{number}")), "x").unwrap();
        }
        symlink(&outside, tree.join("a/link")).unwrap();
        symlink("nowhere", tree.join("dangling")).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.exists());
        assert!(outside.join("deep/file").exists());
        remove(&tree).unwrap();
    }

    #[test]
    fn a_directory_that_a_link_leads_to_is_emptied_and_stays() {
        let root = tempfile::tempdir().unwrap();
        let disk = root.path().join("disk");
        fs::create_dir_all(disk.join("data/more")).unwrap();
        let link = root.path().join("link");
        symlink(&disk, &link).unwrap();
        remove(&link).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(&disk).unwrap().count(), 0);
    }

    #[test]
    fn what_is_mounted_is_told_from_a_directory() {
        let open = |path: &Path| open(rustix::fs::CWD, path).unwrap();
        let proc = Path::new("/proc");
        assert!(is_mount(&open(proc), proc).unwrap());
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("d")).unwrap();
        let inner = root.path().join("d");
        assert!(!is_mount(&open(&inner), &inner).unwrap());
    }

    #[test]
    fn another_mount_is_not_entered() {
        // /dev/shm or /proc/sys/fs/binfmt_misc are not everywhere; /proc is, in /.
        let slash = open(rustix::fs::CWD, Path::new("/")).unwrap();
        let error = remove_entry(&slash, Path::new("/"), c"proc", FileType::Directory);
        let error = error.unwrap_err();
        assert_eq!(error.code(), "HostFileError");
        assert!(error.to_string().contains("/proc"), "{error}");
    }
}
