//! The version that this program says it is.
//!
//! A test that upgrades needs two binaries that differ in version and hash: whatever stands behind
//! [`MARK`] in the last bytes of the executable, put there with `printf`, replaces the default.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    sync::OnceLock,
};

/// What K3s releases are called.
const DEFAULT: &str = "v1.32.5+k3s1";
/// Begins the trailer. Spelled in two, so that the program's own text is not taken for one.
const MARK: [&str; 2] = ["K3S-STAND-IN-", "VERSION="];
/// Longer than any trailer.
const TAIL_BYTES: i64 = 128;

/// `v1.32.5+k3s1`.
pub(crate) fn kubernetes() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| trailer().unwrap_or_else(|| DEFAULT.to_owned()))
}

fn trailer() -> Option<String> {
    let mut file = File::open("/proc/self/exe").ok()?;
    file.seek(SeekFrom::End(-TAIL_BYTES)).ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    of_tail(&String::from_utf8_lossy(&tail))
}

fn of_tail(tail: &str) -> Option<String> {
    let (_, version) = tail.rsplit_once(&MARK.concat())?;
    let version = version.trim();
    version.starts_with('v').then(|| version.to_owned())
}

/// What `k3s --version` prints, in K3s's form; the commit is none.
pub(crate) fn lines() -> String {
    format!(
        "k3s version {} (00000000)\ngo version go1.23.8\n",
        kubernetes()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trailer_is_the_version() {
        let tail = format!("\u{0}\u{1}{}v1.33.1+k3s1\n", MARK.concat());
        assert_eq!(of_tail(&tail).as_deref(), Some("v1.33.1+k3s1"));
        assert_eq!(of_tail("nothing"), None);
    }
}
