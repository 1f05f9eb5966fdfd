//! What is mounted where, as this process sees it.
//!
//! Decides: below which mount a path lies. Never: mounts or unmounts anything.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::files::{FileError, at};

/// proc_pid_mountinfo(5).
const MOUNTS: &str = "/proc/self/mountinfo";

/// Where something is mounted, in the order in which it was.
///
/// # Errors
/// /proc could not be read.
pub fn places() -> Result<Vec<PathBuf>, FileError> {
    let path = Path::new(MOUNTS);
    let text = fs::read_to_string(path).map_err(at("read", path))?;
    Ok(in_text(&text))
}

/// Where the file system is mounted that the path is on, or would be once it is made.
///
/// # Errors
/// /proc could not be read.
pub fn place_of(path: &Path) -> Result<PathBuf, FileError> {
    let path = resolved(path);
    let places = places()?.into_iter();
    let above = places.filter(|place| path.starts_with(place));
    let nearest = above.max_by_key(|place| place.components().count());
    Ok(nearest.unwrap_or_else(|| PathBuf::from("/")))
}

/// The path with all symbolic links followed, as far as it exists.
pub fn resolved(path: &Path) -> PathBuf {
    for existing in path.ancestors() {
        if let Ok(found) = fs::canonicalize(existing) {
            let rest = path.strip_prefix(existing).unwrap_or(Path::new(""));
            return found.components().chain(rest.components()).collect();
        }
    }
    path.to_owned()
}

/// The fifth field of each line.
fn in_text(text: &str) -> Vec<PathBuf> {
    let places = text.lines().filter_map(|line| line.split(' ').nth(4));
    places.map(|place| unescaped(place).into()).collect()
}

/// Characters that would end a field are written as three octal digits.
fn unescaped(field: &str) -> String {
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        // Last: what it yields is no escape.
        ("\\134", "\\"),
    ];
    let replaced = escapes.into_iter();
    replaced.fold(field.to_owned(), |text, (escape, character)| {
        text.replace(escape, character)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blank_in_a_mounts_place_is_read() {
        let text = "22 1 0:21 / /proc rw - proc proc rw\n40 1 0:35 / /run/a\\040b rw,nosuid shared:5 - tmpfs tmpfs rw\n";
        let places = in_text(text);
        assert_eq!(places, [Path::new("/proc"), Path::new("/run/a b")]);
    }

    #[test]
    fn a_path_that_is_not_there_yet_lies_where_it_would_be_made() {
        assert_eq!(
            place_of(Path::new("/proc/nowhere/at")).unwrap(),
            Path::new("/proc")
        );
        assert!(places().unwrap().contains(&PathBuf::from("/")));
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("a/b");
        assert_eq!(place_of(&below).unwrap(), place_of(root.path()).unwrap());
    }

    #[test]
    fn a_link_is_followed_before_it_is_said_where_something_lies() {
        let root = tempfile::tempdir().unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink("/proc", &link).unwrap();
        assert_eq!(place_of(&link.join("nowhere")).unwrap(), Path::new("/proc"));
        assert_eq!(resolved(&link.join("x/y")), Path::new("/proc/x/y"));
    }
}
