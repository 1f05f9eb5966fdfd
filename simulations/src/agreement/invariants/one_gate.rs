//! At no true time two hosts let traffic to one virtual IP through; and epochs rise.
//!
//! Decides by the kernels' gates, whenever one is opened or refreshed: two intervals that overlap do so
//! from the beginning of the later one on. Source: Gray and Cheriton, "Leases" (1989), section 2, and
//! the header of `consensus_lease`; the clock is the world's, which no host can see.

use std::{collections::BTreeMap, time::Duration};

use consensus_core::{Epoch, Time, VipId};

/// By virtual IP: the gate that was opened last.
#[derive(Debug, Default)]
pub struct OneGate {
    last: BTreeMap<VipId, Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    server: usize,
    epoch: Epoch,
    until: Time,
}

/// What an opening ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nothing: the gate was open, or there never was one.
    Nothing,
    /// Nobody's gate was open for this long, and the same epoch goes on.
    Lapse(Duration),
    /// The same, and a new epoch begins.
    Outage(Duration),
}

impl OneGate {
    /// A kernel opened its gate, or refreshed it, until `until` unless it is shut before.
    ///
    /// # Errors
    /// When another one's is open, or was opened in this epoch or a later one.
    pub fn opened(
        &mut self,
        now: Time,
        vip: VipId,
        (server, epoch): (usize, Epoch),
        until: Time,
    ) -> Result<Ended, String> {
        let open = Open {
            server,
            epoch,
            until,
        };
        let Some(last) = self.last.insert(vip, open) else {
            return Ok(Ended::Nothing);
        };
        let other = last.server;
        if other != server && now < last.until {
            let still_ms = last.until.since(now).as_millis();
            return Err(format!(
                "server {server} opens its gate in epoch {epoch} while server {other}'s is open in \
                 epoch {}, for {still_ms} ms more",
                last.epoch
            ));
        }
        if epoch < last.epoch || (epoch == last.epoch && other != server) {
            return Err(format!(
                "server {server} opens its gate in epoch {epoch} after server {other} did in epoch {}",
                last.epoch
            ));
        }
        let nobody = now.since(last.until);
        Ok(if epoch > last.epoch {
            Ended::Outage(nobody)
        } else if nobody.is_zero() {
            Ended::Nothing
        } else {
            Ended::Lapse(nobody)
        })
    }

    /// A gate is shut before its time, by order or because its host lost power.
    pub fn shut(&mut self, now: Time, vip: VipId, server: usize) {
        if let Some(last) = self.last.get_mut(&vip)
            && last.server == server
        {
            last.until = last.until.min(now);
        }
    }

    /// Who ever had one open.
    pub fn virtual_ips(&self) -> impl Iterator<Item = VipId> {
        self.last.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: VipId = VipId::from_bytes([1; 16]);

    const fn ms(ms: u64) -> Time {
        Time::from_micros(ms * 1000)
    }

    #[test]
    fn two_open_gates_and_an_epoch_that_falls_are_found_and_one_after_the_other_is_an_outage() {
        let mut all = OneGate::default();
        let (one, two) = ((0, Epoch(1)), (1, Epoch(2)));
        assert_eq!(all.opened(ms(0), VIP, one, ms(150)), Ok(Ended::Nothing));
        assert_eq!(all.opened(ms(50), VIP, one, ms(200)), Ok(Ended::Nothing));
        let lapse = Ok(Ended::Lapse(Duration::from_millis(50)));
        assert_eq!(all.opened(ms(250), VIP, one, ms(400)), lapse);
        all.shut(ms(300), VIP, 0);
        let outage = Ok(Ended::Outage(Duration::from_millis(5)));
        assert_eq!(all.opened(ms(305), VIP, two, ms(455)), outage);
        assert!(all.opened(ms(306), VIP, (0, Epoch(3)), ms(456)).is_err());
        let mut all = OneGate::default();
        assert_eq!(all.opened(ms(0), VIP, two, ms(150)), Ok(Ended::Nothing));
        assert!(all.opened(ms(150), VIP, one, ms(300)).is_err(), "it fell");
        let mut all = OneGate::default();
        assert_eq!(all.opened(ms(0), VIP, two, ms(150)), Ok(Ended::Nothing));
        assert!(all.opened(ms(150), VIP, (0, Epoch(2)), ms(300)).is_err());
    }
}
