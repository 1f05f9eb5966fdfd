//! What a log must be after a crash, told from what was done to it.
//!
//! Decides nothing about the log: it remembers every state that the log went through, and which of
//! them was acknowledged. Never forgives: what is found must be one of the states since then.

use std::{collections::BTreeMap, io, sync::Arc};

use consensus_log::{
    Log, OpenError, Options, Record,
    simulation::{Random, SimDisk},
};

/// Small enough that a workload passes many segments.
pub(crate) const OPTIONS: Options = Options {
    segment_bytes: 16 * 1024,
};
pub(crate) const OWNER: &[u8] = b"server 1";

/// Entries by index, told apart by their stamps, and the marks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) entries: BTreeMap<u64, u64>,
    pub(crate) vote: u64,
    pub(crate) committed: Option<u64>,
    pub(crate) purged: Option<u64>,
}

impl State {
    fn end(&self) -> u64 {
        let last = self.entries.keys().next_back().copied();
        last.max(self.purged).map_or(0, |last| last + 1)
    }
}

/// Every state since the last acknowledged one, that one first.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    states: Vec<State>,
    stamp: u64,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self {
            states: vec![State::default()],
            stamp: 0,
        }
    }

    pub(crate) fn now(&self) -> &State {
        self.states.last().expect("there is always a state")
    }

    pub(crate) fn acknowledged(&self) -> &State {
        &self.states[0]
    }

    fn change(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.now().clone();
        change(&mut state);
        self.states.push(state);
    }

    fn acknowledge(&mut self) {
        let now = self.now().clone();
        self.states = vec![now];
    }

    /// Takes what was found after opening as the present state, if it may be that. An error means
    /// that the disk could not be read.
    pub(crate) fn found(&mut self, log: &Log) -> io::Result<()> {
        let found = read(log)?;
        assert!(
            found.vote >= self.acknowledged().vote,
            "the vote went back: {found:?}"
        );
        assert!(
            self.states.contains(&found),
            "found {found:?}, acknowledged {:?}, last written {:?}",
            self.acknowledged(),
            self.now()
        );
        self.states = vec![found];
        Ok(())
    }

    /// Does one random thing to the log. An error means that nothing more can be done to it.
    pub(crate) fn step(&mut self, log: &mut Log, random: &mut Random) -> io::Result<()> {
        match random.below(16) {
            0..7 => self.append(log, random),
            7 => {
                let vote = self.now().vote + 1;
                self.change(|state| state.vote = vote);
                log.append(&[Record::Vote(&vote.to_le_bytes())])
            }
            8 => self.truncate(log, random),
            9 => self.commit(log, random),
            10 => self.purge(log, random),
            11 => log.release(),
            12 => log.prepare(),
            _ => {
                log.sync()?;
                self.acknowledge();
                Ok(())
            }
        }
    }

    fn append(&mut self, log: &mut Log, random: &mut Random) -> io::Result<()> {
        let many = random.below(8) + 1;
        let contents: Vec<(u64, Vec<u8>)> = (0..many)
            .map(|_| {
                self.stamp += 1;
                let (index, stamp) = (self.now().end(), self.stamp);
                self.change(|state| {
                    state.entries.insert(index, stamp);
                });
                (index, content(stamp))
            })
            .collect();
        let records: Vec<Record<'_>> = contents
            .iter()
            .map(|(index, bytes)| Record::Entry {
                index: *index,
                bytes,
            })
            .collect();
        log.append(&records)
    }

    fn truncate(&mut self, log: &mut Log, random: &mut Random) -> io::Result<()> {
        let state = self.now();
        let agreed = state.committed.max(state.purged).map_or(0, |last| last + 1);
        let from = agreed + random.below(state.end().saturating_sub(agreed) + 1);
        self.change(|state| drop(state.entries.split_off(&from)));
        log.append(&[Record::Truncate { from }])
    }

    fn commit(&mut self, log: &mut Log, random: &mut Random) -> io::Result<()> {
        let state = self.now();
        let agreed = state.committed.map_or(0, |last| last + 1);
        let open = state.end().saturating_sub(agreed);
        if open == 0 {
            return Ok(());
        }
        let index = agreed + random.below(open);
        self.change(|state| state.committed = Some(index));
        log.append(&[Record::Committed {
            index,
            bytes: &index.to_le_bytes(),
        }])
    }

    fn purge(&mut self, log: &mut Log, random: &mut Random) -> io::Result<()> {
        let state = self.now();
        let first = state.purged.map_or(0, |last| last + 1);
        let Some(open) = state.committed.and_then(|last| last.checked_sub(first)) else {
            return Ok(());
        };
        let upto = first + random.below(open + 1);
        self.change(|state| {
            state.entries = state.entries.split_off(&(upto + 1));
            state.purged = Some(upto);
        });
        log.append(&[Record::Purge {
            upto,
            bytes: &upto.to_le_bytes(),
        }])
    }
}

/// An entry's content: its stamp, and more or less of something that depends on it.
pub(crate) fn content(stamp: u64) -> Vec<u8> {
    let mut random = Random::new(stamp);
    let long = if random.chance(3) { 3000 } else { 300 };
    let bytes = random.below(long);
    let mut content = stamp.to_le_bytes().to_vec();
    content.extend((0..bytes).map(|_| random.draw().to_le_bytes()[0]));
    content
}

pub(crate) fn open(disk: &SimDisk) -> Result<Log, OpenError> {
    Log::open(Arc::new(disk.clone()), OPTIONS, OWNER)
}

/// Everything that the log says, checked against what can have been written.
pub(crate) fn read(log: &Log) -> io::Result<State> {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let reader = log.reader();
    let (first, end) = log.bounds();
    let entries = (first..end).map(|index| {
        let bytes = reader.read(index)?.expect("it is in bounds");
        let stamp = number(&bytes[..8]);
        assert_eq!(bytes, content(stamp), "entry {index} is half there");
        Ok((index, stamp))
    });
    let entries = entries.collect::<io::Result<_>>()?;
    let marks = log.marks();
    let mark = |mark: Option<(u64, Vec<u8>)>| {
        mark.map(|(index, bytes)| {
            assert_eq!(number(&bytes), index);
            index
        })
    };
    Ok(State {
        entries,
        vote: marks.vote.map_or(0, |vote| number(&vote)),
        committed: mark(marks.committed),
        purged: mark(marks.purged),
    })
}
