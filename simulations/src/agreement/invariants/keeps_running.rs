//! Raft goes on until it is told to stop.
//!
//! Decides by what each running server says of itself at the end.
//! Source: `consensus_raft`'s own promise; openraft stops for good after an error of storage.

use simulated_raft::RaftStatus;

/// Looks at a server that runs.
///
/// # Errors
/// When its Raft has stopped.
pub fn check(server: usize, status: &RaftStatus) -> Result<(), String> {
    match &status.failure {
        Some(failure) => Err(format!("Raft stopped on server {server}: {failure}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raft_that_stopped_is_found() {
        let mut status = RaftStatus::default();
        assert_eq!(check(0, &status), Ok(()));
        status.failure = Some("disk".to_owned());
        assert!(check(0, &status).is_err());
    }
}
