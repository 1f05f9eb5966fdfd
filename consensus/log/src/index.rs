//! Where each entry is.
//!
//! Decides which entries exist. Never touches what they say.
//!
//! Invariant: the entries form one run without gaps, `first <= index < end`; those below `known`
//! were in segments that are gone.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{DiskFile, Marks, Record};

/// An entry's bytes in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
}

/// All entries and marks, as far as they were appended.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub(crate) first: u64,
    pub(crate) end: u64,
    known: u64,
    places: VecDeque<Place>,
    pub(crate) marks: Marks,
    /// Every segment that exists.
    pub(crate) files: BTreeMap<u64, Arc<dyn DiskFile>>,
}

impl Index {
    /// Begins where a segment's head says, with nothing known of what is before.
    pub(crate) fn beginning(first: u64, end: u64, marks: Marks) -> Self {
        Self {
            first,
            end,
            known: end,
            marks,
            ..Self::default()
        }
    }

    /// Whether an entry may come next. An empty log that never lost one may begin anywhere.
    pub(crate) fn takes(&self, index: u64) -> bool {
        index == self.end || (self.first == self.end && self.marks.purged.is_none())
    }

    /// Whether entries are missing between what was purged and what is known.
    pub(crate) fn missing(&self) -> Option<u64> {
        (self.first < self.known.min(self.end)).then_some(self.first)
    }

    /// Takes a record whose bytes are at `place`. `false`: it does not fit to what is before.
    pub(crate) fn note(&mut self, record: &Record<'_>, place: Place) -> bool {
        match record {
            Record::Entry { index, .. } => {
                if !self.takes(*index) {
                    return false;
                }
                if *index != self.end {
                    (self.first, self.known) = (*index, *index);
                }
                let Some(end) = index.checked_add(1) else {
                    return false;
                };
                self.end = end;
                self.places.push_back(place);
            }
            Record::Vote(bytes) => self.marks.vote = Some(bytes.to_vec()),
            Record::Committed { index, bytes } => {
                self.marks.committed = Some((*index, bytes.to_vec()));
            }
            Record::Truncate { from } => self.truncate(*from),
            Record::Purge { upto, bytes } => {
                let Some(first) = upto.checked_add(1) else {
                    return false;
                };
                self.purge(first);
                self.marks.purged = Some((*upto, bytes.to_vec()));
            }
        }
        true
    }

    fn truncate(&mut self, from: u64) {
        let from = from.max(self.first);
        if from >= self.end {
            return;
        }
        let kept = usize::try_from(from.saturating_sub(self.known.max(self.first)));
        self.places.truncate(kept.unwrap_or(usize::MAX));
        self.end = from;
        self.known = self.known.min(from);
    }

    fn purge(&mut self, first: u64) {
        if first >= self.end {
            self.places.clear();
            (self.first, self.end, self.known) = (first, first, first);
        } else if first > self.first {
            let known = self.known.max(self.first);
            let gone = usize::try_from(first.saturating_sub(known)).unwrap_or(usize::MAX);
            self.places.drain(..gone.min(self.places.len()));
            self.first = first;
        }
    }

    fn place(&self, index: u64) -> Option<Place> {
        if index < self.first {
            return None;
        }
        let at = index.checked_sub(self.known.max(self.first))?;
        self.places.get(usize::try_from(at).ok()?).copied()
    }

    /// The segment of the first entry that is still needed.
    pub(crate) fn needed(&self) -> Option<u64> {
        // Entries lie in the order in which they were appended, so the first is in the oldest.
        self.places.front().map(|place| place.segment)
    }
}

/// Shared between a log and its readers. Behind a lock because readers are other threads; held
/// only to look something up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shared(Arc<Mutex<Index>>);

impl Shared {
    pub(crate) fn new(index: Index) -> Self {
        Self(Arc::new(Mutex::new(index)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Index> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads entries, from any thread, while the log is written.
#[derive(Debug, Clone)]
pub struct Reader {
    shared: Shared,
}

impl Reader {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared }
    }

    /// An entry's content; `None` if the log does not have it, or purged it meanwhile. What was
    /// appended can be read before it is durable. The content is not checked: its owner must be
    /// able to tell what a drive made of it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn read(&self, index: u64) -> io::Result<Option<Vec<u8>>> {
        let (place, file) = {
            let shared = self.shared.lock();
            let Some(place) = shared.place(index) else {
                return Ok(None);
            };
            let file = shared.files.get(&place.segment);
            (place, file.cloned().ok_or(io::ErrorKind::NotFound)?)
        };
        let mut bytes = vec![0; place.bytes];
        let read = file.read_at(&mut bytes, place.offset);
        // A purged segment may have been written over while it was read.
        if self.shared.lock().place(index) != Some(place) {
            return Ok(None);
        }
        read.map(|()| Some(bytes))
    }
}
