//! What every member of a mesh that has long been running knows, held once for all cores of one
//! process.
//!
//! Decides nothing. For simulated meshes only: nobody is believed here, the laboratory vouches for
//! the records.
//!
//! Invariant: it is of one [`Rings`], and serves cores with these alone.

use std::sync::Arc;

use consensus_core::Time;

use super::{
    Membership,
    record::SignedRecord,
    rings::{Rings, Seat},
    table::Table,
};

/// A table in which each member has said the first thing about itself.
#[derive(Debug)]
pub struct Known {
    rings: Arc<Rings>,
    table: Table,
}

impl Known {
    /// Members of the rings that have no record stay unheard of; records of others are left out.
    pub fn new(rings: Arc<Rings>, records: &[Arc<SignedRecord>], now: Time) -> Self {
        let mut table = Table::of(&rings, now);
        for (place, signed) in records.iter().enumerate() {
            if let Some(seat) = rings.seat_near(place, &signed.record.node) {
                let signed = Arc::clone(signed);
                table.change(&rings, seat, now, |entry| entry.record = Some(signed));
            }
        }
        Self { rings, table }
    }
}

impl Membership {
    /// Looks at what every input needs of this core, and at nothing that has to be searched for: who
    /// drives thousands of cores in turn can so have it fetched in good time. The number has no
    /// meaning.
    pub fn glance(&self) -> u64 {
        let flags = [self.left, self.edges_stale, self.due.is_some()];
        let lengths = [
            self.outbox.len(),
            self.table.live(),
            self.contacts.len(),
            self.piggyback.len(),
            self.prober.in_flight(),
        ];
        let flags: u64 = flags.into_iter().map(u64::from).sum();
        lengths.into_iter().map(|length| length as u64).sum::<u64>() + flags
    }

    /// Looks at what is known of one member from having talked to it.
    pub fn look(&self, at: Seat) -> u64 {
        let contact = self.contacts.get(at);
        contact.map_or(0, |contact| {
            u64::from(contact.connected) + u64::from(contact.lazy)
        })
    }
}

impl Membership {
    /// Takes over what is known, as if each record had been heard long ago. The core must be new, and
    /// have been given the same rings.
    ///
    /// # Panics
    /// When it has others.
    pub fn handle_shared(&mut self, known: &Known, now: Time) {
        assert!(
            Arc::ptr_eq(&self.rings, &known.rings),
            "what is known is known by seats"
        );
        self.table = known.table.clone();
        let own = Arc::clone(&self.own);
        let told = |seat: &Seat| self.table.get(*seat).record.as_ref() != Some(&own);
        // Nearly always it is what the others know, and then no page need be copied.
        if let Some(seat) = self.own_seat.filter(told) {
            self.table
                .change(&self.rings, seat, now, |entry| entry.record = Some(own));
        }
    }
}
