//! What went wrong between this process and a daemon, as an operator should read it.
//!
//! Decides: the code, the words and the hint of every failure that is not the daemon's own answer.

use std::{error::Error, io, path::Path, time::Duration};

use super::{Authority, Endpoint};
use crate::ApiError;

/// No daemon could be asked.
const UNREACHABLE: &str = "DaemonUnreachableError";
const HINT_START: &str = "start it with `shoal run --config /etc/shoal/shoald.toml`, or name \
                          another socket with --connect unix:///PATH";
const HINT_OVERLAY: &str = "is shoald running there, and is this machine in the same network of \
                            the mesh? `shoal status` on the node itself tells";
const HINT_UNKNOWN_OUTCOME: &str = "whether the command took effect is unknown: look (`shoal \
                                    status`, `shoal events`) before giving it again";

pub(super) fn unix(path: &Path, error: &io::Error) -> ApiError {
    let (path, kind) = (path.display(), error.kind());
    let (message, hint) = if kind == io::ErrorKind::NotFound {
        let message = format!("no daemon listens on {path}: no such socket");
        (message, HINT_START)
    } else if kind == io::ErrorKind::ConnectionRefused {
        let message = format!("no daemon listens on {path}: the socket is left over from one");
        (message, HINT_START)
    } else if kind == io::ErrorKind::PermissionDenied {
        let message = format!("this user may not open the daemon's socket {path}");
        (message, "use sudo, or --connect to another daemon")
    } else {
        (format!("no daemon can be reached on {path}"), HINT_START)
    };
    ApiError::new(UNREACHABLE, message, hint).caused_by(error)
}

pub(super) fn tcp(authority: &Authority, error: &io::Error) -> ApiError {
    let message = format!("no daemon can be reached at https://{authority}");
    ApiError::new(UNREACHABLE, message, HINT_OVERLAY).caused_by(error)
}

pub(super) fn connect_timeout(authority: &Authority, wait: Duration) -> ApiError {
    let seconds = wait.as_secs();
    let message = format!("nothing answered at https://{authority} within {seconds} s");
    ApiError::new(UNREACHABLE, message, HINT_OVERLAY)
}

pub(super) fn handshake(authority: &Authority, error: &io::Error) -> ApiError {
    match tls_error(error) {
        Some(error) => tls(authority, error),
        None => tcp(authority, error),
    }
}

/// A request failed after the connection stood.
pub(super) fn exchange(endpoint: &Endpoint, error: &hyper::Error) -> ApiError {
    // With TLS 1.3 a server refuses the client's certificate after the handshake ended.
    if let (Endpoint::Https { authority, .. }, Some(error)) = (endpoint, tls_error(error)) {
        return tls(authority, error);
    }
    if error.is_user() {
        return ApiError::new(
            "UploadError",
            "the data to be sent could not be read to its end",
            "nothing was created; check the file and try again",
        )
        .caused_by(error);
    }
    ApiError::new(
        "ConnectionLostError",
        format!("the daemon at {endpoint} broke off before it had answered"),
        HINT_UNKNOWN_OUTCOME,
    )
    .caused_by(error)
}

/// An answer ended in the middle.
pub(super) fn cut(error: &(dyn Error + 'static)) -> ApiError {
    ApiError::new(
        "ConnectionLostError",
        "the daemon broke off in the middle of its answer",
        HINT_UNKNOWN_OUTCOME,
    )
    .caused_by(error)
}

pub(super) fn no_answer(wait: Duration) -> ApiError {
    let seconds = wait.as_secs();
    ApiError::new(
        "NoAnswerError",
        format!("the daemon did not answer within {seconds} s"),
        HINT_UNKNOWN_OUTCOME,
    )
}

/// Something answered, but not in this API's words.
pub(super) fn unexpected(what: String) -> ApiError {
    ApiError::new(
        "UnexpectedAnswerError",
        what,
        "shoal and shoald may be of different versions: compare `shoal --version` with `shoald \
         --version`",
    )
}

fn tls(authority: &Authority, error: &rustls::Error) -> ApiError {
    let (message, hint) = if matches!(error, rustls::Error::AlertReceived(_)) {
        (
            format!("the daemon at https://{authority} does not accept this certificate"),
            "the certificate in --tls-dir must be an operator's, of the daemon's mesh, in force \
             and not revoked: `shoal operator renew` makes one",
        )
    } else if matches!(error, rustls::Error::InvalidCertificate(_)) {
        (
            format!(
                "what answers at https://{authority} is no node of this mesh with that address"
            ),
            "check the address and --tls-dir; if both are right, someone else answers there",
        )
    } else {
        (
            format!("no secure connection to https://{authority} came about"),
            "check that a shoald of this mesh answers at that address and port",
        )
    };
    ApiError::new("TlsError", message, hint).caused_by(error)
}

/// The TLS error among an error and its sources.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An io::Error's source is the source of what it wraps, so the wrapped one is passed over.
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        if let Some(found) = wrapped.and_then(|wrapped| wrapped.downcast_ref()) {
            return Some(found);
        }
        next = error.source();
    }
    None
}
