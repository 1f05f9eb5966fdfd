//! What an operator is told when something is refused or fails.

use serde::{Deserialize, Serialize};

/// An error as the API answers it and the CLI prints it with `--json`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct ApiError {
    /// Stable; programs match on it.
    pub code: String,
    /// What was wrong, and where.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// What lies behind it, outermost first.
    #[serde(default)]
    pub caused_by: Vec<String>,
}

impl ApiError {
    /// An error without anything behind it.
    pub fn new(
        code: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            hint: hint.into(),
            caused_by: Vec::new(),
        }
    }

    /// Adds an error and its sources.
    #[must_use]
    pub fn caused_by(mut self, error: &dyn std::error::Error) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.caused_by.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// The HTTP status that goes with the code.
    pub fn http_status(&self) -> u16 {
        match self.code.as_str() {
            code if code.ends_with("NotFoundError") => 404,
            "BootstrapTokenUnknownError" => 404,
            "NoMajorityError"
            | "BusyError"
            | "NotReadyError"
            | "NodeUnreachableError"
            | "ClusterUnreachableError"
            | "DockerUnreachableError" => 503,
            "InternalError" => 500,
            // SPEC 5.4: what is there and cannot be had as it is.
            "ClusterInErrorError" | "ClusterBusyError" | "ClusterFixedError" => 409,
            code if code.ends_with("ExistsError")
                || code.ends_with("TakenError")
                || code.ends_with("InUseError") =>
            {
                409
            }
            _ => 422,
        }
    }
}

impl From<consensus_core::Refusal> for ApiError {
    fn from(refusal: consensus_core::Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string(), refusal.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SPEC 5.4 and 5.8.
    #[test]
    fn what_is_refused_of_a_cluster_has_its_own_status() {
        for (code, status) in [
            ("ClusterNotFoundError", 404),
            ("ClusterInErrorError", 409),
            ("ClusterBusyError", 409),
            ("ClusterFixedError", 409),
            ("ClusterNotReadyError", 422),
            ("ClusterAmbiguousError", 422),
            ("ClusterUnreachableError", 503),
        ] {
            let error = ApiError::new(code, "", "");
            assert_eq!(error.http_status(), status, "{code}");
        }
    }
}
