//! What the mailbox asks for: orders, releases, and to forget an address.
//!
//! Decides: the order in which the parts of a letter are followed, and that an address is guarded as
//! soon as the kernel does so.

use std::net::Ipv6Addr;

use rustix::io::Errno;

use super::{Worker, now_us, vip::Vip};
use crate::{
    decision::{ClosedWhy, Decision},
    events::RefusedWhy,
    mailbox::{ADDRESSES_MAX, Letter},
    order::GateOrder,
};

impl Worker {
    pub(super) fn deliver(&mut self, address: Ipv6Addr, letter: Letter) {
        if let Some(epoch) = letter.release {
            let outcome = self.release(address, epoch);
            for waiting in letter.waiting {
                // Who no longer waits needs no answer.
                let _ = waiting.send(outcome);
            }
        }
        if letter.forget {
            self.forget(address);
        }
        if let Some(order) = letter.order {
            self.follow(order);
        }
    }

    fn follow(&mut self, order: GateOrder) {
        let (address, epoch, now) = (order.address, order.epoch, now_us());
        if self.enter(address, now).is_err() {
            return self.complain(address, epoch, RefusedWhy::TooManyAddresses);
        }
        let Some(vip) = self.vips.get_mut(&address) else {
            return;
        };
        if let Err(lowest) = vip.decision.command(order) {
            return self.complain(address, epoch, RefusedWhy::EpochOver { lowest });
        }
        if vip.decision.open_epoch().is_none() && vip.decision.is_too_short(now) {
            self.complain(address, epoch, RefusedWhy::LeaseTooShort);
        }
    }

    /// Makes room for an address. What is new is not guarded yet.
    fn enter(&mut self, address: Ipv6Addr, now: u64) -> Result<(), Errno> {
        if self.vips.contains_key(&address) {
            return Ok(());
        }
        if self.vips.len() >= ADDRESSES_MAX {
            return Err(Errno::NOSPC);
        }
        let vip = Vip::new(Decision::new(self.kind, 0, 0), now);
        self.vips.insert(address, vip);
        self.changed = true;
        Ok(())
    }

    /// Guards an address that is not guarded yet.
    pub(super) fn guard(&mut self, address: Ipv6Addr) -> Result<(), Errno> {
        let Some(vip) = self.vips.get_mut(&address).filter(|vip| !vip.guarded) else {
            return Ok(());
        };
        let guarded = vip.remembered(address);
        match self.kernel.guard(&guarded) {
            Ok(()) => {
                vip.guarded = true;
                Ok(())
            }
            Err(errno) => {
                self.delay(address);
                self.complain(address, guarded.epoch, RefusedWhy::Kernel(errno));
                Err(errno)
            }
        }
    }

    fn release(&mut self, address: Ipv6Addr, epoch: u64) -> Result<u64, Errno> {
        self.enter(address, now_us())?;
        let Some(vip) = self.vips.get_mut(&address) else {
            return Err(Errno::NOSPC);
        };
        vip.decision.release(epoch);
        let open = vip.decision.open_epoch();
        // What was given up is written beside the guard.
        self.guard(address)?;
        match open {
            // What is open is of a later epoch, or nothing is.
            Some(open) if open > epoch => Ok(now_us()),
            Some(open) => self.shut(address, open, ClosedWhy::Released),
            None => self.write_down(address),
        }
    }

    fn write_down(&mut self, address: Ipv6Addr) -> Result<u64, Errno> {
        let Some(vip) = self.vips.get(&address) else {
            return Ok(now_us());
        };
        let guarded = vip.remembered(address);
        self.kernel.close(&guarded, vip.interface.as_deref())?;
        Ok(now_us())
    }

    fn forget(&mut self, address: Ipv6Addr) {
        let Some(vip) = self.vips.get(&address) else {
            return;
        };
        if let Some(open) = vip.decision.open_epoch() {
            // Told to the operator by the event; the element dies by itself if this fails.
            let _ = self.shut(address, open, ClosedWhy::Released);
        } else {
            let _ = self.write_down(address);
        }
        if let Err(errno) = self.kernel.unguard(address) {
            self.complain(address, 0, RefusedWhy::Kernel(errno));
        }
        self.vips.remove(&address);
        self.changed = true;
    }
}
