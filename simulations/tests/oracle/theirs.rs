//! foca as a detector, as its documentation sets it up for a LAN of that size.

use std::{num::NonZeroU32, time::Duration};

use foca::{
    AccumulatingRuntime, Config, Foca, Identity, OwnedNotification, PostcardCodec, State, Timer,
};
use rand_of_foca::{SeedableRng, rngs::SmallRng};
use serde::{Deserialize, Serialize};

use crate::{
    network::mix,
    world::{Deed, Deeds, Detector, Place, us},
};

/// A process: its host, and which of the host's processes. A later one wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Id {
    index: u16,
    life: u16,
}

impl Identity for Id {
    type Addr = u16;

    fn renew(&self) -> Option<Self> {
        let life = self.life.checked_add(1)?;
        Some(Self { life, ..*self })
    }

    fn addr(&self) -> u16 {
        self.index
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.life > adversary.life
    }
}

pub(crate) struct Theirs {
    foca: Foca<Id, PostcardCodec, SmallRng, foca::NoCustomBroadcast>,
    runtime: AccumulatingRuntime<Id>,
    nodes: usize,
    joined: bool,
}

/// A node that knows nobody asks again; the others were not up yet.
const ANNOUNCE_AGAIN: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub(crate) enum Alarm {
    Foca(Timer<Id>),
    Announce,
}

/// foca leaves room for a hundred lives of its own making between two starts of a process.
const LIVES: u16 = 100;

impl Theirs {
    fn carry_out(&mut self) -> Deeds<Self> {
        let mut deeds = Vec::new();
        while let Some((to, data)) = self.runtime.to_send() {
            deeds.push(Deed::Send(to.index.into(), data.to_vec()));
        }
        while let Some((after, timer)) = self.runtime.to_schedule() {
            deeds.push(Deed::Wake(us(after), Alarm::Foca(timer)));
        }
        while let Some(notification) = self.runtime.to_notify() {
            match notification {
                OwnedNotification::MemberUp(id) => {
                    self.joined = true;
                    deeds.push(Deed::Believe(id.index.into(), false));
                }
                OwnedNotification::MemberDown(id) => {
                    deeds.push(Deed::Believe(id.index.into(), true));
                }
                OwnedNotification::Rename(..)
                | OwnedNotification::Active
                | OwnedNotification::Idle
                | OwnedNotification::Defunct
                | OwnedNotification::Rejoin(_) => {}
            }
        }
        deeds
    }

    fn announce(&mut self) -> Deeds<Self> {
        let own = self.foca.identity().index;
        let life = LIVES;
        // The first node knows the second; all others know the first.
        let index = u16::from(own == 0);
        if self.nodes > 1 {
            let told = self.foca.announce(Id { index, life }, &mut self.runtime);
            told.expect("an announcement is written");
        }
        let mut deeds = self.carry_out();
        deeds.push(Deed::Wake(us(ANNOUNCE_AGAIN), Alarm::Announce));
        deeds
    }
}

impl Detector for Theirs {
    type Letter = Vec<u8>;
    type Alarm = Alarm;

    fn start(place: Place, _: u64) -> (Self, Deeds<Self>) {
        let id = Id {
            index: u16::try_from(place.index).expect("few nodes"),
            life: place.life * LIVES,
        };
        let nodes = u32::try_from(place.nodes).ok().and_then(NonZeroU32::new);
        let config = Config::new_lan(nodes.expect("there are nodes"));
        let seed = mix(place.seed ^ (place.index as u64) << 16 ^ u64::from(place.life));
        let rng = SmallRng::seed_from_u64(seed);
        let mut one = Self {
            foca: Foca::new(id, config, rng, PostcardCodec),
            runtime: AccumulatingRuntime::new(),
            nodes: place.nodes,
            joined: false,
        };
        let deeds = one.announce();
        (one, deeds)
    }

    fn hear(&mut self, _: usize, letter: Vec<u8>, _: u64) -> Deeds<Self> {
        // A message for an identity of the past is an error to foca, and nothing to its host.
        let _ = self.foca.handle_data(&letter, &mut self.runtime);
        self.carry_out()
    }

    fn wake(&mut self, alarm: Alarm, _: u64) -> Deeds<Self> {
        match alarm {
            Alarm::Foca(timer) => {
                // An incomplete probe cycle after a standstill is an error that foca recovers from.
                let _ = self.foca.handle_timer(timer, &mut self.runtime);
                self.carry_out()
            }
            Alarm::Announce if self.joined => Vec::new(),
            Alarm::Announce => self.announce(),
        }
    }

    fn counts_in(&self, node: usize) -> bool {
        let mut members = self.foca.iter_membership_state();
        members.any(|one| usize::from(one.id().index) == node && one.state() != State::Down)
    }
}
