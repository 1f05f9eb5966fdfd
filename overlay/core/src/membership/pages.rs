//! Entries of a table in pages, so that the tables of many cores in one process can share what they
//! hold in common.
//!
//! Decides nothing. A page that others hold too is copied when one of them changes it; in a daemon
//! every page has one holder, and nothing is ever copied.
//!
//! Invariant: as many entries can be reached as the table has members.

use std::sync::Arc;

use super::{rings::Seat, table::Entry};

/// Entries of a page: a core that changes one of ten thousand copies a kilobyte and a half.
const PAGE: usize = 64;

type Page = [Entry; PAGE];

/// One entry for each seat.
#[derive(Debug, Clone, Default)]
pub(super) struct Pages {
    pages: Vec<Arc<Page>>,
    len: usize,
}

impl Pages {
    /// So many times the same; it is held once.
    pub(super) fn of(entry: &Entry, len: usize) -> Self {
        let page = Arc::new(std::array::from_fn(|_| entry.clone()));
        Self {
            pages: vec![page; len.div_ceil(PAGE)],
            len,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, seat: Seat) -> &Entry {
        &self.pages[seat.index() / PAGE][seat.index() % PAGE]
    }

    pub(super) fn get_mut(&mut self, seat: Seat) -> &mut Entry {
        &mut Arc::make_mut(&mut self.pages[seat.index() / PAGE])[seat.index() % PAGE]
    }
}

#[cfg(test)]
mod tests {
    use consensus_core::Time;

    use super::*;

    #[test]
    fn a_change_is_seen_by_nobody_who_shares_the_page() {
        let mut one = Pages::of(&Entry::unheard(Time::ZERO), 100);
        let other = one.clone();
        let later = Time::from_micros(7);
        one.get_mut(Seat::at(70)).since = later;
        let changed = |pages: &Pages| -> Vec<usize> {
            let seats = (0..pages.len()).filter(|at| pages.get(Seat::at(*at)).since == later);
            seats.collect()
        };
        assert_eq!(changed(&one), [70]);
        assert_eq!(changed(&other), Vec::<usize>::new());
    }
}
