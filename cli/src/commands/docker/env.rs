//! `shoal docker env`: makes the plain `docker` CLI reach a host.
//!
//! Decides: whether the certificate at hand still serves. Invariants: the key is made here and
//! never leaves; directory and files are the owner's alone; a certificate is only reused if all
//! its files were written.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use node_api::{
    Route,
    types::{
        ClientCertificate, ClientCertificateRequest, DockerHostView, NodeView, Status as StatusView,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    commands::status::now_ms,
    context::Context,
    failure::{Exit, Explained, Failure},
    key_request::{self, Algorithm},
    shell_word::quoted,
    values,
};

/// The names that the docker CLI looks for in `DOCKER_CERT_PATH`.
const CA_FILE: &str = "ca.pem";
const CERTIFICATE_FILE: &str = "cert.pem";
const KEY_FILE: &str = "key.pem";
/// When the certificate was made and ends. Written last: without it the others do not count.
const RECORD_FILE: &str = "expires.json";
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Print what makes the plain docker CLI reach a host
///
/// Use it as `eval "$(shoal docker env NODE)"`. The key is made here; the certificate is kept and
/// used again until a third of its lifetime is left.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Env {
    /// The node's name or id
    #[arg(value_parser = values::name)]
    node: String,
    /// Where to keep the certificate [default: $XDG_STATE_HOME/shoal/docker/MESH-NODE]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Why there is no certificate for the docker CLI.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvError {
    #[error("{host} is not connected: it is {status}{}", phase.as_ref().map(|phase| format!(", {phase}")).unwrap_or_default())]
    NotConnected {
        host: String,
        status: String,
        phase: Option<String>,
        reason: Option<String>,
    },
    #[error("{node} is not a Docker host")]
    NoHost { node: String },
    #[error("neither XDG_STATE_HOME nor HOME says where to keep the certificate")]
    NoDirectory,
    #[error("{} cannot be written", path.display())]
    Unwritable { path: PathBuf, source: io::Error },
}

impl Explained for EnvError {
    fn code(&self) -> &'static str {
        match self {
            Self::NotConnected { .. } => "DockerHostNotConnectedError",
            Self::NoHost { .. } => "DockerHostNotFoundError",
            Self::NoDirectory => "StateDirectoryUnknownError",
            Self::Unwritable { .. } => "FileWriteError",
        }
    }

    fn hint(&self) -> String {
        match self {
            Self::NotConnected {
                reason: Some(reason),
                ..
            } => format!("{reason}; `shoal docker ls` and `shoal events` tell more"),
            Self::NotConnected { .. } => "wait until `shoal docker ls` says connected".into(),
            Self::NoHost { node } => {
                format!("make it one with `shoal docker provision {node}`")
            }
            Self::NoDirectory | Self::Unwritable { .. } => {
                "name a directory you may write to with --dir".into()
            }
        }
    }
}

impl Env {
    pub(super) async fn run(self, context: &Context<'_>) -> Result<Exit, Failure> {
        let host = find_host(context, &self.node).await?;
        let Some(endpoint) = reachable(&host)? else {
            return Err(not_connected(&host).into());
        };
        if !host.managed {
            return show_external(context, endpoint);
        }
        let status: StatusView = context.client.get(&Route::to(&["status"])).await?.value;
        let mesh_id = status.mesh_id.unwrap_or_default();
        let mesh = status.mesh.unwrap_or_else(|| mesh_id.clone());
        let directory = match self.dir {
            Some(directory) => directory,
            None => default_directory(
                std::env::var_os("XDG_STATE_HOME"),
                std::env::var_os("HOME"),
                &mesh,
                &host.node,
            )?,
        };
        let directory = std::path::absolute(&directory).unwrap_or(directory);
        if !Record::read(&directory).is_some_and(|record| record.serves(&mesh_id, now_ms())) {
            issue(context, &directory, &mesh_id).await?;
        }
        show(context, endpoint, &directory)
    }
}

/// The host with this name, or with this node's name.
async fn find_host(context: &Context<'_>, node: &str) -> Result<DockerHostView, Failure> {
    let route = Route::to(&["docker", "hosts"]);
    let hosts: Vec<DockerHostView> = context.client.get(&route).await?.value;
    if let Some(host) = hosts.iter().find(|host| host.node == node) {
        return Ok(host.clone());
    }
    // It may be an id; if it is nothing at all, the daemon says so better than we can.
    let route = Route::to(&["nodes", node]);
    let known: NodeView = context.client.get(&route).await?.value;
    let found = hosts.into_iter().find(|host| host.node == known.name);
    found.ok_or_else(|| EnvError::NoHost { node: known.name }.into())
}

fn not_connected(host: &DockerHostView) -> EnvError {
    EnvError::NotConnected {
        host: host.node.clone(),
        status: host.status.clone(),
        phase: host.phase.clone(),
        reason: host.reason.clone(),
    }
}

/// Where the host's API answers now.
fn reachable(host: &DockerHostView) -> Result<Option<&str>, EnvError> {
    match (host.managed, host.status.as_str()) {
        (true, "connected") | (false, _) => Ok(host.api_endpoint.as_deref()),
        (true, _) => Err(not_connected(host)),
    }
}

/// When a certificate was made for which mesh, and until when it serves.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    mesh_id: String,
    issued_ms: u64,
    expires_ms: u64,
}

impl Record {
    /// The text of the file.
    pub(crate) fn encode(&self) -> String {
        serde_json::to_string(self).expect("a record is text and numbers")
    }

    /// Reads it; none if it is no record.
    pub(crate) fn decode(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// The record, if there is one and the files it speaks of.
    fn read(directory: &Path) -> Option<Self> {
        let files = [CA_FILE, CERTIFICATE_FILE, KEY_FILE];
        if !files.iter().all(|file| directory.join(file).is_file()) {
            return None;
        }
        let text = fs::read(directory.join(RECORD_FILE)).ok()?;
        Self::decode(&text)
    }

    /// Whether more than a third of the lifetime is left. A clock that went back before the
    /// beginning says nothing about the end, so a new certificate is made then too.
    pub(crate) fn serves(&self, mesh_id: &str, now_ms: u64) -> bool {
        let lifetime_ms = self.expires_ms.saturating_sub(self.issued_ms);
        let left_ms = self.expires_ms.saturating_sub(now_ms);
        self.mesh_id == mesh_id && now_ms >= self.issued_ms && left_ms > lifetime_ms / 3
    }
}

async fn issue(context: &Context<'_>, directory: &Path, mesh_id: &str) -> Result<(), Failure> {
    prepare(directory)?;
    let made = key_request::make(Algorithm::Ed25519)?;
    let request = ClientCertificateRequest {
        csr_pem: made.csr_pem,
    };
    let route = Route::to(&["docker", "client-certificate"]);
    let issued_ms = now_ms();
    let certificate: ClientCertificate = context.client.post(&route, &request).await?.value;
    let record = Record {
        mesh_id: mesh_id.to_owned(),
        issued_ms,
        expires_ms: certificate.expires_ms,
    };
    keep(directory, &made.key_pem, &certificate, &record)?;
    Ok(())
}

fn prepare(directory: &Path) -> Result<(), EnvError> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)
        .and_then(|()| fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE)))
        .map_err(|source| EnvError::Unwritable {
            path: directory.to_owned(),
            source,
        })
}

fn keep(
    directory: &Path,
    key_pem: &str,
    certificate: &ClientCertificate,
    record: &Record,
) -> Result<(), EnvError> {
    let record = record.encode();
    let record_path = directory.join(RECORD_FILE);
    if let Err(source) = fs::remove_file(&record_path)
        && source.kind() != io::ErrorKind::NotFound
    {
        return Err(EnvError::Unwritable {
            path: record_path,
            source,
        });
    }
    for (file, text) in [
        (KEY_FILE, key_pem),
        (CERTIFICATE_FILE, &certificate.certificate_pem),
        (CA_FILE, &certificate.ca_pem),
        (RECORD_FILE, &record),
    ] {
        let path = directory.join(file);
        replace(&path, text).map_err(|source| EnvError::Unwritable { path, source })?;
    }
    Ok(())
}

/// Replaces a file at once, so that whoever reads it sees the old or the new.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// `$XDG_STATE_HOME/shoal/docker/MESH-NODE` (XDG Base Directory Specification 0.8: a relative path
/// there is to be passed over).
fn default_directory(
    state: Option<OsString>,
    home: Option<OsString>,
    mesh: &str,
    host: &str,
) -> Result<PathBuf, EnvError> {
    let absolute =
        |text: Option<OsString>| text.map(PathBuf::from).filter(|path| path.is_absolute());
    let state = match absolute(state) {
        Some(state) => state,
        None => absolute(home)
            .ok_or(EnvError::NoDirectory)?
            .join(".local/state"),
    };
    // Names of the mesh are plain already; if one was not, it would still be one path component.
    let name: String = format!("{mesh}-{host}")
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        })
        .collect();
    Ok(state.join("shoal/docker").join(name))
}

fn show(context: &Context<'_>, endpoint: &str, directory: &Path) -> Result<Exit, Failure> {
    let directory = directory.display().to_string();
    if context.terminal.json() {
        context.terminal.value(&json!({
            "DOCKER_HOST": endpoint,
            "DOCKER_TLS_VERIFY": "1",
            "DOCKER_CERT_PATH": directory,
        }))?;
    } else {
        context.terminal.text(&format!(
            "export DOCKER_HOST={}\nexport DOCKER_TLS_VERIFY=1\nexport DOCKER_CERT_PATH={}",
            quoted(endpoint),
            quoted(&directory)
        ))?;
    }
    Ok(Exit::Done)
}

/// An external host has certificates of its own, or needs none.
fn show_external(context: &Context<'_>, endpoint: &str) -> Result<Exit, Failure> {
    if context.terminal.json() {
        context
            .terminal
            .value(&json!({ "DOCKER_HOST": endpoint }))?;
    } else {
        context.terminal.text(&format!(
            "export DOCKER_HOST={}\nunset DOCKER_TLS_VERIFY DOCKER_CERT_PATH",
            quoted(endpoint)
        ))?;
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            mesh_id: "m".into(),
            issued_ms: 1_000,
            expires_ms: 4_000,
        }
    }

    fn certificate() -> ClientCertificate {
        ClientCertificate {
            certificate_pem: "cert".into(),
            ca_pem: "ca".into(),
            expires_ms: 4_000,
        }
    }

    #[test]
    fn a_certificate_serves_until_a_third_of_its_life_is_left() {
        assert!(record().serves("m", 1_000));
        assert!(record().serves("m", 2_999));
        assert!(!record().serves("m", 3_000));
        assert!(!record().serves("m", 5_000));
        assert!(!record().serves("m", 999));
        assert!(!record().serves("another", 2_000));
    }

    #[test]
    fn what_is_kept_is_the_owners_alone_and_found_again() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("a/b");
        prepare(&directory).unwrap();
        for key in ["first key", "second key"] {
            keep(&directory, key, &certificate(), &record()).unwrap();
            assert_eq!(fs::read_to_string(directory.join(KEY_FILE)).unwrap(), key);
        }
        assert_eq!(Record::read(&directory), Some(record()));
        assert_eq!(mode(&directory), 0o700);
        let files: Vec<_> = fs::read_dir(&directory)
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        assert_eq!(files.len(), 4);
        assert!(files.iter().all(|file| mode(file) == 0o600));
    }

    #[test]
    fn a_certificate_without_all_its_files_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        keep(directory.path(), "key", &certificate(), &record()).unwrap();
        fs::remove_file(directory.path().join(KEY_FILE)).unwrap();
        assert_eq!(Record::read(directory.path()), None);
    }

    #[test]
    fn the_directory_follows_the_xdg_specification() {
        let of = |state: Option<&str>, home: Option<&str>| {
            let found =
                default_directory(state.map(Into::into), home.map(Into::into), "home", "n/1");
            found
                .map(|path| path.display().to_string())
                .map_err(|error| error.code())
        };
        assert_eq!(
            of(Some("/s"), Some("/h")),
            Ok("/s/shoal/docker/home-n_1".into())
        );
        assert_eq!(
            of(Some("rel"), Some("/h")),
            Ok("/h/.local/state/shoal/docker/home-n_1".into())
        );
        assert_eq!(of(None, None), Err("StateDirectoryUnknownError"));
    }

    #[test]
    fn a_host_that_is_not_connected_is_refused_with_its_reason() {
        let host = DockerHostView {
            node: "n1".into(),
            status: "pending".into(),
            api_endpoint: None,
            version: None,
            managed: true,
            phase: Some("failed".into()),
            reason: Some("no root".into()),
        };
        let error = reachable(&host).unwrap_err();
        assert_eq!(
            error.to_string(),
            "n1 is not connected: it is pending, failed"
        );
        assert!(error.hint().starts_with("no root"));
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }
}
