//! What an engine refused, in terms of what was asked for.
//!
//! Decides: which refusal it is, from Docker's status code and, where several share one, from its
//! words (those of 20.10 up to 29).

use bollard::errors::Error as BollardError;

/// An operation on an engine failed.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// There is no such image.
    #[error("there is no image {image:?}")]
    ImageNotFound {
        /// Its name.
        image: String,
    },
    /// There is no such container.
    #[error("there is no container {container:?}")]
    ContainerNotFound {
        /// Its name or id.
        container: String,
    },
    /// A container of that name exists.
    #[error("the name {name:?} is used by another container")]
    NameInUse {
        /// The name.
        name: String,
    },
    /// A published port is taken.
    #[error("a published port is taken: {reason}")]
    PortInUse {
        /// What Docker said.
        reason: String,
    },
    /// A container uses the image.
    #[error("the image {image:?} is in use: {reason}")]
    ImageInUse {
        /// Its name.
        image: String,
        /// What Docker said.
        reason: String,
    },
    /// The container runs.
    #[error("the container {container:?} runs")]
    ContainerRunning {
        /// Its name or id.
        container: String,
    },
    /// The registry cannot be reached or does not let the engine in.
    #[error("the registry does not give {image:?}: {reason}")]
    Registry {
        /// The image.
        image: String,
        /// What Docker said.
        reason: String,
    },
    /// What was asked for makes no sense.
    #[error("invalid request: {reason}")]
    Invalid {
        /// Why.
        reason: String,
    },
    /// The engine does not answer.
    #[error("{endpoint} does not answer")]
    Unreachable {
        /// Where it should be.
        endpoint: String,
        /// Why not.
        source: BollardError,
    },
    /// The two sides do not trust each other.
    #[error("{endpoint} and this client do not trust each other")]
    Untrusted {
        /// Where it is.
        endpoint: String,
        /// Which check failed.
        source: BollardError,
    },
    /// The answer ended without saying anything.
    #[error("{endpoint} gave no answer")]
    NoAnswer {
        /// Where it is.
        endpoint: String,
    },
    /// Another refusal.
    #[error("Docker refused: {reason}")]
    Refused {
        /// What Docker said.
        reason: String,
    },
    /// Not what Docker answers.
    #[error("{endpoint} answers what is not Docker's API")]
    Protocol {
        /// Where it is.
        endpoint: String,
        /// What does not fit.
        source: BollardError,
    },
}

impl DockerError {
    /// Stable text for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ImageNotFound { .. } => "ImageNotFoundError",
            Self::ContainerNotFound { .. } => "ContainerNotFoundError",
            Self::NameInUse { .. } => "NameInUseError",
            Self::PortInUse { .. } => "PortInUseError",
            Self::ImageInUse { .. } => "ImageInUseError",
            Self::ContainerRunning { .. } => "ContainerRunningError",
            Self::Registry { .. } => "RegistryError",
            Self::Invalid { .. } => "InvalidContainerError",
            Self::Unreachable { .. } | Self::NoAnswer { .. } => "DockerUnreachableError",
            Self::Untrusted { .. } => "DockerUntrustedError",
            Self::Refused { .. } => "DockerRefusedError",
            Self::Protocol { .. } => "DockerProtocolError",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::ImageNotFound { image } => {
                format!("pull or import it first, or check the spelling of {image:?}")
            }
            Self::ContainerNotFound { .. } => "list the containers, stopped ones too".to_owned(),
            Self::NameInUse { name } => {
                format!("remove the container {name:?} or choose another name")
            }
            Self::PortInUse { .. } => "publish on another port of the host".to_owned(),
            Self::ImageInUse { .. } => "remove the containers that use it first".to_owned(),
            Self::ContainerRunning { .. } => "stop it first, or use --force".to_owned(),
            Self::Registry { .. } => {
                "check the node's way to the registry, or import the image from a file".to_owned()
            }
            Self::Invalid { .. } => "correct the request".to_owned(),
            Self::Unreachable { .. } | Self::NoAnswer { .. } => {
                "see whether the node is reachable and its Docker host ready: `shoal docker ls`"
                    .to_owned()
            }
            Self::Untrusted { .. } => "get fresh certificates: `shoal docker env NODE`".to_owned(),
            Self::Refused { .. } | Self::Protocol { .. } => {
                "look at dockerd's log on that node".to_owned()
            }
        }
    }
}

/// What was asked about.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    Engine,
    Image(String),
    Container(String),
    NewContainer { image: String, name: String },
}

/// Names a failure, knowing what was asked about and of whom.
pub(super) fn of(subject: Subject, endpoint: String) -> impl Fn(BollardError) -> DockerError {
    move |error| named(&subject, &endpoint, error)
}

fn named(subject: &Subject, endpoint: &str, error: BollardError) -> DockerError {
    let endpoint = endpoint.to_owned();
    // Every other kind is a failure of the connection or of decoding.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "bollard's enum changes with its features"
    )]
    match error {
        BollardError::DockerResponseServerError {
            status_code,
            message,
        } => refused(subject, status_code, message),
        // Errors inside a pull's or an import's stream.
        BollardError::DockerStreamError { error } => refused(subject, 500, error),
        source @ (BollardError::JsonDataError { .. } | BollardError::JsonSerdeError { .. }) => {
            DockerError::Protocol { endpoint, source }
        }
        source if is_about_trust(&source) => DockerError::Untrusted { endpoint, source },
        source => DockerError::Unreachable { endpoint, source },
    }
}

fn refused(subject: &Subject, status: u16, reason: String) -> DockerError {
    let says = |words: &str| reason.contains(words);
    if says("port is already allocated") || says("address already in use") {
        return DockerError::PortInUse { reason };
    }
    match (subject, status) {
        (Subject::Container(container), 404) => DockerError::ContainerNotFound {
            container: container.clone(),
        },
        (Subject::NewContainer { image, .. }, 404) => DockerError::ImageNotFound {
            image: image.clone(),
        },
        (Subject::NewContainer { name, .. }, 409) if says("is already in use") => {
            DockerError::NameInUse { name: name.clone() }
        }
        (Subject::Container(container), 409) if says("running container") || says("is running") => {
            DockerError::ContainerRunning {
                container: container.clone(),
            }
        }
        (Subject::Image(image), 409) => DockerError::ImageInUse {
            image: image.clone(),
            reason,
        },
        (Subject::Image(image), _) => image_refused(image, status, reason),
        (_, 400) => DockerError::Invalid { reason },
        _ => DockerError::Refused { reason },
    }
}

fn image_refused(image: &str, status: u16, reason: String) -> DockerError {
    let says_any = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    let image = image.to_owned();
    if status == 404 || says_any(&["manifest unknown", "not found: manifest", "No such image"]) {
        DockerError::ImageNotFound { image }
    } else if status == 400 || says_any(&["invalid reference format"]) {
        DockerError::Invalid { reason }
    } else if says_any(&[
        "dial tcp",
        "lookup",
        "registry",
        "timeout",
        "unauthorized",
        "denied",
    ]) {
        DockerError::Registry { image, reason }
    } else {
        DockerError::Refused { reason }
    }
}

/// Whether rustls is somewhere among the causes.
fn is_about_trust(error: &BollardError) -> bool {
    // Transparent variants hide what they hold: their source is their content's source.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "bollard's enum changes with its features"
    )]
    let mut cause: Option<&(dyn std::error::Error + 'static)> = match error {
        BollardError::IOError { err } => Some(err),
        BollardError::HyperResponseError { err } => Some(err),
        other => Some(other),
    };
    while let Some(error) = cause {
        // io::Error shows what it wraps by get_ref, not as its source.
        let wrapped = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if wrapped.is_some_and(|inner| inner.is::<rustls::Error>()) || error.is::<rustls::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(subject: Subject, status_code: u16, message: &str) -> &'static str {
        let error = BollardError::DockerResponseServerError {
            status_code,
            message: message.to_owned(),
        };
        of(subject, "tcp://x".into())(error).code()
    }

    fn new_container() -> Subject {
        Subject::NewContainer {
            image: "i".into(),
            name: "n".into(),
        }
    }

    #[test]
    fn refusals_about_containers_are_told_apart() {
        let container = || Subject::Container("c".into());
        let taken = "Conflict. The container name \"/n\" is already in use by container \"0\"";
        let table = [
            (
                container(),
                404,
                "No such container: c",
                "ContainerNotFoundError",
            ),
            (
                new_container(),
                404,
                "No such image: i:latest",
                "ImageNotFoundError",
            ),
            (new_container(), 409, taken, "NameInUseError"),
            (
                new_container(),
                500,
                "Bind for 100.64.0.1:80 failed: port is already allocated",
                "PortInUseError",
            ),
            (
                new_container(),
                500,
                "listen tcp6 [fd00::1]:80: bind: address already in use",
                "PortInUseError",
            ),
            (
                new_container(),
                400,
                "invalid port",
                "InvalidContainerError",
            ),
            (
                container(),
                409,
                "You cannot remove a running container 1",
                "ContainerRunningError",
            ),
            (
                container(),
                409,
                "container is running: stop it first",
                "ContainerRunningError",
            ),
        ];
        for (subject, status, message, expected) in table {
            assert_eq!(code(subject, status, message), expected, "{message}");
        }
    }

    #[test]
    fn refusals_about_images_are_told_apart() {
        let image = || Subject::Image("i".into());
        let offline = "Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup failed";
        let table = [
            (
                image(),
                409,
                "conflict: unable to remove",
                "ImageInUseError",
            ),
            (
                image(),
                404,
                "pull access denied for i",
                "ImageNotFoundError",
            ),
            (image(), 500, "manifest unknown", "ImageNotFoundError"),
            (image(), 500, offline, "RegistryError"),
            (
                image(),
                400,
                "invalid reference format",
                "InvalidContainerError",
            ),
            (Subject::Engine, 500, "something", "DockerRefusedError"),
        ];
        for (subject, status, message, expected) in table {
            assert_eq!(code(subject, status, message), expected, "{message}");
        }
    }

    #[test]
    fn a_failed_handshake_is_about_trust_and_a_refused_connection_is_not() {
        let tls = rustls::Error::General("bad".into());
        let untrusted = BollardError::from(std::io::Error::other(tls));
        assert_eq!(
            of(Subject::Engine, "x".into())(untrusted).code(),
            "DockerUntrustedError"
        );
        let closed =
            BollardError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert_eq!(
            of(Subject::Engine, "x".into())(closed).code(),
            "DockerUnreachableError"
        );
    }
}
