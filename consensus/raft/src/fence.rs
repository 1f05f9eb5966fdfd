//! Keeping those out that a recovery left behind.
//!
//! Decides when this server is one of them: when a server of its old group answers that a later
//! era has begun. It then ends its part for good, and remembers it across restarts, so that two
//! old voters that come back cannot go on as the majority that they once were, once they have
//! reached the recovered group.
//! Never decides for others, and cannot know what it is not told: old voters that form a
//! majority and reach nobody of the recovered group go on until they do.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use consensus_core::NodeId;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::{
    carrier::{Carrier, CarrierError, Lane},
    era::Era,
    errors::OpenError,
    wire::v1,
};

/// The file in the store's directory that says that it is of no use any more.
const FILE: &str = "fenced";

/// Refuses a store whose server learned that its era is over.
pub(crate) fn check(dir: &Path) -> Result<(), OpenError> {
    match fs::read(dir.join(FILE)) {
        Ok(record) => {
            let era = v1::open_record("the fence record", &record).map_err(OpenError::Damaged)?;
            Err(OpenError::Fenced { era: Era(era) })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(OpenError::Io(error)),
    }
}

/// Remembers that the store's era is over.
fn remember(dir: &Path, era: Era) -> io::Result<()> {
    let unfinished = dir.join("fenced.unfinished");
    let mut file = File::create(&unfinished)?;
    file.write_all(&v1::record(&era.0))?;
    file.sync_all()?;
    fs::rename(unfinished, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}

/// A carrier that notices when the other side says that this server's era is over.
pub(crate) struct Listening {
    carrier: Arc<dyn Carrier>,
    /// The store's directory.
    dir: PathBuf,
    told: watch::Sender<Option<Era>>,
}

impl Listening {
    /// Listens in on `carrier`; the receiver follows the latest era that was told.
    pub(crate) fn new(
        carrier: Arc<dyn Carrier>,
        dir: PathBuf,
    ) -> (Arc<Self>, watch::Receiver<Option<Era>>) {
        let (told, heard) = watch::channel(None);
        let listening = Self { carrier, dir, told };
        (Arc::new(listening), heard)
    }
}

/// Remembers what was told, then passes it on: whoever hears of it may rely on it. Only a later era
/// than the own ends a server's part, whatever it is told.
fn learn(told: &watch::Sender<Option<Era>>, dir: &Path, by: &NodeId, own: Option<Era>, era: Era) {
    if own.is_none_or(|own| era <= own) || *told.borrow() >= Some(era) {
        return;
    }
    tracing::error!(%by, %era, "the group was recovered without this server");
    if let Err(error) = remember(dir, era) {
        tracing::error!(%error, "after a restart this server has to be told again");
    }
    told.send_replace(Some(era));
}

impl Carrier for Listening {
    fn call(
        &self,
        to: &NodeId,
        lane: Lane,
        body: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, CarrierError>> {
        let own = v1::asking_era(&body);
        let exchange = self.carrier.call(to, lane, body, ttl);
        let (told, dir, by) = (self.told.clone(), self.dir.clone(), to.clone());
        Box::pin(async move {
            let reply = exchange.await?;
            if let Some(era) = v1::fencing_era(&reply).map(Era) {
                learn(&told, &dir, &by, own, era);
            }
            Ok(reply)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_era_than_the_own_ends_a_servers_part() {
        let by = "12D3KooWGRUVLJpQ8sJtbTNGXJFvBVnEKdGBAcQnzHqPVKqGNfcm"
            .parse()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (told, heard) = watch::channel(None);
        for (own, era) in [(Some(2), 1), (Some(2), 2), (None, 3)] {
            learn(&told, dir.path(), &by, own.map(Era), Era(era));
            assert_eq!(*heard.borrow(), None, "{own:?} {era}");
            assert!(check(dir.path()).is_ok());
        }
        learn(&told, dir.path(), &by, Some(Era(2)), Era(3));
        assert_eq!(*heard.borrow(), Some(Era(3)));
        let refused = check(dir.path());
        assert!(matches!(refused, Err(OpenError::Fenced { era: Era(3) })));
    }
}
