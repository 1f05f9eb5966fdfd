//! How a command fails.
//!
//! Decides: the exit code of every failure. Invariant: whatever is shown to an operator has a
//! code, a message and a hint.

use std::{error::Error, io, process::ExitCode};

use node_api::{ApiError, EndpointError};

/// How the process ends. Scripts rely on the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It was done.
    Done = 0,
    /// It was refused, or failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No daemon can be reached.
    Unreachable = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Whoever read the output has seen enough.
    OutputClosed,
    /// Something that the operator is told.
    Refused(Box<ApiError>),
}

/// An error of this program that an operator can be told.
pub(crate) trait Explained: Error {
    /// Stable; programs match on it.
    fn code(&self) -> &'static str;
    /// What to do about it.
    fn hint(&self) -> String;
}

impl<E: Explained> From<E> for Failure {
    fn from(error: E) -> Self {
        let told = ApiError::new(error.code(), error.to_string(), error.hint());
        Self::from(match error.source() {
            Some(source) => told.caused_by(source),
            None => told,
        })
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Refused(Box::new(error))
    }
}

impl From<EndpointError> for Failure {
    fn from(error: EndpointError) -> Self {
        ApiError::from(error).into()
    }
}

/// The exit code that goes with an error's code.
pub(crate) fn exit_of(error: &ApiError) -> Exit {
    match error.code.as_str() {
        "UsageError" | "EndpointInvalidError" => Exit::Usage,
        "DaemonUnreachableError" => Exit::Unreachable,
        _ => Exit::Failed,
    }
}

/// Whether the mesh may answer again by itself: an election, a server that starts again, a
/// connection that was cut.
pub(crate) fn passes(error: &ApiError) -> bool {
    matches!(
        error.code.as_str(),
        "NoMajorityError"
            | "NotReadyError"
            | "NodeUnreachableError"
            | "NoAnswerError"
            | "ConnectionLostError"
            | "DaemonUnreachableError"
    )
}

/// The command line asks for something that makes no sense.
pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> ApiError {
    ApiError::new("UsageError", message, hint)
}

/// Standard output or standard error cannot be written to.
pub(crate) fn output(error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::OutputClosed;
    }
    ApiError::new(
        "OutputError",
        "the answer could not be written",
        "the command itself was carried out; check where its output goes",
    )
    .caused_by(error)
    .into()
}

/// The operating system gives no event loop.
pub(crate) fn no_runtime(error: &io::Error) -> Failure {
    ApiError::new(
        "InternalError",
        "the program could not start its event loop",
        "check the limit on open files (`ulimit -n`)",
    )
    .caused_by(error)
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_usage_and_unreachable_from_refusal() {
        for (code, exit) in [
            ("NodeNotFoundError", Exit::Failed),
            ("TlsError", Exit::Failed),
            ("UsageError", Exit::Usage),
            ("EndpointInvalidError", Exit::Usage),
            ("DaemonUnreachableError", Exit::Unreachable),
        ] {
            assert_eq!(exit_of(&ApiError::new(code, "", "")), exit, "{code}");
        }
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let closed = output(&io::ErrorKind::BrokenPipe.into());
        assert!(matches!(closed, Failure::OutputClosed));
        let full = output(&io::ErrorKind::StorageFull.into());
        assert!(matches!(full, Failure::Refused(error) if error.code == "OutputError"));
    }
}
