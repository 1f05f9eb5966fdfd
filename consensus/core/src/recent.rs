//! The newest of a long sequence, in a form that is cheap to copy.
//!
//! Every applied batch leaves the state as it was with the readers of it, and goes on with a copy:
//! a copy shares every item with its origin, and all but the ends of the lists that lead to them.
//! Decides nothing: how many are kept is its owner's decision. Written as a plain sequence, so that
//! nobody sees how it is kept.
//!
//! Invariants: no chunk is empty; every chunk but the first and the last is full.

use std::{collections::VecDeque, fmt, ops::Index, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeSeq as _};

use crate::{Applied, RequestId};

/// Items of one chunk. A copy that is changed at both ends copies two chunks' pointers, and has one
/// pointer more for every chunk: of a few thousand items the least is at about the square root.
const CHUNK_ITEMS: usize = 64;

type Chunk<T> = VecDeque<Arc<T>>;

/// A sequence that grows at its end and shrinks at its beginning. Its copies share the items.
pub struct Recent<T> {
    chunks: VecDeque<Arc<Chunk<T>>>,
    len: usize,
}

impl<T> Recent<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The last one.
    pub fn back(&self) -> Option<&T> {
        let item = self.chunks.back().and_then(|chunk| chunk.back());
        item.map(Arc::as_ref)
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        let items = self.chunks.iter().flat_map(|chunk| chunk.iter());
        items.map(Arc::as_ref)
    }

    /// Those that come after the last one for which `passed` holds, oldest first. It must hold for
    /// every item before one for which it holds.
    pub fn after(&self, passed: impl Fn(&T) -> bool) -> impl Iterator<Item = &T> {
        let whole = |chunk: &Arc<Chunk<T>>| chunk.back().is_some_and(|last| passed(last));
        let first = self.chunks.partition_point(whole);
        let skipped = self
            .chunks
            .get(first)
            .map_or(0, |chunk| chunk.partition_point(|item| passed(item)));
        let items = self.chunks.range(first..).flat_map(|chunk| chunk.iter());
        items.skip(skipped).map(Arc::as_ref)
    }

    /// Adds one at the end.
    pub fn push_back(&mut self, item: T) {
        match self.chunks.back_mut() {
            Some(last) if last.len() < CHUNK_ITEMS => Arc::make_mut(last).push_back(Arc::new(item)),
            Some(_) | None => self.chunks.push_back(Arc::new([Arc::new(item)].into())),
        }
        self.len += 1;
    }

    /// Takes the first one away.
    pub fn pop_front(&mut self) -> Option<Arc<T>> {
        let first = self.chunks.front_mut()?;
        let item = Arc::make_mut(first).pop_front();
        if first.is_empty() {
            self.chunks.pop_front();
        }
        self.len -= 1;
        item
    }

    /// Takes the last one away.
    pub fn pop_back(&mut self) -> Option<Arc<T>> {
        let last = self.chunks.back_mut()?;
        let item = Arc::make_mut(last).pop_back();
        if last.is_empty() {
            self.chunks.pop_back();
        }
        self.len -= 1;
        item
    }

    fn get(&self, at: usize) -> Option<&T> {
        let of_first = self.chunks.front()?.len();
        let (chunk, place) = match at.checked_sub(of_first) {
            None => (0, at),
            Some(beyond) => (1 + beyond / CHUNK_ITEMS, beyond % CHUNK_ITEMS),
        };
        self.chunks.get(chunk)?.get(place).map(Arc::as_ref)
    }
}

impl<T> Index<usize> for Recent<T> {
    type Output = T;

    /// # Panics
    /// Where there is none.
    fn index(&self, at: usize) -> &T {
        self.get(at)
            .unwrap_or_else(|| panic!("there is no item {at} of {}", self.len))
    }
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self {
            chunks: VecDeque::new(),
            len: 0,
        }
    }
}

impl<T> Clone for Recent<T> {
    fn clone(&self) -> Self {
        Self {
            chunks: self.chunks.clone(),
            len: self.len,
        }
    }
}

impl<T: PartialEq> PartialEq for Recent<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<T: Eq> Eq for Recent<T> {}

impl<T: fmt::Debug> fmt::Debug for Recent<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T> FromIterator<T> for Recent<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut recent = Self::default();
        for item in items {
            recent.push_back(item);
        }
        recent
    }
}

impl<T: Serialize> Serialize for Recent<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut sequence = to.serialize_seq(Some(self.len))?;
        for item in self.iter() {
            sequence.serialize_element(item)?;
        }
        sequence.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Recent<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Vec::<T>::deserialize(from).map(Self::from_iter)
    }
}

/// The answers to recent requests, oldest first. Ids lie side by side, because every command is
/// looked up among them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    requests: VecDeque<RequestId>,
    answers: Recent<Applied>,
}

impl Answers {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// What the request was answered.
    pub fn find(&self, request: &RequestId) -> Option<&Applied> {
        let (early, late) = self.requests.as_slices();
        let place = |ids: &[RequestId]| ids.iter().position(|id| id == request);
        let at = place(early).or_else(|| place(late).map(|at| early.len() + at))?;
        self.answers.get(at)
    }

    /// Remembers one more.
    pub fn push_back(&mut self, (request, answer): (RequestId, Applied)) {
        self.requests.push_back(request);
        self.answers.push_back(answer);
    }

    /// Forgets the oldest.
    pub fn pop_front(&mut self) -> Option<(RequestId, Arc<Applied>)> {
        self.requests.pop_front().zip(self.answers.pop_front())
    }

    /// Forgets the newest.
    pub fn pop_back(&mut self) -> Option<(RequestId, Arc<Applied>)> {
        self.requests.pop_back().zip(self.answers.pop_back())
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

impl FromIterator<(RequestId, Applied)> for Answers {
    fn from_iter<I: IntoIterator<Item = (RequestId, Applied)>>(answers: I) -> Self {
        let mut known = Self::default();
        for answer in answers {
            known.push_back(answer);
        }
        known
    }
}

impl Serialize for Answers {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut sequence = to.serialize_seq(Some(self.len()))?;
        for answer in self.requests.iter().zip(self.answers.iter()) {
            sequence.serialize_element(&answer)?;
        }
        sequence.end()
    }
}

impl<'de> Deserialize<'de> for Answers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Vec::<(RequestId, Applied)>::deserialize(from).map(Self::from_iter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Done;

    #[derive(Debug, Clone, Copy)]
    enum Change {
        Push(u32),
        PopFront,
        PopBack,
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            6 => any::<u32>().prop_map(Change::Push),
            3 => Just(Change::PopFront),
            1 => Just(Change::PopBack),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_plain_sequence_to_everybody_and_never_changes_its_copies(
            changes in prop::collection::vec(change(), 0..600),
        ) {
            let mut recent = Recent::default();
            let mut model: VecDeque<u32> = VecDeque::new();
            let mut copies: Vec<(Recent<u32>, VecDeque<u32>)> = Vec::new();
            for (step, change) in changes.into_iter().enumerate() {
                match change {
                    Change::Push(item) => {
                        recent.push_back(item);
                        model.push_back(item);
                    }
                    Change::PopFront => prop_assert_eq!(
                        recent.pop_front().map(|item| *item),
                        model.pop_front()
                    ),
                    Change::PopBack => prop_assert_eq!(
                        recent.pop_back().map(|item| *item),
                        model.pop_back()
                    ),
                }
                prop_assert_eq!(recent.len(), model.len());
                prop_assert_eq!(recent.back(), model.back());
                if step % 50 == 0 {
                    copies.push((recent.clone(), model.clone()));
                }
            }
            copies.push((recent, model));
            for (recent, model) in copies {
                prop_assert!(recent.iter().eq(model.iter()));
                prop_assert!(recent.iter().rev().eq(model.iter().rev()));
                for (at, item) in model.iter().enumerate() {
                    prop_assert_eq!(&recent[at], item);
                }
                prop_assert_eq!(recent.get(model.len()), None);
                let bytes = postcard::to_allocvec(&recent).unwrap();
                prop_assert_eq!(&bytes, &postcard::to_allocvec(&model).unwrap());
                let read: Recent<u32> = postcard::from_bytes(&bytes).unwrap();
                prop_assert_eq!(read, recent);
            }
        }

        #[test]
        fn what_comes_after_a_place_is_found_wherever_it_is(
            dropped in 0_u32..200,
            len in 0_u32..300,
            place in 0_u32..600,
        ) {
            let mut recent: Recent<u32> = (0..dropped + len).collect();
            for _ in 0..dropped {
                recent.pop_front();
            }
            let after: Vec<u32> = recent.after(|item| *item <= place).copied().collect();
            let expected: Vec<u32> =
                (dropped..dropped + len).filter(|item| *item > place).collect();
            prop_assert_eq!(after, expected);
        }
    }

    #[test]
    fn a_copy_shares_what_was_there_before() {
        let origin: Recent<u32> = (0..4096).collect();
        let mut copy = origin.clone();
        copy.push_back(4096);
        copy.pop_front();
        let shared = |at: usize| std::ptr::eq(&raw const origin[at + 1], &raw const copy[at]);
        assert!((0..4095).all(shared));
        let chunks = origin.chunks.iter().skip(1);
        let same = chunks.zip(copy.chunks.iter().skip(1));
        assert_eq!(same.filter(|(a, b)| Arc::ptr_eq(a, b)).count(), 63);
    }

    #[test]
    fn answers_are_found_under_their_own_request_and_are_written_as_pairs() {
        let answer = |n: u8| {
            (
                RequestId::from_bytes([n; 16]),
                Ok(Done::Servers { count: n.into() }),
            )
        };
        let mut answers: Answers = (0..200).map(answer).collect();
        for _ in 0..70 {
            answers.pop_front();
        }
        (200..=230)
            .map(answer)
            .for_each(|answer| answers.push_back(answer));
        let pairs: Vec<_> = (70..=230).map(answer).collect();
        for (request, answer) in &pairs {
            assert_eq!(answers.find(request), Some(answer));
        }
        assert_eq!(answers.find(&RequestId::from_bytes([69; 16])), None);
        let bytes = postcard::to_allocvec(&answers).unwrap();
        assert_eq!(bytes, postcard::to_allocvec(&pairs).unwrap());
        assert_eq!(postcard::from_bytes::<Answers>(&bytes).unwrap(), answers);
    }
}
