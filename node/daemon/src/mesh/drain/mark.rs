//! What this node remembers of a cordon that a drain is the reason of.
//!
//! Decides: whether the cluster may give the node pods again after a drain. It may not where somebody else
//! has cordoned it, and Kubernetes does not tell who did.
//!
//! Invariants:
//! - No drain cordons what is not written down before: nobody would undo that.
//! - What the cluster refused is not written down: somebody else's cordon would be undone.
//! - One cordon is undone once.
//!
//! Of a cluster that did not answer nobody knows whether it heard. It is taken for cordoned.

use std::{fs, future::Future, io, path::PathBuf};

use runtimes_k3s::ApiError;

use crate::data_dir::replace_file;

/// Below the data directory; exists while the cluster knows the node as cordoned because of a drain.
const NAME: &str = "cordoned";

/// Why a cordon is not there, or not undone.
#[derive(Debug, thiserror::Error)]
pub(super) enum CordonError {
    /// The cluster did not do it.
    #[error(transparent)]
    Cluster(#[from] ApiError),
    /// The node cannot remember it.
    #[error("{path} cannot be {action}, which says that the node is cordoned because of a drain")]
    Mark {
        /// Where it is.
        path: String,
        /// What failed.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// The file, and whether what it says is over.
#[derive(Debug)]
pub(super) struct Mark {
    path: PathBuf,
    undone: bool,
}

impl Mark {
    /// Below a data directory.
    pub(super) fn below(root: &std::path::Path) -> Self {
        Self {
            path: root.join(NAME),
            undone: false,
        }
    }

    /// Whether a drain's cordon is to be undone, or its mark to be removed.
    pub(super) fn is_set(&self) -> bool {
        self.path.exists()
    }

    /// Cordons, and remembers that it did. `cordon` begins when that is on the disk.
    pub(super) async fn cordon(
        &mut self,
        cordon: impl Future<Output = Result<(), ApiError>>,
    ) -> Result<(), CordonError> {
        replace_file(&self.path, b"").map_err(|error| self.failed("written", error))?;
        self.undone = false;
        let done = cordon.await;
        if let Err(ApiError::Refused { .. }) = &done {
            // It cannot be undone later on; and should the mark stay, that is tried again.
            self.undone = true;
            self.remove()?;
        }
        Ok(done?)
    }

    /// Undoes it, once, and forgets it. Without anything to be undone there is none.
    pub(super) async fn uncordon(
        &mut self,
        uncordon: Option<impl Future<Output = Result<(), ApiError>>>,
    ) -> Result<(), CordonError> {
        if let Some(uncordon) = uncordon.filter(|_| !self.undone) {
            uncordon.await?;
            tracing::info!("the cluster may give this node pods again");
        }
        self.undone = true;
        self.remove()
    }

    fn remove(&self) -> Result<(), CordonError> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failed("removed", error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn failed(&self, action: &'static str, source: io::Error) -> CordonError {
        CordonError::Mark {
            path: self.path.display().to_string(),
            action,
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn, task::Poll};

    use super::*;

    /// A cluster that answers so, and counts how often it was asked.
    fn answers(
        asked: &Cell<u32>,
        answer: Result<(), ApiError>,
    ) -> impl Future<Output = Result<(), ApiError>> {
        let mut answer = Some(answer);
        poll_fn(move |_| {
            asked.set(asked.get() + 1);
            Poll::Ready(answer.take().expect("it is over after the first answer"))
        })
    }

    fn refused() -> Result<(), ApiError> {
        Err(ApiError::Refused {
            code: 403,
            reason: "no".into(),
        })
    }

    fn silent() -> Result<(), ApiError> {
        Err(ApiError::Unreachable {
            reason: "no word".into(),
        })
    }

    #[tokio::test]
    async fn nothing_is_cordoned_that_cannot_be_written_down() {
        let dir = tempfile::tempdir().unwrap();
        // A file is where the directory would be: nothing can be written, by root neither.
        let root = dir.path().join("full");
        fs::write(&root, b"").unwrap();
        let (mut mark, asked) = (Mark::below(&root), Cell::new(0));
        let error = mark.cordon(answers(&asked, Ok(()))).await.unwrap_err();
        assert!(error.to_string().contains("cannot be written"), "{error}");
        assert_eq!(asked.get(), 0);
        assert!(!mark.is_set());
    }

    #[tokio::test]
    async fn what_the_cluster_refused_is_forgotten_and_what_it_may_have_heard_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (mut mark, asked) = (Mark::below(dir.path()), Cell::new(0));
        mark.cordon(answers(&asked, refused())).await.unwrap_err();
        assert!(!mark.is_set());
        mark.cordon(answers(&asked, silent())).await.unwrap_err();
        assert!(mark.is_set());
        mark.uncordon(Some(answers(&asked, Ok(())))).await.unwrap();
        assert!(!mark.is_set());
        assert_eq!(asked.get(), 3);
    }

    #[tokio::test]
    async fn a_cordon_that_was_undone_is_not_undone_again_while_its_mark_cannot_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (mut mark, asked) = (Mark::below(dir.path()), Cell::new(0));
        mark.cordon(answers(&asked, Ok(()))).await.unwrap();
        mark.uncordon(Some(answers(&asked, silent())))
            .await
            .unwrap_err();
        assert!(mark.is_set());
        // A directory in its place is removed by nobody.
        fs::remove_file(dir.path().join(NAME)).unwrap();
        fs::create_dir(dir.path().join(NAME)).unwrap();
        for _ in 0..2 {
            let undo = Some(answers(&asked, Ok(())));
            let error = mark.uncordon(undo).await.unwrap_err();
            assert!(error.to_string().contains("cannot be removed"), "{error}");
        }
        assert_eq!(asked.get(), 3);
        // The next drain's cordon is another one.
        fs::remove_dir(dir.path().join(NAME)).unwrap();
        mark.cordon(answers(&asked, Ok(()))).await.unwrap();
        mark.uncordon(Some(answers(&asked, Ok(())))).await.unwrap();
        assert_eq!(asked.get(), 5);
    }

    #[tokio::test]
    async fn another_daemon_undoes_what_an_earlier_one_did() {
        let dir = tempfile::tempdir().unwrap();
        let asked = Cell::new(0);
        let mut mark = Mark::below(dir.path());
        mark.cordon(answers(&asked, Ok(()))).await.unwrap();
        let mut mark = Mark::below(dir.path());
        assert!(mark.is_set());
        mark.uncordon(Some(answers(&asked, Ok(())))).await.unwrap();
        assert!(!mark.is_set());
        assert_eq!(asked.get(), 2);
    }
}
