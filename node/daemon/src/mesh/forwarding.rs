//! What a hub's kernel is told: to forward between the peers of one overlay interface.
//!
//! Decides what is allowed: packets that come in by the overlay may leave by it, or go to this
//! node's own containers as before, and nowhere else. Switching IPv6 forwarding on makes Linux
//! ignore router advertisements and pass packets on between all interfaces: advertisements are
//! kept for interfaces that follow them, and transit between others is dropped by a rule of this
//! node's own, unless forwarding was on before.
//!
//! Never: takes anything back that was on before, touches another table of nftables.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};

/// Where the kernel's network settings are.
const SETTINGS: &str = "/proc/sys/net";
/// Loading a few rules takes tens of milliseconds.
const WITHIN: Duration = Duration::from_secs(10);
/// Where this node's own containers are.
const LOCAL: &str = "\"lo\", \"docker0\", \"cni0\", \"br-*\", \"flannel*\"";

/// What marks a table whose hub switched IPv6 forwarding on.
const TRANSIT: &str = "meta nfproto ipv6";

/// Why a hub does not forward.
#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardingError {
    #[error("the kernel setting {path:?} cannot be changed, so this node is no hub")]
    Setting { path: PathBuf, source: io::Error },
    #[error("{program} cannot be run, so this node is no hub")]
    NotRun {
        program: &'static str,
        source: io::Error,
    },
    #[error("{program} refused the rules of a hub: {reason}")]
    Refused {
        program: &'static str,
        reason: String,
    },
}

/// Has the kernel forward between the peers of the network's interface.
pub(super) async fn allow(handle: &str) -> Result<(), ForwardingError> {
    let interface = format!("shoal-{handle}");
    let ipv6 = Path::new(SETTINGS).join("ipv6/conf/all/forwarding");
    // A daemon before this one may have switched it on, and left its rules.
    let ours = run("nft", &["list", "table", "inet", &table(handle)], "").await;
    let was_on = fs::read_to_string(&ipv6).is_ok_and(|text| text.trim() != "0")
        && !ours.is_ok_and(|rules| rules.contains(TRANSIT));
    // The rules first: nothing passes that they would have dropped.
    run("nft", &["-f", "-"], &rules(handle, &interface, was_on)).await?;
    set(&format!("ipv4/conf/{interface}/forwarding"), "1")?;
    set(&format!("ipv4/conf/{interface}/send_redirects"), "0")?;
    if !was_on {
        keep_advertisements()?;
        set("ipv6/conf/all/forwarding", "1")?;
    }
    for program in ["iptables", "ip6tables"] {
        accept_beside_docker(program, &interface).await?;
    }
    tracing::info!(
        interface,
        "this node forwards between nodes that cannot be dialled"
    );
    Ok(())
}

/// Interfaces that follow router advertisements go on doing so on a router (ip-sysctl, accept_ra).
fn keep_advertisements() -> Result<(), ForwardingError> {
    let folder = Path::new(SETTINGS).join("ipv6/conf");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path().join("accept_ra");
        if fs::read_to_string(&path).is_ok_and(|text| text.trim() == "1") {
            write(path, "2")?;
        }
    }
    Ok(())
}

fn set(setting: &str, value: &str) -> Result<(), ForwardingError> {
    let path = Path::new(SETTINGS).join(setting);
    match fs::read_to_string(&path) {
        Ok(text) if text.trim() == value => Ok(()),
        Ok(_) | Err(_) => write(path, value),
    }
}

fn write(path: PathBuf, value: &str) -> Result<(), ForwardingError> {
    fs::write(&path, value).map_err(|source| ForwardingError::Setting { path, source })
}

/// A table of the hub's own. With `was_on`, transit between other interfaces is somebody else's
/// choice.
fn rules(handle: &str, interface: &str, was_on: bool) -> String {
    let table = table(handle);
    let transit = if was_on {
        String::new()
    } else {
        format!(
            "    {TRANSIT} iifname != {{ {LOCAL}, {interface:?} }} oifname != {{ {LOCAL}, {interface:?} }} counter drop\n"
        )
    };
    format!(
        "add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n  chain forward {{\n    type filter hook forward priority filter; policy accept;\n    iifname {interface:?} oifname != {{ {LOCAL}, {interface:?} }} counter drop\n{transit}  }}\n}}\n"
    )
}

fn table(handle: &str) -> String {
    format!("shoal_{}_hub", handle.replace('-', "_"))
}

/// dockerd has the chain FORWARD drop what it does not know. Where there is no such program there
/// is no such chain.
async fn accept_beside_docker(
    program: &'static str,
    interface: &str,
) -> Result<(), ForwardingError> {
    let rule = ["-i", interface, "-o", interface, "-j", "ACCEPT"];
    let with = |verb| {
        let mut arguments = vec!["-w", verb, "FORWARD"];
        arguments.extend(rule);
        arguments
    };
    match run(program, &with("-C"), "").await {
        Ok(_) => Ok(()),
        Err(ForwardingError::NotRun { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(())
        }
        Err(_) => run(program, &with("-I"), "").await.map(drop),
    }
}

/// What the program wrote.
async fn run(
    program: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<String, ForwardingError> {
    let conversation = async {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let not_run = |source| ForwardingError::NotRun { program, source };
    let output = timeout(WITHIN, conversation)
        .await
        .map_err(|_| not_run(io::ErrorKind::TimedOut.into()))?
        .map_err(not_run)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(ForwardingError::Refused {
        program,
        reason: reason.lines().next().unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_by_the_overlay_leaves_by_it_or_stays() {
        let text = rules("default", "shoal-default", true);
        assert!(text.contains(
            "iifname \"shoal-default\" oifname != { \"lo\", \"docker0\", \"cni0\", \"br-*\", \"flannel*\", \"shoal-default\" } counter drop"
        ));
        assert!(
            !text.contains("nfproto"),
            "transit was allowed before: {text}"
        );
    }

    #[test]
    fn switching_forwarding_on_lets_nobody_else_through() {
        let text = rules("default", "shoal-default", false);
        assert!(text.contains("meta nfproto ipv6 iifname !="), "{text}");
    }
}
