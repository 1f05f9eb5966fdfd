//! A restart of dockerd that no client of its TCP port sees as a failure.
//!
//! Decides: while dockerd is away, packets that open a connection to its port are dropped rather
//! than refused. TCP asks again after a second (RFC 6298, 2.1), by when dockerd listens again: a
//! client waits where it would have failed. Requests under way are given time to end first.
//! Never: outlives shoald. The rule is an element with a timeout in a set of the kernel, so that a
//! shoald that dies in the middle leaves a port that opens by itself.
//!
//! Without nftables a restart works all the same, and is seen.

use std::{path::Path, process::Stdio, time::Duration};

use runtimes_core::daemon_json::TLS_PORT;
use runtimes_host::programs;
use tokio::{
    io::AsyncWriteExt as _,
    process::Command,
    time::{Instant, sleep, timeout},
};

/// The port opens by itself after so long, whatever became of shoald: longer than any restart but
/// one with thousands of containers, whose clients then are refused.
const PAUSE_AT_MOST_S: u32 = 60;
/// Requests that are answered at all are answered within this; what follows a log or waits for a
/// container's end is not waited for.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// How often it is looked whether they have ended.
const POLL_EVERY: Duration = Duration::from_millis(15);
/// Loading a table takes tens of milliseconds.
const NFT_WITHIN: Duration = Duration::from_secs(10);
/// Ours alone.
const TABLE: &str = "shoal_dockerd_pause";
/// `ESTABLISHED` and `SYN_RECV` in /proc/net/tcp: whoever got in, and who is about to.
const OPEN: [&str; 2] = ["01", "03"];
/// So often in a row nobody must be connected: a connection may be between two states.
const QUIET_POLLS: u32 = 4;

/// New connections wait until this is ended, or until the kernel ends it.
#[derive(Debug)]
pub(crate) struct Pause {
    stands: bool,
}

impl Pause {
    /// Holds new connections back and waits for the requests under way.
    pub(crate) async fn begin() -> Self {
        let stands = match run_nft(&rules()).await {
            Ok(()) => true,
            Err(reason) => {
                tracing::warn!(
                    reason,
                    "dockerd restarts without nftables: clients are refused meanwhile"
                );
                false
            }
        };
        if stands {
            drained(Path::new("/proc/net")).await;
        }
        Self { stands }
    }

    /// Lets new connections in.
    pub(crate) async fn end(self) {
        if self.stands
            && let Err(reason) = run_nft(&absence()).await
        {
            tracing::warn!(reason, "the pause of dockerd's port ends only by itself");
        }
    }
}

/// Deleting a table that is not there is an error, adding one that is there is not.
fn absence() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}

fn rules() -> String {
    format!(
        "{}table inet {TABLE} {{\n\tset paused {{\n\t\ttype inet_service\n\t\tflags timeout\n\t\t\
         elements = {{ {TLS_PORT} timeout {PAUSE_AT_MOST_S}s }}\n\t}}\n\tchain input {{\n\t\ttype \
         filter hook input priority filter - 5; policy accept;\n\t\ttcp dport @paused tcp flags & \
         (syn | ack) == syn drop\n\t}}\n}}\n",
        absence()
    )
}

async fn run_nft(rules: &str) -> Result<(), String> {
    let program = programs::find("nft").ok_or("the program nft is not installed")?;
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
    match timeout(NFT_WITHIN, conversation).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(said.lines().next().unwrap_or("no reason given").to_owned())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("nft does not end".to_owned()),
    }
}

/// Waits until nobody is connected to the port, as long as it pays.
async fn drained(net: &Path) {
    let deadline = Instant::now() + DRAIN_WITHIN;
    let mut quiet = 0;
    while quiet < QUIET_POLLS && Instant::now() < deadline {
        quiet = if connected(net) == 0 { quiet + 1 } else { 0 };
        sleep(POLL_EVERY).await;
    }
}

/// Connections to dockerd's port on this host.
fn connected(net: &Path) -> usize {
    ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(net.join(table)).ok())
        .map(|table| table.lines().filter(|line| is_to_dockerd(line)).count())
        .sum()
}

/// proc(5): `sl local_address rem_address st …`, addresses as hexadecimal with `:PORT`.
fn is_to_dockerd(line: &str) -> bool {
    let mut fields = line.split_whitespace().skip(1);
    let local = fields.next().unwrap_or_default();
    let state = fields.nth(1).unwrap_or_default();
    let port = local
        .rsplit_once(':')
        .and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
    port == Some(TLS_PORT) && OPEN.contains(&state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_established_connections_to_the_port_count() {
        let net = tempfile::tempdir().unwrap();
        let head = "  sl  local_address rem_address   st tx_queue rx_queue\n";
        // 0948 is 2376; 0A listens, 01 is established, 06 waits after its end.
        let v6 = "   0: 0000000000000000FFFF00000100007F:0948 00000000000000000000000000000000:0000 0A 0 0\n   \
                  1: 000000000000000000000000010000FD:0948 000000000000000000000000020000FD:9C40 01 0 0\n   \
                  2: 000000000000000000000000010000FD:0948 000000000000000000000000020000FD:9C41 06 0 0\n   \
                  3: 000000000000000000000000010000FD:9C42 000000000000000000000000020000FD:0948 01 0 0\n";
        std::fs::write(net.path().join("tcp6"), format!("{head}{v6}")).unwrap();
        std::fs::write(net.path().join("tcp"), head).unwrap();
        assert_eq!(connected(net.path()), 1);
    }

    #[test]
    fn the_rule_ends_by_itself() {
        let rules = rules();
        assert!(rules.contains("2376 timeout 60s"), "{rules}");
        assert!(
            rules.contains("tcp flags & (syn | ack) == syn drop"),
            "{rules}"
        );
    }
}
