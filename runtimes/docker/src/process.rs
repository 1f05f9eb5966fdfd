//! Which process is dockerd, and whose.
//!
//! Decides: whether a dockerd is the one that shoal started. Where its record is missing (shoald was
//! killed between start and record), dockerd's own pid file and its command line tell: only shoal's
//! daemons name shoal's configuration.

use std::{fs, path::PathBuf};

use runtimes_core::docker::ConfigFiles;
use runtimes_host::{
    files::{self, FileError},
    process::{self, Identity, by_pid_file},
};

use crate::{paths::Paths, readiness};

/// The dockerd that shoal started.
pub(crate) type OurProcess = process::OurProcess<ConfigFiles>;

/// What runs on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    Absent,
    Ours(OurProcess),
    /// The distribution's unit, not taken over by shoal.
    Adoptable {
        pid: u32,
    },
    Foreign {
        pid: Option<u32>,
    },
}

/// The dockerd on the host, by record, pid file and socket.
pub(crate) async fn find(paths: &Paths) -> Found {
    if let Some(process) = process::recorded(&paths.process_record()) {
        return Found::Ours(process);
    }
    if let Some(identity) = by_pid_file(&paths.pidfile, "dockerd") {
        return if identity.names(&paths.daemon_json) {
            Found::Ours(OurProcess {
                identity,
                started_with: None,
            })
        } else {
            Found::Foreign {
                pid: Some(identity.pid),
            }
        };
    }
    // An answer, not a mere connection: the socket of a process that is just ending still takes
    // connections.
    match readiness::version(&paths.socket).await {
        Some(_) => Found::Foreign { pid: None },
        None => Found::Absent,
    }
}

/// The containerd that a dockerd of ours started and left behind.
pub(crate) fn containerd(paths: &Paths) -> Option<Identity> {
    let configuration = paths.exec_root.join("containerd/containerd.toml");
    by_pid_file(&containerd_pid_file(paths), "containerd")
        .filter(|identity| identity.names(&configuration))
}

/// Removes pid files of a dockerd and a containerd that are gone. After a crash dockerd would
/// refuse to start as long as any process, even a zombie, has the pid that the file names.
pub(crate) fn clear_stale_pid_files(paths: &Paths) -> Result<(), FileError> {
    let containerd = containerd_pid_file(paths);
    for (path, program) in [(&paths.pidfile, "dockerd"), (&containerd, "containerd")] {
        if path.exists() && by_pid_file(path, program).is_none() {
            fs::remove_file(path).map_err(files::at("remove", path))?;
        }
    }
    Ok(())
}

fn containerd_pid_file(paths: &Paths) -> PathBuf {
    paths.exec_root.join("containerd/containerd.pid")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use runtimes_host::files::HostFiles;

    use super::*;

    fn scene() -> (tempfile::TempDir, Paths, HostFiles) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths {
            daemon_json: root.path().join("daemon.json"),
            socket: root.path().join("docker.sock"),
            pidfile: root.path().join("docker.pid"),
            exec_root: root.path().join("exec"),
            ..Paths::under(root.path())
        };
        let files = HostFiles::listed_in(paths.manifest());
        (root, paths, files)
    }

    fn me() -> OurProcess {
        OurProcess {
            identity: Identity::of(std::process::id()).unwrap(),
            started_with: None,
        }
    }

    #[tokio::test]
    async fn a_recorded_process_that_lives_is_found_again() {
        let (_root, paths, files) = scene();
        assert_eq!(find(&paths).await, Found::Absent);
        process::record(&paths.process_record(), &files, &me()).unwrap();
        assert_eq!(find(&paths).await, Found::Ours(me()));
    }

    #[tokio::test]
    async fn whoever_answers_on_the_socket_unrecorded_is_foreign() {
        let (_root, paths, _files) = scene();
        let listener = tokio::net::UnixListener::bind(&paths.socket).unwrap();
        let answer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let read = stream.read(&mut [0; 1024]).await.unwrap();
            assert!(read > 0);
            let body = "{\"Version\":\"5\"}";
            let answer = format!("HTTP/1.0 200 OK\r\ncontent-length: 15\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let (found, ()) = tokio::join!(find(&paths), answer);
        assert_eq!(found, Found::Foreign { pid: None });
    }

    #[tokio::test]
    async fn a_socket_on_which_nobody_answers_is_nobodys() {
        let (_root, paths, _files) = scene();
        let listener = tokio::net::UnixListener::bind(&paths.socket).unwrap();
        let hang_up = async { drop(listener.accept().await.unwrap()) };
        let (found, ()) = tokio::join!(find(&paths), hang_up);
        assert_eq!(found, Found::Absent);
    }

    #[tokio::test]
    async fn a_pid_file_that_names_another_program_counts_for_nothing_and_is_cleared() {
        let (_root, paths, _files) = scene();
        fs::write(&paths.pidfile, std::process::id().to_string()).unwrap();
        assert_eq!(find(&paths).await, Found::Absent);
        clear_stale_pid_files(&paths).unwrap();
        assert!(!paths.pidfile.exists());
    }
}
