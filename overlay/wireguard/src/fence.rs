//! The fence: overlay addresses take packets from the overlay only.
//!
//! Linux answers for any of its addresses on any interface (the weak host model), so that a
//! machine on the underlay could reach an overlay address, in clear, by routing it to the node.
//! One nftables table per mesh drops such packets in prerouting at raw priority, before any DNAT
//! of published ports.
//!
//! Decides: the rule set. Never: touches another table.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use overlay_core::peers::Cidr;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

/// Interfaces that local containers and pods speak from, besides the host itself: they are the
/// node's own tenants, and reach its overlay address for the API server and the kubelet.
const LOCAL_INTERFACES: [&str; 3] = ["lo", "docker0", "cni0"];

/// Docker's own bridges are called `br-` and twelve digits; nft matches prefixes only.
const LOCAL_INTERFACE_PREFIX: &str = "br-*";

/// Where nft is installed when the daemon's PATH leaves out the system directories.
const SYSTEM_FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// Loading a table takes tens of milliseconds.
const NFT_WITHIN: Duration = Duration::from_secs(10);

/// nft's limit for a table name is 255; this leaves room and keeps names readable.
const HANDLE_CHARS_MAX: usize = 32;

/// Why the fence does not stand.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// A name would not be safe inside the rule set.
    #[error("{0:?} cannot name a fence or an interface in it")]
    InvalidName(String),
    /// There is no nft program.
    #[error("the program nft is not installed")]
    NftMissing,
    /// nft did not run to its end.
    #[error("nft cannot be run")]
    NotRun(#[source] io::Error),
    /// nft refused the rule set.
    #[error("nft refused the rule set: {reason}")]
    Refused {
        /// What nft wrote.
        reason: String,
    },
}

impl FenceError {
    /// Stable name of the failure.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::InvalidName(_) => "FenceNameInvalid",
            Self::NftMissing => "NftMissing",
            Self::NotRun(_) => "NftNotRun",
            Self::Refused { .. } => "NftRefused",
        }
    }

    /// What the operator can do.
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::InvalidName(_) => "use letters, digits, '-' and '_'",
            Self::NftMissing => {
                "install the package nftables; until then machines on the underlay can reach this \
                 node's overlay addresses"
            }
            Self::NotRun(_) | Self::Refused { .. } => {
                "check that the kernel has nf_tables and that shoald has CAP_NET_ADMIN"
            }
        }
    }
}

/// The fence around one mesh's prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    handle: String,
    interface: String,
    prefixes: Vec<Cidr>,
}

impl Fence {
    /// Describes the fence called `handle` that lets packets to `prefixes` in by `interface` only.
    pub fn new(
        handle: &str,
        interface: &str,
        prefixes: impl IntoIterator<Item = Cidr>,
    ) -> Result<Self, FenceError> {
        let plain = |name: &str, extra: &str| {
            !name.is_empty()
                && name.len() <= HANDLE_CHARS_MAX
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
        };
        for (name, extra) in [(handle, "_"), (interface, "_-.")] {
            if !plain(name, extra) {
                return Err(FenceError::InvalidName(name.to_owned()));
            }
        }
        Ok(Self {
            handle: handle.to_owned(),
            interface: interface.to_owned(),
            prefixes: prefixes.into_iter().collect(),
        })
    }

    /// Puts the fence up, in place of an older one of the same name, in one transaction.
    pub async fn install(&self) -> Result<(), FenceError> {
        run_nft(&self.rules()).await
    }

    /// Takes the fence down; it is no failure if there is none.
    pub async fn remove(&self) -> Result<(), FenceError> {
        run_nft(&self.absence()).await
    }

    fn table(&self) -> String {
        format!("shoal_{}", self.handle)
    }

    /// Deleting a table that is not there is an error, adding one that is there is not.
    fn absence(&self) -> String {
        let table = self.table();
        format!("add table inet {table}\ndelete table inet {table}\n")
    }

    fn rules(&self) -> String {
        let mut allowed: Vec<_> = LOCAL_INTERFACES.map(|name| format!("{name:?}")).into();
        allowed.push(format!("{:?}", self.interface));
        let from_outside = format!(
            "iifname != {{ {} }} iifname != {LOCAL_INTERFACE_PREFIX:?}",
            allowed.join(", ")
        );
        let mut text = self.absence();
        text.push_str(&format!(
            "table inet {} {{\n\tchain prerouting {{\n\t\ttype filter hook prerouting priority \
             raw; policy accept;\n",
            self.table()
        ));
        for prefix in &self.prefixes {
            let family = if prefix.address().is_ipv4() {
                "ip"
            } else {
                "ip6"
            };
            text.push_str(&format!(
                "\t\t{from_outside} {family} daddr {prefix} counter drop\n"
            ));
        }
        text.push_str("\t}\n}\n");
        text
    }
}

async fn run_nft(rules: &str) -> Result<(), FenceError> {
    let program = find_nft(std::env::var_os("PATH")).ok_or(FenceError::NftMissing)?;
    let conversation = async {
        let mut child = Command::new(program)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(rules.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = match timeout(NFT_WITHIN, conversation).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(FenceError::NotRun(error)),
        Err(_) => return Err(FenceError::NotRun(io::ErrorKind::TimedOut.into())),
    };
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(FenceError::Refused {
        reason: reason
            .lines()
            .next()
            .unwrap_or("no reason given")
            .to_owned(),
    })
}

fn find_nft(path: Option<std::ffi::OsString>) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = path.iter().flat_map(std::env::split_paths).collect();
    let system = SYSTEM_FOLDERS.iter().map(PathBuf::from);
    folders
        .into_iter()
        .filter(|folder| folder.is_absolute())
        .chain(system)
        .map(|folder| folder.join("nft"))
        .find(|program| Path::is_file(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_set_drops_what_does_not_come_over_the_overlay() {
        let prefixes = ["fd5a::/64", "10.90.0.0/16"].map(|text| text.parse().unwrap());
        let fence = Fence::new("home", "shoal0", prefixes).unwrap();
        let from_outside =
            "iifname != { \"lo\", \"docker0\", \"cni0\", \"shoal0\" } iifname != \"br-*\"";
        let expected = format!(
            "add table inet shoal_home\ndelete table inet shoal_home\ntable inet shoal_home {{\n\
             \tchain prerouting {{\n\
             \t\ttype filter hook prerouting priority raw; policy accept;\n\
             \t\t{from_outside} ip6 daddr fd5a::/64 counter drop\n\
             \t\t{from_outside} ip daddr 10.90.0.0/16 counter drop\n\
             \t}}\n}}\n"
        );
        assert_eq!(fence.rules(), expected);
    }

    #[test]
    fn a_name_that_would_break_out_of_the_rule_set_is_refused() {
        for (handle, interface) in [("a b", "shoal0"), ("a", "x\" accept"), ("", "shoal0")] {
            let error = Fence::new(handle, interface, []).unwrap_err();
            assert_eq!(error.code(), "FenceNameInvalid");
        }
    }

    #[test]
    fn nft_is_looked_up_in_the_path_and_never_in_the_working_folder() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("nft");
        std::fs::write(&program, "").unwrap();
        let path = std::env::join_paths([Path::new("."), folder.path()]).unwrap();
        assert_eq!(find_nft(Some(path)), Some(program));
    }
}
