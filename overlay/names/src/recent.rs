//! What other hosts said a moment ago.
//!
//! Decides: for how long it is believed, and how much of it is kept. Never: reads a clock; the time
//! is an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use consensus_core::NetworkId;
use tokio::time::Instant;

/// A program that looks a name up for every request asks the others once in this time. Together
/// with the answer's own life a name is stale for three seconds at most.
const BELIEVED_FOR: Duration = Duration::from_secs(1);
/// More different names are not asked for within that time by anybody who means well.
const KEPT_MAX: usize = 1024;

/// A question that was asked: a container's name, and of which hosts.
pub(crate) type Key = (NetworkId, String, Vec<IpAddr>);

/// What the hosts said together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Said {
    /// Their containers of that name.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Whether one of them said nothing.
    pub(crate) some_are_silent: bool,
}

impl Said {
    /// Nobody said anything.
    pub(crate) const fn silence() -> Self {
        Self {
            addresses: BTreeSet::new(),
            some_are_silent: true,
        }
    }
}

/// What was said, until when it is believed.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    said: BTreeMap<Key, (Instant, Said)>,
}

impl Recent {
    pub(crate) fn get(&self, key: &Key, now: Instant) -> Option<Said> {
        let (until, said) = self.said.get(key)?;
        (*until > now).then(|| said.clone())
    }

    pub(crate) fn keep(&mut self, key: Key, said: Said, now: Instant) {
        if self.said.len() >= KEPT_MAX {
            self.said.retain(|_, (until, _)| *until > now);
        }
        // Still full: whoever asks so much is asked for again.
        if self.said.len() < KEPT_MAX {
            self.said.insert(key, (now + BELIEVED_FOR, said));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Key {
        (NetworkId::from_bytes([1; 16]), format!("c{n}"), Vec::new())
    }

    #[test]
    fn what_was_said_is_believed_for_a_moment_and_only_so_much_of_it_is_kept() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        for n in 0..2 * KEPT_MAX {
            recent.keep(key(n), Said::default(), now);
        }
        assert_eq!(recent.said.len(), KEPT_MAX);
        assert_eq!(recent.get(&key(0), now), Some(Said::default()));
        let later = now + BELIEVED_FOR;
        assert_eq!(recent.get(&key(0), later), None);
        recent.keep(key(KEPT_MAX), Said::default(), later);
        assert_eq!(recent.said.len(), 1);
    }
}
