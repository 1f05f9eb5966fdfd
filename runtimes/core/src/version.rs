//! What a container engine says its version is.
//!
//! Decides: how `dockerd --version` reads and which versions are too old.
//! The oldest engine shoal runs is 20.10: Debian 12's, and the first with live-restore under
//! cgroup v2.

use std::fmt;

/// The oldest series that shoal drives.
pub const OLDEST: (u16, u16) = (20, 10);

/// A container engine's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineVersion {
    /// First number: 20 in `20.10.24`.
    pub major: u16,
    /// Second number: 10 in `20.10.24`.
    pub minor: u16,
    /// The whole text, distribution's suffix included.
    pub text: String,
}

/// Why a version is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionRefused {
    /// Not the sentence that dockerd prints.
    #[error("{text:?} does not tell a Docker version")]
    Unreadable {
        /// What was printed.
        text: String,
    },
    /// Older than [`OLDEST`].
    #[error("Docker {version} is older than 20.10")]
    TooOld {
        /// The version found.
        version: EngineVersion,
    },
}

impl EngineVersion {
    /// Reads the first line of `dockerd --version`: `Docker version 20.10.24+dfsg1, build 5d6db84`.
    pub fn from_dockerd_output(output: &str) -> Result<Self, VersionRefused> {
        let unreadable = || VersionRefused::Unreadable {
            text: output.chars().take(120).collect(),
        };
        let text = output
            .lines()
            .next()
            .and_then(|line| line.trim().strip_prefix("Docker version "))
            .and_then(|rest| rest.split([',', ' ']).next())
            .ok_or_else(unreadable)?;
        let mut numbers = text.split(['.', '-', '+']);
        let mut number = || numbers.next().and_then(|part| part.parse::<u16>().ok());
        let (major, minor) = number().zip(number()).ok_or_else(unreadable)?;
        let version = Self {
            major,
            minor,
            text: text.to_owned(),
        };
        if (major, minor) < OLDEST {
            return Err(VersionRefused::TooOld { version });
        }
        Ok(version)
    }
}

impl fmt::Display for EngineVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debians_and_dockers_own_packages_are_read() {
        for (output, text, numbers) in [
            (
                "Docker version 20.10.24+dfsg1, build 5d6db84\n",
                "20.10.24+dfsg1",
                (20, 10),
            ),
            ("Docker version 28.2.2, build 45873be", "28.2.2", (28, 2)),
            (
                "Docker version 26.1.5-rc.1, build a72d7cd",
                "26.1.5-rc.1",
                (26, 1),
            ),
        ] {
            let version = EngineVersion::from_dockerd_output(output).unwrap();
            assert_eq!(version.text, text);
            assert_eq!((version.major, version.minor), numbers);
        }
    }

    #[test]
    fn an_engine_older_than_20_10_is_refused() {
        let old = EngineVersion::from_dockerd_output("Docker version 19.03.15, build 99e3ed8");
        assert!(matches!(old, Err(VersionRefused::TooOld { .. })));
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for bad in [
            "",
            "podman version 4",
            "Docker version",
            "Docker version x.y",
        ] {
            assert!(EngineVersion::from_dockerd_output(bad).is_err(), "{bad}");
        }
    }
}
