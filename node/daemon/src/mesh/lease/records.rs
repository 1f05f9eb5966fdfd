//! What the lease protocol must not forget, in one file.
//!
//! Decides nothing. Writes are bundled: while one is on its way to the disk, what comes is kept for
//! the next, and each is confirmed when a file that has it was synced. A write that failed confirms
//! nothing, and is made again after a pause.
//!
//! Invariant: there is a file before the node is a member. So one that is missing was lost, with
//! what it had, and is no empty one.

use std::{collections::BTreeMap, io, path::PathBuf, time::Duration};

use consensus_core::{Epoch, LogIndex, VipId};
use consensus_lease::HolderRecord;
use serde::{Deserialize, Serialize};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use crate::data_dir::{DataDir, DataDirError, replace_file};

/// Where closures and what was held rest.
const FILE: &str = "leases.bin";
/// The leading byte of the file.
const VERSION: u8 = 1;

/// After a write that failed: a full disk is not tried at every renewal.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// What was closed and held here cannot be known.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordsError {
    #[error("{path:?} is missing: this node may have promised what it does not know any more")]
    Missing { path: PathBuf },
    #[error("{path:?} can't be read: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
}

impl RecordsError {
    /// What to do.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Missing { .. } | Self::Unreadable { .. } => {
                "demote and remove this node, empty its data directory, and let it join anew"
            }
        }
    }
}

/// A machine that is about to be a member has promised nothing yet, unless it was one before.
pub(crate) fn begin_records(data: &DataDir) -> Result<(), DataDirError> {
    if data.root().join(FILE).exists() {
        return Ok(());
    }
    data.replace(FILE, &encode(&Contents::default()))
}

/// What the file has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    /// As a voter: closed through this epoch.
    closed: BTreeMap<VipId, Epoch>,
    /// As a holder: epoch, the entry that wrote its voters, and whether it was let go.
    held: BTreeMap<VipId, (Epoch, LogIndex, bool)>,
}

/// Something that the protocol waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// A closure.
    Closure(VipId, Epoch),
    /// A holder's record.
    Held(VipId, HolderRecord),
}

/// The file, and what is on its way into it.
#[derive(Debug)]
pub(super) struct Records {
    path: PathBuf,
    contents: Contents,
    waiting: Vec<Written>,
    /// Whether the file lacks something of the contents.
    stale: bool,
    writing: Option<(JoinHandle<io::Result<()>>, Vec<Written>)>,
    /// Not before then, after a write that failed.
    again_at: Option<Instant>,
}

impl Records {
    /// What an earlier run left. A file that cannot be read is no empty one.
    pub(super) fn open(data: &DataDir) -> Result<Self, RecordsError> {
        let path = data.root().join(FILE);
        let read = std::fs::read(&path).and_then(|bytes| decode(&bytes));
        match read {
            Ok(contents) => Ok(Self::with(path, contents)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(RecordsError::Missing { path })
            }
            Err(source) => Err(RecordsError::Unreadable { path, source }),
        }
    }

    const fn with(path: PathBuf, contents: Contents) -> Self {
        Self {
            path,
            contents,
            waiting: Vec::new(),
            stale: false,
            writing: None,
            again_at: None,
        }
    }

    /// What was closed here.
    pub(super) fn closed(&self) -> BTreeMap<VipId, Epoch> {
        self.contents.closed.clone()
    }

    /// What was held here.
    pub(super) fn held(&self) -> BTreeMap<VipId, HolderRecord> {
        let held = self.contents.held.iter();
        held.map(|(vip, (epoch, voters_since, let_go))| {
            let record = HolderRecord {
                epoch: *epoch,
                voters_since: *voters_since,
                let_go: *let_go,
            };
            (*vip, record)
        })
        .collect()
    }

    /// To be written.
    pub(super) fn write(&mut self, what: Written) {
        match what {
            Written::Closure(vip, through) => {
                self.contents.closed.insert(vip, through);
            }
            Written::Held(vip, record) => {
                let row = (record.epoch, record.voters_since, record.let_go);
                self.contents.held.insert(vip, row);
            }
        }
        self.stale = true;
        if !self.waiting.contains(&what) {
            self.waiting.push(what);
        }
        self.begin();
    }

    /// Nobody needs it any more. It goes with the next write.
    pub(super) fn forget_closure(&mut self, vip: VipId) {
        self.contents.closed.remove(&vip);
    }

    /// Nobody needs it any more. It goes with the next write.
    pub(super) fn forget_held(&mut self, vip: VipId) {
        self.contents.held.remove(&vip);
    }

    fn begin(&mut self) {
        let paused = self.again_at.is_some_and(|at| Instant::now() < at);
        if self.writing.is_some() || !self.stale || paused {
            return;
        }
        self.stale = false;
        self.again_at = None;
        let (path, bytes) = (self.path.clone(), encode(&self.contents));
        let task = tokio::task::spawn_blocking(move || replace_file(&path, &bytes));
        self.writing = Some((task, std::mem::take(&mut self.waiting)));
    }

    /// Waits until something is on the disk, for ever while nothing is on its way. Given up
    /// half-way it has lost nothing.
    pub(super) async fn written(&mut self) -> Vec<Written> {
        if self.writing.is_none()
            && let Some(again_at) = self.again_at
        {
            sleep_until(again_at).await;
            self.begin();
        }
        let Some((task, _)) = &mut self.writing else {
            return std::future::pending().await;
        };
        let result = task
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        let (_, mut batch) = self.writing.take().expect("only taken here");
        if let Err(error) = result {
            tracing::error!(%error, path = %self.path.display(), "closures of leases are not written");
            batch.append(&mut self.waiting);
            self.waiting = batch;
            self.stale = true;
            self.again_at = Some(Instant::now() + RETRY_PAUSE);
            return Vec::new();
        }
        self.begin();
        batch
    }
}

fn encode(contents: &Contents) -> Vec<u8> {
    let body = postcard::to_stdvec(contents).expect("maps of numbers have a postcard form");
    let sum = blake3::hash(&body);
    [&[VERSION][..], sum.as_bytes(), &body].concat()
}

fn decode(bytes: &[u8]) -> io::Result<Contents> {
    let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let (version, rest) = bytes.split_first().ok_or_else(|| bad("it is empty"))?;
    if *version != VERSION {
        return Err(bad("it is of another version of shoal"));
    }
    let (sum, body) = rest
        .split_first_chunk::<{ blake3::OUT_LEN }>()
        .ok_or_else(|| bad("it is cut off"))?;
    if blake3::hash(body) != blake3::Hash::from_bytes(*sum) {
        return Err(bad("it is damaged"));
    }
    postcard::from_bytes(body).map_err(|_| bad("it is damaged"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(number: u8) -> VipId {
        VipId::from_bytes([number; 16])
    }

    /// The directory of a node that has just become a member.
    fn data() -> (tempfile::TempDir, DataDir) {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        begin_records(&data).unwrap();
        (folder, data)
    }

    #[tokio::test]
    async fn what_was_confirmed_is_there_after_a_restart() {
        let (_folder, data) = data();
        let mut records = Records::open(&data).unwrap();
        let record = HolderRecord {
            epoch: Epoch(7),
            voters_since: LogIndex(3),
            let_go: true,
        };
        let all = [
            Written::Closure(vip(1), Epoch(4)),
            Written::Held(vip(2), record),
            Written::Closure(vip(1), Epoch(5)),
        ];
        all.into_iter().for_each(|what| records.write(what));
        let mut confirmed = Vec::new();
        while confirmed.len() < all.len() {
            confirmed.extend(records.written().await);
        }
        assert_eq!(confirmed, all);
        // Who joins again, with the same key, has not forgotten anything.
        begin_records(&data).unwrap();
        let again = Records::open(&data).unwrap();
        assert_eq!(again.closed(), BTreeMap::from([(vip(1), Epoch(5))]));
        assert_eq!(again.held(), BTreeMap::from([(vip(2), record)]));
    }

    #[tokio::test]
    async fn a_write_that_fails_confirms_nothing_and_is_made_again() {
        let (folder, data) = data();
        std::fs::create_dir(folder.path().join("leases.bin.new")).unwrap();
        let mut records = Records::open(&data).unwrap();
        let both = [
            Written::Closure(vip(1), Epoch(4)),
            Written::Closure(vip(2), Epoch(1)),
        ];
        records.write(both[0]);
        assert_eq!(records.written().await, []);
        records.write(both[1]);
        std::fs::remove_dir(folder.path().join("leases.bin.new")).unwrap();
        let mut confirmed = Vec::new();
        while confirmed.len() < both.len() {
            confirmed.extend(records.written().await);
        }
        assert_eq!(confirmed, both);
        assert_eq!(Records::open(&data).unwrap().closed().len(), 2);
    }

    #[test]
    fn a_damaged_file_is_no_empty_one() {
        let (folder, data) = data();
        let path = folder.path().join(FILE);
        let mut good = encode(&Contents::default());
        for bad in [&[][..], &[9], &[1, 2, 3]] {
            std::fs::write(&path, bad).unwrap();
            let error = Records::open(&data).unwrap_err();
            assert!(matches!(error, RecordsError::Unreadable { .. }), "{bad:?}");
        }
        *good.last_mut().unwrap() ^= 1;
        std::fs::write(&path, good).unwrap();
        assert!(Records::open(&data).is_err());
    }

    #[test]
    fn a_missing_file_is_no_empty_one() {
        let (folder, data) = data();
        assert!(Records::open(&data).is_ok());
        std::fs::remove_file(folder.path().join(FILE)).unwrap();
        let error = Records::open(&data).unwrap_err();
        assert!(matches!(error, RecordsError::Missing { .. }), "{error:?}");
        assert!(error.hint().contains("join anew"));
    }
}
