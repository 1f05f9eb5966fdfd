//! A part of the state that is copied only when it changes.
//!
//! Readers keep the agreed state as it was while the next command changes a copy of it: what the
//! command leaves alone is one pointer then. Decides nothing; read, changed and written as the
//! value that it holds.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value whose copies are one until one of them changes.
#[derive(Debug, Clone, Eq, Default)]
pub struct Shared<T>(Arc<T>);

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    /// Copies that never changed are told by their place.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl<T> From<T> for Shared<T> {
    fn from(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<I, T: FromIterator<I>> FromIterator<I> for Shared<T> {
    fn from_iter<It: IntoIterator<Item = I>>(items: It) -> Self {
        T::from_iter(items).into()
    }
}

impl<'a, T> IntoIterator for &'a Shared<T>
where
    &'a T: IntoIterator,
{
    type Item = <&'a T as IntoIterator>::Item;
    type IntoIter = <&'a T as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        (&*self.0).into_iter()
    }
}

impl<T: Serialize> Serialize for Shared<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        T::serialize(self, to)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Shared<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::deserialize(from).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_copy_is_made_by_the_first_change_and_not_before() {
        let origin: Shared<BTreeMap<u8, u8>> = BTreeMap::from([(1, 1)]).into();
        let mut copy = origin.clone();
        assert!(Arc::ptr_eq(&origin.0, &copy.0));
        copy.insert(2, 2);
        assert_eq!((origin.len(), copy.len()), (1, 2));
        assert_ne!(origin, copy);
        copy.remove(&2);
        assert_eq!(origin, copy);
    }

    #[test]
    fn it_is_written_as_the_value() {
        let value = BTreeMap::from([(1_u8, "a".to_owned()), (2, "b".to_owned())]);
        let shared: Shared<_> = value.clone().into();
        let bytes = postcard::to_allocvec(&shared).unwrap();
        assert_eq!(bytes, postcard::to_allocvec(&value).unwrap());
        assert_eq!(
            postcard::from_bytes::<Shared<BTreeMap<u8, String>>>(&bytes).unwrap(),
            shared
        );
    }
}
