//! A store opens again after whatever its host went through.
//!
//! Decides nothing more: power cuts that tear unsynced writes are no excuse.
//! Source: the promise of the log (`consensus_log`) and of the snapshot file.

use simulated_raft::OpenError;

/// What a start says that failed.
///
/// # Errors
/// Always: such a start breaks the invariant.
pub fn failed(server: usize, error: &OpenError) -> Result<(), String> {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let story = causes.fold(error.to_string(), |story, cause| {
        format!("{story}: {cause}")
    });
    Err(format!("server {server} did not start: {story}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_does_not_open_is_told_with_all_reasons() {
        let error = OpenError::Raft("it would not".to_owned());
        let told = failed(2, &error).expect_err("it is broken");
        assert!(
            told.contains("server 2") && told.contains("it would not"),
            "{told}"
        );
    }
}
