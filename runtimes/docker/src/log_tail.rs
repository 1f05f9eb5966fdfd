//! What dockerd said last.
//!
//! Decides which lines tell why dockerd ended.

use runtimes_host::exec::last_bytes;

/// How long a reason may be in an error.
const REASON_BYTES_MAX: usize = 500;

/// The line that tells why dockerd ended: the last one that is a complaint, else the last.
pub(crate) fn reason(said: &str) -> String {
    let lines = || said.lines().rev().filter(|line| !line.trim().is_empty());
    let complaint = lines().find(|line| is_complaint(line));
    let line = complaint.or_else(|| lines().next());
    let line = line.unwrap_or("its log is empty").trim();
    last_bytes(line, REASON_BYTES_MAX).to_owned()
}

/// Whether any line tells why dockerd ended.
pub(crate) fn complains(said: &str) -> bool {
    said.lines()
        .any(|line| !line.trim().is_empty() && is_complaint(line))
}

fn is_complaint(line: &str) -> bool {
    let levelled = line.starts_with("time=");
    !levelled && !line.starts_with("Status:")
        || line.contains("level=fatal")
        || line.contains("level=error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_complaint_is_the_reason() {
        let said = "time=\"x\" level=info msg=\"Starting up\"\nfailed to start daemon: no room\ntime=\"x\" level=info msg=\"bye\"\n";
        assert_eq!(reason(said), "failed to start daemon: no room");
        assert_eq!(reason(""), "its log is empty");
    }
}
