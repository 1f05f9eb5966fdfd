//! What the gate is to do, from any thread to the gate's own.
//!
//! Decides: that of several orders for one address the latest counts, and that a release is never
//! lost to an order after it. Bounded by the number of addresses. When the gate's thread has ended,
//! nobody takes letters any more, and nobody waits for one.
//!
//! A lock, because several threads write; the gate's thread never waits for it: an ordinary thread
//! that holds it may be waiting for a processor.

use std::{
    collections::BTreeMap,
    net::Ipv6Addr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::{Errno, read, write},
};
use tokio::sync::oneshot;

use crate::order::GateOrder;

/// Addresses that one host can be a candidate for.
pub(crate) const ADDRESSES_MAX: usize = 256;
/// Callers that may wait for one release.
const WAITING_MAX: usize = 16;

/// What is to be done about one address.
#[derive(Debug, Default)]
pub(crate) struct Letter {
    /// Give up this epoch and all before it, first.
    pub(crate) release: Option<u64>,
    /// Who wants to know when that is done: the time, or that the kernel refused.
    pub(crate) waiting: Vec<oneshot::Sender<Result<u64, Errno>>>,
    /// Then follow this order.
    pub(crate) order: Option<GateOrder>,
    /// Let the address be, whoever holds it: it is no longer this host's to hold.
    pub(crate) forget: bool,
}

#[derive(Debug, Default)]
struct Pigeonholes {
    letters: BTreeMap<Ipv6Addr, Letter>,
    stop: bool,
    /// The thread is gone, however it went.
    ended: bool,
}

/// The mailbox.
#[derive(Debug)]
pub(crate) struct Mailbox {
    pigeonholes: Mutex<Pigeonholes>,
    bell: OwnedFd,
}

/// What was taken from the mailbox.
#[derive(Debug)]
pub(crate) enum Mail {
    /// Letters, perhaps none.
    Letters(BTreeMap<Ipv6Addr, Letter>),
    /// Another thread is writing just now.
    Busy,
    /// The gate was dropped.
    Stop,
}

impl Mailbox {
    pub(crate) fn new() -> Result<Self, Errno> {
        Ok(Self {
            pigeonholes: Mutex::default(),
            bell: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        })
    }

    /// What becomes readable with new mail.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Leaves a letter; says whether there was room.
    pub(crate) fn leave(&self, address: Ipv6Addr, write: impl FnOnce(&mut Letter)) -> bool {
        let mut holes = self.lock();
        let known = holes.letters.contains_key(&address);
        let room = !holes.ended && (known || holes.letters.len() < ADDRESSES_MAX);
        if room {
            write(holes.letters.entry(address).or_default());
        }
        drop(holes);
        self.ring();
        room
    }

    pub(crate) fn stop(&self) {
        self.lock().stop = true;
        self.ring();
    }

    /// The thread is gone: whoever waits for it waits no longer.
    pub(crate) fn end(&self) {
        let mut holes = self.lock();
        holes.ended = true;
        holes.letters.clear();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Takes everything, if nobody is writing.
    pub(crate) fn take(&self) -> Mail {
        // Before the letters: whoever leaves one later rings again.
        let _ = read(&self.bell, &mut [0; 8]);
        let mut holes = match self.pigeonholes.try_lock() {
            Ok(holes) => holes,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return Mail::Busy,
        };
        if holes.stop {
            return Mail::Stop;
        }
        Mail::Letters(std::mem::take(&mut holes.letters))
    }

    fn ring(&self) {
        // Full means that it rings already.
        let _ = write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// A writer only inserts; what it may have left half done is a letter too few.
    fn lock(&self) -> MutexGuard<'_, Pigeonholes> {
        self.pigeonholes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Letter {
    /// The latest order counts, unless a release in this letter is about its epoch.
    pub(crate) fn order(&mut self, order: GateOrder) {
        if self.release.is_none_or(|released| order.epoch > released) {
            self.order = Some(order);
            self.forget = false;
        }
    }

    /// Adds a release and somebody who waits for it; says whether there was room.
    pub(crate) fn release(
        &mut self,
        epoch: u64,
        waiting: oneshot::Sender<Result<u64, Errno>>,
    ) -> bool {
        self.release = Some(self.release.map_or(epoch, |earlier| earlier.max(epoch)));
        if self
            .order
            .as_ref()
            .is_some_and(|order| order.epoch <= epoch)
        {
            self.order = None;
        }
        let room = self.waiting.len() < WAITING_MAX;
        if room {
            self.waiting.push(waiting);
        }
        room
    }

    /// The address is no longer this host's.
    pub(crate) fn forget(&mut self) {
        self.order = None;
        self.forget = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::Timing;

    #[test]
    fn of_several_orders_the_latest_counts() {
        let mailbox = Mailbox::new().unwrap();
        for lease in [5, 7, 6] {
            assert!(mailbox.leave(VIP, |letter| letter.order(order(1, lease))));
        }
        let Mail::Letters(letters) = mailbox.take() else {
            panic!("there is mail")
        };
        assert_eq!(letters[&VIP].order, Some(order(1, 6)));
    }

    #[test]
    fn a_release_is_not_lost_to_a_later_order_of_its_epoch() {
        let mut letter = Letter::default();
        letter.order(order(3, 9));
        assert!(letter.release(3, oneshot::channel().0));
        letter.order(order(3, 10));
        assert_eq!((letter.release, letter.order.clone()), (Some(3), None));
        letter.order(order(4, 10));
        assert_eq!(letter.order, Some(order(4, 10)));
    }

    #[test]
    fn there_is_room_for_so_many_addresses_and_no_more() {
        let mailbox = Mailbox::new().unwrap();
        let addresses = || (0..ADDRESSES_MAX).map(|number| Ipv6Addr::from(number as u128));
        assert!(addresses().all(|address| mailbox.leave(address, |_| {})));
        assert!(!mailbox.leave(VIP, |_| {}));
        assert!(addresses().all(|address| mailbox.leave(address, |_| {})));
    }

    #[test]
    fn who_waits_for_a_thread_that_has_ended_is_told() {
        let mailbox = Mailbox::new().unwrap();
        let (waiting, mut answer) = oneshot::channel();
        let mut taken = false;
        assert!(mailbox.leave(VIP, |letter| taken = letter.release(1, waiting)) && taken);
        mailbox.end();
        assert_eq!(answer.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(mailbox.has_ended() && !mailbox.leave(VIP, |_| {}));
    }

    const VIP: Ipv6Addr = Ipv6Addr::new(0xfd5a, 0, 0, 0, 0, 0, 0xf, 1);

    fn order(epoch: u64, lease_until_us: u64) -> GateOrder {
        GateOrder {
            address: VIP,
            interface: "shoal-home".to_owned(),
            epoch,
            lease_until_us,
            timing: Timing {
                gate_us: 150_000,
                delta_us: 25_000,
            },
        }
    }
}
